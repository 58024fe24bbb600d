# SPDX-License-Identifier: BSD-3-Clause
"""P = V⁻¹ − V⁻¹F(FᵀV⁻¹F)⁻¹FᵀV⁻¹ of a Gaussian mixed model at one θ: what its evidence and its posterior are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from marglik.gaussian.components import square
from marglik.gaussian.levels import blockwise, product
from marglik.likelihoods import LOG_2PI
from marglik.linalg import NotPositiveDefinite, cholesky, cholesky_inverse, solve_lower

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.gaussian.components import Component
    from marglik.gaussian.levels import LevelSums, Shrunk
    from marglik.model import LinearModel

NEAR_SINGULAR = 1e-6
"""A border component whose columns have less than this to say about its weights is taken as singular."""


def _inverse(A: Float[Array, "q m m"], S: Float[Array, "m m"]) -> tuple[Float[Array, "q m m"], float]:
    """G = (I + A_gΣ)⁻¹ and Σ_g log|I + A_gΣ|."""
    m = len(S)
    if m == 1:
        AS = A * S[0, 0]
        return 1 / (1 + AS), float(np.log1p(AS).sum())
    if m == 2:  # |I + AΣ| = 1 + tr AΣ + |A||Σ| has no cancellation, and adj(I + AΣ) = I + adj Σ adj A
        (a, b), d = (A[:, 0, 0], A[:, 0, 1]), A[:, 1, 1]
        s, t, u = S[0, 0], S[0, 1], S[1, 1]
        det = 1 + (a * s + 2 * b * t + d * u) + (a * d - b * b) * (s * u - t * t)
        G = np.empty_like(A)
        G[:, 0, 0], G[:, 0, 1] = (1 + u * d + t * b) / det, -(u * b + t * a) / det
        G[:, 1, 0], G[:, 1, 1] = -(t * d + s * b) / det, (1 + t * b + s * a) / det
        return G, float(np.log(det).sum())
    one = np.eye(m) + A @ S
    return np.asfortranarray(np.linalg.inv(one)), float(np.linalg.slogdet(one)[1].sum())


@dataclass(frozen=True, eq=False)
class Projection:
    """P at one θ, in units of the noise: what the evidence and the posterior are made of."""

    model: LinearModel
    theta: Float[Array, "k"]
    factors: Sequence[Array]
    """L/σ of each component: a matrix, or the diagonal of one."""
    reml: bool = True
    """Whether flat weights are integrated in `log_value`."""

    @classmethod
    def at(cls, model: LinearModel, theta: Float[Array, "k"]) -> Projection:
        """At θ, whose last coordinate is σ."""
        padded = np.append(theta, 1.0)  # coordinate −1 of a component that is not learned
        factors = [c.factor(padded) / theta[-1] for c in model.components]
        return cls(model, theta, factors, model.reml)

    def rescaled(self, c: float) -> Projection:
        """At c times all scales, noise included: P in units of the noise is the same there."""
        theta = c * self.theta
        for part in self.model.components:
            other = part.coordinates[~part.scales]
            theta[other] = self.theta[other]
        out = Projection(self.model, theta, self.factors, self.reml)
        out.__dict__.update({k: v for k, v in self.__dict__.items() if k not in ("theta", "log_value")})
        return out

    @property
    def sums(self) -> LevelSums:
        """The reduced data."""
        return self.model.level_sums

    @property
    def n_flat(self) -> int:
        """f."""
        return self.model.n_flat

    @cached_property
    def freedom(self) -> float:
        """ν."""
        return self.model.rows.n_observations - (self.n_flat if self.reml else 0)

    @cached_property
    def outer(self) -> list[tuple[int, Component]]:
        """The components of the border, with their numbers."""
        return [(i, c) for i, c in enumerate(self.model.components) if c.place is not None]

    @cached_property
    def shrunk(self) -> tuple[Float[Array, "q m m"], float]:
        """G and log|I + AΣ| of the inner levels."""
        if self.sums.inner is None:
            return self.sums.blocks, 0.0
        L = self.factors[0]
        return _inverse(self.sums.blocks, L @ L.T)

    @cached_property
    def cross(self) -> Shrunk:
        """GB."""
        return self.sums.cross.shrunk(self.shrunk[0])

    @cached_property
    def border(self) -> Float[Array, "F F"]:
        """XᵀP₀X, y the last column."""
        if self.sums.inner is None:
            return self.sums.border
        return self.sums.within + self.cross.between()

    def times_factor(self, X: Float[Array, "F *r"], transposed: bool = False) -> Float[Array, "F *r"]:
        """The border's factor (or its transpose) times the rows of X; rows beyond the penalised ones are kept."""
        if not self.outer:
            return X
        out = X * (self._scale if X.ndim == 1 else self._scale[:, None])
        for i, c in self.outer:
            L = self.factors[i]
            if c.m > 1 and L.ndim == 2:
                L = L.T if transposed else L
                if c.q == 1:
                    place = c.place[0]  # type: ignore[index]
                    out[place] = product(L, X[place]).reshape(-1, *X.shape[1:])
                else:
                    out[c.place] = np.einsum("ij,qj...->qi...", L, X[c.place])
        return out

    @cached_property
    def _scale(self) -> Float[Array, "f"]:
        """The border's factor where it is diagonal, 1 elsewhere."""
        scale = np.ones(len(self.border) - 1)
        for i, c in self.outer:
            L = self.factors[i]
            if c.m == 1 or L.ndim == 1:
                scale[c.place] = L.reshape(-1)
        return scale

    @cached_property
    def _scaled(self) -> Float[Array, "F F"]:
        """Factorᵀ · border · factor, without y."""
        half = self.times_factor(self.border[:-1, :-1], transposed=True)
        S = self.times_factor(half.T, transposed=True)
        p = self.sums.n_penalised
        if p:
            S[np.arange(p), np.arange(p)] += 1
        return S

    @cached_property
    def root(self) -> Float[Array, "F F"]:
        """Cholesky factor of H for the border, penalised weights first."""
        return cholesky(self._scaled)

    @cached_property
    def _solved(self) -> tuple[Float[Array, "F"], float]:
        """û for the border, and yᵀPy."""
        c = self.times_factor(self.border[:-1, -1], transposed=True)
        half = solve_lower(self.root, c)
        return solve_lower(self.root, half, transposed=True), float(self.border[-1, -1] - half @ half)

    @property
    def quadratic(self) -> float:
        """yᵀPy."""
        return self._solved[1]

    @cached_property
    def weights(self) -> Float[Array, "F"]:
        """ŵ of the border, flat ones last."""
        return self.times_factor(self._solved[0])

    @cached_property
    def log_det(self) -> float:
        """log|V| + log|FᵀV⁻¹F|, or log|V| alone where flat weights are maximised."""
        p = self.sums.n_penalised
        diagonal = self.root.diagonal() if self.reml else self.root.diagonal()[:p]
        return self.shrunk[1] + 2 * float(np.log(diagonal).sum())

    @cached_property
    def log_value(self) -> float:
        """log p(y|θ); −∞ where scales are so far above the noise that no digit of it is left."""
        sigma2 = self.theta[-1] ** 2
        try:
            self.root  # noqa: B018
        except NotPositiveDefinite:
            return -np.inf
        flat = self.model.log_volume if self.reml else 0.0
        gaussian = self.freedom * (LOG_2PI + np.log(sigma2)) + self.quadratic / sigma2 + self.log_det
        return float(-gaussian / 2 - flat + self.model.log_row_scale)

    @cached_property
    def inverse(self) -> Float[Array, "F F"]:
        """H⁻¹ for the border."""
        return cholesky_inverse(self.root)

    @cached_property
    def covariance(self) -> Float[Array, "F F"]:
        """Ω, the border's posterior covariance in units of σ²."""
        return self.times_factor(self.times_factor(self.inverse).T)

    @cached_property
    def penalised_inverse(self) -> Float[Array, "F F"]:
        """H⁻¹ with flat weights held, padded with zeros; `inverse` under REML."""
        p = self.sums.n_penalised
        if self.reml or not self.n_flat:
            return self.inverse
        out = np.zeros_like(self.inverse)
        out[:p, :p] = cholesky_inverse(np.ascontiguousarray(self.root[:p, :p]))
        return out


