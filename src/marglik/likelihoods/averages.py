# SPDX-License-Identifier: BSD-3-Clause
"""Log densities averaged over a Gaussian linear predictor, one integral a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.likelihoods.base import Likelihood

    Integrands = Callable[[Likelihood, Array, Array], list[Array]]

STEPS = tuple(0.5**j for j in range(1, 7))
"""Distances between nodes, in standard deviations: rows for which one does not suffice go on to the next."""
CLOSE = 1e-6
"""Twice a step is off by so little where the step itself is right to some 12 digits: its error is that one squared."""
REACH, MORE = 9.0, 9.0
"""How far nodes reach at least, and by how much more at most where the integrand may grow like e^η."""
TILE = 1 << 18
"""Rows times nodes that are in memory at a time."""


@dataclass(frozen=True, eq=False)
class Averaged:
    """A likelihood by the mean of its log density over what is not known of the linear predictor.

        E log p(y_i|η),    η ~ N(η_i, v_i)

    Its derivatives in η_i are the means of the likelihood's, and ½ E ∂²log p/∂η² is that in v_i. Closed forms are the
    likelihood's own (`Likelihood.averaged`); all else is summed over equidistant nodes, h Σ φ(kh) f(η_i + kh √v_i),
    whose error falls like e^(−2πa/(h√v)) for f analytic within a of the real line. Halving h squares it. Where √v is
    some fifteen times a or more, too many would be needed, and the result is NaN.

    Parameters
    ----------
    likelihood
    variance : (n,)
        v.

    References
    ----------
    Goodwin (1949), Proc. Camb. Phil. Soc. 45, 241. Trefethen & Weideman (2014), SIAM Review 56, 385.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.likelihoods import Bernoulli
    >>> from marglik.likelihoods.averages import Averaged
    >>> y, eta = np.array([1.0, 1.0]), np.array([0.3, 0.3])
    >>> Averaged(Bernoulli(), np.array([0.0, 4.0])).log_kernel(y, eta, []).round(6)
    array([-0.554355, -0.924521])
    """

    likelihood: Likelihood
    variance: Float[Array, "n"]

    def log_kernel(self, y: Array, eta: Array, theta: Array) -> Array:
        """E `log_kernel`."""
        closed = self.likelihood.averaged(y, eta, self.variance, theta)
        if closed is not None:
            return closed[0]
        return self._average(lambda likelihood, y, at: [likelihood.log_kernel(y, at, theta)], (0,), y, eta)[0]

    def derivatives(self, y: Array, eta: Array, theta: Array) -> tuple[Array, Array, Array]:
        """E of the first three derivatives of `log_density` in η."""
        closed = self.likelihood.averaged(y, eta, self.variance, theta)
        if closed is not None:
            return closed[1:]
        found = self._average(lambda likelihood, y, at: [*likelihood.derivatives(y, at, theta)], (1, 2, 3), y, eta)
        return found[0], found[1], found[2]

    def slope(self, y: Array, eta: Array, theta: Array) -> Array:
        """The first of them."""
        return self.derivatives(y, eta, theta)[0]

    def theta_derivatives(self, y: Array, eta: Array, theta: Array) -> list[tuple[Array, Array, Array]]:
        """E of the likelihood's, for each of its hyperparameters."""
        n_own = len(self.likelihood.hyperparameters())
        if not n_own:
            return []
        closed = self.likelihood.averaged_theta(y, eta, self.variance, theta)
        if closed is not None:
            return closed

        def orders(likelihood: Likelihood, y: Array, at: Array) -> list[Array]:
            return [d for one in likelihood.theta_derivatives(y, at, theta) for d in one]

        found = self._average(orders, (0, 1, 2) * n_own, y, eta)
        return [(found[3 * i], found[3 * i + 1], found[3 * i + 2]) for i in range(n_own)]

    def expected_information(self, eta: Array, theta: Array) -> Array:
        """That of the likelihood at the mean of η."""
        return self.likelihood.expected_information(eta, theta)

    def _average(self, f: Integrands, orders: tuple[int, ...], y: Array, eta: Array) -> Float[Array, "c n"]:
        """E f, f a derivative of these orders in η; NaN where the nodes do not suffice."""
        sd = np.sqrt(self.variance)
        out, right = np.empty((len(orders), len(y))), np.zeros((len(orders), len(y)), bool)
        powers = np.array(orders)[:, None]
        left = np.arange(len(y))
        for step in STEPS:
            size = max(int(TILE * step / (2 * (REACH + MORE))), 1)
            for rows in (left[i : i + size] for i in range(0, len(left), size)):
                likelihood = self.likelihood.at_rows(rows)
                fine, coarse = _sums(lambda at: f(likelihood, y[rows], at), eta[rows], sd[rows], step)  # noqa: B023
                with np.errstate(invalid="ignore", over="ignore"):
                    units = sd[rows] ** powers
                    close = np.abs(fine - coarse) * units <= CLOSE * (1 + np.abs(fine) * units)
                out[:, rows], right[:, rows] = fine, close
            left = left[~right[:, left].all(axis=0)]
            if not len(left):
                break
        return np.where(right, out, np.nan)


def _sums(
    f: Callable[[Array], list[Array]], eta: Float[Array, "n"], sd: Float[Array, "n"], step: float
) -> tuple[Float[Array, "c n"], Float[Array, "c n"]]:
    """E f by nodes so far apart, and by every other one of them."""
    reach = REACH + min(float(sd.max()), MORE)
    half = 2 * int(np.ceil(reach / step / 2))
    x = step * np.arange(-half, half + 1)
    weights = step * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    with np.errstate(over="ignore", invalid="ignore"):
        values = [np.broadcast_to(each, (len(x), len(eta))) for each in f(eta + x[:, None] * sd)]
        fine = np.array([weights @ each for each in values])
        coarse = np.array([2 * weights[::2] @ each[::2] for each in values])
    return fine, coarse
