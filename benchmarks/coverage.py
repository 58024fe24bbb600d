# SPDX-License-Identifier: BSD-3-Clause
"""python -m benchmarks.coverage: how often 95 % intervals of hyperparameters cover the truth, by simulation.

Writes the table of docs/explanation/coverage.md, between its two comments.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.random import Generator
from threadpoolctl import threadpool_limits

import marglik
from benchmarks.environment import ROOT

PAGE = ROOT / "docs" / "explanation" / "coverage.md"
BEGIN, END = "<!-- from python -m benchmarks.coverage -->\n", "<!-- until here -->\n"
ROWS = 10
INTERVALS: dict[str, Callable[[marglik.Fit, list[str]], pd.DataFrame]] = {
    "Wald": lambda fit, names: fit.hyperparameters.loc[names],
    "profile": lambda fit, names: fit.confint("profile", names=names),
}
EVERY = {"Wald": 1, "profile": 5}
"""Profiles take long: one data set in five has them."""


@dataclass(frozen=True)
class Design:
    """What is simulated: the true hyperparameters, and the fit of a data set drawn from them."""

    title: str
    truth: Mapping[str, float]
    fit: Callable[[Generator], marglik.Fit]


@dataclass(frozen=True)
class Outcome:
    """Of each data set: whether each kind of interval covers, whether the estimate is at a boundary; by name."""

    covered: dict[str, np.ndarray]
    at_boundary: np.ndarray
    unconverged: int


def designs() -> list[Design]:
    return [
        *(random_intercept(levels) for levels in (30, 5)),
        *(random_slope(levels) for levels in (30, 5)),
        *(ridge(columns) for columns in (30, 5)),
    ]


def random_intercept(levels: int) -> Design:
    truth = {"sd(Intercept | g)": 1.0, "sd(noise)": 1.0}

    def fit(rng: Generator) -> marglik.Fit:
        g, x = grouped(rng, levels)
        y = 1 + x + rng.standard_normal(levels)[g] + rng.standard_normal(len(g))
        return marglik.fit("y ~ x + (1 | g)", {"y": y, "x": x, "g": g})

    return Design(f"`y ~ x + (1 \\| g)`, {levels} levels", truth, fit)


def random_slope(levels: int) -> Design:
    sd, cor = np.array([1.0, 0.7]), 0.3
    truth = {"sd(Intercept | g)": sd[0], "sd(x | g)": sd[1], "cor(Intercept, x | g)": cor, "sd(noise)": 1.0}
    root = sd[:, None] * np.array([[1, 0], [cor, np.sqrt(1 - cor**2)]])

    def fit(rng: Generator) -> marglik.Fit:
        g, x = grouped(rng, levels)
        b = rng.standard_normal((levels, 2)) @ root.T
        y = 1 + x + b[g, 0] + b[g, 1] * x + rng.standard_normal(len(g))
        return marglik.fit("y ~ x + (x | g)", {"y": y, "x": x, "g": g})

    return Design(f"`y ~ x + (x \\| g)`, {levels} levels", truth, fit)


def ridge(columns: int) -> Design:
    truth = {"sd(weights)": 0.5, "sd(noise)": 1.0}

    def fit(rng: Generator) -> marglik.Fit:
        X = rng.standard_normal((200, columns))
        y = 1 + X @ (0.5 * rng.standard_normal(columns)) + rng.standard_normal(200)
        return marglik.RidgeEB().fit(X, y).fit_

    return Design(f"`RidgeEB()`, {columns} columns", truth, fit)


def grouped(rng: Generator, levels: int) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(levels), ROWS), rng.standard_normal(levels * ROWS)


def simulate(design: Design, n: int, seed: int) -> Outcome:
    names, truth = list(design.truth), np.array(list(design.truth.values()))
    covered: dict[str, list[np.ndarray]] = {kind: [] for kind in INTERVALS}
    at_boundary, unconverged = [], 0
    for i, rng in enumerate(np.random.default_rng(seed).spawn(n)):
        fit = design.fit(rng)
        unconverged += not fit.converged
        at_boundary.append(fit.hyperparameters.loc[names, "at_boundary"].to_numpy())
        for kind, interval in INTERVALS.items():
            if i % EVERY[kind]:
                continue
            lower, upper = interval(fit, names)[["lower", "upper"]].to_numpy().T
            covered[kind].append((lower <= truth) & (truth <= upper))
    return Outcome({kind: np.array(c) for kind, c in covered.items()}, np.array(at_boundary), unconverged)


def table(outcomes: list[tuple[Design, Outcome]]) -> pd.DataFrame:
    rows = []
    for design, outcome in outcomes:
        for i, (name, truth) in enumerate(design.truth.items()):
            cells = {kind: with_error(covered[:, i]) for kind, covered in outcome.covered.items()}
            at_boundary = f"{100 * outcome.at_boundary[:, i].mean():.1f} %"
            name = f"`{name}`".replace("|", "\\|")
            rows.append(
                {"model": design.title, "hyperparameter": name, "truth": truth, **cells, "at a boundary": at_boundary}
            )
    return pd.DataFrame(rows)


def with_error(covered: np.ndarray) -> str:
    """The share of true values, in %, and its Monte Carlo standard error √(p(1−p)/n)."""
    p = covered.mean()
    return f"{100 * p:.1f} ± {100 * np.sqrt(p * (1 - p) / len(covered)):.1f} %"


def markdown(frame: pd.DataFrame) -> str:
    lines = [list(frame), ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--n", type=int, default=1000, metavar="N", help="data sets a model (1000)")
    parser.add_argument("--show", action="store_true", help="print the table; leave the page as it is")
    arguments = parser.parse_args()
    outcomes = []
    with threadpool_limits(1):
        for seed, design in enumerate(designs()):
            start = time.perf_counter()
            outcomes.append((design, simulate(design, arguments.n, seed)))
            print(f"{design.title}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    unconverged = sum(outcome.unconverged for _, outcome in outcomes)
    converged = f"{unconverged} fits did not converge" if unconverged else "all fits converged"
    counts = f"{arguments.n:,} data sets a model, every {EVERY['profile']}th of them profiled"
    note = f"{counts}; {converged}.\n"
    text = f"{markdown(table(outcomes))}\n{note}"
    if arguments.show:
        print(text)
        return
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
