# SPDX-License-Identifier: BSD-3-Clause
"""Models to test with, and published cases to test against."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from marglik.hyperparameters import Hyperparameters
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.rows import InMemory
from structures import STRUCTURES, design

collect_ignore_glob = ["data/*"]  # programs there made what lies beside them


@pytest.fixture(scope="session", params=STRUCTURES)
def structure(request):
    """Every way in which terms may stand together."""
    return request.param


@pytest.fixture(scope="session")
def problem():
    """problem(structure, likelihood, …) -> a `LinearModel` on simulated data of order one."""

    def build(
        structure, likelihood=None, seed=0, n=31, weights=False, offset=False, counts=False, chunk=1 << 17, **more
    ):
        likelihood = likelihood or Gaussian()
        rng = np.random.default_rng(seed)
        prior = design(rng, n)[structure]
        eta = 0.4 + sum(0.4 * t.columns @ rng.standard_normal(t.columns.shape[1]) for t in prior)
        own = Hyperparameters(likelihood.hyperparameters()).constrain(np.full(len(likelihood.hyperparameters()), -0.4))
        y = likelihood.sample(eta, own, rng)
        w, o, c = rng.uniform(0.5, 2, n), rng.uniform(-0.5, 0.5, n), rng.integers(1, 4, n)
        rows = InMemory(y, o if offset else None, w if weights else None, c if counts else None, chunk)
        return LinearModel(likelihood, prior, rows, **more)

    return build


@pytest.fixture(scope="session")
def inside():
    """inside(model) -> a θ of order one in the interior of its support."""

    def theta(model, seed=0):
        rng = np.random.default_rng(seed)
        return model.hyperparameters.constrain(rng.uniform(-0.7, 0.4, len(model.hyperparameters)))

    return theta


@dataclass(frozen=True)
class Case:
    """Data with published or gold-standard answers, each with its own tolerance."""

    data: pd.DataFrame
    reference: dict[str, Any]
    gold: dict[str, Any]

    def value(self, quantity):
        """A reference value; texts are numbers with more digits than floats."""
        return _number(self.reference[quantity]["value"])

    def check(self, quantity, found, part=lambda value: value):
        """Assert that ``found`` is ``part`` of the reference value, within its absolute or relative tolerance."""
        entry = self.reference[quantity]
        expected = np.asarray(part(self.value(quantity)), float)
        found = np.asarray(found, float)
        assert found.shape == expected.shape, f"{quantity}: found {found}, expected {expected}"
        error = np.abs(found - expected)
        within = (error <= entry.get("atol", 0)) | (error <= entry.get("rtol", 0) * np.abs(expected))
        with np.errstate(divide="ignore", invalid="ignore"):
            assert within.all(), (
                f"{quantity}: found {found}, expected {expected}, which is off by {error} or {error / abs(expected)} "
                f"of it, but must be within {entry.get('atol')} or {entry.get('rtol')} of it."
            )


def _numbers(column):
    """A column of text as numbers to the last digit, if it holds any."""
    try:
        return column.map(float)
    except ValueError:
        return column


def _number(value):
    if isinstance(value, dict):
        return {key: _number(v) for key, v in value.items()}
    return [_number(v) for v in value] if isinstance(value, list) else float(value)


@pytest.fixture(scope="session")
def case():
    """case(name) -> a `Case`."""

    def read(name):
        folder = Path(__file__).parent / "data" / name
        reference = json.loads((folder / "case.json").read_text())["reference"]
        gold = folder / "gold.json"
        return Case(
            pd.read_csv(folder / "data.csv", dtype=str).apply(_numbers),
            reference,
            json.loads(gold.read_text()) if gold.exists() else {},
        )

    return read
