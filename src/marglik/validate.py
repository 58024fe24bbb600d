# SPDX-License-Identifier: BSD-3-Clause
"""Bad input, in one clear sentence each: what was asked, what is wrong and where, what to try."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from scipy.linalg import blas, lapack, solve_triangular

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.hyperparameters import Hyperparameter
    from marglik.likelihoods import Outcomes
    from marglik.priors import Term
    from marglik.rows import InMemory


class Unsupported(TypeError):
    """Something was asked of a fit or of a part of a model that its kind does not have."""


COLLINEAR = 1e-10
"""A flat column counts as a combination of the others when no more than this fraction of its length is new."""


def listed(items: Iterable[object], most: int = 5) -> str:
    """'a, b, c' or 'a, b, c, d, e and 7 more'."""
    words = [str(i) for i in items]
    rest = len(words) - most
    return ", ".join(words) if rest <= 0 else f"{', '.join(words[:most])} and {rest} more"


def counted(n: int, what: str) -> str:
    """'one step' or '3 steps'."""
    return f"one {what}" if n == 1 else f"{n:,} {what}s"


def did_you_mean(name: str, names: Iterable[str], most: int = 2) -> str:
    """The nearest names as a question to add to a sentence; empty if none is near."""
    near = difflib.get_close_matches(name, list(names), n=most, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def is_number(value: Any) -> bool:
    """Whether Python reads it as a number."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def check_flag(value: object, name: str) -> None:
    """It is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, but is {value!r}.")


def check_restarts(restarts: object, seed: object) -> None:
    """Both are whole numbers from 0."""
    for name, value in (("restarts", restarts), ("seed", seed)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name} must be a whole number, 0 or more, but is {value!r}.")


NOT_FINITE = "Remove or impute these rows, or fit a formula with missing='drop' where they are NaN."
"""What to try where rows of an array have values that are not finite."""


def check_finite(
    X: Float[Array, "n *c"],
    names: Sequence[str],
    what: str = "column",
    rows: Array | None = None,
    advice: str = NOT_FINITE,
    sized: bool = False,
) -> None:
    """Raise naming the first column, and its rows, with a value that is NaN or infinite.

    Parameters
    ----------
    X, names, what
        Columns, and what to call them.
    rows
        As in `numbered`.
    advice
        What to try.
    sized
        Whether to refuse as well what is too large to be squared.
    """
    flat = X.ravel("K")
    with np.errstate(over="ignore", invalid="ignore"):
        squares = float(flat.dot(flat))  # a product by BLAS is fast
    if math.isfinite(squares):
        return
    columns = np.atleast_2d(X.T).T
    bad = ~np.isfinite(columns)
    if not bad.any():
        if sized:
            _refuse_size(columns, names, what)
        return
    column = int(np.argmax(bad.any(axis=0)))
    where = np.flatnonzero(bad[:, column])
    values = columns[where, column]
    kind = "NaN" if np.isnan(values).all() else "infinity" if np.isinf(values).all() else "NaN or infinity"
    others = int(bad.any(axis=0).sum()) - 1
    also = f" ({others} other columns have some too)" if others else ""
    shown = listed(numbered(where, rows))
    raise ValueError(f"{what} {names[column]!r} contains {kind} in row {shown}{also} (rows count from 0). {advice}")


def _refuse_size(columns: Float[Array, "n c"], names: Sequence[str], what: str) -> NoReturn:
    """Say which column has the largest values, and that they cannot be squared."""
    most = np.abs(columns).max(axis=0)
    column = int(np.argmax(most))
    kind, side = ("large", "overflow") if most[column] > 1 else ("small", "are zero")
    raise ValueError(
        f"{what} {names[column]!r} holds numbers as {kind} as {most[column]:.1g}, whose squares {side} in floating "
        "point. Give it in another unit."
    )


def check_nonzero(X: Float[Array, "n c"], names: Sequence[str], label: str, together: bool = False) -> None:
    """Raise naming the first column that is zero in every row; with one scale together, only if all are."""
    maybe = np.flatnonzero(~X[:100].any(axis=0))
    zero = maybe[~X[:, maybe].any(axis=0)]
    if len(zero) and (len(zero) == len(names) or not together):
        raise ValueError(
            f"{names[zero[0]]!r} in {label} is zero in every row, so its scale cannot be learned. Drop it."
        )


def check_design(prior: Iterable[Term], rows: InMemory) -> None:
    """Every term has as many rows as the response, flat columns are finite, weights are usable.

    Dense columns can be large: that they are finite is checked with their first use, where it costs nothing more.
    """
    n = len(rows.y)
    if n == 0:
        raise ValueError("The data have no rows, so there is nothing to learn from. Check the file or the filter.")
    check_labels(prior)
    for term in prior:
        length = len(term.codes) if term.grouped else term.n_rows  # type: ignore[attr-defined]
        if length != n:
            raise ValueError(
                f"Term {term.label!r} has {length} rows but y has {n}. Build both from the same rows of the data."
            )
        if term.flat or term.grouped:
            check_finite(term.design, term.names, sized=True)
        if term.grouped:
            check_nonzero(term.design, term.names, term.label)
    if rows.offset is not None:
        _check_vector(rows.offset, n, "offset")
    if rows.weights is not None:
        _check_vector(rows.weights, n, "weights")
        check_weights(np.asarray(rows.weights))


def check_labels(prior: Iterable[Term]) -> None:
    """No two terms are called alike, and terms of one grouping factor give each row the same level."""
    labels: set[str] = set()
    coded: dict[str, Any] = {}
    for term in prior:
        if term.label in labels:
            raise ValueError(f"Two terms are called {term.label!r}. Give one of them another label.")
        labels.add(term.label)
        if not term.grouped:
            continue
        other: Any = coded.setdefault(term.group, term)  # type: ignore[attr-defined]
        if other is not term and not np.array_equal(other.codes, term.codes):  # type: ignore[attr-defined]
            raise ValueError(
                f"{other.label!r} and {term.label!r} both have the grouping factor {other.group!r}, but give the rows "
                "different levels. Rename one of the factors."
            )


def check_effects(codes: Array, n_levels: int, Z: Array | None, names: Sequence[str], label: str) -> None:
    """Every row has one of the levels, and a column for each of the coefficients, whose names differ."""
    check_codes(codes, n_levels, label)
    shape, expected = (len(codes), 1) if Z is None else np.shape(Z), (len(codes), len(names))
    if shape != expected and (len(shape) > 1 or (*shape, 1) != expected):
        raise ValueError(
            f"{label!r} has {len(codes)} rows and the coefficients {listed(names)}, so its columns must have shape "
            f"{expected}, but it is {shape}."
        )
    check_coefficients(names, label)


def check_coefficients(names: Sequence[str], label: str) -> None:
    """No two coefficients are called alike."""
    if len(set(names)) == len(names):
        return
    twice = next(name for i, name in enumerate(names) if name in names[:i])
    raise ValueError(f"{label!r} has two coefficients called {twice!r}. Rename or drop one of them.")


def check_shared(groups: Sequence[int], scales: Sequence[str] | None, m: int, correlated: bool, label: str) -> None:
    """Coefficients that share scales are not correlated, each has one, and every scale is one's."""
    if correlated:
        raise ValueError(f"{label!r} has groups=, scales that coefficients share, so give correlated=False.")
    found = set(np.asarray(groups).tolist())
    if len(groups) != m or scales is None or found != set(range(len(scales))):
        raise ValueError(
            f"{label!r} has {m} coefficients and the scales {listed(scales or ())}, but groups={list(groups)}. Give "
            "the place of each coefficient's scale, from 0, every scale once at least."
        )


