# SPDX-License-Identifier: BSD-3-Clause
"""`ReceptiveField`: weights on a grid that vary smoothly along each of its dimensions, as smoothly as the data say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import eigh

from marglik.hyperparameters import Hyperparameter, Positive
from marglik.hyperpriors import simple_range, simple_scale
from marglik.linalg import Kron, along
from marglik.priors.base import DenseMoves, Grid, Moves, Term, as_matrix, default_names
from marglik.roots import Root
from marglik.validate import check_finite

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

ROUNDING = 1e-14
"""Directions with a smaller share of the largest prior variance are left out."""
STEPS = 4
"""Length scales within a factor of 2^(1/STEPS) share a basis."""
SHORTEST = 0.125
"""Length scale, in steps of the grid, below which neighbours are independent to rounding."""
LONGEST = 2.0**40
"""Above this one, weights are constant to rounding."""
SPARSE = 0.5
"""Up to this share of a grid of directions, those that count are picked from it."""
SLIGHT = 1e-9
"""Directions with a smaller share of the largest prior standard deviation count for nothing."""
KEPT = 4
"""Bases that a search passes through and may come back to."""
REACHES = (0.1, 0.25, 0.5)
"""Length scales from which learning may set out, as shares of the grid's extent."""
SIZES = (0.5,)
"""Scales from which it may set out, as multiples of the natural one."""
LONG = 20.0
"""A length scale of so many times the grid's extent matters only by its ratio to s."""
LARGE, SHORT, HALF = 3.0, 0.05, 0.5
"""Where integrated, 5 % of s lies above so many times its natural size, of a length scale below this share of the
grid's extent, or below half a cell."""
FEW_ROWS = 500
"""Rows that tell the natural scale."""
DIMS = {1: ("lag",), 2: ("row", "col"), 3: ("lag", "row", "col")}


class Basis(NamedTuple):
    """Directions of a grid: products of vectors U_d along its dimensions, all of them or those picked."""

    vectors: tuple[Float[Array, "m r"], ...]
    picked: Int[Array, "r"] | None

    def project(self, X: Float[Array, "n p"]) -> Float[Array, "n r"]:
        """XB."""
        out = along(X, self.vectors)
        return np.ascontiguousarray(out if self.picked is None else out[:, self.picked])

    def matrix(self) -> Float[Array, "p r"]:
        """B."""
        B = reduce(np.kron, self.vectors)
        return B if self.picked is None else B[:, self.picked]


class Margin(NamedTuple):
    """The covariance K_d along one dimension, on a basis, and its derivatives in the length scale."""

    K: Float[Array, "r r"]
    first: Float[Array, "r r"]
    second: Float[Array, "r r"]


