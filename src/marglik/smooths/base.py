# SPDX-License-Identifier: BSD-3-Clause
"""Functions of covariates and how rough their sums are: what every basis of a smooth tells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

    from marglik.pieces import Pieces

Covariates = Sequence["Array"]
"""One column a covariate, in the order of the smooth's names."""


@dataclass(frozen=True)
class Asked:
    """What a term of a formula asks of a basis; None where it leaves the choice to the basis.

    Parameters
    ----------
    label
        The term in words, for messages.
    names
        Its covariates.
    k
        Number of functions.
    m
        Orders, of the penalty or of the spline and its penalty.
    knots
        By covariate.
    max_knots
        Of thin plates: above so many distinct points a sample of them is used.
    xt
        Of factor smooths: the name of the basis of each curve.
    """

    label: str
    names: tuple[str, ...]
    k: int | None = None
    m: int | Sequence[int] | None = None
    knots: dict[str, Any] | None = None
    max_knots: int = 2000
    xt: str | None = None

    def given_knots(self) -> Float[Array, "q d"] | None:
        """One row a knot, in the order of their coordinates."""
        if not self.knots:
            return None
        columns = [np.ravel(np.asarray(self.knots.get(name, ()), float)) for name in self.names]
        if len({len(column) for column in columns}) > 1:
            counts = ", ".join(f"{len(column)} of {name!r}" for name, column in zip(self.names, columns, strict=True))
            raise ValueError(f"{self.label} needs as many knots of each covariate, but has {counts}.")
        knots = np.column_stack(columns)
        distinct = np.unique(knots, axis=0)
        if not np.all(np.isfinite(knots)) or len(distinct) < len(knots):
            raise ValueError(f"The knots of {self.label} must be finite and all different.")
        return distinct

    def given_line(self) -> Float[Array, "q"] | None:
        """The knots of a single covariate, ascending."""
        knots = self.given_knots()
        return None if knots is None else knots[:, 0]

    def one_covariate(self, bs: str) -> None:
        """Refuse several, where a basis takes one alone."""
        if len(self.names) != 1:
            raise ValueError(
                f"{self.label} has {len(self.names)} covariates, but bs={bs!r} takes one. Use bs='tp', or te()."
            )

    def without_orders(self, bs: str) -> None:
        """Refuse m, where a basis has no choice of orders."""
        if self.m is not None:
            raise ValueError(f"{self.label} gives m={self.m!r}, but bs={bs!r} has no orders to choose. Leave m out.")

    def size(self, default: int, least: int) -> int:
        """k, if it is at least so large."""
        k = default if self.k is None else self.k
        if k < least:
            raise ValueError(f"{self.label} asks for k={k} functions, but its basis needs at least {least}.")
        return k


class SmoothBasis(ABC):
    """Functions b_1, …, b_k of covariates and quadratic penalties of f = Σ β_j b_j.

        penalty_i(f) = βᵀ S_i β

    Attributes
    ----------
    centred
        Whether a smooth of it is made to sum to zero over the data: where the constant is one of its functions.
    """

    centred: bool = True

    @abstractmethod
    def design(self, x: Covariates) -> Float[Array, "n k"]:
        """b_j at each row, inside the range of the data or outside."""

    def pieces(self, x: Covariates) -> Pieces | None:
        """The same as `design`, not evaluated, where functions are polynomials between breaks of one covariate."""
        return None

    def unseen(self, x: Covariates) -> Float[Array, "n"]:
        """Prior variance of f at each row, for s = 1, that is due to levels which the data do not have."""
        return np.zeros(len(x[0]))

    def codes(self, x: Covariates) -> Int[Array, "n"] | None:
        """Where every level has coefficients of its own, that of each row, −1 where the data have no such level."""
        return None

    def extrapolates(self, covariate: int) -> bool:
        """Whether values of a covariate outside those of the data are beyond what the basis was made for."""
        return True

    @property
    @abstractmethod
    def penalties(self) -> tuple[Float[Array, "k k"], ...]:
        """S_i."""

    @property
    @abstractmethod
    def null_dimension(self) -> int:
        """How many directions β no penalty sees."""


class NamedBasis(SmoothBasis):
    """A basis that formulas ask for by name, with one penalty if it is `marginal`.

    Attributes
    ----------
    bs
        The name.
    rotated
        Whether a tensor product takes the function's values at points as coefficients, in place of those of the basis.
    marginal
        Whether it can be a margin of a tensor product.
    needs_factor
        Whether one of its covariates is a factor.
    straight_beyond
        Whether it is a straight line beyond the first and the last of its knots.
    """

    registry: ClassVar[dict[str, type[NamedBasis]]] = {}
    bs: ClassVar[str]
    rotated: ClassVar[bool] = False
    marginal: ClassVar[bool] = True
    needs_factor: ClassVar[bool] = False
    straight_beyond: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        NamedBasis.registry[cls.bs] = cls

    @classmethod
    @abstractmethod
    def of(cls, x: Covariates, asked: Asked) -> Self:
        """The basis that suits the data."""


def extended(
    f: Callable[[Array], Array], slope: Callable[[Array], Array], x: Float[Array, "n"], lower: float, upper: float
) -> Float[Array, "n k"]:
    """f inside [lower, upper], its tangents outside.

    f(x) = f(x̄) + (x − x̄) f′(x̄),    x̄ = min(max(x, lower), upper)
    """
    inside = np.clip(x, lower, upper)
    out = f(inside)
    beyond = np.flatnonzero(x != inside)
    if len(beyond):
        out[beyond] += (x - inside)[beyond, None] * slope(inside[beyond])
    return out


def scaled(S: Float[Array, "k k"], largest: float) -> tuple[Float[Array, "k k"], float]:
    """S / c and c, which makes penalties of all smooths alike: c = ‖S‖₁ / ‖X‖_∞²."""
    c = np.linalg.norm(S, 1) / largest**2
    return S / c, float(c)


def mirror(c: Float[Array, "k"]) -> Float[Array, "k"]:
    """v with |v|² = 2 such that (I − vvᵀ)c lies along the first axis."""
    v = c.astype(float)
    v[0] += np.copysign(np.linalg.norm(c), c[0])
    return v * np.sqrt(2 / v.dot(v))


def centred(X: Float[Array, "n k"], v: Float[Array, "k"] | None) -> Float[Array, "n k-1"]:
    """XZ, where Z is I − vvᵀ without its first column; X itself where v is None."""
    return X if v is None else (X - np.outer(X @ v, v))[:, 1:]


def uncentred(M: Float[Array, "k-1 c"], v: Float[Array, "k"] | None) -> Float[Array, "k c"]:
    """ZM, with the Z of `centred`."""
    if v is None:
        return M
    padded = np.concatenate([np.zeros((1, M.shape[1])), M])
    return padded - np.outer(v, v @ padded)


def products(A: Float[Array, "n a"], B: Float[Array, "n b"]) -> Float[Array, "n ab"]:
    """Of each column of A with each of B, those of B running fastest."""
    return (A[:, :, None] * B[:, None, :]).reshape(len(A), A.shape[1] * B.shape[1])