def check_levels(levels: Sequence[str], label: str) -> None:
    """No level stands twice. (Combinations, which are written when asked for, are distinct.)"""
    if not isinstance(levels, list | tuple | np.ndarray) or len(set(levels)) == len(levels):
        return
    seen: set[str] = set()
    twice = next(level for level in levels if level in seen or seen.add(level))  # type: ignore[func-returns-value]
    places = [i for i, level in enumerate(levels) if level == twice]
    raise ValueError(
        f"{label!r} has the level {twice!r} at {listed(places)}. Give each level one name, and its rows one code."
    )


def check_codes(codes: Array, n_levels: int, label: str, unseen: bool = False) -> None:
    """Codes of levels are whole numbers from 0; with ``unseen`` also −1."""
    codes = np.asarray(codes)
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise ValueError(
            f"{label!r} needs the level of each row, as whole numbers from 0 of shape (rows,), but was given "
            f"{codes.dtype} of shape {codes.shape}."
        )
    lowest = -1 if unseen else 0
    if len(codes) and (codes.min() < lowest or codes.max() >= n_levels):
        row = int(np.argmax((codes < lowest) | (codes >= n_levels)))
        new = ", and −1 for a level that was not in the fit" if unseen else ""
        raise ValueError(
            f"{label!r} has {n_levels} levels, counted from 0{new}, but the level of row {row} is {codes[row]}."
        )


