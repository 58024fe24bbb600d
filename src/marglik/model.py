# SPDX-License-Identifier: BSD-3-Clause
"""The integrand of a linear model: p(y|η) with η = X w + offset, and a prior for w."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from marglik.columns import Columns, Factor, centred
from marglik.expansion import LinearExpansion
from marglik.gaussian import gram
from marglik.gaussian.components import Component, components
from marglik.gaussian.levels import Grouping, LevelSums, sum_levels
from marglik.gaussian.spectrum import Residuals, Spectrum, reduce
from marglik.hyperparameters import Hyperparameter, Hyperparameters, Real
from marglik.integrand import Model
from marglik.likelihoods import Likelihood
from marglik.linalg import Arrow, Scaling
from marglik.paths import linear_path
from marglik.pieces import worthwhile
from marglik.priors import Prior, Ridge, Term
from marglik.rows import InMemory
from marglik.thin import thinned
from marglik.validate import (
    check_design,
    check_finite,
    check_flag,
    check_names,
    check_response,
    independent_columns,
)

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.gaussian.gram import Gram


__all__ = ["FlatBasis", "LinearModel", "Model"]


def _in_units(h: Hyperparameter, model: LinearModel) -> Hyperparameter:
    """An entry of a factor in units of the response."""
    if h.triangle is None:
        return h
    unit = h.support.unit * model.response_scale  # type: ignore[attr-defined]
    return replace(h, support=replace(h.support, unit=unit))  # type: ignore[type-var]


def _block_diagonal(blocks: Sequence[Float[Array, "m m"]]) -> Float[Array, "m m"]:
    """Square matrices along a diagonal."""
    out, row = np.zeros((sum(map(len, blocks)),) * 2), 0
    for L in blocks:
        out[row : row + len(L), row : row + len(L)] = L
        row += len(L)
    return out


MOST_COMPACT = 3
"""So many of the models that a search passes through are kept."""
IMPROPER = 300.0
"""On a log or logit scale, a fixed effect that all data together tell no better than this is not known at all."""


class FlatBasis(NamedTuple):
    """The flat columns as X = Q R with QᵀQ = n I (rows scaled by √weights), and which of them is constant."""

    Q: Float[Array, "n f"]
    R: Float[Array, "f f"]
    constant: tuple[int, float] | None


@dataclass(frozen=True, eq=False)
class LinearModel(Model):
    """Linear predictor η = X w + offset, a likelihood for y given η, a prior for w.

    Parameters
    ----------
    likelihood
        How y scatters around η.
    prior
        A term, or several joined by ``+``; each owns its columns.
    rows
        `InMemory` rows, or just the response as an array (n,) or (n, V).
    reml
        Whether flat weights are integrated out (density 1 in the units of their columns) or maximised with θ.
    flat_in_theta
        True where the flat weights are coordinates of θ. `fit` sets it for methods that cannot profile them out.

    Raises
    ------
    ValueError
        Shapes do not match, a value is not finite or impossible under the likelihood, flat columns are
        collinear. The sentence names rows and columns.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.likelihoods import Gaussian
    >>> from marglik.model import LinearModel
    >>> from marglik.priors import Flat, Ridge
    >>> x = np.linspace(-1, 1, 7)
    >>> model = LinearModel(Gaussian(), Flat(np.ones(7), ["Intercept"]) + Ridge(x), 2 * x + 1)
    >>> model.hyperparameters.names
    ('sd(weights)', 'sd(noise)')
    """

    likelihood: Likelihood
    prior: Prior
    rows: InMemory
    reml: bool = True
    flat_in_theta: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.prior, Prior):
            object.__setattr__(self, "prior", Prior((self.prior,)))
        if not isinstance(self.rows, InMemory):
            object.__setattr__(self, "rows", InMemory(self.rows))
        y = np.asarray(self.rows.y)
        if y.dtype != np.float64 and y.dtype != np.float32:
            y = y.astype(np.float64)
        object.__setattr__(self.rows, "y", y)
        if not self.prior:
            raise ValueError("The model has no terms. Add at least an intercept.")
        if sum(term.flat for term in self.prior) > 1:
            raise ValueError("The prior has several flat terms. Put their columns side by side in one Flat term.")
        check_flag(self.reml, "reml")
        check_design(self.prior, self.rows)
        check_names(self._owned)
        check_response(y, self.likelihood.outcomes)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is found by the identity of terms, which a copy does not share."""
        return {name: value for name, value in self.__dict__.items() if name not in ("border_places", "_compact")}

    @cached_property
    def _owned(self) -> list[tuple[str, Sequence[Hyperparameter]]]:
        """Hyperparameters by whose they are."""
        terms = [(term.label, term.hyperparameters()) for term in self.prior]
        return [*terms, (f"the {type(self.likelihood).__name__} likelihood", self.likelihood.hyperparameters())]

    @cached_property
    def hyperparameters(self) -> Hyperparameters:
        own = [_in_units(h, self) for _, some in self._owned for h in some]
        if self.flat_in_theta:
            own += [Hyperparameter(f"basis{i}", Real(), fixed_effect=True) for i in range(self.n_flat)]
        return Hyperparameters(own)

    @cached_property
    def response_scale(self) -> float:
        """Natural size of what terms add to η: the spread of the response where η has its units, 1 elsewhere."""
        if not self.likelihood.located or self.rows.y.ndim == 2:
            return 1.0
        y = self.rows.y
        if not self.likelihood.gaussian:
            return self.likelihood.start_theta(np.asarray(y, float))[0] or 1.0
        mean, square = float(np.mean(y)), float(y @ y) / max(len(y), 1)
        close = square - mean**2 < 1e-6 * square  # a difference would cost digits
        return (float(np.std(y)) if close else np.sqrt(square - mean**2)) or 1.0

    @cached_property
    def offset(self) -> Float[Array, "n"] | None:
        """What η has without any weight: the rows' offset, and the columns times the weights' prior means."""
        given = [o for o in (self.rows.offset, *(term.offset for term in self.prior)) if o is not None]
        return np.sum(given, axis=0) if given else None

    @property
    def n_targets(self) -> int:
        return self.rows.n_targets

    @cached_property
    def n_flat(self) -> int:
        """Number of fixed effects."""
        return sum(term.n_weights for term in self.prior if term.flat)

    @property
    def flat_names(self) -> tuple[str, ...]:
        """Names of the fixed effects."""
        return tuple(name for term in self.prior if term.flat for name in term.names)

    @property
    def n_weights(self) -> int:
        return sum(term.n_weights for term in self.prior) - self.flat_in_theta * self.n_flat

    @cached_property
    def working(self) -> LinearModel:
        """The model with `thin` ridge terms; itself where none has more weights of a scale than there are rows."""
        found = {} if self.likelihood.gaussian else {id(t): thinned(t) for t in self.prior if isinstance(t, Ridge)}
        if not any(found.values()):
            return self
        out = replace(self, prior=Prior((found.get(id(t)) or (t,))[0] for t in self.prior))
        return out.keeping(self, ("offset", "row_scale", "multiplier", "log_base", "flat_basis"))

    def compact(self, theta):
        """With terms in as few coordinates as they take near θ; the same object while all terms stay the same."""
        base = self.working
        terms = tuple(term.compact(own) for term, own in base.term_theta(theta))
        if all(new is old for new, old in zip(terms, base.prior, strict=True)):
            return base
        known = base.__dict__.setdefault("_compact", {})
        key = tuple(map(id, terms))
        if key not in known:
            out = replace(base, prior=Prior(terms))
            names = ("offset", "row_scale", "multiplier", "log_base", "flat_basis", "residuals", "response_scale")
            known[key] = out.keeping(base, names)
            while len(known) > MOST_COMPACT:
                known.pop(next(iter(known)))
        return known[key]

    def keeping(self, other: LinearModel, names: Sequence[str]) -> LinearModel:
        """With what another model of the same rows knows of them."""
        self.__dict__.update({name: other.__dict__[name] for name in names if name in other.__dict__})
        return self

    def target(self, v: int) -> LinearModel:
        """The model of one target; what is known of the design is kept."""
        if self.rows.y.ndim == 1:
            return self
        out = replace(self, rows=self.rows.target(v))
        out.adopt(self)
        return out

    def adopt(self, other: LinearModel) -> None:
        """Keep what another model, of the same terms and rows but for the response, knows of the design."""
        for name in ("offset", "row_scale", "flat_basis", "groupings", "columns"):
            if name in other.__dict__ and self.flat_in_theta == other.flat_in_theta:
                self.__dict__.setdefault(name, other.__dict__[name])

    def with_flat_in_theta(self, yes: bool = True) -> LinearModel:
        """The model with its flat weights among θ, or not; what is known of the rows is kept."""
        known = ("offset", "row_scale", "multiplier", "log_base", "flat_basis", "groupings")
        return replace(self, flat_in_theta=yes).keeping(self, known)

    def subset(self, targets: Array) -> LinearModel:
        """The model of some of the targets; what is known of the design is kept."""
        out = replace(self, rows=replace(self.rows, y=self.rows.y[:, targets]))
        for name in ("spectrum", "reduced"):
            if name in self.__dict__:
                out.__dict__[name] = self.__dict__[name].subset(targets)
        return out

    def with_term(self, old: Term, new: Term) -> LinearModel:
        """The model with another term for the same columns; what is known of the rows is kept."""
        out = replace(self, prior=Prior(new if term is old else term for term in self.prior))
        for name in ("flat_basis", "residuals", "row_scale", "columns"):
            if name in self.__dict__:
                out.__dict__[name] = self.__dict__[name]
        swapped: dict[int, Any] = {id(old): new}
        moved = {id(g): replace(g, terms=tuple(swapped.get(id(t), t) for t in g.terms)) for g in self.groupings}
        out.__dict__["groupings"] = tuple(moved[id(g)] for g in self.groupings)
        if "level_sums" in self.__dict__:
            sums = self.level_sums
            inner = None if sums.inner is None else moved[id(sums.inner)]
            out.__dict__["level_sums"] = replace(sums, inner=inner, outer=tuple(moved[id(g)] for g in sums.outer))
        return out

    @cached_property
    def groupings(self) -> tuple[Grouping, ...]:
        """The grouping factors, each with the columns of all its terms, rows scaled; the largest first."""
        same: list[list[Any]] = []
        for term in (t for t in self.prior if t.grouped):
            mine = next((s for s in same if np.array_equal(s[0].codes, term.codes)), None)  # type: ignore[attr-defined]
            same.append([term]) if mine is None else mine.append(term)
        found = []
        for terms in same:
            n_levels = max(len(t.levels) for t in terms)
            Z = self.scaled(np.concatenate([t.columns for t in terms], axis=1))
            found.append(Grouping(terms[0].codes, n_levels, Z, tuple(terms)))
        return tuple(sorted(found, key=lambda g: -g.size))

    @cached_property
    def level_sums(self) -> LevelSums:
        """What a Gaussian model keeps of its rows: after these sums it never looks at them again."""
        dense = [self.scaled(t.columns) for t in self.dense]
        for term, columns in zip(self.dense, dense, strict=True):
            check_finite(columns, term.names)
        y = self.residuals.read(slice(0, 1))[0][:, 0]
        none = np.zeros((self.rows.n, 0))
        return sum_levels(self.groupings, np.concatenate([none, *dense], axis=1), self.flat_basis.Q, y)

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """The parts of a Gaussian's covariance."""
        return components(self.level_sums, self.dense, {id(term): start for term, start in self.theta_starts()})

    def theta_starts(self) -> Iterator[tuple[Term, int]]:
        """Each term with the position of its first coordinate of θ."""
        position = 0
        for term in self.prior:
            yield term, position
            position += len(term.hyperparameters())

    @cached_property
    def dense(self) -> tuple[Term, ...]:
        """The terms with a factor of their own columns, in order: neither flat nor grouped."""
        return tuple(term for term in self.prior if not term.flat and not term.grouped)

    @cached_property
    def one_scale(self) -> bool:
        """Whether the model is Gaussian with one shared scale and its flat weights, if any, are integrated."""
        scaled = [term for term in self.prior if not term.flat]
        return (
            self.likelihood.gaussian
            and not self.flat_in_theta
            and (self.reml or not self.n_flat)
            and len(scaled) == 1
            and not scaled[0].grouped
            and not scaled[0].kernel
            and not scaled[0].covaries
            and len(self.hyperparameters) == 2
        )

    @cached_property
    def dense_scales(self) -> bool:
        """Whether the model is Gaussian with several scales, all of dense columns, and its flat weights integrated."""
        return (
            self.likelihood.gaussian
            and not self.flat_in_theta
            and not self.groupings
            and not self.one_scale
            and not any(term.kernel or term.covaries for term in self.dense)
            and self.n_prior_theta > 0
            and (self.reml or not self.n_flat)
        )

    @cached_property
    def dense_rows(self) -> bool:
        """Whether the model is Gaussian with correlated weights, about one a row, and no grouping factors."""
        weights = sum((2 if term.by_inputs else 1) * term.n_weights for term in self.dense)
        return (
            self.likelihood.gaussian
            and not self.flat_in_theta
            and not self.groupings
            and self.rows.y.ndim == 1
            and self.row_scale is None
            and any(term.kernel and term.covaries for term in self.dense)
            and weights >= self.rows.n
        )

    @cached_property
    def dense_weights(self) -> bool:
        """Whether the model is Gaussian with correlated weights, fewer than rows, and no grouping factors."""
        return (
            self.likelihood.gaussian
            and not self.flat_in_theta
            and not self.groupings
            and not self.dense_rows
            and self.rows.y.ndim == 1
            and (self.reml or not self.n_flat)
            and any(term.kernel and term.covaries for term in self.dense)
            and all(term.covaries or not term.kernel for term in self.dense)
        )

    def hyperpriors(self):
        own = [item for term in self.prior for item in term.hyperpriors(self.response_scale).items()]
        return tuple(prior.at(self.hyperparameters.index(name), name) for name, prior in own)

    @property
    def several_maxima(self) -> bool:
        """Whether weights are correlated, as smoothly as their length scales say."""
        return any(term.kernel for term in self.dense)

    @cached_property
    def reduced(self) -> Gram:
        """What a model with several scales of dense columns keeps of its rows."""
        starts = {id(term): start for term, start in self.theta_starts()}
        place = []
        for term in self.dense:
            k = len(term.hyperparameters())
            scale = term.factor(np.arange(starts[id(term)], starts[id(term)] + k)) if k else -np.ones(term.n_weights)
            place.append(scale.astype(int))
        X = self._piecewise or self._side_by_side()
        return gram.reduce(X, np.concatenate(place), self.flat_basis.Q, self.residuals, self.rows.n_observations)

    @property
    def _piecewise(self) -> gram.Piecewise | None:
        """The dense columns where all are polynomials between breaks, and sums of these are cheaper than arrays."""
        parts = [term.pieces for term in self.dense if term.pieces is not None]
        if len(parts) < len(self.dense) or not worthwhile(parts):
            return None
        s = self.row_scale
        return gram.Piecewise(parts if s is None else [part.times(s) for part in parts])

    def _side_by_side(self) -> Float[Array, "n p"]:
        columns = []
        for term in self.dense:
            check_finite(term.columns, term.names)
            columns.append(self.scaled(term.columns))
        return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)

    @cached_property
    def row_scale(self) -> Float[Array, "n"] | None:
        """√(weights · counts) of a Gaussian: scaling y and X by it gives unit weights."""
        if not self.likelihood.gaussian:
            return None
        given = [w for w in (self.rows.weights, self.rows.counts) if w is not None]
        return np.sqrt(np.prod(given, axis=0)) if given else None

    @cached_property
    def log_row_scale(self) -> float:
        """Σ log √w_i over the observations: what precision weights add to the log density."""
        if self.rows.weights is None or not self.likelihood.gaussian:
            return 0.0
        counts = 1.0 if self.rows.counts is None else self.rows.counts
        return float(np.sum(counts * np.log(self.rows.weights)) / 2)

    @cached_property
    def multiplier(self) -> Float[Array, "n"] | float:
        """What log densities outside the Gaussian are multiplied by: weights · counts."""
        given = [w for w in (self.rows.weights, self.rows.counts) if w is not None]
        return np.prod(given, axis=0) if given and not self.likelihood.gaussian else 1.0

    @cached_property
    def log_base(self) -> float:
        """The part of Σ log p(y_i|η_i) that depends on y alone."""
        return float(np.sum(self.likelihood.log_base(np.asarray(self.rows.y, float)) * self.multiplier))

    def scaled(self, columns: Float[Array, "n *c"]) -> Float[Array, "n *c"]:
        """Rows times `row_scale`."""
        s = self.row_scale
        return columns if s is None else columns * (s if columns.ndim == 1 else s[:, None])

    @cached_property
    def flat_basis(self) -> FlatBasis:
        """Orthogonal coordinates for the flat weights."""
        flat = [t.columns for t in self.prior if t.flat]
        X = flat[0] if flat else np.zeros((self.rows.n, 0))
        constant = None
        for j, c in enumerate(X[0].tolist()):
            if c and not np.count_nonzero(X[:, j] != c):
                constant = j, c
                break
        if constant and X.shape[1] == 1 and self.row_scale is None:  # an intercept alone needs no rotation
            return FlatBasis(X if c == 1 else X / abs(c), np.array([[abs(c)]]), constant)
        root_n = np.sqrt(len(X))
        Q, R = independent_columns(self.scaled(X), self.flat_names)
        return FlatBasis(np.asfortranarray(Q * root_n), R / root_n, constant)

    @cached_property
    def residuals(self) -> Residuals:
        """A Gaussian response less offset and its fit on the flat columns."""
        y = self.rows.y if self.rows.y.ndim == 2 else self.rows.y[:, None]
        return Residuals(y, self.offset, self.row_scale, *self.flat_basis)

    @cached_property
    def spectrum(self) -> Spectrum:
        """What a model with one shared scale keeps of its rows."""
        (term,) = self.dense
        try:
            return reduce(self.scaled(term.columns), self.flat_basis.Q, self.residuals, self.rows.n_observations)
        except FloatingPointError as error:
            check_finite(term.columns, term.names)
            raise ValueError(f"{error} Rescale its columns.") from None

    @cached_property
    def columns(self) -> Columns:
        """The design in working order."""
        flat = np.zeros((self.rows.n, 0)) if self.flat_in_theta else self.flat_basis.Q
        f = flat.shape[1]
        parts, shift = [flat], [np.zeros((f, f))]
        for term in self.dense:
            check_finite(term.columns, term.names)
            X = self.scaled(term.columns)
            X, A = centred(flat, X) if self.reml else (X, np.zeros((f, X.shape[1])))  # maximised, γ is not free of w
            parts.append(X)
            shift.append(A)
        return Columns.of([Factor.of(g) for g in self.groupings], parts, f, np.concatenate(shift, axis=1))

    @cached_property
    def unit_gram(self) -> Arrow:
        """XᵀX of `columns`."""
        return self.columns.gram(None, self.rows)

    @cached_property
    def border_places(self) -> tuple[dict[int, slice], tuple[slice, ...]]:
        """Where dense terms, and outer grouping factors, lie on the border."""
        position = 0 if self.flat_in_theta else self.n_flat
        dense, outer = {}, []
        for term in self.dense:
            dense[id(term)] = slice(position, position + term.n_weights)
            position += term.n_weights
        for grouping in self.groupings[1:]:
            outer.append(slice(position, position + grouping.size))
            position += grouping.size
        return dense, tuple(outer)

    def factors(
        self, theta: Float[Array, "k"], of: Callable[[Term, Array], Array], flat: float
    ) -> tuple[Float[Array, "m m"], Scaling]:
        """The factor of an inner level's block and of the border, put together from what ``of`` says of each term."""
        own = {id(term): of(term, x) for term, x in self.term_theta(theta) if not term.flat}
        blocks = [_block_diagonal([own[id(t)] for t in g.terms]) for g in self.groupings]
        dense, outer = self.border_places
        size = (0 if self.flat_in_theta else self.n_flat) + sum(p.stop - p.start for p in (*dense.values(), *outer))
        diagonal = np.full(size, flat)
        runs = [*zip(outer, blocks[1:], strict=True)]
        for term in self.dense:
            if term.kernel:
                runs.append((dense[id(term)], own[id(term)]))
            else:
                diagonal[dense[id(term)]] = own[id(term)]
        for place, _ in runs:
            diagonal[place] = 0.0
        return (blocks[0] if blocks else np.zeros((1, 1))), Scaling(diagonal, tuple(runs))

    def parts_of(self, block: Float[Array, "m m"], border: Scaling) -> dict[int, Array]:
        """`factors` taken apart again: what belongs to each term, by its ``id``."""
        dense, outer = self.border_places
        of_factors, kernels = border.runs[: len(outer)], border.runs[len(outer) :]
        out = {key: border.diagonal[place] for key, place in dense.items()}
        out |= {id(t): L for t, (_, L) in zip((t for t in self.dense if t.kernel), kernels, strict=True)}
        for grouping, L in zip(self.groupings, [block, *(L for _, L in of_factors)], strict=bool(self.groupings)):
            row = 0
            for term in grouping.terms:
                own = slice(row, row + len(term.coefficients))
                out[id(term)] = L[own, own]
                row = own.stop
        return out

    @property
    def log_volume(self) -> float:
        """log|R|: dβ = |R|⁻¹ dγ, for densities in the units of the flat columns."""
        return 0.0 if self.flat_in_theta else float(np.log(np.abs(self.flat_basis.R.diagonal())).sum())

    def improper(self, H):
        f = self.columns.n_flat
        if self.likelihood.gaussian or not f:
            return None
        d, U = np.linalg.eigh(H.border[:f, :f])
        if d[0] * self.response_scale**2 > IMPROPER**-2:
            return None
        R = self.flat_basis.R
        away = np.abs(np.linalg.solve(R, U[:, 0])) * np.sqrt(np.sum(R**2, axis=0))
        columns = [name for name, size in zip(self.flat_names, away, strict=True) if size > 0.1 * away.max()]
        return (
            f"The likelihood keeps rising as fixed effects run off to infinity, those of {', '.join(columns[:5])}, as "
            "it does when all counts are zero or when a column separates the outcomes. Drop the column or give it a "
            "prior: ridge(…)."
        )

    @cached_property
    def n_prior_theta(self) -> int:
        """Number of coordinates of θ that belong to the prior; they come first."""
        return sum(len(term.hyperparameters()) for term in self.prior)

    def term_theta(self, theta: Float[Array, "k"]) -> Iterator[tuple[Term, Float[Array, "l"]]]:
        """Each term with its own coordinates."""
        return ((term, theta[place]) for term, place in self._theta_places)

    @cached_property
    def _theta_places(self) -> tuple[tuple[Term, slice], ...]:
        return tuple((t, slice(start, start + len(t.hyperparameters()))) for t, start in self.theta_starts())

    def at(self, weights, theta):
        return LinearExpansion(self, np.asarray(weights, float), np.asarray(theta, float))

    def path(self, theta, around=None, prior=True):
        return linear_path(self.compact(theta), theta, around, prior)

    def start_weights(self):
        u = np.zeros(self.n_weights)
        if self.columns.n_flat:
            self.columns.split(u)[1][: self.n_flat] = self.start_flat()
        return u

    def start_flat(self) -> Float[Array, "f"]:
        """γ for which η is nearest to a constant at the response's mean."""
        n = self.rows.n
        offset = 0.0 if self.offset is None else self.offset
        target = self.likelihood.start(self.rows.y) - np.mean(offset)
        return self.flat_basis.Q.T @ np.full(n, target) / n

    def start_theta(self):
        own = np.array(self.likelihood.start_theta(self.rows.y))
        own = np.where(own > 0, own, 1.0)  # a constant response has no scale of its own
        scale = own[0] if self.likelihood.located else 1.0
        flat = self.start_flat() if self.flat_in_theta else np.zeros(0)
        terms = [term.starts(scale) for term in self.prior]
        return np.array(
            [[*np.concatenate([s[i % len(s)] for s in terms]), *own, *flat] for i in range(max(map(len, terms)))]
        )
