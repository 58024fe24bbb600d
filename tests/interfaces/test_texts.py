# SPDX-License-Identifier: BSD-3-Clause
"""Text in terms: codes are levels, as in R; numbers that could not be read, and names of rows, are refused."""

import numpy as np
import pandas as pd
import pytest

import marglik
from marglik.interfaces.data import BadData

N = 40
RNG = np.random.default_rng(3)
X = RNG.standard_normal(N).round(3)
NUMBERS = [str(value) for value in X]
DATA = {"y": X + RNG.standard_normal(N) / 3, "g": np.arange(N) % 5, "z": RNG.standard_normal(N)}


def with_odd(row, value, among=NUMBERS):
    return [*among[:row], value, *among[row + 1 :]]


NEARLY = (
    "Column 'x' is text with 40 different values in 40 rows, nearly all of them numbers, but {} is none (rows count "
    "from 0). Correct it{}, or write C(x) if they are names of levels."
)
COMMAS = " (pandas.read_csv has decimal=',' and thousands=',' for commas)"
REFUSED = {
    "a decimal comma": (with_odd(7, "12,5"), NEARLY.format("'12,5' in row 7", COMMAS)),
    "a word": (with_odd(7, "broken"), NEARLY.format("'broken' in row 7", "")),
    "three words": (
        with_odd(30, "broken", with_odd(9, "lost", with_odd(2, "?"))),
        NEARLY.format("'?' in row 2", ""),
    ),
    "thousands": ([f"{1000 + 7 * i:,}" for i in range(N)], NEARLY.format("'1,000' in row 0", COMMAS)),
    "decimal commas": (
        [s.replace(".", ",") for s in NUMBERS],
        NEARLY.format(f"'{X[0]}'".replace(".", ",") + " in row 0", COMMAS),
    ),
    "a mixture": (np.array([*X[:-1], "1.5 kg"], object), NEARLY.format("'1.5 kg' in row 39", "")),
    "all numbers": (
        NUMBERS,
        f"Column 'x' holds numbers as text, 40 different ones in 40 rows, such as '{X[0]}'. Convert it, "
        "pandas.to_numeric(…), or write C(x) if they are names of levels.",
    ),
    "names of rows": (
        [f"row {i}" for i in range(N)],
        "Column 'x' is text with 40 different values in 40 rows, the first 'row 0', so as a factor it has an effect "
        "for about every row. Leave it out, let its effects vary, (1 | x), or write C(x) if that is meant.",
    ),
    "complex numbers": (
        X + 1j,
        "Column 'x' holds complex numbers. Give their real and imaginary parts, or their size.",
    ),
    "complex objects": (
        (X + 1j).astype(object),
        "Column 'x' holds complex numbers. Give their real and imaginary parts, or their size.",
    ),
}


FORMULAS = ["y ~ x", "y ~ z*x", "y ~ z + (1 + x | g)", "y ~ log(x)", "y ~ ridge(x)"]
CASES = [(name, formula) for name in REFUSED for formula in FORMULAS]
CASES.remove(("names of rows", "y ~ ridge(x)"))  # under a prior, an effect for every row is proper


@pytest.mark.parametrize(("name", "formula"), CASES)
def test_refused_in_one_sentence(name, formula):
    column, sentence = REFUSED[name]
    with pytest.raises(BadData) as refused:
        marglik.fit(formula, {**DATA, "x": column})
    assert str(refused.value) == sentence


def test_rows_are_those_of_the_data_where_some_are_dropped():
    z = np.where(np.arange(N) < 5, np.nan, DATA["z"])
    with pytest.raises(BadData, match=r"'12,5' in row 7 is none"):
        marglik.fit("y ~ x + z", {**DATA, "z": z, "x": with_odd(7, "12,5")}, missing="drop")


LEVELS = {
    "words": [("low", "mid", "high")[i % 3] for i in range(N)],
    "codes": [str(i % 3) for i in range(N)],
    "postcodes": [f"{10115 + 7 * (i % 20)}" for i in range(N)],
    "departments": [("01", "2A", "2B", "75")[i % 4] for i in range(N)],
    "a categorical": pd.Categorical(NUMBERS),
}


@pytest.mark.parametrize("name", LEVELS)
def test_levels_stay_levels(name):
    """A column of few levels, be they written in digits, or of a type that says so, has dummy columns as in R."""
    column = LEVELS[name]
    held = {"sd(noise)": 1.0} if name == "a categorical" else None
    fit = marglik.fit("y ~ 0 + x", {**DATA, "x": column}, fixed=held)
    levels, codes = np.unique(np.asarray(column), return_inverse=True)
    means = np.bincount(codes, DATA["y"]) / np.bincount(codes)
    np.testing.assert_allclose(fit.fixed_effects["estimate"], means[np.argsort(levels)], rtol=1e-10)
    assert fit.notes == ()


def test_a_few_rows_have_levels_too():
    fit = marglik.fit("y ~ x", {"y": [1.0, 2.0, 4.0, 3.0, 2.5, 1.5], "x": list("112345")}, fixed={"sd(noise)": 1.0})
    assert len(fit.fixed_effects) == 5


def test_words_among_codes_are_told_and_C_says_that_they_are_meant():
    ages = [str(30 + i % 8) for i in range(N)]
    data = {**DATA, "age": with_odd(12, "unknown", ages)}
    fit, meant = marglik.fit("y ~ age", data), marglik.fit("y ~ C(age)", data)
    assert fit.notes == (
        "'age' is text, so a factor with 9 levels: 'unknown' in row 12 is no number; C(age) says that levels are meant",
    )
    assert meant.notes == ()
    assert meant.log_evidence == pytest.approx(fit.log_evidence, rel=1e-12)


@pytest.mark.parametrize("formula", ["y ~ (1 | x)", "y ~ s(z, by=x, k=3)"])
def test_groups_are_whatever_they_are_written_as(formula):
    """Levels are categorical by their place, and numbers as text are fine names."""
    names = [f"{i % 4}.5" for i in range(N)]
    fit = marglik.fit(formula, {**DATA, "x": names})
    assert fit.notes == ()
    assert fit.log_evidence == pytest.approx(
        marglik.fit(formula, {**DATA, "x": ["abcd"[i % 4] for i in range(N)]}).log_evidence, rel=1e-9
    )


def test_a_function_of_a_word_names_it():
    with pytest.raises(ValueError, match=r"'x' holds text, 'two' in row 1 \(rows count from 0\), not numbers\."):
        marglik.fit("y ~ log(x)", {**DATA, "x": ["1", "two"] * 20})
    with pytest.raises(ValueError, match=r"'x' holds numbers as text, such as '1'\. Convert it"):
        marglik.fit("y ~ log(x)", {**DATA, "x": ["1", "2"] * 20})


def test_new_data_have_no_complex_numbers():
    fit = marglik.fit("y ~ z", DATA)
    with pytest.raises(BadData, match="Column 'z' holds complex numbers"):
        fit.predict({"z": np.array([1j, 2.0])})
