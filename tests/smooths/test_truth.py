# SPDX-License-Identifier: BSD-3-Clause
"""Model matrices and penalties of mgcv, from tests/data/gam_bases/make.R and from published cases.

Thin plates differ by the signs of columns: those of eigenvectors are arbitrary. mgcv finds these vectors to 1e-9 or so,
by a Lanczos iteration that stops early.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from marglik import smooths

DATA = Path(__file__).parents[1] / "data"
TRUTH = json.loads((DATA / "gam_bases" / "cases.json").read_text())
CASES = {case["name"]: case for case in TRUTH["cases"]}


def golden(n, k):
    return np.arange(1, n + 1) * (np.sqrt(5) - 1) / 2 * k % 1


FRAMES = {
    "short": {name: np.array(column) for name, column in TRUTH["rows"].items()},
    "long": {"x": golden(2500, 1), "z": golden(2500, 7)},
}
NEW = {name: np.array(column) for name, column in TRUTH["new"].items()}


def built(case):
    names = [case["x"]] if isinstance(case["x"], str) else case["x"]
    return getattr(smooths, case["type"])(FRAMES[case["data"]], *names, **(case["args"] or {}))


def signs(found, expected):
    return np.where((found * expected).sum(axis=0) < 0, -1, 1)


def close(found, expected, tolerance=1e-8):
    expected = np.reshape(expected, found.shape)
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", CASES)
def test_bases(name):
    """At the data, at new points inside and outside their range, and every penalty with its scale."""
    case = CASES[name]
    rows = np.array(TRUTH["at"][case["data"]]) - 1
    for smooth, expected in zip(built(case), case["smooths"], strict=True):
        X = smooth.design(FRAMES[case["data"]])[rows]
        flipped = signs(X, np.reshape(expected["X"], X.shape))
        assert "tp" in name or "plane" in name or np.all(flipped == 1)
        close(X * flipped, expected["X"])
        close(smooth.design(NEW) * flipped, expected["new"])
        close(np.array(smooth.rescaling), expected["scale"])
        for S, truth in zip(smooth.penalties, expected["S"], strict=True):
            close(S * np.outer(flipped, flipped), truth)
        assert smooth.null_dimension == expected["null"]


PUBLISHED = {
    "gam_gamsim1_tp": [("x0", {}), ("x1", {}), ("x2", {}), ("x3", {})],
    "gam_mcycle_cr": [("times", {"bs": "cr", "k": 20})],
    "gam_coal_poisson": [("year", {"bs": "cr", "k": 20})],
    "gam_airquality": [("Solar.R", {}), ("Wind", {}), ("Temp", {})],
    "gam_placefield": [("pos_bin_centre", {"bs": "cr", "k": 25})],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published(case, name):
    data, basis = case(name).data, np.load(DATA / name / "basis.npz")
    for i, (column, asked) in enumerate(PUBLISHED[name]):
        (smooth,) = smooths.s(data, column, **asked)
        first, last = basis[f"S{i}_first_last_1based"]
        X = smooth.design(data)
        flipped = signs(X, basis["X"][:, first - 1 : last])
        close(X * flipped, basis["X"][:, first - 1 : last])
        close(smooth.penalties[0] * np.outer(flipped, flipped), basis[f"S{i}"])
