# SPDX-License-Identifier: BSD-3-Clause
"""`GaussianProcess`: a function of the inputs, as smooth as its kernel and the data say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.distance import cdist

from marglik.hyperparameters import Hyperparameter, Positive
from marglik.hyperpriors import Hyperprior, simple_range, simple_scale, simple_variance
from marglik.kernels import Kernel, parse, spell, without_scale
from marglik.priors.base import RowCovariance, Term, as_matrix, default_names
from marglik.roots import Root
from marglik.validate import check_finite

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

REACHES = (0.03, 0.1, 0.3, 1.0)
"""Length scales from which learning may set out, as shares of the range of the inputs."""
CYCLES = range(1, 33)
"""Half periods within the range of the inputs from which it may set out, beside the period as written."""
SIZES = (1.0, 0.3)
"""Scales from which it may set out, as multiples of the natural one."""
FARTHEST = 1e6
"""Beyond this multiple of its unit a parameter is at its limit, to rounding."""
LONG = 20.0
"""A length scale of so many times the range of the inputs matters only by its ratio to the amplitude."""
LARGE, SHORT = 3.0, 0.05
"""Where integrated, 5 % of the amplitude lies above so many times η's spread, of a length scale below this share of the
range of the inputs."""
ROUNDING = 1e-15
"""Directions with a smaller share of the largest prior variance are left out of predictions."""


@dataclass(frozen=True, eq=False)
class GaussianProcess(Term):
    """The values f of a function at the distinct inputs, which rows with the same inputs share.

        f ~ N(0, s² K),    K_ij = k(x_i, x_j)

    The amplitude s and every free parameter of the kernel k are hyperparameters. A free constant that multiplies the
    kernel is merged with s²; of a sum, the first part's is, and other constants are variances relative to it.

    Parameters
    ----------
    X : (n, d)
        The inputs of each row.
    kernel
        A kernel of scikit-learn, or its text, such as ``"Matern(nu=1.5)"``. Its values are where learning sets out,
        but length scales set out from several shares of the range of the inputs. ``…_bounds="fixed"`` holds one;
        other bounds do not count.
    label
        What the term is called; its hyperparameters are ``sd(label)``, ``length_scale(label)``, ``period(label)``, …
    column_names
        One name an input, for length scales of their own: ``length_scale(label)[x]``.

    References
    ----------
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, §2.2, §4.2, §5.4.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.priors import GaussianProcess
    >>> term = GaussianProcess(np.array([0.0, 1.0, 1.0, 3.0]), "RBF()", label="gp(t)")
    >>> [h.name for h in term.hyperparameters()], term.n_weights
    (['sd(gp(t))', 'length_scale(gp(t))'], 3)
    >>> term.covariance(np.array([2.0, 1.0]))[0].round(3)
    array([4.   , 2.426, 0.044])
    """

    X: Float[Array, "n d"]
    kernel_function: Any = "RBF()"
    label: str = "gp"
    column_names: Sequence[str] | None = None
    kernel = True
    covaries = True
    by_inputs = True

    def __post_init__(self) -> None:
        given = self.kernel_function
        found = without_scale(parse(given) if isinstance(given, str) else given)
        object.__setattr__(self, "kernel_function", spell(found))
        check_finite(self.inputs, self.input_names)
        several = [d for d in self._of.dimensions if d is not None]
        if several and max(several) + 1 != self.inputs.shape[1]:
            raise ValueError(
                f"The kernel of {self.label!r} has {max(several) + 1} length scales, but there are "
                f"{self.inputs.shape[1]} inputs. Give one for all of them, or one each."
            )

    @cached_property
    def inputs(self):
        """The inputs of each row (n, d)."""
        return as_matrix(self.X)

    @property
    def input_names(self) -> tuple[str, ...]:
        """One name an input."""
        return default_names(self.column_names, self.inputs.shape[1], "x")

    @cached_property
    def _of(self) -> Kernel:
        return Kernel(self.kernel_function)

    @cached_property
    def _distinct(self) -> tuple[Float[Array, "c d"], Array]:
        """The distinct inputs, and which of them each row has."""
        points, codes = np.unique(self.inputs, axis=0, return_inverse=True)
        return points, codes.reshape(-1)

    @property
    def points(self) -> Float[Array, "c d"]:
        """The distinct inputs, in order."""
        return self._distinct[0]

    @cached_property
    def columns(self):
        points, codes = self._distinct
        return (codes[:, None] == np.arange(len(points))).astype(float)

    @cached_property
    def names(self):
        return tuple(f"f{i}" for i in range(self.n_weights))

    @property
    def n_weights(self):
        return len(self.points)

    @cached_property
    def _ranges(self) -> Float[Array, "d"]:
        spread = np.ptp(self.inputs, axis=0) if len(self.inputs) else np.ones(self.inputs.shape[1])
        return np.where(spread > 0, spread, 1.0)

    @cached_property
    def _reach(self) -> Float[Array, "k"]:
        """For a parameter that is a distance, the range of its inputs; NaN for others."""
        of, whole = self._of, float(np.sqrt(np.sum(self._ranges**2)))
        sizes = (whole if d is None else self._ranges[d] for d in of.dimensions)
        return np.array([size if far else np.nan for far, size in zip(of.distances, sizes, strict=True)])

    @cached_property
    def _repeats(self) -> Int[Array, "k"]:
        """How many parameters of the same meaning come before; they are told apart by where they set out."""
        keys = list(zip(self._of.names, self._of.dimensions, strict=True))
        return np.array([keys[:i].count(key) for i, key in enumerate(keys)], int)

    @cached_property
    def _units(self) -> Float[Array, "k"]:
        return np.where(np.isnan(self._reach), self._of.values, self._reach)

    @cached_property
    def _hyperparameters(self) -> tuple[Hyperparameter, ...]:
        seen: Counter[tuple[str, int | None]] = Counter()
        keys = list(zip(self._of.names, self._of.dimensions, strict=True))
        names = []
        for word, d in keys:
            seen[word, d] += 1
            which = [str(seen[word, d])] if [w for w, e in keys if e == d].count(word) > 1 else []
            which += [] if d is None else [self.input_names[d]]
            names.append(f"{word}({self.label})" + (f"[{', '.join(which)}]" if which else ""))
        limits = (self._at_its_ends(*each) for each in zip(self._of.names, self._of.distances, strict=True))
        sd = f"sd({self.label})"
        far = [
            LONG * (1.0 if np.isnan(r) else r) if w == "length_scale" else np.inf
            for w, r in zip(self._of.names, self._reach, strict=True)
        ]
        own = (
            Hyperparameter(name, Positive(unit), without_end=endless, without_size=none, beyond=(end, sd))
            for name, unit, end, (endless, none) in zip(names, self._units, far, limits, strict=True)
        )
        return Hyperparameter(sd, even=True, without_size=f"{self.label} is not needed; its kernel means nothing"), *own

    def _at_its_ends(self, word: str, distance: bool) -> tuple[str, str]:
        """What it says of the data if a parameter grows without end, and if it falls to zero."""
        if word == "length_scale" and not distance:  # of a kernel with a period
            return "", "as its period grows with that, nothing repeats within the data and kernel=RBF() suffices"
        if word == "length_scale":
            constant = f"within the data {self.label} does not vary along it"
            return constant, f"different inputs share nothing, so that {self.label} is noise of each"
        endless, none = (
            {"alpha": "kernel=RBF() suffices"},
            {"constant_value": "the kernel suffices without the constant"},
        )
        return endless.get(word, ""), none.get(word, "")

    def hyperparameters(self):
        return self._hyperparameters

    def parameters(self, theta: Float[Array, "k"]) -> Float[Array, "k"]:
        """Those of the kernel, short of their limits."""
        return self._clipped(theta)[0]

    def _clipped(self, theta: Array) -> tuple[Float[Array, "k"], Float[Array, "k"]]:
        """The kernel's parameters p, and ∂p/∂θ: none at a limit."""
        p = np.clip(theta[1:], self._units / FARTHEST, self._units * FARTHEST)
        return p, (p == theta[1:]).astype(float)

    def _at(self, theta: Array) -> _KernelAt:
        """The kernel at θ; the last one is kept."""
        key, known = theta[1:].tobytes(), self.__dict__.get("_last")
        if known is None or known[0] != key:
            known = key, _KernelAt(self._of, *self._clipped(theta), self.points)
            self.__dict__["_last"] = known
        return known[1]

    def factor(self, theta):
        theta = np.asarray(theta, float)
        return theta[0] * self._at(theta).root.matrix

    def factor_jvp(self, theta, direction):
        theta = np.asarray(theta, float)
        at = self._at(theta)
        out = direction[0] * at.root.matrix
        for along, slope in zip(direction[1:], at.root_slopes if np.any(direction[1:]) else (), strict=False):
            out = out + theta[0] * along * slope
        return out

    def factor_vjp(self, theta, bar):
        theta = np.asarray(theta, float)
        at = self._at(theta)
        return np.array([np.vdot(bar, at.root.matrix), *(theta[0] * np.vdot(bar, slope) for slope in at.root_slopes)])

    def covariance(self, theta):
        """s² K."""
        return theta[0] ** 2 * self._at(np.asarray(theta, float)).K

    def covariance_tangents(self, theta):
        """∂(s² K)/∂θ_k."""
        at = self._at(np.asarray(theta, float))
        return np.concatenate([2 * theta[0] * at.K[None], theta[0] ** 2 * at.first])

    def covariance_curvatures(self, theta):
        """∂²(s² K)/∂θ_k∂θ_l."""
        at, s = self._at(np.asarray(theta, float)), theta[0]
        k = len(at.first)
        out = np.empty((k + 1, k + 1, *at.K.shape))
        out[0, 0], out[0, 1:], out[1:, 0], out[1:, 1:] = 2 * at.K, 2 * s * at.first, 2 * s * at.first, s**2 * at.second
        return out

    def on_rows(self, theta, rows):
        return _ProcessRows(self, np.asarray(theta, float), rows)

    def conditional(self, inputs, theta):
        """A = k(x, X) K⁻¹, for A f is the mean of f at new inputs, and its variance s² (k(x, x) − A k(X, x))."""
        theta = np.asarray(theta, float)
        x = as_matrix(inputs)
        p, root = self.parameters(theta), self._at(theta).root
        s, U = root.spectrum
        kept = s**2 > ROUNDING * s[-1] ** 2
        cross = self._of.matrix(p, x, self.points) @ U[:, kept] / s[kept]
        left = self._of.diagonal(p, x) - np.einsum("nr,nr->n", cross, cross)
        return (cross / s[kept]) @ U[:, kept].T, theta[0] ** 2 * np.maximum(left, 0.0)

    def fitted_kernel(self, theta: Float[Array, "k"]) -> Any:
        """s² k as a kernel of scikit-learn."""
        from sklearn.gaussian_process.kernels import ConstantKernel

        return ConstantKernel(theta[0] ** 2) * self._of.at(self.parameters(np.asarray(theta, float)))

    def _unit(self, p: Float[Array, "k"]) -> float:
        """s at which f has variance of order one."""
        size = float(np.mean(self._of.diagonal(p, self.points)))
        return 1 / np.sqrt(size) if size > 0 else 1.0

    def units(self):
        return np.array([self._unit(self._of.values), *np.zeros(len(self._units))])

    def starts(self, scale):
        known = zip(self._of.names, self._of.distances, strict=True)
        lengths = np.array([far and word == "length_scale" for word, far in known], bool)
        shares = np.array(REACHES)[(np.arange(len(REACHES))[:, None] + self._repeats) % len(REACHES)]
        each = np.where(lengths, shares * self._units, self._of.values)[: len(REACHES) if lengths.any() else 1]
        periods = np.flatnonzero([word == "period" for word in self._of.names])
        if len(periods):  # evenly spaced in frequency, the one as written first
            i = periods[0]
            tried = [each, *(each + (2 * self._reach[i] / k - each) * (np.arange(len(each[0])) == i) for k in CYCLES)]
            each = np.concatenate(tried)
        return np.array([[size * scale * self._unit(p), *p] for size in SIZES for p in each])

    def hyperpriors(self, scale):
        """Of the amplitude and of every parameter of the kernel, proper and penalising complexity.

        As s and a length scale grow together the evidence levels off, for f becomes a straight line.
        """
        whole = float(np.sqrt(np.sum(self._ranges**2)))

        def of(word: str, reach: float, d: int | None) -> Hyperprior:
            if np.isfinite(reach):
                return simple_range(SHORT * reach, self.inputs.shape[1] if d is None and word == "length_scale" else 1)
            if word in ("length_scale", "alpha"):  # of a periodic kernel, and the tails of a rational one
                return simple_range(2 * SHORT)
            return simple_variance(LARGE) if word == "constant_value" else simple_scale(LARGE * whole)

        own = [of(*each) for each in zip(self._of.names, self._reach, self._of.dimensions, strict=True)]
        names = (h.name for h in self._hyperparameters)
        return dict(zip(names, [simple_scale(LARGE * scale * self._unit(self._of.values)), *own], strict=True))

    def __getstate__(self):
        """Without what was kept on the way."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_last", "_of")}


@dataclass(frozen=True, eq=False)
class _ProcessRows(RowCovariance):
    """s² k of some rows: for a function of distance, from the squared distances u in units of the length scales."""

    term: GaussianProcess
    theta: Float[Array, "k"]
    rows: Array

    @cached_property
    def _p(self) -> Array:
        return self.term.parameters(self.theta)

    @cached_property
    def _x(self) -> Array:
        return self.term.inputs[self.rows]

    @cached_property
    def _u(self) -> Array:
        x = self._x / self._p
        return cdist(x, x, "sqeuclidean")

    @cached_property
    def _values(self) -> tuple[Array, Array | None]:
        """K, and g'(u)."""
        radial = self.term._of.radial
        return radial(self._u) if radial is not None else (self.term._of.matrix(self._p, self._x), None)

    @property
    def matrix(self):
        return self.theta[0] ** 2 * self._values[0]

    def weights(self, alpha):
        """s² k(points, X) α."""
        return self.theta[0] ** 2 * self.term._of.matrix(self._p, self.term.points, self._x) @ alpha

    def cross(self, inputs):
        return self.theta[0] ** 2 * self.term._of.matrix(self._p, as_matrix(inputs), self._x)

    def variance(self, inputs):
        return self.theta[0] ** 2 * self.term._of.diagonal(self._p, as_matrix(inputs))

    def slopes(self, B, w):
        """∂K/∂log ℓ_d = −2 g'(u) (x_d − x'_d)²/ℓ_d²."""
        s, (K, bend), moves = self.theta[0], self._values, self.term._clipped(self.theta)[1]
        amplitude = 2 * s * (np.vdot(B, K) + np.vdot(w, w @ K))
        if bend is None:
            rises = self.term._of.tangents(self._p, self._x)
            along = [np.vdot(B, K_dot) + np.vdot(w, w @ K_dot) for K_dot in rises]
        elif len(self._p) == 1:
            M = bend * self._u
            along = [-2 * (np.vdot(B, M) + np.vdot(w, w @ M))]
        else:
            x = (self._x - self._x.mean(axis=0)) / self._p
            M = (B + w.T @ w) * bend
            along = -2 * ((M.sum(axis=0) + M.sum(axis=1)) @ x**2 - 2 * np.einsum("nd,nd->d", x, M @ x))
        return np.array([amplitude, *(s**2 * np.asarray(along) * moves / self._p)])


class _KernelAt:
    """K at one point, its root, and their derivatives in the parameters."""

    def __init__(self, of: Kernel, p: Float[Array, "k"], moves: Float[Array, "k"], x: Float[Array, "c d"]):
        self.of, self.p, self.moves, self.x = of, p, moves, x

    @cached_property
    def K(self) -> Float[Array, "c c"]:
        return self.of.matrix(self.p, self.x)

    @cached_property
    def root(self) -> Root:
        return Root(self.K)

    @cached_property
    def first(self) -> Float[Array, "k c c"]:
        """∂K/∂p."""
        return self.of.tangents(self.p, self.x) * (self.moves / self.p)[:, None, None]

    @cached_property
    def second(self) -> Float[Array, "k k c c"]:
        """∂²K/∂p∂p."""
        share = self.moves / self.p
        out = self.of.curvatures(self.p, self.x) * np.multiply.outer(share, share)[:, :, None, None]
        for i in range(len(self.p)):
            out[i, i] -= self.first[i] / self.p[i]
        return out

    @cached_property
    def root_slopes(self) -> list[Float[Array, "c c"]]:
        """∂√K/∂p."""
        return [self.root.slope(K_dot) for K_dot in self.first]