class Products:
    """Q = ZᵀPZ and Ψ = I − ΩXᵀP₀X on the border.

    Where a component's columns have something to say about its weights, from H⁻¹ and the component's factor:
    Q = Λ⁻ᵀ(I − H⁻¹)Λ⁻¹ and Ψ = ΛH⁻¹Λ⁻¹, without cancellation for scales of any size. Where they have not (a scale of
    zero), from the products XᵀP₀X themselves.
    """

    def __init__(self, at: Projection, inverse: Float[Array, "F F"]):
        p, gram = at.sums.n_penalised, at.border[:-1, :-1]
        self.at, self.inverse = at, inverse
        regular, scale = np.zeros(p, bool), np.ones(p)
        for i, c in at.outer:
            L, told = at.factors[i], _told(gram, c, at.factors[i]) > NEAR_SINGULAR
            regular[c.place] = told
            if c.m == 1 or L.ndim == 1:
                scale[c.place] = np.divide(1.0, L.reshape(-1), out=np.ones(c.m), where=told)
        self.scale = scale
        whole = [(i, c) for i, c in at.outer if c.m > 1 and at.factors[i].ndim == 2]
        self.blocks = [(i, c) for i, c in whole if regular[c.place[0, 0]]]  # type: ignore[index]
        self.singular = np.flatnonzero(~regular)

    def over_factor(self, X: Float[Array, "r p"]) -> Float[Array, "r p"]:
        """X Λ⁻¹ on the columns of components that are not singular."""
        out = X * self.scale
        for i, c in self.blocks:
            columns = c.place.reshape(-1)  # type: ignore[union-attr]
            out[:, columns] = _right_inverse(X[:, columns], self.at.factors[i])
        return out

    @cached_property
    def _turned(self) -> tuple[Array, Array]:
        """ΛᵀXᵀP₀X on the columns of singular components, and H⁻¹ times that."""
        scaled = self.at.times_factor(self.at.border[:-1, :-1], transposed=True)[:, self.singular]
        return scaled, self.inverse @ scaled

    @cached_property
    def Q(self) -> Float[Array, "p p"]:
        """ZᵀPZ for the penalised columns of the border."""
        p = len(self.scale)
        one_less = -self.inverse[:p, :p]
        one_less.reshape(-1)[:: p + 1] += 1
        out = self.over_factor(self.over_factor(one_less).T)
        if len(self.singular):
            scaled, turned = self._turned
            here = np.ix_(self.singular, self.singular)
            out[self.singular] = self.over_factor(turned[:p].T)
            out[here] = self.at.border[here] - scaled.T @ turned
            out[:, self.singular] = out[self.singular].T
        return out

    @cached_property
    def psi(self) -> Float[Array, "F p"]:
        """Ψ."""
        out = self.over_factor(self.at.times_factor(self.inverse)[:, : len(self.scale)])
        if len(self.singular):
            out[:, self.singular] = -self.at.times_factor(self._turned[1])
            out[self.singular, self.singular] += 1
        return out

    def through_psi(self, v: Float[Array, "k F"], x: Float[Array, "p l"]) -> Float[Array, "k l"]:
        """v Ψ x."""
        if len(self.singular):
            return v @ self.psi @ x
        p = len(self.scale)
        return self.over_factor((self.at.times_factor(v.T, transposed=True).T @ self.inverse)[:, :p]) @ x