def numbered(places: Array, rows: Array | None) -> Array:
    """The numbers in the data of rows at these places; ``rows`` has those of all, if some were left out before."""
    return places if rows is None else rows[places]


def check_weights(weights: Float[Array, "n"], rows: Array | None = None) -> None:
    """All are positive; ``rows`` as in `numbered`."""
    bad = np.flatnonzero(weights <= 0)
    if len(bad):
        raise ValueError(
            f"weights must be positive, but row {listed(numbered(bad, rows))} has {weights[bad[0]]:g}. They are "
            "precision weights, var(ε_i) = σ²/w_i, for a Gaussian, and multiply log densities for other families; "
            "drop the rows that should not count."
        )


def _check_vector(values: Array, n: int, name: str) -> None:
    if np.shape(values) != (n,):
        raise ValueError(f"{name} must have one value a row, shape ({n},), but its shape is {np.shape(values)}.")
    check_finite(np.asarray(values, float), [name], "vector")


def check_response(y: Float[Array, "n *V"], outcomes: Outcomes, rows: Array | None = None, name: str = "y") -> None:
    """Every response is a possible outcome under the likelihood; ``rows`` as in `numbered`."""
    if y.ndim > 2 or y.ndim == 0:
        raise ValueError(f"y must have shape (n,) or (n, targets), but its shape is {y.shape}.")
    names = [name] if y.ndim == 1 else [f"y[:, {v}]" for v in range(y.shape[1])]
    real = not outcomes.integer and outcomes.lower == -np.inf
    check_finite(y, names, "response", sized=real)
    if real:
        flat = y.ravel("K")
        if not flat.dot(flat) and y.any():
            _refuse_size(np.atleast_2d(y.T).T, names, "response")
        return
    bad = outcomes.violations(y)
    if bad.any():
        where = numbered(np.flatnonzero(bad if y.ndim == 1 else bad.any(axis=1)), rows)
        first = y[bad][0]
        raise ValueError(
            f"This likelihood needs {outcomes.words}, but the response is {first:g} in row {where[0]} "
            f"({len(where)} such rows: {listed(where)}). Choose another family or correct these rows."
        )


class Collinear(ValueError):
    """A flat column that is a linear combination of others.

    Parameters
    ----------
    message
    column, others
        Its number, and theirs.
    """

    def __init__(self, message: str, column: int, others: Sequence[int]):
        super().__init__(message)
        self.column, self.others = column, tuple(others)


