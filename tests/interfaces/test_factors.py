# SPDX-License-Identifier: BSD-3-Clause
"""Grouping factors against pandas: levels in order, codes of the fit and of new rows."""

import numpy as np
import pandas as pd
import pytest

from marglik.interfaces.data import settled
from marglik.interfaces.factors import described, factorise

N = 300
rng = np.random.default_rng(9)
CODES = rng.integers(0, 40, N)
BIG = 2**62
COLUMNS = {
    "integers": CODES,
    "with gaps": 7 * CODES - 100,
    "far apart": (CODES - 20) * (BIG // 40),
    "the whole range": np.where(CODES % 2, np.iinfo(np.int64).max - CODES, np.iinfo(np.int64).min + CODES),
    "bytes": (6 * CODES - 120).astype(np.int8),
    "unsigned": CODES.astype(np.uint64) + np.uint64(2**64 - 100),
    "truth values": CODES % 2 == 1,
    "floats": CODES / 4 - 3,
    "text": [f"s{c}" for c in CODES],
    "text of numbers": [str(c) for c in CODES],
    "a categorical": pd.Categorical([f"s{c}" for c in CODES], [f"s{c}" for c in range(50, -1, -1)]),
    "a categorical of numbers": pd.Categorical(CODES, rng.permutation(45)),
    "nullable": pd.array(CODES, "Int64"),
    "one value": np.zeros(N, int),
}


def expected_levels(column):
    if isinstance(column.dtype, pd.CategoricalDtype):
        return [c for c in column.cat.categories if (column == c).any()]
    return sorted(set(column.tolist()))


@pytest.mark.parametrize("name", COLUMNS)
def test_levels_and_codes_of_a_column(name):
    column = settled(pd.Series(COLUMNS[name]))
    factor, codes = factorise(["g"], {"g": column})
    assert factor.levels == expected_levels(column)
    assert factor.columns == ("g",)
    assert [factor.levels[i] for i in codes] == column.tolist()
    assert np.bincount(codes).min() > 0
    some = column.iloc[rng.permutation(N)[:50]]
    np.testing.assert_array_equal(factor.codes({"g": some}), codes[some.index])


@pytest.mark.parametrize("second", COLUMNS)
@pytest.mark.parametrize("first", ["integers", "far apart", "text", "a categorical"])
def test_combinations_of_two_columns(first, second):
    table = {
        "a": settled(pd.Series(COLUMNS[first])),
        "b": settled(pd.Series(COLUMNS[second])[::-1].reset_index(drop=True)),
    }
    factor, codes = factorise(["a", "b"], table)
    places = {c: {v: i for i, v in enumerate(expected_levels(table[c]))} for c in table}
    rows = list(zip(table["a"].tolist(), table["b"].tolist(), strict=True))
    levels = sorted(set(rows), key=lambda row: (places["a"][row[0]], places["b"][row[1]]))
    assert [levels[i] for i in codes] == rows
    words = [(a, int(b) if isinstance(b, float) and b == int(b) else b) for a, b in levels]
    assert list(factor.levels) == [f"{a}:{b}" for a, b in words]
    assert (len(factor.levels), factor.levels[2], factor.levels[-1]) == (
        len(levels),
        list(factor.levels)[2],
        list(factor.levels)[-1],
    )
    some = rng.permutation(N)[:50]
    np.testing.assert_array_equal(factor.codes({k: v.iloc[some] for k, v in table.items()}), codes[some])


def test_three_columns_are_combined_one_by_one():
    table = pd.DataFrame({"a": ["u", "u", "v", "v", "u"], "b": [2, 1, 2, 2, 1], "c": list("xyxzy")})
    factor, codes = factorise(["a", "b", "c"], table)
    assert factor.columns == ("a", "b", "c")
    assert list(factor.levels) == ["u:1:y", "u:2:x", "v:2:x", "v:2:z"]
    assert codes.tolist() == [1, 0, 2, 3, 0]
    assert factor.levels[1:3] == ["u:2:x", "v:2:x"]


def test_combinations_that_did_not_occur_are_unseen_though_their_parts_are_not():
    factor, _ = factorise(["a", "b"], pd.DataFrame({"a": ["u", "v"], "b": [1.0, 2.0]}))
    new = pd.DataFrame({"a": ["u", "u", "w", "v", "v"], "b": [1.0, 2.0, 1.0, 2.5, 2.0]})
    codes = factor.codes(new)
    assert codes.tolist() == [0, -1, -1, -1, 1]
    assert described(factor, new, np.flatnonzero(codes < 0)) == ["u:2", "w:1", "v:2.5"]


def test_a_million_combinations_of_four_columns():
    """Each column has so many levels that the product of all would overflow."""
    n = 3000
    table = pd.DataFrame({c: rng.permutation(n) * 10**15 for c in "abcd"})
    factor, codes = factorise(list("abcd"), table)
    np.testing.assert_array_equal(np.sort(codes), np.arange(n))
    order = np.argsort(table["a"].to_numpy())
    np.testing.assert_array_equal(codes[order], np.arange(n))
    np.testing.assert_array_equal(factor.codes(table), codes)


@pytest.mark.parametrize("kind", [int, float, str])
@pytest.mark.parametrize("of_the_fit", [int, str])
def test_numbers_are_found_as_text_and_text_as_numbers(kind, of_the_fit):
    if (kind, of_the_fit) == (float, str):
        return
    table = pd.DataFrame({"g": CODES})
    factor, codes = factorise(["g"], table.astype(of_the_fit))
    found = factor.codes(table.astype(kind))
    assert [str(factor.levels[i]) for i in found] == [str(c) for c in CODES]
    np.testing.assert_array_equal(found, codes)
