# SPDX-License-Identifier: BSD-3-Clause
"""Products of numbers are the columns that formulae makes; what formulae makes is that of the fit in new rows too."""

import numpy as np
import pandas as pd
import pytest

from marglik.interfaces import designs
from marglik.interfaces.data import settled
from marglik.interfaces.designs import Coded, Products, design, side_by_side, variables

N = 12
rng = np.random.default_rng(4)
DATA = pd.DataFrame(
    {
        "x": rng.standard_normal(N),
        "z": rng.standard_normal(N).astype(np.float32),
        "k": rng.integers(-3, 4, N),
        "small": rng.integers(0, 100, N).astype(np.int8),
        "on": rng.random(N) > 0.5,
        "my x": rng.standard_normal(N),
        "x.1": rng.standard_normal(N),
        "g": np.array(["b", "c", "a"])[np.arange(N) % 3],
        "h": np.array(["v", "u"])[np.arange(N) // 6],
    }
).apply(settled)
NAMES = ["x", "z", "k", "small", "on", "`my x`", "x.1"]


def random_text(seed):
    """A formula of names, +, : and *."""
    rng = np.random.default_rng(seed)
    terms = []
    for _ in range(rng.integers(1, 5)):
        names = rng.choice(NAMES, rng.integers(1, 4), replace=False)
        terms.append("".join(name + rng.choice([":", "*"]) for name in names)[:-1])
    return f"{rng.integers(0, 2)} + {' + '.join(terms)}"


@pytest.fixture
def by_formulae(monkeypatch):
    """by_formulae(text) -> the design that formulae makes of what is a product of numbers."""

    def slowly(text):
        with monkeypatch.context() as patch:
            patch.setattr(designs, "products", lambda _: None)
            return design(text, DATA, N, text)

    return slowly


@pytest.mark.parametrize("seed", range(60))
def test_products_of_numbers_are_those_of_formulae(seed, by_formulae):
    text = random_text(seed)
    fast, slow = design(text, DATA, N, text), by_formulae(text)
    assert isinstance(fast.rule, Products)
    assert isinstance(slow.rule, Coded)
    assert fast.names == slow.names
    assert set(fast.variables) == set(slow.variables) == set(variables(text))
    np.testing.assert_allclose(fast.matrix, slow.matrix, rtol=1e-15)
    some = np.array([7, 2, 2, 0])
    new = DATA.iloc[some].reset_index(drop=True)
    np.testing.assert_allclose(fast.new(new, 4)[0], fast.matrix[some], rtol=0)
    np.testing.assert_allclose(slow.new(new, 4)[0], fast.matrix[some], rtol=1e-15)


@pytest.mark.parametrize("text", ["1", "0 + x", "1 + x + x", "1 + x:z + z:x", "x + 1 + 0", "0 + 1 + x"])
def test_intercepts_and_repeated_terms_are_those_of_formulae(text, by_formulae):
    fast, slow = design(text, DATA, N, text), by_formulae(text)
    assert fast.names == slow.names
    np.testing.assert_array_equal(fast.matrix, slow.matrix)


def test_no_terms_are_no_design(by_formulae):
    assert design("0", DATA, N, "0") is None
    assert by_formulae("0") is None


CODED = ["1 + g", "0 + g:h", "1 + x*g", "0 + log(k + 5)", "1 + scale(x):h", "1 + poly(x, 2)", "x - z", "(x + z)**2"]


@pytest.mark.parametrize("text", CODED)
def test_new_rows_of_what_formulae_makes(text):
    made = design(text, DATA, N, text)
    assert isinstance(made.rule, Coded)
    some = np.array([5, 5, 11])
    new = DATA[list(made.variables)].iloc[some].reset_index(drop=True)
    np.testing.assert_allclose(made.new(new, 3)[0], made.matrix[some], rtol=1e-13, atol=1e-15)


def test_offsets_stand_beside_the_columns():
    made = design("1 + x + offset(k) + z + offset(log(small + 1))", DATA, N, "")
    assert made.names == ("Intercept", "x", "z")
    np.testing.assert_allclose(made.matrix, np.column_stack([np.ones(N), DATA["x"], DATA["z"]]), rtol=1e-15)
    offset = DATA["k"] + np.log(DATA["small"] + 1)
    np.testing.assert_allclose(made.offset, offset, rtol=1e-15)
    np.testing.assert_allclose(made.new(DATA[:5], 5)[1], offset[:5], rtol=1e-15)


SEVERAL = {
    "1 + x + log(k + 5) + x:z": {},
    "1 + g + x": {"g": ("g[b]", "g[c]")},
    "1 + h": {"h": ("h[v]",)},
    "0 + x:g": {"x:g": ("x:g[a]", "x:g[b]", "x:g[c]")},
    "1 + C(on)": {"C(on)": ("C(on)[True]",)},
    "1 + poly(x, 2)": {"poly(x, 2)": ("poly(x, 2)[0]", "poly(x, 2)[1]")},
}


@pytest.mark.parametrize("text", SEVERAL)
def test_terms_of_several_columns_are_known(text):
    assert design(text, DATA, N, "").rule.several == SEVERAL[text]


SIDE_BY_SIDE = {
    ("x", "k:z", "on"): ["x", "k:z", "on"],
    ("g", "x", "h"): ["g[a]", "g[b]", "g[c]", "x", "h[u]", "h[v]"],
    ("x*z", "x:z"): ["x", "z", "x:z", "x:z"],
    ("log(k + 5)", "x"): ["log(k + 5)", "x"],
}


@pytest.mark.parametrize("columns", SIDE_BY_SIDE)
def test_columns_side_by_side_do_not_know_of_each_other(columns):
    parts = side_by_side(columns, DATA, N, "")
    assert [name for part in parts for name in part.names] == SIDE_BY_SIDE[columns]
    alone = [design(f"0 + {column}", DATA, N, "").matrix for column in columns]
    np.testing.assert_array_equal(np.column_stack([part.matrix for part in parts]), np.column_stack(alone))


def test_plain_columns_side_by_side_are_one_design():
    assert len(side_by_side(("x", "k:z", "on"), DATA, N, "")) == 1


NEITHER = {
    "1 + x": ("'x' is inf in row 3, 8", ""),
    "0 + log(x)": ("'log(x)' is inf in row 3, 8", ", where x = inf in the first of them"),
    "1 + z + offset(log(x))": ("The offset is inf in row 3, 8", ", where x = inf in the first of them"),
}


@pytest.mark.parametrize("text", NEITHER)
def test_values_of_new_rows_that_are_not_finite_are_refused(text):
    data = DATA.assign(x=DATA["x"].abs())
    made = design(text, data, N, "")
    with pytest.raises(ValueError) as refused:
        made.new(data.assign(x=np.where(np.isin(np.arange(N), [3, 8]), np.inf, 1.0)), N)
    what, where = NEITHER[text]
    assert str(refused.value) == f"{what} of the new data (rows count from 0){where}. Leave such rows out."
