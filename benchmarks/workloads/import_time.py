# SPDX-License-Identifier: BSD-3-Clause
"""Import in a fresh interpreter, timed inside it; the files are in the system's cache."""

import re
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.harness import Case, Options, Sample, Side

TITLE = "Import"
NO_PATH = re.compile(r" \([^)]*[/\\][^)]*\)")
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def cases(options: Options) -> Iterator[Case]:
    rounds = 2 if options.small else 10
    numerics = importing("floor", "import numpy, scipy.linalg, scipy.sparse", "floor")
    yield Case("the package", [importing("marglik", "import marglik", "marglik"), numerics], rounds)
    estimators = [
        importing("marglik", "from marglik import RidgeEB", "marglik"),
        importing("BayesianRidge", "from sklearn.linear_model import BayesianRidge"),
        importing("himalaya", "from himalaya.ridge import RidgeCV"),
        numerics,
    ]
    yield Case("an estimator", estimators, rounds)


def importing(name: str, statement: str, role: str = "peer") -> Side:
    def prepare():
        seconds(statement)
        return lambda: seconds(statement)

    return Side(name, prepare, role, self_timed=True)


def seconds(statement: str) -> tuple[Sample, None]:
    command = [sys.executable, "-P", "-c", TIMED.format(statement)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ImportError(NO_PATH.sub("", done.stderr.strip().splitlines()[-1]))
    return Sample(float(done.stdout), None), None
