# SPDX-License-Identifier: BSD-3-Clause
"""Log densities at many weights at once, and their slopes in θ: what is drawn from elsewhere is weighed by these.

Weights are drawn jointly, one a row; or group by group, where groups are independent given the border's weights v:

    p(y, w|θ) = p(v|θ) Π_g p(y_g, u_g|v, θ)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.likelihoods import LOG_2PI
from marglik.model import LinearModel

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

    from marglik.evidence.nodes import Levels
    from marglik.expansion import LinearExpansion
    from marglik.model import Model

ENTRIES = 1 << 17
"""So many linear predictors are computed at a time."""


class Densities(ABC):
    """A model at draws of its weights that are held, one a row."""

    @abstractmethod
    def log_joints(self, theta: Float[Array, "k"]) -> Float[Array, "N"]:
        """log p(y, w_i|θ)."""

    @abstractmethod
    def slope(self, theta: Float[Array, "k"], weights: Float[Array, "N"]) -> Float[Array, "k"]:
        """Σ_i ω_i ∂ log p(y, w_i|θ)/∂θ."""


class GroupDensities(ABC):
    """A model whose weights are q groups of m, independent given the f weights v of the border."""

    @property
    @abstractmethod
    def present(self) -> tuple[int, Int[Array, "q"]]:
        """How many groups the model has, and which of them are among the q; the others' integrals are 1."""

    @property
    @abstractmethod
    def n_border(self) -> int:
        """f."""

    @abstractmethod
    def log_joints(
        self, theta: Float[Array, "k"], U: Float[Array, "q K m"], v: Float[Array, "f"]
    ) -> Float[Array, "q K"]:
        """log p(y_g, u_gk|v, θ)."""

    @abstractmethod
    def slope(
        self, theta: Float[Array, "k"], U: Float[Array, "q K m"], v: Float[Array, "f"], weights: Float[Array, "q K"]
    ) -> Float[Array, "k"]:
        """Σ_gk ω_gk ∂ log p(y_g, u_gk|v, θ)/∂θ."""

    @abstractmethod
    def log_rest(self, theta: Float[Array, "k"], V: Float[Array, "J f"]) -> Float[Array, "J"]:
        """log p(v_j|θ), and what else belongs to no group."""

    @abstractmethod
    def rest_slope(
        self, theta: Float[Array, "k"], V: Float[Array, "J f"], weights: Float[Array, "J"]
    ) -> Float[Array, "k"]:
        """Σ_j ω_j ∂ log_rest/∂θ."""


@dataclass(frozen=True, eq=False)
class ModelDensities(Densities):
    """Of a model that answers for many weights itself."""

    model: Any
    W: Float[Array, "N p"]

    def log_joints(self, theta):
        return self.model.log_joints(self.W, theta)

    def slope(self, theta, weights):
        held = weights > 0  # what has no weight may have no slope either
        return self.model.theta_slope(self.W[held], theta, weights[held])


