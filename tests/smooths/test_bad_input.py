# SPDX-License-Identifier: BSD-3-Clause
"""What cannot be built is refused in one sentence that says what to do."""

import re

import numpy as np
import pytest

from marglik.smooths import s, te, ti

X = np.linspace(0, 1, 20)
DATA = {
    "x": X,
    "z": X**2,
    "few": np.arange(20) % 4,
    "same": np.ones(20),
    "f": np.repeat(["a", "b"], 10),
    "gap": np.where(np.arange(20) == 3, np.nan, X),
    "hole": np.array([None if i == 2 else "a" for i in range(20)], object),
    "short": X[:5],
    "double": 2 * X + 1,
}
BAD = [
    (s, ["few"], {"k": 8}, "s(few) asks for k=8 functions, but 'few' has only 4 distinct values. Give k=4 or less."),
    (s, ["few"], {"bs": "cr", "k": 5}, "s(few) asks for k=5 functions, but 'few' has only 4 distinct values. Give k=4"),
    (s, ["few"], {"bs": "cc", "k": 5}, "s(few) asks for k=5 functions, but 'few' has only 4 distinct values. Give k=4"),
    (s, ["x", "z"], {"k": 21}, "s(x, z) asks for k=21 functions, but 'x', 'z' have only 20 distinct combinations."),
    (
        te,
        ["few", "x"],
        {},
        "The margin of few in te(few, x) asks for k=5 functions, but 'few' has only 4 distinct values.",
    ),
    (s, ["same"], {}, "'same' is the same in every row, so s(same) has nothing to vary with. Leave it out."),
    (te, ["x", "same"], {}, "'same' is the same in every row, so te(x, same) has nothing to vary with. Leave it out."),
    (s, ["x"], {"k": 2}, "s(x) asks for k=2 functions, but its basis needs at least 3."),
    (s, ["x", "z"], {"k": 3}, "s(x, z) asks for k=3 functions, but its basis needs at least 4."),
    (s, ["x"], {"bs": "cr", "k": 2}, "s(x) asks for k=2 functions, but its basis needs at least 3."),
    (s, ["x"], {"bs": "cc", "k": 3}, "s(x) asks for k=3 functions, but its basis needs at least 4."),
    (s, ["x"], {"bs": "ps", "k": 3}, "s(x) asks for k=3 functions, but its basis needs at least 4."),
    (s, ["x"], {"k": 2.5}, "s(x) has k=2.5, but k is a number of functions, a whole number above zero."),
    (s, ["x"], {"k": "5"}, "s(x) has k='5', but k is a number of functions, a whole number above zero."),
    (s, ["x"], {"bs": "cs"}, "s(x) has bs='cs', shrinkage, which is bs='cr' and select=True here."),
    (s, ["x"], {"bs": "pz"}, "s(x) has bs='pz', but the bases are cc, cr, fs, ps, re, tp. Did you mean 'tp' or 'ps'?"),
    (
        s,
        ["x"],
        {"bs": "cr", "k": 3, "knots": {"x": [2, 3, 4]}},
        "No knot of s(x) lies where 'x' does, between 0 and 1. Give knots there, or leave them out.",
    ),
    (s, ["x"], {"k": 3, "knots": {"x": [-3, -2, -1]}}, "No knot of s(x) lies where 'x' does, between 0 and 1."),
    (s, ["x"], {"k": 5, "knots": {"x": [0, 0.5, 1]}}, "s(x) asks for k=5 functions, but has only 3 knots."),
    (
        s,
        ["x"],
        {"bs": "cc", "knots": {"x": [0, 0.5]}},
        "Row 10 of 'x' is 0.526316, outside the knots of s(x), which reach from 0 to 0.5. "
        "Give the two ends of the period, or x modulo the period.",
    ),
    (
        s,
        ["x"],
        {"bs": "ps", "knots": {"x": [0.1, 2]}},
        "Row 0 of 'x' is 0, outside the knots of s(x), which reach from",
    ),
    (s, ["x"], {"bs": "cc", "knots": {"x": [0.5, 0.5]}}, "The knots of s(x) must be finite and all different."),
    (s, ["x"], {"bs": "cr", "knots": {"x": [0, np.nan]}}, "The knots of s(x) must be finite and all different."),
    (s, ["x"], {"bs": "cr", "k": 5, "knots": {"x": [0, 0.5, 1]}}, "s(x) has 3 knots, but needs 5. Leave knots out, or"),
    (s, ["x"], {"bs": "cc", "k": 5, "knots": {"x": [0, 0.5, 1]}}, "s(x) has 3 knots, but needs 2 or 5."),
    (s, ["x"], {"bs": "ps", "k": 5, "knots": {"x": [0, 0.5, 1]}}, "s(x) has 3 knots, but needs 2 or 9."),
    (
        s,
        ["x", "z"],
        {"knots": {"x": [0, 1]}},
        "s(x, z) needs as many knots of each covariate, but has 2 of 'x', 0 of 'z'.",
    ),
    (s, ["x"], {"knots": {"t": [0, 1]}}, "s(x) has knots of 't', which is none of its covariates."),
    (s, ["x", "z"], {"bs": "cr"}, "s(x, z) has 2 covariates, but bs='cr' takes one. Use bs='tp', or te()."),
    (s, ["x"], {"bs": "cr", "m": 2}, "s(x) gives m=2, but bs='cr' has no orders to choose. Leave m out."),
    (
        s,
        ["x"],
        {"bs": "ps", "m": [1, 2, 3]},
        "s(x) gives m=[1, 2, 3], but a P-spline has two orders, of its spline and",
    ),
    (
        s,
        ["x", "z"],
        {"m": 1},
        "s(x, z) gives m=1, but the order of a thin plate is a whole number above half the number",
    ),
    (
        s,
        ["x", "double"],
        {"k": 8},
        "s(x, double) cannot tell its polynomials of degree below 2 apart: the covariates lie on a line or curve. "
        "Leave one out, or use te().",
    ),
    (s, ["f"], {}, "s(f) needs numbers, but 'f' is categorical. Use bs='re', or by='f'."),
    (s, ["f"], {"bs": "re", "k": 3}, "s(f) gives k or knots, but bs='re' has one coefficient a level. Leave them out."),
    (s, ["gap"], {}, "Row 3 of 'gap' in s(gap) is nan. Drop such rows."),
    (s, ["x"], {"by": "gap"}, "Row 3 of 'gap' in s(x) is nan. Drop such rows."),
    (s, ["x"], {"by": "hole"}, "Row 2 of 'hole' in s(x) is None. Drop such rows."),
    (s, ["y"], {}, "s(y) needs the column 'y', which the data do not have."),
    (s, ["x"], {"by": "short"}, "s(x) needs columns of the same length, but 'short' has shape (5,), not (20,)."),
    (s, [], {}, "s() needs covariates, each once."),
    (te, ["x", "x"], {}, "te(x, x) needs covariates, each once."),
    (te, ["x", "z"], {"k": [4, 4, 4]}, "te(x, z) gives 3 values of k, but has 2 margins."),
    (ti, ["x", "z"], {"d": [1]}, "ti(x, z) gives d=[1], but the widths of its margins must add to 2 covariates."),
]


@pytest.mark.parametrize(("term", "names", "asked", "sentence"), BAD, ids=[f"{b[0].__name__}{b[1]}{b[2]}" for b in BAD])
def test_refused(term, names, asked, sentence):
    with pytest.raises(ValueError, match="^" + re.escape(sentence)):
        term(DATA, *names, **asked)
