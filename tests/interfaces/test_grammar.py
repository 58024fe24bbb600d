# SPDX-License-Identifier: BSD-3-Clause
"""Formulas as text: how they are taken apart, in one spelling, and what is refused before any data are seen."""

import pytest

from marglik.interfaces.grammar import BadFormula, parse, products, split_terms


def test_terms_are_split_at_the_top_level_only():
    assert split_terms("a + I(b + c) - d:(e + f) + `g - h`", "") == [
        ("+", "a"),
        ("+", "I(b + c)"),
        ("-", "d:(e + f)"),
        ("+", "`g - h`"),
    ]


def test_parts_of_a_formula():
    parts = parse("y ~ 0 + x + (1 | g) + ridge(a, log(b)) + offset(t) + ard(c,d) + ridge(e)")
    assert parts.response == "y"
    assert parts.parametric == "0 + x + offset(t)"
    assert [t.text for t in parts.grouping] == ["(1 | g)"]
    assert [t.text for t in parts.penalised] == ["ridge(a, log(b))", "ard(c, d)", "ridge(e)"]


INTERCEPTS = {
    "x": "1 + x",
    "1 + x": "1 + x",
    "x + 1": "1 + x",
    "0 + x": "0 + x",
    "x - 1": "0 + x",
    "x + -1": "0 + x",
    "x + 0": "0 + x",
    "0 + 1 + x": "1 + x",
    "1 + 0 + x": "0 + x",
    "x - 0": "1 + x",
    "1": "1",
    "0 + x*z - x": "0 + x*z - x",
    "(x + z)^2 + log( z^2 )": "1 + (x + z)**2 + log( z**2 )",
}


@pytest.mark.parametrize("text", INTERCEPTS)
def test_the_intercept_is_written_out_in_fixed_effects_and_within_groups(text):
    assert parse(f"y ~ {text}").parametric == INTERCEPTS[text]
    (grouping,) = parse(f"y ~ 1 + ({text} | g)").grouping
    assert grouping.effects == INTERCEPTS[text]


GROUPINGS = {
    "(1 | g)": ["(1 | g)"],
    "(1|g)": ["(1 | g)"],
    "( x|g )": ["(1 + x | g)"],
    "(1+x|g)": ["(1 + x | g)"],
    "(x - 1 | g)": ["(0 + x | g)"],
    "(0 + x + z | g)": ["(0 + x + z | g)"],
    "(x || g)": ["(1 + x || g)"],
    "(0 + x || g)": ["(0 + x || g)"],
    "(1 || g)": ["(1 | g)"],
    "(1 | a:b)": ["(1 | a:b)"],
    "(1 | a / b)": ["(1 | a)", "(1 | a:b)"],
    "(x | a/b)": ["(1 + x | a)", "(1 + x | a:b)"],
    "(0 + x || a/b)": ["(0 + x || a)", "(0 + x || a:b)"],
    "(1 | a/b/c)": ["(1 | a)", "(1 | a:b)", "(1 | a:b:c)"],
    "(1 | a:b/c)": ["(1 | a:b)", "(1 | a:b:c)"],
    "(1 | a/b:c)": ["(1 | a)", "(1 | a:b:c)"],
    "(1 | a) + (1 | b) + (0 + x | a)": ["(1 | a)", "(1 | b)", "(0 + x | a)"],
    "(log(x) + I(x**2) | `the site`/g)": ["(1 + log(x) + I(x**2) | the site)", "(1 + log(x) + I(x**2) | the site:g)"],
}


@pytest.mark.parametrize("text", GROUPINGS)
def test_grouping_terms_in_one_spelling(text):
    parts = parse(f"y ~ 1 + {text}")
    assert parts.parametric == "1"
    assert [t.text for t in parts.grouping] == GROUPINGS[text]
    again = parse(f"y ~ 1 + {' + '.join(GROUPINGS[text]).replace('the site', '`the site`')}")
    assert again.grouping == parts.grouping


def test_names_of_grouping_factors():
    assert [(t.group, t.columns) for t in parse("y ~ (1 | `the site`/g)").grouping] == [
        ("the site", ("the site",)),
        ("the site:g", ("the site", "g")),
    ]


PRODUCTS = {
    "1": [()],
    "0": [],
    "1 + a + b": [(), ("a",), ("b",)],
    "a*b*c": [("a",), ("b",), ("a", "b"), ("c",), ("a", "c"), ("b", "c"), ("a", "b", "c")],
    "0 + a*b:c + a": [("a",), ("b", "c"), ("a", "b", "c")],
    "1 + `my x`:a.b": [(), ("my x", "a.b")],
    "a + 0": [("a",)],
    "a:b + b:a": [("a", "b"), ("b", "a")],
    **dict.fromkeys(["log(a)", "a - b", "(a + b)", "a**2", "a/b", "a:a", "a*b:a", "a:1", "a 2", "a + $"]),
}


@pytest.mark.parametrize("text", PRODUCTS)
def test_products(text):
    assert products(text) == PRODUCTS[text]


