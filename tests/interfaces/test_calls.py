# SPDX-License-Identifier: BSD-3-Clause
"""Calls taken apart: arguments and options as text, values that are literals, and one sentence for all else."""

import pytest

from marglik.interfaces.calls import BadFormula, call


def test_arguments_are_expressions_in_one_spelling():
    found = call("s( log(x) ,`my z`, Solar.R, bs='tp',k = 20, knots={'x': [0, 1.5]})")
    assert found.arguments == ("log(x)", "`my z`", "Solar.R")
    assert found.value("bs") == "tp"
    assert found.value("k") == 20
    assert found.value("knots") == {"x": [0, 1.5]}
    assert found.value("m") is None
    assert found.columns == ("log(x)", "`my z`", "Solar.R")


def test_by_is_a_column():
    assert call("s(x, by=f)").columns == ("x", "f")
    assert call("s(x, by=`my f`)").columns == ("x", "`my f`")
    assert call("s(x, by='f')").columns == ("x", "f")
    assert call("s(x, by=None)").columns == ("x",)


def test_two_spellings_are_one_term():
    assert call("s(x,k=5)").text == call("s( x, k = 5 )").text == "s(x, k=5)"


BAD = {
    "s()": "'s()' names no column. Write what it is a function of, such as s(x).",
    "s(x):f": "'s(x):f' could not be understood. Write columns first, then options as name=value: s(x, …).",
    "s(x) * f": "'s(x) * f' combines s(…) with other things, but it is a term of its own. Join terms by +; what "
    "multiplies a smooth is its by=.",
    "s(*x)": "'s(*x)' has a * before an argument, which formulas do not know. Name the columns.",
    "s(x, k=)": "'s(x, k=)' could not be understood. Write columns first, then options as name=value: s(x, …).",
}
VALUES = {
    "c(3, 4)": "'s(x, k=c(3, 4))' has k=c(3, 4), which is no value. Write k=[3, 4].",
    "TRUE": "'s(x, k=TRUE)' has k=TRUE, which is no value. Write k=True.",
    "five": "'s(x, k=five)' has k=five, which is no value. Write text in quotes: k='five'.",
    "f(2)": "'s(x, k=f(2))' has k=f(2), which is no value. Write a number, text in quotes, True, False, None, or a "
    "list of these.",
}


@pytest.mark.parametrize("term", BAD)
def test_what_is_no_call(term):
    with pytest.raises(BadFormula) as refused:
        call(term)
    assert str(refused.value) == BAD[term]


@pytest.mark.parametrize("text", VALUES)
def test_what_is_no_value(text):
    with pytest.raises(BadFormula) as refused:
        call(f"s(x, k={text})").value("k")
    assert str(refused.value) == VALUES[text]


def test_unknown_options():
    with pytest.raises(BadFormula, match=r"has an option 'knot', which s\(\) does not know. Did you mean 'knots'"):
        call("s(x, knot=[1])").known(("k", "knots"))
    with pytest.raises(BadFormula, match="has by=3, but what multiplies a term is a column"):
        _ = call("s(x, by=3)").columns