def independent_columns(X: Float[Array, "n f"], names: Sequence[str]) -> tuple[Array, Array]:
    """X = QR with orthonormal Q; raises naming the columns where X has not full rank."""
    n, f = X.shape
    if f == 0:
        return X, np.zeros((0, 0))
    length = np.sqrt(np.einsum("ij,ij->j", X, X))
    if f == 1 and length[0] > 0:
        return X / length, length[None]
    zero = np.flatnonzero(length == 0)
    if len(zero):
        if X[:, zero[0]].any():
            _refuse_size(X[:, zero[:1]], [names[zero[0]]], "column")
        raise ValueError(
            f"Fixed effect {names[zero[0]]!r} is zero in every row, so its coefficient cannot be learned. Drop it."
        )
    if f > n:
        raise ValueError(
            f"There are {f} fixed effects but only {n} rows, so they cannot all be learned. "
            "Drop some, or give them a prior: ridge(…)."
        )
    quick = _orthonormal(X, length) if n > 100 * f else None
    if quick is not None:
        return quick
    Q, R = np.linalg.qr(X / length)
    new = np.abs(R.diagonal())
    if new.min() <= COLLINEAR:
        j = int(np.argmax(new <= COLLINEAR))
        share = np.abs(solve_triangular(R[:j, :j], R[:j, j], check_finite=False)) if j else np.zeros(0)
        places = np.flatnonzero(share > 1e-6 * max(share.max(initial=0), 1e-300)).tolist()
        others = [repr(names[i]) for i in places]
        constant = np.ptp(X[:, j]) == 0
        what = "is constant, like" if constant and len(others) == 1 else "is a linear combination of"
        raise Collinear(
            f"Fixed effect {names[j]!r} {what} {' and '.join(others)}, so their coefficients cannot be told apart. "
            "Drop one of them, or give them a prior: ridge(…).",
            j,
            places,
        )
    return Q, R * length


def _orthonormal(X: Float[Array, "n f"], length: Float[Array, "f"]) -> tuple[Array, Array] | None:
    """X = QR through XᵀX, which is fast for many rows; None where columns are too close to collinear for that.

    Repeated once unless columns are far from collinear, those of Q are orthonormal to rounding (Yamamoto et al. 2015,
    ETNA 44, 306).
    """
    R, Q = np.diag(length), X
    for scale in (length, np.ones(len(length))):
        gram = blas.dgemm(1.0, Q, Q, trans_a=1) if Q.flags.f_contiguous else Q.T @ Q
        half, info = lapack.dpotrf(gram / np.outer(scale, scale), clean=1)
        if info or half.diagonal().min() < 1e-3:
            return None
        Q = ((lapack.dtrtri(half)[0] / scale[:, None]).T @ Q.T).T  # by columns, as it is read
        R = half @ R
        if half.diagonal().min() > 0.5:
            break
    return Q, R


SAME = 1e-12
"""Two products count as equal when they differ by no more than this fraction."""


def check_grouping(
    prior: Sequence[Term], rows: InMemory, learned: Collection[str], noise: str | None, reml: bool = False
) -> None:
    """The covariances of grouping terms can be learned.

    There are several levels, fewer than rows; correlated effects are fewer than levels, and some level tells any two of
    them apart; no two factors put the rows into the same groups; no term's covariance takes up the variance of another;
    fixed effects that are integrated out leave something.

    Parameters
    ----------
    prior, rows, reml
        Of the model.
    learned
        Names of the hyperparameters that are not held.
    noise
        Name of the scale of a Gaussian's noise; None for other likelihoods.
    """
    before: list[Any] = []
    for term in prior:
        if not term.grouped:
            continue
        grouped: Any = term
        own = [h.name for h in term.hyperparameters()]
        if not any(name in learned for name in own):
            continue
        n = int(np.count_nonzero(np.bincount(grouped.codes)))
        if n == 1:
            one = len(grouped.reported_names) == 1
            given = {name: float(i < len(grouped.coefficients)) for i, name in enumerate(grouped.reported_names)}
            raise ValueError(
                f"Grouping factor {grouped.group!r} has one level only, {grouped.levels[0]!r}, so how its levels "
                f"differ cannot be learned. Leave out {term.label}, or hold {'its scale' if one else 'all of it'}: "
                f"fixed={given}."
            )
        beside = noise if noise in learned else None
        if grouped.triangle is None:
            _check_independent(grouped, rows, n, learned, beside)
        elif grouped.held_correlation is None and all(name in learned for name in own):
            _check_correlated(grouped, rows, n, beside)
        for other in before:
            _check_same_groups(other, grouped)
            _check_absorbed(other, grouped, learned)
        before.append(grouped)
        flat = [t.columns for t in prior if t.flat]
        if reml and flat and flat[0].shape[1] >= n:
            _check_left_over(grouped, flat[0])