NO_FACTOR = (
    "{!r}: the grouping factor must be a column, or columns joined by : or /, as in '(1 | g)', '(1 | a:b)', '(1 | "
    "a/b)'. It is categorical whatever its type."
)
NO_EFFECT = "{!r} has no effect to vary. Left of its bar write 1 for an intercept, or columns: '(1 + x | g)'."
ALONE = "{!r} has a | inside. A term with a grouping factor, '(1 | g)', stands by itself."
BAD = {
    "y x": "A formula has one ~ between response and terms, as in 'y ~ x + (1 | g)', but this is 'y x'.",
    "y ~ (x": "The parentheses in 'y ~ (x' do not match.",
    "y ~ (1 | g) +": "In 'y ~ (1 | g) +' a '+' or '-' has no term after it.",
    "y ~ (1 + | g)": "In 'y ~ (1 + | g)' a '+' or '-' has no term after it.",
    "y ~ (| g)": NO_EFFECT.format("(| g)"),
    "y ~ (0 | g)": NO_EFFECT.format("(0 | g)"),
    "y ~ (1 |)": NO_FACTOR.format("(1 |)"),
    "y ~ (1 | a/)": NO_FACTOR.format("(1 | a/)"),
    "y ~ (1 | C(g))": NO_FACTOR.format("(1 | C(g))"),
    "y ~ (1 | 3)": NO_FACTOR.format("(1 | 3)"),
    "y ~ (1 | a*b)": NO_FACTOR.format("(1 | a*b)"),
    "y ~ (1 | a | b)": NO_FACTOR.format("(1 | a | b)"),
    "y ~ (1 | a/(b + c))": NO_FACTOR.format("(1 | a/(b + c))"),
    "y ~ (x | a + b)": "'(x | a + b)' has a + in its grouping factor. Write '(x | a) + (x | b)', or '(x | a:b)' for "
    "combinations.",
    "y ~ (1 | a:b/a)": "'(1 | a:b/a)' has 'a' twice in its grouping factor. Keep one.",
    "y ~ (1 | g) + (1|g)": "'(1 | g)' is in the formula twice. Keep one.",
    "y ~ (x | g) + (1 + x | g)": "'(1 + x | g)' is in the formula twice. Keep one.",
    "y ~ (1 | a) + (1 | a/b)": "'(1 | a)' is in the formula twice. Keep one; '(1 | a/b)' has it too.",
    "y ~ x - (1 | g)": "'(1 | g)' cannot be taken away with a minus; leave it out of the formula.",
    "y ~ x | g": "'x | g' has a | outside parentheses. A grouping factor is written '(1 | g)'.",
    "y ~ (1 | g):x": ALONE.format("(1 | g):x"),
    "y ~ x*(1 | g)": ALONE.format("x*(1 | g)"),
    "y ~ ((1 | a) + (1 | b))": ALONE.format("((1 | a) + (1 | b))"),
    "y ~ (ridge(x) | g)": "'(ridge(x) | g)' has 'ridge(x)' inside. Write it as a term of its own.",
    "y ~ (1 + offset(x) | g)": "'(1 + offset(x) | g)' has 'offset(x)' inside. Write it as a term of its own.",
    "y ~ (x z | g)": "'x z' has two names without a sign between them. Join terms by +, * or :.",
    "y ~ (2*x | g)": "'2*x' begins with a number, but terms are columns; 0 and 1 stand for the intercept. For "
    "arithmetic write I(2 * x).",
    "y ~ ard()": "'ard()' could not be understood. Write a term of its own, such as 'ard(a, b, c)'.",
    "y ~ ard(x):z": "'ard(x):z' could not be understood. Write a term of its own, such as 'ard(a, b, c)'.",
    "y ~ ard(x) + ard( x )": "'ard(x)' is in the formula twice. Keep one.",
    "y ~ ard(x, z, x)": "'ard(x, z, x)' names 'x' twice. Keep one.",
    "y ~ ridge(x, z, x)": "'ridge(x, z, x)' names 'x' twice. Keep one.",
    "y ~ x - ridge(z)": "'ridge(z)' cannot be taken away with a minus; leave it out of the formula.",
    "y ~ t2(x, z)": "'t2(x, z)' asks for tensor products of another form than te(), which formulas do not have yet.",
    "y ~ (s(x) | g)": "'s(x)' has s() inside. It is a term of its own: join terms by +.",
    "y ~ log(s(x))": "'log(s(x))' has s() inside. It is a term of its own: join terms by +.",
    "y ~ s(x) - s(z)": "'s(z)' cannot be taken away with a minus; leave it out of the formula.",
    "y ~ x*": "'x*' has nothing after its *. Name a column there, or leave the * out.",
    "y ~ x* + z": "'x*' has nothing after its *. Name a column there, or leave the * out.",
    "y ~ x:": "'x:' has nothing after its :. Name a column there, or leave the : out.",
    "y ~ *x": "'*x' has nothing before its *. Name a column there, or leave the * out.",
    "y ~ x + a/": "'a/' has nothing after its /. Name a column there, or leave the / out.",
    "y ~ s(x) + s( x )": "'s(x)' is in the formula twice. Keep one.",
}


@pytest.mark.parametrize("formula", BAD)
def test_bad_formulas_are_refused_in_one_sentence(formula):
    with pytest.raises(BadFormula) as refused:
        parse(formula)
    assert str(refused.value) == BAD[formula]
