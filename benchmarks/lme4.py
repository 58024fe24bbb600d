# SPDX-License-Identifier: BSD-3-Clause
"""lme4 and glmmTMB, in a child that keeps the data in R and times each fit there."""

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.harness import Sample

HERE = Path(__file__).parent


def lmer(data: Path, formula: str, groups: Sequence[str]) -> Callable[[], tuple[Sample, dict]]:
    """A call that fits in R; `data` is a CSV file, of which `groups` are read as factors."""
    return in_r("lmer.R", str(data), formula, *groups)


def glmm(package: str, family: str, data: Path, formula: str, groups: Sequence[str]) -> Callable:
    """The same by lme4's glmer or by glmmTMB, for counts or binary responses."""
    return in_r("glmm.R", package, family, str(data), formula, *groups)


def in_r(script: str, *arguments: str) -> Callable[[], tuple[Sample, dict]]:
    program = shutil.which("Rscript")
    if program is None:
        raise ImportError("Rscript was not found")
    command = [program, "--vanilla", str(HERE / script), *arguments]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if child.stdout.readline() != "ready\n":
        raise ImportError(f"{script} did not start; what R said is above")

    def fit() -> tuple[Sample, dict]:
        print(file=child.stdin, flush=True)
        answer = json.loads(child.stdout.readline())
        return Sample(answer["wall"], answer["cpu"]), answer

    return fit
