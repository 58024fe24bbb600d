# SPDX-License-Identifier: BSD-3-Clause
"""python -m benchmarks [w1 w2 import …]: each workload in its own process, one BLAS thread."""

import argparse
import subprocess
import sys

from benchmarks.environment import ROOT, child_environment, python_with_peers
from benchmarks.workloads import MODULES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODULES)}; default: all")
    parser.add_argument("--slow", action="store_true", help="add the peers that take minutes")
    parser.add_argument("--small", action="store_true", help="a smoke test: small sizes, nothing recorded")
    parser.add_argument("--here", action="store_true", help="run in this interpreter, whatever peers it has")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(MODULES)
    if unknown:
        parser.error(f"no workload is called {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}")
    try:
        python = sys.executable if arguments.here else python_with_peers()
    except subprocess.CalledProcessError as error:
        print(f"{error}\nThe peers could not be installed. --here runs without them.", file=sys.stderr)
        return 1
    flags = [f"--{flag}" for flag in ("slow", "small") if getattr(arguments, flag)]
    failed = []
    for name in arguments.names or MODULES:
        command = [str(python), "-m", "benchmarks.child", name, *flags]
        if subprocess.run(command, cwd=ROOT, env=child_environment(), check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
