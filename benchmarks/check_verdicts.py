# SPDX-License-Identifier: BSD-3-Clause
"""python -m benchmarks.check_verdicts: what fit.check() says of models whose evidence is known by brute force."""

import sys

from benchmarks.environment import ROOT

sys.path.insert(0, str(ROOT / "tests"))


def main() -> int:
    from verdict_models import MODELS, row

    print(f"{'model':40} {'gap':>9} {'estimate':>9} {'±':>8} {'k̂':>6} {'verdict':>8}")
    wrong = 0
    for name in MODELS:
        found = row(name)
        wrong += not found["right"]
        numbers = f"{found['gap']:9.4f} {found['estimate']:9.4f} {found['±']:8.1g} {found['k̂']:6.2f}"
        print(f"{name:40} {numbers} {found['word']:>8}{'' if found['right'] else '  wrong'}", flush=True)
    print(f"{len(MODELS) - wrong} of {len(MODELS)} right")
    return wrong


if __name__ == "__main__":
    sys.exit(main() > 2)
