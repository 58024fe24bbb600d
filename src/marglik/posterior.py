# SPDX-License-Identifier: BSD-3-Clause
"""p(w|y,θ̂): what is known of the weights once θ is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.linalg import Arrow
    from marglik.spectrum import Spectrum


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian with structured precision, in the coordinates in which the model integrates.

    Parameters
    ----------
    mean : (p,)
    precision
        H, the negative Hessian of the log joint at the mean.
    """

    mean: Float[Array, "p"]
    precision: Arrow

    def covariance_times(self, v: Float[Array, "p *r"]) -> Float[Array, "p *r"]:
        """H⁻¹v."""
        return self.precision.solve(v)

    def sample(self, n: int, rng: np.random.Generator) -> Float[Array, "n p"]:
        """Draws, one a row."""
        z = rng.standard_normal((len(self.mean), n))
        return self.mean + self.precision.solve_half(z).T


@dataclass(frozen=True, eq=False)
class SpectralPosterior:
    """The weights of one shared scale, through the spectrum of their design; all targets at once.

    Parameters
    ----------
    spectrum
        The reduced data.
    a, b : (V,)
        Variance of a weight, and of the noise.
    """

    spectrum: Spectrum
    a: Float[Array, "V"]
    b: Float[Array, "V"]

    @cached_property
    def weights(self) -> Float[Array, "V p"]:
        """Posterior means."""
        return self.spectrum.weights(self.a, self.b)
