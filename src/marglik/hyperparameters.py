# SPDX-License-Identifier: BSD-3-Clause
"""θ: names, supports, and the transform to an unconstrained vector φ."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.supports import HalfLine, Interval, Positive, Real, Support

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray as Array

__all__ = [
    "HalfLine",
    "Hyperparameter",
    "Hyperparameters",
    "Image",
    "Interval",
    "Positive",
    "Real",
    "Support",
    "Triangle",
    "UnknownName",
]


class Image(ABC):
    """Numbers that several coordinates of θ stand for together, and that users see in their place.

    Attributes
    ----------
    names
        Of what is reported.
    """

    names: tuple[str, ...]

    @property
    @abstractmethod
    def supports(self) -> tuple[Support, ...]:
        """Where each of them may lie: their intervals are computed on these unconstrained scales."""

    @abstractmethod
    def report(self, theta: Float[Array, "k"]) -> Float[Array, "r"]:
        """Their values."""

    @abstractmethod
    def jacobian(self, theta: Float[Array, "k"]) -> Float[Array, "r k"]:
        """∂ report/∂θ."""

    @abstractmethod
    def coordinates(self, values: Float[Array, "r"]) -> Float[Array, "k"] | None:
        """θ for given values; None where there is none."""

    def given(self, held: Bool[Array, "k"]) -> Bool[Array, "r"]:
        """Which of them are held, from which coordinates are."""
        return np.full(len(self.names), held.all())

    def refusal(self, given: Iterable[str]) -> str:
        """What to say where there is no θ for values of which these were given."""
        return (
            f"{', '.join(given)} cannot be so: {self.names[0]} to {self.names[-1]} are tied to each other. Give all of "
            "them, within their support."
        )


@dataclass(frozen=True, eq=False)
class Triangle(Image):
    """The factor L = M Σ_k θ_k T_k of a covariance Σ = L Lᵀ, and the standard deviations and correlations of that.

    M⁻¹L is lower triangular once its rows are put in ``order``; θ holds its entries by rows. With a correlation held,
    the second of these rows is θ_k (ρ, √(1 − ρ²)), one coordinate instead of two.

    Parameters
    ----------
    names
        Of the m standard deviations, then of the correlations by pairs (1, 2), (1, 3), …, (2, 3), ….
    order
        A permutation of the m coefficients.
    held_correlation
        That of the first two in this order.
    mixing : (m, m)
        M; the identity if not given.
    """

    names: tuple[str, ...]
    order: tuple[int, ...]
    held_correlation: float | None = None
    mixing: Float[Array, "m m"] | None = None

    @property
    def size(self) -> int:
        """m."""
        return len(self.order)

    @property
    def supports(self) -> tuple[Support, ...]:
        return (*[Positive()] * self.size, *[CORRELATION] * (len(self.names) - self.size))

    def refusal(self, given: Iterable[str]) -> str:
        return (
            f"With {', '.join(given)} as given, the correlations of these coefficients do not form a covariance: no "
            "coefficients can be correlated like that. Give smaller correlations."
        )

    @cached_property
    def entries(self) -> list[tuple[int, int]]:
        """Row (in order) and column of each coordinate; (1, 1) stands for both entries of a row that is held."""
        entries = [(i, j) for i in range(self.size) for j in range(i + 1)]
        return [e for e in entries if self.held_correlation is None or e != (1, 0)]

    @cached_property
    def templates(self) -> Float[Array, "k m m"]:
        """T_k."""
        T = np.zeros((len(self.entries), self.size, self.size))
        for k, (i, j) in enumerate(self.entries):
            T[k, self.order[i], j] = 1.0
            if self.held_correlation is not None and (i, j) == (1, 1):
                rho = self.held_correlation
                T[k, self.order[1], :2] = rho, np.sqrt(1 - rho**2)
        return T

    @cached_property
    def diagonal(self) -> Float[Array, "k m"]:
        """1 where a coordinate is the diagonal entry of a coefficient's row."""
        out = np.zeros((len(self.entries), self.size))
        for k, (i, j) in enumerate(self.entries):
            out[k, self.order[i]] = i == j
        return out

    @cached_property
    def pairs(self) -> tuple[Array, Array]:
        """The coefficients of each correlation."""
        return np.triu_indices(self.size, 1)

    def triangular(self, theta: Float[Array, "k"]) -> Float[Array, "m m"]:
        """M⁻¹L."""
        return np.tensordot(theta, self.templates, 1)

    def factor(self, theta: Float[Array, "k"]) -> Float[Array, "m m"]:
        """L."""
        return self._mixed(self.triangular(theta))

    def _mixed(self, L: Float[Array, "*k m m"]) -> Float[Array, "*k m m"]:
        return L if self.mixing is None else self.mixing @ L

    def report(self, theta: Float[Array, "k"]) -> Float[Array, "r"]:
        """Standard deviations and correlations; a correlation with a scale of zero is NaN."""
        L = self.factor(theta)
        S = L @ L.T
        sd = np.sqrt(S.diagonal())
        i, j = self.pairs
        with np.errstate(divide="ignore", invalid="ignore"):
            cor = S[i, j] / (sd[i] * sd[j])
        return np.concatenate([sd, np.where(np.abs(cor) > 1 - 1e-12, np.sign(cor), cor)])

    def jacobian(self, theta: Float[Array, "k"]) -> Float[Array, "r k"]:
        """∂ report/∂θ."""
        L = self.factor(theta)
        dS = self._mixed(self.templates) @ L.T
        dS = dS + dS.transpose(0, 2, 1)
        values = self.report(theta)
        m, (i, j) = self.size, self.pairs
        sd, cor = values[:m], values[m:]
        with np.errstate(divide="ignore", invalid="ignore"):
            d_sd = np.einsum("kii->ik", dS) / (2 * sd[:, None])
            share = d_sd / sd[:, None]
            d_cor = dS[:, i, j].T / (sd[i] * sd[j])[:, None] - cor[:, None] * (share[i] + share[j])
        return np.concatenate([d_sd, d_cor])

    def coordinates(self, values: Float[Array, "r"]) -> Float[Array, "k"] | None:
        """θ for given standard deviations and correlations; None where they are no covariance."""
        found = self.each(values[None])[0]
        return None if np.isnan(found).any() else found

    def each(self, values: Float[Array, "N r"]) -> Float[Array, "N k"]:
        """The same of several; NaN where there is none."""
        m, (i, j) = self.size, self.pairs
        R = np.tile(np.eye(m), (len(values), 1, 1))
        R[:, i, j] = R[:, j, i] = np.nan_to_num(values[:, m:])
        d, U = np.linalg.eigh(R)
        root = U * np.sqrt(np.maximum(d, 0))[:, None] * values[:, :m, None]
        root = (root if self.mixing is None else np.linalg.solve(self.mixing, root))[:, list(self.order)]
        size = np.maximum(np.sqrt((root**2).sum(axis=2, keepdims=True)), 1e-300)
        L = np.linalg.qr((root / size).transpose(0, 2, 1))[1].transpose(0, 2, 1)
        signs = np.where(np.diagonal(L, axis1=1, axis2=2) < 0, -1, 1)
        return np.where(d[:, :1] < -1e-9, np.nan, self._read(L * signs[:, None] * size))

    def _read(self, L: Float[Array, "*N m m"]) -> Float[Array, "*N k"]:
        """θ from L with rows in order; a row that is held has its length."""
        held = self.held_correlation is not None
        entry = lambda i, j: L[..., i, j]  # noqa: E731
        read = [np.hypot(entry(1, 0), entry(1, 1)) if held and e == (1, 1) else entry(*e) for e in self.entries]
        return np.stack(read, axis=-1)

    def given(self, held: Bool[Array, "k"]) -> Bool[Array, "r"]:
        """Which of the reported are held, from which coordinates are: all; the first scale; a held correlation."""
        out = np.full(len(self.names), held.all())
        out[self.order[0]] |= held[0]
        if self.held_correlation is not None:
            i, j = self.pairs
            out[self.size :] |= (np.minimum(i, j) == min(self.order[:2])) & (np.maximum(i, j) == max(self.order[:2]))
        return out

    def turned(self, theta: Float[Array, "k"]) -> Iterator[Float[Array, "k"]]:
        """θ with the entries of a row below a diagonal turned all into that column, with either sign.

        L_rc, L_rr → ±(L_rc² + L_rr²)^½, 0, and columns c and r turned alike in the rows below: Σ changes through the
        rows c to r − 1 alone.
        """
        if self.held_correlation is not None:
            return
        for r in range(1, self.size):
            for c in range(r):
                L = self.triangular(theta)[list(self.order)]
                h = np.hypot(L[r, c], L[r, r])
                if h > 0:
                    cos, sin = L[r, c] / h, L[r, r] / h
                    below = L[r:, c].copy(), L[r:, r].copy()
                    for sign in (1, -1):
                        L[r:, c] = sign * (cos * below[0] + sin * below[1])
                        L[r:, r] = cos * below[1] - sin * below[0]
                        yield self._read(L)

    def deficient(self, theta: Float[Array, "k"]) -> bool:
        """Whether some combination of the coefficients that vary does not."""
        L = self.factor(theta)
        sd = np.sqrt((L**2).sum(axis=1))
        varies = sd > 0
        return bool(np.linalg.matrix_rank(L[varies] / sd[varies, None], SINGULAR) < varies.sum())

    def settled(self, theta: Float[Array, "k"], natural: Float[Array, "m"]) -> tuple[Array, Array] | None:
        """θ with columns of M⁻¹L that are all but zero put to zero, and which these coordinates are; None without any.

        A column with all but nothing on its diagonal is first rotated into those to its right, which leaves Σ alone.
        """
        if self.held_correlation is not None:
            return None
        L = self.triangular(theta)[list(self.order)]
        least = SINGULAR * natural[list(self.order)]
        nothing = np.sqrt((L**2).sum(axis=1)) <= NOTHING * natural[list(self.order)]
        L[nothing] = 0.0
        length = np.maximum(np.sqrt((L**2).sum(axis=1)), least)
        gone = np.flatnonzero(np.abs(L.diagonal()) <= SINGULAR * length)
        if not len(gone):
            return None
        for c in gone:
            L[c, c] = 0.0
            for r in range(c + 1, self.size):
                a, b = L[r, r], L[r, c]
                h = np.hypot(a, b)
                if h > 0:
                    L[:, r], L[:, c] = (a * L[:, r] + b * L[:, c]) / h, (a * L[:, c] - b * L[:, r]) / h
            L[:, c] = 0.0
        return self._read(L), np.array([j in gone or nothing[i] for i, j in self.entries])