@dataclass(frozen=True, eq=False)
class LinearDensities(Densities):
    """Of a linear model, with all its columns side by side."""

    model: LinearModel
    W: Float[Array, "N p"]

    @cached_property
    def _columns(self) -> Float[Array, "n p"]:
        c, n = self.model.columns, self.model.rows.n
        return np.column_stack([np.zeros((n, 0)), *(c.times(e, slice(0, n)) for e in np.eye(self.W.shape[1]))])

    @cached_property
    def _prior(self) -> Float[Array, "N"]:
        """log N(u_i) of the weights that are not flat."""
        mask = self.model.at(np.zeros(self.W.shape[1]), self._anywhere).penalised
        return -(self.W**2 @ mask + mask.sum() * LOG_2PI) / 2

    @property
    def _anywhere(self) -> Float[Array, "k"]:
        return np.ones(len(self.model.hyperparameters))

    def _parts(self, eta: Float[Array, "n"], L: Array, T: Any) -> Iterator[tuple[slice, Float[Array, "N n"]]]:
        """η of some draws at a time."""
        size = max(1, ENTRIES // max(len(eta), 1))
        for part in (slice(i, i + size) for i in range(0, len(self.W), size)):
            top, bottom = self.model.columns.split(self.W[part])
            w = np.concatenate([(top @ L.T).reshape(len(top), -1), T.right(bottom, True)], axis=1)
            yield part, eta + w @ self._columns.T

    def log_joints(self, theta):
        at = self.model.at(np.zeros(self.W.shape[1]), theta)
        rows, out = at.rows, np.empty(len(self.W))
        multiplier = np.broadcast_to(self.model.multiplier, rows.y.shape)
        with np.errstate(all="ignore"):
            for part, eta in self._parts(rows.eta, *factors(self.model, theta)):
                out[part] = rows.likelihood.log_kernel(rows.y, eta, rows.own) @ multiplier
        return out + rows.constant + self._prior

    def slope(self, theta, weights):
        model, at = self.model, self.model.at(np.zeros(self.W.shape[1]), theta)
        rows, (L, T) = at.rows, factors(model, theta)
        multiplier = np.broadcast_to(model.multiplier, rows.y.shape)
        L_bar, diagonal = np.zeros_like(L), None
        by_row, own = np.zeros(len(rows.y)), weights.sum() * rows.constant_slopes
        for part, eta in self._parts(rows.eta, L, T):
            c = weights[part, None] * multiplier
            d1 = c * rows.likelihood.derivatives(rows.y, eta, rows.own)[0]
            c, d1 = (np.where(weights[part, None] > 0, x, 0.0) for x in (c, d1))
            (a_top, a_bottom), (u_top, u_bottom) = (model.columns.split(x) for x in (d1 @ self._columns, self.W[part]))
            L_bar += np.einsum("Nqi,Nqj->ij", a_top, u_top)
            bar = T.on_pattern((a_bottom, u_bottom))
            diagonal = bar if diagonal is None else added(diagonal, bar)
            by_row += d1.sum(axis=0)
            each = rows.likelihood.theta_derivatives(rows.y, eta, rows.own)
            own = own + np.array([np.sum(np.where(c > 0, c * d, 0.0)) for d, _, _ in each])
        return assembled(model, theta, L_bar, diagonal, own, by_row)


def factors(model: LinearModel, theta: Float[Array, "k"]) -> tuple[Float[Array, "m m"], Any]:
    """L of a level's block, and that of the border."""
    return model.factors(theta, lambda term, own: term.factor(own), flat=1.0)


def added(a: Any, b: Any) -> Any:
    """The sum of two derivatives in a border's factor."""
    runs = tuple((place, x + y) for (place, x), (_, y) in zip(a.runs, b.runs, strict=True))
    return type(a)(a.diagonal + b.diagonal, runs)


def assembled(
    model: LinearModel, theta: Array, L_bar: Array, T_bar: Any, own: Array, by_row: Float[Array, "n"]
) -> Float[Array, "k"]:
    """A derivative in θ from those in the factors, in the likelihood's own θ, and in η of each row."""
    parts = model.parts_of(L_bar if model.groupings else np.zeros((1, 1)), T_bar)
    out = [term.factor_vjp(x, parts[id(term)]) for term, x in model.term_theta(theta) if not term.flat]
    return np.concatenate([*out, own, *([model.flat_basis.Q.T @ by_row] if model.flat_in_theta else [])])


@dataclass(frozen=True, eq=False)
class LinearGroups(GroupDensities):
    """Of a linear model, level by level of its grouping factor, in factor coordinates."""

    levels: Levels

    @property
    def present(self):
        at = self.levels
        return at.model.groupings[0].n_levels, at.present

    @property
    def n_border(self):
        return self.levels.border.shape[1]

    def _at(self, theta: Float[Array, "k"]) -> LinearExpansion:
        return self.levels.model.at(np.zeros(self.levels.model.n_weights), theta)

    def _parts(self, K: int) -> Iterator[tuple[slice, slice]]:
        """Levels a few at a time, and their rows."""
        ends, first = np.append(self.levels.starts[1:], len(self.levels.order)), 0
        step = max(ENTRIES // K, 1)
        while first < len(ends):
            start = int(self.levels.starts[first])
            last = max(int(np.searchsorted(ends, start + step, side="right")), first + 1)
            yield slice(first, last), slice(start, int(ends[last - 1]))
            first = last

    def _eta(
        self, base: Float[Array, "n"], L: Float[Array, "m m"], T: Any, U: Float[Array, "q K m"], v: Float[Array, "f"]
    ) -> Iterator[tuple[slice, slice, Float[Array, "n K"]]]:
        """Levels, their rows, and η there; ``base`` is η without weights."""
        at = self.levels
        fixed, own = base[at.order] + at.border @ T.right(v, True), at.Z @ L
        for part, rows in self._parts(U.shape[1]):
            codes = at.codes[rows] - part.start
            eta = np.repeat(fixed[rows, None], U.shape[1], axis=1)
            for d in range(U.shape[2]):
                eta += own[rows, d, None] * U[part, :, d][codes]
            yield part, rows, eta

    def log_joints(self, theta, U, v):
        at, expansion = self.levels, self._at(theta).rows
        out = -np.sum(U**2, axis=2) / 2 - U.shape[2] * LOG_2PI / 2
        with np.errstate(all="ignore"):
            for part, rows, eta in self._eta(expansion.eta, *factors(at.model, theta), U, v):
                likelihood = at.model.likelihood.at_rows(at.order[rows, None])
                kernel = likelihood.log_kernel(at.y[rows, None], eta, expansion.own) * at.multiplier[rows, None]
                out[part] += np.add.reduceat(kernel, at.starts[part] - rows.start, axis=0)
        return out

    def slope(self, theta, U, v, weights):
        at, model, expansion = self.levels, self.levels.model, self._at(theta).rows
        L, T = factors(model, theta)
        L_bar, own, slopes = np.zeros_like(L), np.zeros(len(expansion.own)), np.zeros(len(at.order))
        with np.errstate(all="ignore"):  # draws without weight may lie too far out for numbers
            for part, rows, eta in self._eta(expansion.eta, L, T, U, v):
                codes, likelihood = at.codes[rows] - part.start, model.likelihood.at_rows(at.order[rows, None])
                share = weights[part][codes] * at.multiplier[rows, None]
                d1 = np.where(share > 0, share * likelihood.derivatives(at.y[rows, None], eta, expansion.own)[0], 0.0)
                L_bar += np.einsum("nk,ni,nkj->ij", d1, at.Z[rows], U[part][codes], optimize=True)
                slopes[rows] = d1.sum(axis=1)
                each = likelihood.theta_derivatives(at.y[rows, None], eta, expansion.own)
                own = own + np.array([np.sum(np.where(share > 0, share * d, 0.0)) for d, _, _ in each])
        by_row = np.zeros(len(slopes))
        by_row[at.order] = slopes
        return assembled(model, theta, L_bar, T.on_pattern((slopes[None] @ at.border, v[None])), own, by_row)

    def log_rest(self, theta, V):
        at = self.levels
        prior = -(V**2 @ at.border_penalty + at.border_penalty.sum() * LOG_2PI) / 2
        return prior + self._at(theta).rows.constant - at.model.log_volume

    def rest_slope(self, theta, V, weights):
        out, model = np.zeros(len(theta)), self.levels.model
        slopes = self._at(theta).rows.constant_slopes
        out[model.n_prior_theta :][: len(slopes)] = weights.sum() * slopes
        return out


def densities(model: Model, W: Float[Array, "N p"]) -> Densities:
    """The model at these weights."""
    kind: Callable[..., Densities] = LinearDensities if isinstance(model, LinearModel) else ModelDensities
    return kind(model, W)