def _check_independent(term: Any, rows: InMemory, n: int, learned: Collection[str], noise: str | None) -> None:
    """A scale and the noise are told apart by levels with several rows, or rows of unequal weight."""
    if noise is None or n < rows.n_observations or (rows.weights is not None and np.ptp(rows.weights) > 0):
        return
    for scale, column in zip(_scales(term), term.design.T, strict=True):
        if scale in learned and np.ptp(np.abs(column)) <= SAME * np.abs(column).max():
            raise ValueError(
                f"Grouping factor {term.group!r} has as many levels as there are rows, {n}, so {scale} and {noise} "
                f"cannot be told apart. Leave out {term.label}, or hold one of them: fixed={{{noise!r}: 1.0}}."
            )


def _scales(term: Any) -> list[str]:
    """The name of each coefficient's scale."""
    m = len(term.coefficients)
    return list(term.reported_names[:m]) if term.groups is None else [term.scales[i] for i in term.groups]


def _check_correlated(term: Any, rows: InMemory, n: int, noise: str | None) -> None:
    """Effects are fewer than levels, random effects fewer than rows, and some level tells any two effects apart."""
    names = term.names
    m = len(names)
    if m > n:
        raise ValueError(
            f"{term.label} has {m} correlated effects ({listed(names)}), but {term.group!r} has only {n} levels, so "
            "their covariance cannot be learned. Leave some out, or make them independent: || in place of |."
        )
    if noise is not None and n * m >= rows.n_observations:
        raise ValueError(
            f"{term.label} has {n * m} random effects, {m} for each of {n} levels, but there are only "
            f"{rows.n_observations:g} rows, so their covariance and {noise} cannot be told apart. Leave some out, or "
            f"hold the noise: fixed={{{noise!r}: 1.0}}."
        )
    for j, k in combinations(range(m), 2):
        if not _told_apart(term.design[:, j], term.design[:, k], term.codes):
            why = f"no level of {term.group!r} tells {names[j]!r} and {names[k]!r} apart"
            if names[j] == "Intercept":
                why = f"{names[k]!r} is constant within every level of {term.group!r}"
            raise ValueError(
                f"{term.label} cannot be learned: {why}, so cor({names[j]}, {names[k]} | {term.group}) is unknown. "
                + _without(names, names[k], term.group)
            )


def _without(names: Sequence[str], name: str, group: str) -> str:
    """What to write for correlated effects one of which cannot be learned; levels of a factor go together."""
    factor, is_level, _ = name.partition("[")
    if not is_level:
        return f"Leave {name!r} out, or make the effects independent: || in place of |."
    rest = [n for n in names if n != "Intercept" and "[" not in n]
    return f"Leave {factor!r} out: ({' + '.join(['1', *rest])} | {group})."


def _told_apart(a: Float[Array, "n"], b: Float[Array, "n"], codes: Array) -> bool:
    """Whether in some level one column is no multiple of the other: a_i b_r ≠ b_i a_r, r the level's first row."""
    for some in (slice(1000), slice(None)):  # the first rows suffice, unless the answer is no
        rows = np.flatnonzero((a[some] != 0) | (b[some] != 0))
        first = np.zeros(int(codes.max()) + 1, np.intp)
        first[codes[rows[::-1]]] = rows[::-1]
        r = first[codes[rows]]
        left, right = a[rows] * b[r], b[rows] * a[r]
        if (np.abs(left - right) > SAME * (np.abs(left) + np.abs(right))).any():
            return True
    return False


