# SPDX-License-Identifier: BSD-3-Clause
"""Which scale each column has: every form that ``groups=`` may take, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from marglik import LogisticRidgeEB, RidgeEB
from marglik.interfaces.groups import parse, side_by_side

NAMES = ["x0", "x1", "x2", "x3"]


@pytest.mark.parametrize(
    ("groups", "place", "scales"),
    [
        ("columns", [0, 1, 2, 3], ["sd(x0)", "sd(x1)", "sd(x2)", "sd(x3)"]),
        (["b", "a", "b", "c"], [0, 1, 0, 2], ["sd(b)", "sd(a)", "sd(c)"]),
        (np.array([7, 7, 3, 7]), [0, 0, 1, 0], ["sd(7)", "sd(3)"]),
        (pd.Series(["u", "v", "v", "u"], index=[9, 8, 7, 6]), [0, 1, 1, 0], ["sd(u)", "sd(v)"]),
        (pd.Categorical(["u", "v", "v", "u"], categories=["v", "u", "w"]), [0, 1, 1, 0], ["sd(u)", "sd(v)"]),
        ([("a", 1), ("a", 2), ("a", 1), 2.5], [0, 1, 0, 2], ["sd(('a', 1))", "sd(('a', 2))", "sd(2.5)"]),
        ([[3, 0], [1, 2]], [0, 1, 1, 0], ["sd(group0)", "sd(group1)"]),
        ([np.array([1]), range(2, 4), [0]], [2, 0, 1, 1], ["sd(group0)", "sd(group1)", "sd(group2)"]),
    ],
)
def test_forms(groups, place, scales):
    found = parse(groups, NAMES)
    assert found.place.tolist() == place
    assert list(found.scales) == scales


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ("column", "groups='column' is not known. Use None, 'columns', 'input', one label a column"),
        (3, "groups=3 is an int. Use None, 'columns'"),
        (["a", "b", "a"], "groups has 3 labels, but X has 4 columns. Give one label a column."),
        (["a", np.nan, "a", None], "groups has no label for column 1, 3 .NaN or None."),
        (pd.Series(["a", None, "a", "a"]), "groups has no label for column 1"),
        (["a", "noise", "a", "b"], "A group is called 'noise', but sd.noise. is the scale of the noise itself"),
        ([1, "1", 1, 1], "Two groups would both be called sd.1.. Give them names that differ as text."),
        (["a", {}, "a", "a"], "groups has a dict for column 1, which cannot be a label"),
        (["a", [1, 2], [3], [0]], "groups has a list for column 1, which cannot be a label"),
        ([[0, 1], [2]], "Column 3 is in no group."),
        ([[0, 1], [1, 2, 3]], r"Column 1 is in both groups\[0\] and groups\[1\]. Each column has one scale"),
        ([[0, 1, 1], [2, 3]], r"Column 1 is in groups\[0\] twice"),
        ([[0, 1], [2, 4], [3]], r"groups\[1\] names column 4, but X has columns 0 to 3."),
        ([[0, 1], [2, -1]], r"groups\[1\] names column -1"),
        ([[0, 1], [2.0, 3.0]], r"groups\[1\] must be an array of column numbers"),
        ([[0, 1, 2, 3], []], r"groups\[1\] must be an array of column numbers"),
    ],
)
def test_what_is_refused(groups, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse(groups, NAMES)


def test_a_column_called_noise():
    with pytest.raises(ValueError, match="called 'noise'"):
        parse("columns", ["x", "noise"])


def test_lists_of_arrays():
    a, b = np.arange(6.0).reshape(3, 2), np.ones((3, 1))
    X, groups = side_by_side([a, b])
    np.testing.assert_array_equal(X, np.column_stack([a, b]))
    assert groups.place.tolist() == [0, 0, 1]
    assert groups.scales == ("sd(group0)", "sd(group1)")


@pytest.mark.parametrize(
    ("X", "sentence"),
    [
        (np.ones((3, 2)), "groups='input' needs X as a list of arrays, one a group, but X is a ndarray"),
        ([], "groups='input' needs X as a list"),
        ([np.ones((3, 2)), np.ones((4, 1))], r"X\[1\] has shape \(4, 1\) and X\[0\] has shape \(3, 2\)"),
        ([np.ones((3, 2)), np.ones(3)], r"X\[1\] has shape \(3,\)"),
        ([np.ones((3, 2)), np.ones((3, 0))], r"X\[1\] has no columns"),
    ],
)
def test_lists_that_are_refused(X, sentence):
    with pytest.raises(ValueError, match=sentence):
        side_by_side(X)


@pytest.mark.parametrize("estimator", [RidgeEB, LogisticRidgeEB])
def test_a_list_of_arrays_without_groups(estimator):
    parts = [np.eye(6)[:, :2], np.eye(6)[:, 2:]]
    with pytest.raises(ValueError, match=r"X is a list of 2 arrays\. With groups='input' each of them is a group"):
        estimator().fit(parts, np.arange(6) % 2)
    with pytest.raises(ValueError, match=r"groups\[0\] must be an array of column numbers, but has shape \(6, 2\)"):
        estimator(groups=parts).fit(np.eye(6), np.arange(6) % 2)