@dataclass(frozen=True, eq=False)
class ReceptiveField(Term):
    """Weights on a grid of one, two or three dimensions, smooth along each.

        w ~ N(0, s² K_1 ⊗ K_2 ⊗ K_3),    K_d(i, j) = exp(−(x_i − x_j)² / 2ℓ_d²)

    The scale s and a length scale ℓ_d for each dimension are learned (automatic smoothness determination). ℓ_d → 0
    makes weights independent along d, as in ridge regression; ℓ_d → ∞ makes them constant.

    Parameters
    ----------
    X : (n, p)
        One column a weight: the grid's cells with the last dimension running fastest. `marglik.lagged` builds such
        columns of a movie, with lags as the first dimension.
    shape
        Number of cells along each dimension; a number for one dimension. A dimension of one cell has no length scale.
    dims
        Names of the dimensions; ``lag``, ``row, col`` or ``lag, row, col`` if not given.
    spacing
        Distance of neighbours along each dimension, in whose units length scales are; 1 if not given.
    label
        What the term is called in tables; its hyperparameters are ``sd(label)`` and ``length_scale(label)[dim]``.
    column_names
        One name a column.

    References
    ----------
    Sahani & Linden (2003), NIPS 15, 317. Park & Pillow (2011), PLoS Computational Biology 7(10), e1002219.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.priors import ReceptiveField
    >>> stimulus = np.random.default_rng(0).standard_normal((30, 6))
    >>> term = ReceptiveField(stimulus, shape=(2, 3), dims=("lag", "pixel"))
    >>> [h.name for h in term.hyperparameters()]
    ['sd(field)', 'length_scale(field)[lag]', 'length_scale(field)[pixel]']
    >>> L = term.factor(np.array([2.0, 1.0, 1.5]))
    >>> (L @ L.T)[0, :3].round(3)  # neighbours along the pixels
    array([4.   , 3.203, 1.644])
    """

    X: Float[Array, "n p"]
    shape: Sequence[int] | int
    dims: Sequence[str] | None = None
    spacing: Sequence[float] | float = 1.0
    label: str = "field"
    column_names: Sequence[str] | None = None
    basis: Basis | None = None
    kernel = True
    covaries = True

    @property
    def grid(self):
        return Grid(self.shape, self.dims, self.spacing)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        shape = tuple(int(m) for m in np.atleast_1d(self.shape))
        given = self.dims if self.dims is not None else DIMS.get(len(shape), ())
        dims = (given,) if isinstance(given, str) else tuple(given)
        spacing = np.broadcast_to(np.asarray(self.spacing, float), (len(shape),)) if _fits(self.spacing, shape) else ()
        for name, value in (("shape", shape), ("dims", dims), ("spacing", tuple(map(float, spacing)))):
            object.__setattr__(self, name, value)
        if self.basis is None:
            self._check(np.atleast_1d(self.shape))

    def _check(self, given: Array) -> None:
        shape, dims, p = tuple(given), self.dims, self.design.shape[1]
        grid = " x ".join(map(str, shape))
        if not 1 <= len(shape) <= 3 or any(m < 1 for m in shape):
            raise ValueError(
                f"shape of {self.label!r} must be one, two or three numbers of cells, such as (lags, rows, cols), but "
                f"is {grid}."
            )
        if np.prod(shape) != p:
            raise ValueError(
                f"shape of {self.label!r} is {grid} = {np.prod(shape)} cells, but X has {p} columns. Give X one column "
                "a cell, the last dimension running fastest."
            )
        if p == 1:
            raise ValueError(f"{self.label!r} has a single cell, so that nothing can be smooth. Use Ridge instead.")
        if len(dims) != len(shape) or len(set(dims)) < len(dims):  # type: ignore[arg-type]
            raise ValueError(
                f"{self.label!r} has {len(shape)} dimensions, but dims are {', '.join(map(repr, dims)) or 'none'}. "  # type: ignore[arg-type]
                "Give each a name of its own."
            )
        if len(self.spacing) != len(shape) or not all(x > 0 and np.isfinite(x) for x in self.spacing):  # type: ignore[arg-type, union-attr]
            raise ValueError(
                f"spacing of {self.label!r} must be a positive number, or {len(shape)} of them, the distance of "
                "neighbours along each dimension."
            )
        check_finite(self.design, self.names)
        low = self.design.min(axis=0, initial=np.inf)
        if len(self.design) > 1 and (low == self.design.max(axis=0, initial=-np.inf)).all():
            raise ValueError(
                f"The columns of {self.label!r} are all constant, so they say nothing that an intercept does not. "
                "Check the stimulus."
            )

    @property
    def columns(self):
        return self._projected

    @cached_property
    def _projected(self) -> Float[Array, "n r"]:
        return self.design if self.basis is None else self.basis.project(self.design)

    @cached_property
    def design(self):
        return as_matrix(self.X)

    @cached_property
    def mixing(self):
        return None if self.basis is None else self.basis.matrix()

    def weights(self, coefficients):
        return coefficients if self.mixing is None else coefficients @ self.mixing.T

    @property
    def names(self):
        return default_names(self.column_names if self.basis is None else None, self.n_weights, "x")

    @property
    def n_weights(self):
        return self.columns.shape[1]

    @cached_property
    def _scaled(self) -> tuple[int, ...]:
        """The dimensions that have a length scale."""
        return tuple(d for d, m in enumerate(self.shape) if m > 1)  # type: ignore[arg-type]

    @cached_property
    def _hyperparameters(self) -> tuple[Hyperparameter, ...]:
        sd = f"sd({self.label})"
        of = [(self.dims[d], self.spacing[d], self.shape[d]) for d in self._scaled]  # type: ignore[index]
        lengths = (
            Hyperparameter(
                f"length_scale({self.label})[{name}]",
                Positive(unit),
                without_end=f"weights are the same all along {name}",
                without_size=f"neighbours along {name} share nothing, as in ridge regression",
                beyond=(LONG * unit * m, sd),
            )
            for name, unit, m in of
        )
        return Hyperparameter(sd, even=True), *lengths

    def hyperparameters(self):
        return self._hyperparameters

    def _lengths(self, theta: Array) -> list[float]:
        """ℓ_d of every dimension, in steps of the grid."""
        own = dict(zip(self._scaled, theta[1:], strict=True))
        return [float(own.get(d, h) / h) for d, h in enumerate(self.spacing)]  # type: ignore[arg-type]

    def _margins(self, theta: Array) -> list[Margin]:
        out = []
        for d, (m, length, unit) in enumerate(zip(self.shape, self._lengths(theta), self.spacing, strict=True)):  # type: ignore[arg-type]
            parts = squared_exponential(m, length)
            if self.basis is not None:
                U = self.basis.vectors[d]
                parts = Margin(*(U.T @ part @ U for part in parts))
            out.append(Margin(parts.K, parts.first / unit, parts.second / unit**2))
        return out

    def _product(self, parts: Sequence[Float[Array, "r r"]]) -> Float[Array, "c c"]:
        """⊗ of one matrix a dimension, on the basis."""
        picked = None if self.basis is None else self.basis.picked
        if picked is None:
            return reduce(np.kron, parts)
        at = np.unravel_index(picked, [len(part) for part in parts])
        each = (part[np.ix_(i, i)] for part, i in zip(parts, at, strict=True))
        return reduce(np.multiply, each)

    def _root(self, theta: Array) -> _KernelRoot:
        """The root of the kernel at θ; the last one is kept."""
        key, known = theta[1:].tobytes(), self.__dict__.get("_last")
        if known is None or known[0] != key:
            known = key, _KernelRoot(self, self._margins(theta))
            self.__dict__["_last"] = known
        return known[1]

    def factor(self, theta):
        return theta[0] * self._root(np.asarray(theta, float)).matrix

    def factor_jvp(self, theta, direction):
        root = self._root(np.asarray(theta, float))
        out = direction[0] * root.matrix
        for d, share in zip(self._scaled, direction[1:], strict=True):
            if share:
                out = out + theta[0] * share * root.slopes[d]
        return out

    def acting(self, theta, direction=None):
        root = self._root(np.asarray(theta, float))
        moved = () if direction is None else np.flatnonzero(direction)
        if root.picked or self.n_weights == 1 or len(moved) > 1:
            return super().acting(theta, direction)
        size = float(theta[0] if direction is None or np.any(direction[1:]) else direction[0])
        out = [r.matrix for r in root.roots]
        for d, share in zip(self._scaled, () if direction is None else direction[1:], strict=direction is not None):
            if share:
                out[d] = share * root.root_slope(d)
        return Kron((size * out[0], *out[1:]))

    def factor_vjp(self, theta, bar):
        root = self._root(np.asarray(theta, float))
        if not root.picked:
            known = contracted(bar, root.orders)
            at = [2 ** (len(self.shape) - 1 - d) for d in self._scaled]  # type: ignore[arg-type]
            return np.array([known[0], *(theta[0] * known[i] for i in at)])
        return np.array([np.vdot(bar, root.matrix), *(theta[0] * np.vdot(bar, root.slopes[d]) for d in self._scaled)])

    def covariance(self, theta):
        """Σ(θ)."""
        return theta[0] ** 2 * self._product([part.K for part in self._margins(theta)])

    def covariance_tangents(self, theta):
        """∂Σ/∂θ_k."""
        parts, s = self._margins(theta), theta[0]
        lengths = [s**2 * self._moved(parts, {d: 1}) for d in self._scaled]
        return np.array([2 * s * self._moved(parts, {}), *lengths])

    def covariance_curvatures(self, theta):
        """∂²Σ/∂θ_k∂θ_l."""
        parts, s, dims = self._margins(theta), theta[0], self._scaled
        first = [2 * s * self._moved(parts, {d: 1}) for d in dims]
        inner = [[s**2 * self._moved(parts, {d: 2} if d == e else {d: 1, e: 1}) for e in dims] for d in dims]
        return np.array(
            [[2 * self._moved(parts, {}), *first], *([f, *row] for f, row in zip(first, inner, strict=True))]
        )

    def _moved(self, parts: list[Margin], orders: dict[int, int]) -> Float[Array, "c c"]:
        """The product with some margins differentiated."""
        return self._product([part[orders.get(d, 0)] for d, part in enumerate(parts)])

    def moves(self, theta):
        if self.basis is not None and self.basis.picked is not None:
            return DenseMoves(self, theta)
        return FieldMoves(float(theta[0]), self._margins(np.asarray(theta, float)), self._scaled)

    def units(self):
        return np.array([self._unit(self._reach(REACHES[1])), *(0.0 for _ in self._scaled)])

    def _reach(self, share: float) -> Float[Array, "d"]:
        """Length scales of a share of the grid's extent, in its units."""
        return np.array([max(share * (self.shape[d] - 1), 0.7) * self.spacing[d] for d in self._scaled])  # type: ignore[index]

    def _unit(self, lengths: Array) -> float:
        """s at which Xw has variance of order one: E xᵀKx = 1/s²."""
        rows = self.design[:: max(len(self.design) // FEW_ROWS, 1)]
        there = rows.reshape(len(rows), *self.shape)  # type: ignore[misc]
        for m, length in zip(self.shape, self._lengths(np.append(1.0, lengths)), strict=True):  # type: ignore[arg-type]
            there = np.tensordot(there, squared_exponential(m, length).K, (1, 0))
        size = float(np.vdot(rows, there.reshape(rows.shape))) / len(rows)
        return 1 / np.sqrt(size) if size > 0 else 1.0

    def hyperpriors(self, scale):
        """Of s and of every length scale, proper and penalising complexity, as of a Gaussian process."""
        short = [max(SHORT * (self.shape[d] - 1), HALF) * self.spacing[d] for d in self._scaled]  # type: ignore[index]
        own = [simple_scale(LARGE * scale * self.units()[0]), *map(simple_range, short)]
        return dict(zip((h.name for h in self._hyperparameters), own, strict=True))

    def starts(self, scale):
        found = ((share, self._reach(share)) for share in REACHES)
        return np.array([[size * scale * self._unit(ell), *ell] for _, ell in found for size in SIZES])

    def compact(self, theta):
        """On the directions that have prior variance at the next shorter length scales of a ladder.

        For ℓ ≥ ℓ₀ the kernel K_ℓ is at most (ℓ/ℓ₀) K_ℓ₀ as a quadratic form, because so is its spectral density. What
        has next to no variance under K_ℓ₀ has none under K_ℓ either, and all θ of one rung share a basis.
        """
        if self.basis is not None:
            return self
        lengths = np.clip(self._lengths(np.asarray(theta, float)), SHORTEST, LONGEST)
        rung = tuple(int(np.floor(STEPS * np.log2(ell) + 1e-9)) for ell in lengths)
        known = self.__dict__.setdefault("_compact", {})
        if rung not in known:
            basis = _basis(self.shape, [2.0 ** (r / STEPS) for r in rung])  # type: ignore[arg-type]
            known[rung] = self if basis is None else replace(self, basis=basis)
            while len(known) > KEPT:
                known.pop(next(iter(known)))
        return known[rung]

    def __getstate__(self):
        """Without what was kept on the way."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_compact", "_last")}


@dataclass(frozen=True, eq=False)
class FieldMoves(Moves):
    """Σ = s² ⊗K_d, Σ̇ and Σ̈, dimension by dimension."""

    s: float
    parts: Sequence[Margin]
    scaled: Sequence[int]

    def half(self, X):
        spectra = [Root(part.K).spectrum for part in self.parts]
        shares = reduce(np.multiply.outer, [s / s[-1] for s, _ in spectra]).reshape(-1)
        return self.s * along(X, [U * s for s, U in spectra])[:, shares > SLIGHT]

    def times(self, k, X):
        moved = [part[int(k > 0 and d == self.scaled[k - 1])] for d, part in enumerate(self.parts)]
        return (self.s**2 if k else 2 * self.s) * along(X, moved)

    def inner(self, S):
        known = contracted(S, [np.array(part) for part in self.parts])
        return np.array([2 * self.s * known[0], *(self.s**2 * known[self._at({d: 1})] for d in self.scaled)])

    def inner_second(self, S):
        known, s, dims = contracted(S, [np.array(part) for part in self.parts]), self.s, self.scaled
        first = [2 * s * known[self._at({d: 1})] for d in dims]
        inner = [[s**2 * known[self._at({d: 2} if d == e else {d: 1, e: 1})] for e in dims] for d in dims]
        return np.array([[2 * known[0], *first], *([f, *row] for f, row in zip(first, inner, strict=True))])

    def _at(self, orders: dict[int, int]) -> int:
        """Where the product with some margins differentiated stands."""
        return sum(order * 3 ** (len(self.parts) - 1 - d) for d, order in orders.items())


def contracted(S: Float[Array, "c c"], parts: Sequence[Float[Array, "o m m"]]) -> Float[Array, "q"]:
    """⟨S, ⊗A_d⟩ for every choice of one of the o matrices of each dimension, the last one running fastest."""
    sizes, n = [A.shape[1] for A in parts], len(parts)
    out = S.reshape(*sizes, *sizes).transpose([axis for d in range(n) for axis in (d, n + d)])
    for A in parts:  # a pair of axes goes, a choice is added at the end
        out = out.reshape(A[0].size, -1).T @ A.reshape(len(A), -1).T
    return out.reshape(-1)


class _KernelRoot:
    """S with SSᵀ = ⊗K_d on the basis, and its slopes in the length scales: ⊗S_d, unless directions were picked."""

    def __init__(self, term: ReceptiveField, parts: list[Margin]):
        self.term, self.parts = term, parts
        self.picked = term.basis is not None and term.basis.picked is not None

    @cached_property
    def roots(self) -> list[Root]:
        return [Root(self.term._product([p.K for p in self.parts]))] if self.picked else [Root(p.K) for p in self.parts]

    @cached_property
    def orders(self) -> list[Float[Array, "2 m m"]]:
        """S_d and its slope for each dimension."""
        return [np.array([root.matrix, self.root_slope(d)]) for d, root in enumerate(self.roots)]

    def root_slope(self, d: int) -> Float[Array, "m m"]:
        """∂S_d/∂ℓ_d."""
        return self.roots[d].slope(self.parts[d].first)

    @cached_property
    def matrix(self) -> Float[Array, "c c"]:
        """S."""
        return reduce(np.kron, [root.matrix for root in self.roots])

    @cached_property
    def slopes(self) -> dict[int, Float[Array, "c c"]]:
        """∂S/∂ℓ_d."""
        if self.picked:
            (root,) = self.roots
            return {d: root.slope(self.term._moved(self.parts, {d: 1})) for d in self.term._scaled}
        out = {}
        for d in self.term._scaled:
            out[d] = reduce(np.kron, [each[int(e == d)] for e, each in enumerate(self.orders)])
        return out


def squared_exponential(m: int, length: float) -> Margin:
    """exp(−(i − j)²/2ℓ²) for i, j < m, and its first two derivatives in ℓ."""
    z = np.subtract.outer(np.arange(m), np.arange(m)) / max(length, 1e-3)  # K and its slopes are exact there
    K, square, ell = np.exp(-(z**2) / 2), z**2, max(length, 1e-3)
    return Margin(K, K * square / ell, K * square * (square - 3) / ell**2)


def _basis(shape: Sequence[int], lengths: Sequence[float]) -> Basis | None:
    """Eigenvectors of ⊗K_d whose eigenvalues are not rounding; None where all are needed."""
    spectra = [eigh(squared_exponential(m, ell).K) for m, ell in zip(shape, lengths, strict=True)]
    kept = [(d[d > ROUNDING * d[-1]], U[:, d > ROUNDING * d[-1]]) for d, U in spectra]
    shares = reduce(np.multiply.outer, [d / d[-1] for d, _ in kept]).reshape(-1)
    picked, vectors = np.flatnonzero(shares > ROUNDING), tuple(U for _, U in kept)
    if len(picked) <= SPARSE * len(shares):
        return Basis(vectors, picked)
    return None if len(shares) == np.prod(shape) else Basis(vectors, None)


def _fits(spacing: Sequence[float] | float, shape: Sequence[int]) -> bool:
    return np.shape(spacing) in ((), (len(shape),))