def _check_same_groups(first: Any, second: Any) -> None:
    """Two factors with a coefficient in common are no bijection of each other."""
    shared = [name for name in first.names if name in second.names]
    if not shared or first.group == second.group:
        return
    partner = np.zeros(int(first.codes.max()) + 1, np.intp)
    partner[first.codes] = second.codes
    if not (partner[first.codes] == second.codes).all():
        return
    if np.count_nonzero(np.bincount(first.codes)) != np.count_nonzero(np.bincount(second.codes)):
        return
    name = shared[0]
    raise ValueError(
        f"{first.group!r} and {second.group!r} put the rows into the same groups, so sd({name} | {first.group}) and "
        f"sd({name} | {second.group}) cannot be told apart. Leave out {second.label}."
    )


def _check_absorbed(first: Any, second: Any, learned: Collection[str]) -> None:
    """No column of one term is a combination z = Z a of another's for the same factor: Σ + s² a aᵀ is a covariance."""
    if first.group != second.group:
        return
    for narrow, wide in ((first, second), (second, first)):
        if wide.held_correlation is not None or not {h.name for h in wide.hyperparameters()} <= set(learned):
            continue
        each = range(len(wide.names))
        for block in [list(each)] if wide.triangle is not None else [[j] for j in each]:
            Z = wide.design[:, block]
            for name, z in zip(narrow.names, narrow.design.T, strict=True):
                if f"sd({name} | {narrow.group})" not in learned and narrow.triangle is None:
                    continue
                left = z - Z @ np.linalg.lstsq(Z, z)[0]
                if left @ left > COLLINEAR * (z @ z):
                    continue
                of = listed([repr(wide.names[j]) for j in block])
                kind = f"a combination of {of}" if len(block) > 1 else f"a multiple of {of}"
                raise ValueError(
                    f"{narrow.label} and {wide.label} cannot be told apart: {name!r} is {kind}, so that the covariance "
                    f"of {wide.label} takes up sd({name} | {narrow.group}). Leave out {narrow.label}."
                )


def _check_left_over(term: Any, flat: Float[Array, "n f"]) -> None:
    """Some level has a column of the term that is no combination of the flat columns: |z|² > |Qᵀz|²."""
    Q = np.linalg.qr(flat)[0]
    for name, scale, column in zip(term.names, _scales(term), term.design.T, strict=True):
        length = np.bincount(term.codes, column**2)
        explained = sum(np.bincount(term.codes, q * column) ** 2 for q in Q.T)
        if (length - explained <= COLLINEAR * length).all():
            raise ValueError(
                f"The fixed effects hold {name!r} for every level of {term.group!r}, so nothing is left to learn "
                f"{scale} from. Leave out {term.label}, or these fixed effects."
            )


def check_names(owned: Sequence[tuple[str, Sequence[Hyperparameter]]]) -> None:
    """No two terms have a hyperparameter of the same name.

    Parameters
    ----------
    owned
        Whose hyperparameters they are, and these.
    """
    every = [h for _, some in owned for h in some]
    if len({h.name for h in every}) == len(every) and all(h.triangle is None for h in every):
        return
    owner: dict[str, str] = {}
    for label, hyperparameters in owned:
        triangles = {id(h.triangle): h.triangle.names for h in hyperparameters if h.triangle is not None}
        names = [h.name for h in hyperparameters if h.triangle is None]
        for name in [*names, *(n for some in triangles.values() for n in some)]:
            if name in owner:
                who = f"{label} has two hyperparameters"
                if owner[name] != label:
                    who = f"{owner[name]} and {label} both have a hyperparameter"
                hint = "Rename or drop one of them."
                if name.startswith("sd(Intercept | "):
                    group = name.removeprefix("sd(Intercept | ").removesuffix(")")
                    hint = f"Drop one of them; beside (1 | {group}), other effects are written (0 + … | {group})."
                raise ValueError(f"{who} called {name!r}. {hint}")
            owner[name] = label
