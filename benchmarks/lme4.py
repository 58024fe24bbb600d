# SPDX-License-Identifier: BSD-3-Clause
"""lme4, in a child that keeps the data in R and times each fit there."""

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.harness import Sample

SCRIPT = Path(__file__).with_name("lmer.R")


def lmer(data: Path, formula: str, groups: Sequence[str]) -> Callable[[], tuple[Sample, dict]]:
    """A call that fits in R; `data` is a CSV file, of which `groups` are read as factors."""
    program = shutil.which("Rscript")
    if program is None:
        raise ImportError("Rscript was not found")
    command = [program, "--vanilla", str(SCRIPT), str(data), formula, *groups]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if child.stdout.readline() != "ready\n":
        raise ImportError("lme4 did not start; what R said is above")

    def fit() -> tuple[Sample, dict]:
        print(file=child.stdin, flush=True)
        answer = json.loads(child.stdout.readline())
        return Sample(answer["wall"], answer["cpu"]), answer

    return fit