CORRELATION = Interval(-1.0, 1.0)
NOTHING = 1e-5
"""Share of a coefficient's natural size below which its scale may be zero."""
SINGULAR = 1e-4
"""Share of a coefficient's scale below which what the others do not explain counts as nothing."""


@dataclass(frozen=True)
class Hyperparameter:
    """One coordinate of θ.

    Parameters
    ----------
    name
        As users see it, such as ``sd(Intercept | Subject)``.
    support
        Where it may lie.
    even
        True for a standard deviation that enters the evidence only through its square, in a model that can be
        evaluated at zero: then zero is an ordinary point, stationary always, and the slope in the *variance*
        decides whether it is a maximum.
    fixed_effect
        True for a fixed effect that is maximised along with θ (``reml=False`` outside the Gaussian).
    image
        Where it stands for something else together with other coordinates, such as an entry of the factor of a
        covariance: what reports that.
    without_end
        What it says of the data if the evidence rises as it grows without end.
    beyond
        Where it means nothing without another: from which value on the data tell little but the ratio of the two, and
        the other's name.
    without_size
        What it says of the data if the evidence rises as it falls to zero.
    unbounded
        True for a precision of the response about its mean: without any scatter the evidence has no maximum.
    bottomless
        True for a scale of noise with heavy tails: where enough of the response is fitted exactly, the evidence has no
        maximum either.
    """

    name: str
    support: Support = field(default_factory=Positive)
    even: bool = False
    fixed_effect: bool = False
    image: Image | None = None
    without_end: str = ""
    without_size: str = ""
    beyond: tuple[float, str] | None = None
    unbounded: bool = False
    bottomless: bool = False

    @property
    def triangle(self) -> Triangle | None:
        """The factor that it is an entry of."""
        return self.image if isinstance(self.image, Triangle) else None