def _told(gram: Float[Array, "F F"], c: Component, L: Array) -> Array:
    """What the columns of a component have to say about its weights, along the direction that they tell least of.

    About each of them where they are independent.
    """
    if L.ndim == 1:
        return gram.diagonal()[c.place.reshape(-1)] * L**2  # type: ignore[union-attr]
    told = np.einsum("qii->i", gram[c.place[:, :, None], c.place[:, None]]) / c.q  # type: ignore[index]
    if c.m == 1:
        return told * L[0, 0] ** 2
    return np.linalg.svd(np.sqrt(told)[:, None] * L, compute_uv=False)[-1:] ** 2


def _right_inverse(X: Float[Array, "r c"], L: Float[Array, "m m"]) -> Float[Array, "r c"]:
    """X (I ⊗ L)⁻¹."""
    if len(L) == 1:
        return X / L[0, 0]
    return np.linalg.solve(L.T, X.reshape(len(X), -1, len(L)).transpose(0, 2, 1)).transpose(0, 2, 1).reshape(X.shape)


@dataclass(frozen=True, eq=False)
class Moments:
    """What first and second derivatives along given directions Σ̇ are made of, in units of the noise.

    Parameters
    ----------
    at
        The projection.
    directions
        For each component, symmetric matrices Σ̇_k (k, m, m), or their diagonals (k, m) where its factor is one.
    """

    at: Projection
    directions: Sequence[Array]
    sizes: list[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", [len(d) for d in self.directions])

    @cached_property
    def places(self) -> list[slice]:
        """Of each component's directions."""
        ends = np.cumsum([0, *self.sizes])
        return [slice(a, b) for a, b in pairwise(ends)]

    @cached_property
    def products(self) -> Products:
        """With all weights that are integrated: for the determinant."""
        return Products(self.at, self.at.penalised_inverse)

    @cached_property
    def joint(self) -> Products:
        """With flat weights too: for the quadratic form."""
        return self.products if self.at.penalised_inverse is self.at.inverse else Products(self.at, self.at.inverse)

    @cached_property
    def _extended(self) -> Float[Array, "F"]:
        """(−ŵ, 1), so that B times it is Zᵀ(y − Xŵ)."""
        return np.append(-self.at.weights, 1.0)

    @cached_property
    def scores(self) -> list[Float[Array, "q m"]]:
        """r = ZᵀPy of each component."""
        at, v = self.at, self._extended
        left = at.border[:-1] @ v
        out = [] if at.sums.inner is None else [at.cross.times(v)]
        return out + [left[c.place] for _, c in at.outer]

    @cached_property
    def _inner(self) -> tuple[Array, Array]:
        """GA and G BΩBᵀ Gᵀ of the inner levels: Q_gg is their difference."""
        at = self.at
        return blockwise(at.shrunk[0], at.sums.blocks), at.cross.spread(padded(self._omega))

    @cached_property
    def _omega(self) -> Float[Array, "F F"]:
        at = self.at
        if at.penalised_inverse is at.inverse:
            return at.covariance
        return at.times_factor(at.times_factor(at.penalised_inverse).T)

    @cached_property
    def _along(self) -> Float[Array, "k F F"]:
        """T_k = Σ_g B_gᵀG_gᵀΣ̇_kG_gB_g for the inner component's directions, y the last column."""
        return self.at.cross.along(self.directions[0])

    @cached_property
    def totals(self) -> list[tuple[Array, Array]]:
        """Σ_g r_g r_gᵀ and Σ_g Q_gg of each component, their diagonals where its factor is one."""
        out = []
        for c, L, r in zip(self.at.model.components, self.at.factors, self.scores, strict=True):
            if L.ndim == 1:
                out.append((r[0] ** 2, self.products.Q.diagonal()[c.place[0]]))  # type: ignore[index]
                continue
            if c.place is None:
                A, W = self._inner
                Q = (A - W).sum(axis=0)
            else:
                Q = np.einsum("qij->ij", self.products.Q[c.place[:, :, None], c.place[:, None]])
            out.append((r.T @ r, (Q + Q.T) / 2))
        return out

    @cached_property
    def first(self) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
        """yᵀPV_kPy and tr PV_k."""
        pairs = list(zip(self.directions, self.totals, strict=True))
        none = [np.zeros(0)]
        p = [D.reshape(-1, R.size) @ R.ravel() for D, (R, _) in pairs]
        t = [D.reshape(-1, Q.size) @ Q.ravel() for D, (_, Q) in pairs]
        return np.concatenate(p + none), np.concatenate(t + none)

    @cached_property
    def second(self) -> tuple[Float[Array, "k k"], Float[Array, "k k"]]:
        """yᵀPV_kPV_lPy and tr PV_kPV_l."""
        k = sum(self.sizes)
        q, K = np.zeros((k, k)), np.zeros((k, k))
        outer = self.at.outer
        p = self.at.sums.n_penalised
        x = np.zeros((p, k))  # Σ̇_k r on the border
        moved: dict[int, list[Array]] = {}  # Q[:, c] Σ̇_k
        for i, c in outer:
            columns, place = c.place.reshape(-1), self.places[i]  # type: ignore[union-attr]
            D, r = self.directions[i], self.scores[i]
            x[columns, place] = (D * r).T if D.ndim == 2 else np.einsum("kij,qj->qik", D, r).reshape(len(columns), -1)
            moved[i] = [_right(self.products.Q[:, columns], D) for D in self.directions[i]]
        if outer:
            q += x.T @ (self.joint.Q @ x)
        for i, c in outer:
            for j, d in outer:
                if j > i:
                    continue
                a, b = c.place.reshape(-1), d.place.reshape(-1)  # type: ignore[union-attr]
                for s, Y in zip(range(*self.places[i].indices(k)), moved[i], strict=True):
                    for t, X in zip(range(*self.places[j].indices(k)), moved[j], strict=True):
                        K[s, t] = K[t, s] = np.vdot(Y[b], X[a].T)
        if self.at.sums.inner is not None:
            self._add_inner(q, K, x)
        return q, K

    def _add_inner(self, q: Array, K: Array, x: Array) -> None:
        place, D, r = self.places[0], self.directions[0], self.scores[0]
        (A, W), at = self._inner, self.at
        n = len(D)
        moved = (self._along @ self._extended)[:, :-1]  # Σ_g B_gᵀG_gᵀΣ̇_kr_g
        rAr = np.einsum("kia,ljb,abij->kl", D, D, _summed(r[:, :, None] * r[:, None], A))
        q[place, place] = rAr - moved @ at.covariance @ moved.T
        if at.outer:
            q[place] += self.joint.through_psi(moved, x)
            q[:, place] = q[place].T

        def traces(X: Array, Y: Array) -> Array:
            return np.einsum("aij,bkl,lijk->ab", D, D, _summed(X, Y))

        AW = traces(A, W)
        turned = [product(self._omega, T[:-1, :-1]) for T in self._along]  # Ω T_k
        TT = np.array([[np.vdot(turned[a], turned[b].T) for b in range(n)] for a in range(n)])
        K[place, place] = traces(A, A) - AW - AW.T + TT
        if not at.outer:
            return
        for a, (T, OT) in enumerate(zip(self._along, turned, strict=True)):
            for i, c in at.outer:
                met = self._met(i, c, T[:-1, :-1], OT)
                for s, E in zip(range(*self.places[i].indices(len(K))), self.directions[i], strict=True):
                    K[place.start + a, s] = K[s, place.start + a] = np.vdot(met, E)

    def _met(self, i: int, c: Component, T: Float[Array, "F F"], OT: Float[Array, "F F"]) -> Float[Array, "m m"]:
        """The blocks of ΨᵀTΨ that belong to a component of the border, summed."""
        columns = c.place.reshape(-1)  # type: ignore[union-attr]
        regular = not len(self.products.singular)
        left = self._omega[:, columns] if regular else self.products.psi[:, columns]
        right = OT[columns].T if regular else T @ left
        L = self.at.factors[i]
        if L.ndim == 1:
            blocks = np.einsum("fi,fi->i", left, right)
            return blocks if not regular else blocks / L**4
        if c.m == 1:
            blocks = np.array([[np.vdot(left, right)]])
        else:
            shape = (len(left), -1, c.m)
            blocks = np.einsum("fqi,fqj->ij", left.reshape(shape), right.reshape(shape), optimize=True)
        if not regular:
            return blocks
        return np.linalg.solve(square(L), np.linalg.solve(square(L), blocks.T).T)  # Ψ = Ω Σ⁻¹


def padded(omega: Float[Array, "f f"]) -> Float[Array, "F F"]:
    """With a row and a column of zeros for y."""
    out = np.zeros((len(omega) + 1,) * 2)
    out[:-1, :-1] = omega
    return out


def _summed(X: Float[Array, "q m m"], Y: Float[Array, "q m m"]) -> Float[Array, "m m m m"]:
    """Σ_g X_ij Y_kl."""
    x, y = (M.reshape(len(M), -1, order="F") for M in (X, Y))
    return (x.T @ y).reshape((X.shape[1],) * 4, order="F")


def _right(X: Float[Array, "r c"], D: Array) -> Float[Array, "r c"]:
    """X (I ⊗ D)."""
    if D.ndim == 1:
        return X * D
    return X * D[0, 0] if len(D) == 1 else (X.reshape(len(X), -1, len(D)) @ D).reshape(X.shape)