class UnknownName(KeyError):
    """A hyperparameter was asked for by a name that the model does not have."""

    def __init__(self, name: str, names: Iterable[str]):
        names = list(names)
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        self.sentence = f"No hyperparameter is called {name!r}. {hint}The names are {', '.join(map(repr, names))}."
        super().__init__(self.sentence)

    def __str__(self) -> str:
        return self.sentence


ADVICE = {
    "sd": " Scales are standard deviations, not variances or precisions.",
    "cor": " Correlations are given as such, not as covariances.",
}
"""What to think of where a value is impossible, by how the name begins."""


class Hyperparameters(tuple[Hyperparameter, ...]):
    """The coordinates of θ in order; vectors of them have the last axis of length ``len(self)``."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(h.name for h in self)

    def index(self, name: str, *_: object) -> int:
        """Position of a name; raises `UnknownName` with the nearest names."""
        if name not in self.names or self[self.names.index(name)].image is not None:
            raise UnknownName(name, self.reported)
        return self.names.index(name)

    @cached_property
    def images(self) -> tuple[tuple[slice, Image], ...]:
        """Where coordinates lie that are reported together."""
        found: dict[int, tuple[slice, Image]] = {}
        for i, h in enumerate(self):
            if h.image is not None:
                start = found[id(h.image)][0].start if id(h.image) in found else i
                found[id(h.image)] = slice(start, i + 1), h.image
        return tuple(found.values())

    @cached_property
    def triangles(self) -> tuple[tuple[slice, Triangle], ...]:
        """Where the factors of covariances lie."""
        return tuple((place, image) for place, image in self.images if isinstance(image, Triangle))

    @cached_property
    def reported(self) -> tuple[str, ...]:
        """Names of what users see: a factor's entries give way to standard deviations and correlations."""
        names: list[str] = []
        for h in self:
            if h.image is None:
                names += [] if h.fixed_effect else [h.name]
            elif h.image.names[0] not in names:
                names += h.image.names
        return tuple(names)

    @cached_property
    def reported_supports(self) -> tuple[Support, ...]:
        """Where what users see may lie."""
        own = {h.name: h.support for h in self if h.image is None}
        own |= {name: s for _, image in self.images for name, s in zip(image.names, image.supports, strict=True)}
        return tuple(own[name] for name in self.reported)

    @cached_property
    def _places(self) -> tuple[tuple[Array, Array], tuple[tuple[slice, slice, Image], ...]]:
        """Where plain coordinates go among the reported (from, to), and where images go."""
        plain = [i for i, h in enumerate(self) if h.image is None and not h.fixed_effect]
        to = [self.reported.index(self[i].name) for i in plain]
        parts = []
        for place, image in self.images:
            start = self.reported.index(image.names[0])
            parts.append((place, slice(start, start + len(image.names)), image))
        return (np.array(plain, int), np.array(to, int)), tuple(parts)

    def report(self, theta: Float[Array, "V k"]) -> Float[Array, "V r"]:
        """The reported values."""
        (plain, to), parts = self._places
        out = np.empty((len(theta), len(self.reported)))
        out[:, to] = theta[:, plain]
        for place, there, image in parts:
            out[:, there] = [image.report(t) for t in theta[:, place]]
        return out

    def plain_to_reported(self, values: Float[Array, "V k"]) -> Float[Array, "V r"]:
        """Values of plain coordinates where they are reported; NaN for what a factor stands for."""
        (plain, to), _ = self._places
        out = np.full((len(values), len(self.reported)), np.nan)
        out[:, to] = values[:, plain]
        return out

    def natural(self, name: str) -> float:
        """Natural size of a standard deviation that a factor reports."""
        for place, triangle in self.triangles:
            if name in triangle.names[: triangle.size]:
                units = np.array([h.support.unit for h in self[place]])  # type: ignore[attr-defined]
                return float((triangle.diagonal.T @ units)[triangle.names.index(name)])
        return 1.0

    def singular(self, limit: Bool[Array, "V k"]) -> Bool[Array, "V r"]:
        """Where something is reported that belongs to a factor with columns at zero, or to coordinates at a limit."""
        out = np.zeros((len(limit), len(self.reported)), bool)
        for place, there, _ in self._places[1]:
            out[:, there] = limit[:, place].any(axis=1, keepdims=True)
        return out

    def given(self, held: Bool[Array, "k"]) -> Bool[Array, "r"]:
        """Which of the reported are held, from which coordinates are."""
        (plain, to), parts = self._places
        out = np.zeros(len(self.reported), bool)
        out[to] = held[plain]
        for place, there, image in parts:
            out[there] = image.given(held[place])
        return out

    def with_given_scale(self, given: Bool[Array, "r"]) -> Bool[Array, "r"]:
        """Which correlations are those of a coefficient whose standard deviation is held."""
        out = np.zeros_like(given)
        for _, triangle in self.triangles:
            start = self.reported.index(triangle.names[0])
            there = slice(start, start + len(triangle.names))
            i, j = triangle.pairs
            scale = given[there][: triangle.size]
            out[there.start + triangle.size : there.stop] = scale[i] | scale[j]
        return out

    def report_jacobian(self, theta: Float[Array, "k"]) -> Float[Array, "r k"]:
        """∂ report/∂θ."""
        (plain, to), parts = self._places
        out = np.zeros((len(self.reported), len(self)))
        out[to, plain] = 1.0
        for place, there, image in parts:
            out[there, place] = image.jacobian(theta[place])
        return out

    def _each(self) -> Iterator[tuple[int, Support]]:
        return ((i, h.support) for i, h in enumerate(self))

    def unconstrain(self, theta: Float[Array, "*V k"]) -> Float[Array, "*V k"]:
        """φ(θ), coordinate by coordinate; −∞ where a scale is zero."""
        phi = np.empty_like(theta, dtype=float)
        for i, support in self._each():
            phi[..., i] = support.to_unconstrained(theta[..., i])
        return phi

    def constrain(self, phi: Float[Array, "*V k"]) -> Float[Array, "*V k"]:
        """θ(φ), coordinate by coordinate."""
        theta = np.empty_like(phi, dtype=float)
        for i, support in self._each():
            theta[..., i] = support.from_unconstrained(phi[..., i])
        return theta

    def derivatives(self, theta: Float[Array, "*V k"]) -> tuple[Array, Array]:
        """dθ/dφ and d²θ/dφ², coordinate by coordinate."""
        first, second = np.empty_like(theta), np.empty_like(theta)
        for i, support in self._each():
            first[..., i], second[..., i] = support.derivatives(theta[..., i])
        return first, second

    def support_of(self, name: str) -> Support:
        """Where what is reported under this name, or the coordinate of this name, may lie."""
        known = name in self.reported and name not in self.names
        return self.reported_supports[self.reported.index(name)] if known else self[self.index(name)].support

    def checked(self, values: Mapping[str, float], shape: tuple[int, ...] = ()) -> dict[str, Any]:
        """Values of what is reported as numbers, or arrays of this shape.

        Raises
        ------
        UnknownName
            A name is not one of these hyperparameters.
        ValueError
            A value lies outside its support or is not a number.
        """
        if not isinstance(values, Mapping):
            raise ValueError(
                f"Hyperparameters are given by name, such as {{'{self.reported[-1]}': 1.0}}, not {values!r}."
            )
        out = {}
        for name, value in values.items():
            support = self.support_of(name)
            lower, upper = support.lower, support.upper
            try:
                x = np.asarray(value, float)
            except (TypeError, ValueError):
                x = np.array(np.nan)
            if x.shape not in ((), shape) or not np.all((x >= lower) & (x <= upper) & np.isfinite(x)):
                where = f" from {lower:g} to {upper:g}" if np.isfinite(upper) else ", 0 or more" if lower == 0 else ""
                advice = ADVICE.get(name.split("(")[0], "")
                raise ValueError(f"{name!r} was given as {value!r}, but it must be a finite number{where}.{advice}")
            out[name] = x
        return out

    def vector(self, values: Mapping[str, float], base: Float[Array, "*V k"]) -> Float[Array, "*V k"]:
        """``base`` with the named coordinates replaced.

        Raises
        ------
        UnknownName
            A name is not one of these hyperparameters.
        ValueError
            A value lies outside its support or is not a number.
        """
        theta = np.array(base, float)
        values = self.checked(values, theta.shape[:-1])
        for name in values.keys() & set(self.names):
            theta[..., self.index(name)] = values[name]
        for place, image in self.images:
            given = {name: float(value) for name, value in values.items() if name in image.names}
            if not given:
                continue
            rows = theta.reshape(-1, theta.shape[-1])
            for row in rows:
                reported = image.report(row[place])
                reported[[image.names.index(name) for name in given]] = list(given.values())
                coordinates = image.coordinates(reported)
                if coordinates is None:
                    raise ValueError(image.refusal(given))
                row[place] = coordinates
            theta = rows.reshape(theta.shape)
        return theta
