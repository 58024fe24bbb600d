# SPDX-License-Identifier: BSD-3-Clause
"""How Laplace's evidence moves with θ at one mode."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from marglik.expansion import LinearExpansion

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.expansion import Expansion, ThetaDerivatives
    from marglik.linalg import Arrow
    from marglik.model import Model


@dataclass(frozen=True, eq=False)
class Slopes:
    """How the evidence moves with θ, from the expansion at the mode and its H; each part is computed once."""

    mode: Expansion
    H: Arrow
    model: Model | None = None
    trouble: str | None = None

    @cached_property
    def inverse(self) -> Arrow:
        """H⁻¹ where H has entries."""
        return self.H.inverse_on_pattern()

    @cached_property
    def explicit(self) -> ThetaDerivatives:
        """At fixed weights."""
        return self.mode.theta_derivatives()

    @cached_property
    def drift(self) -> Float[Array, "p k"]:
        """∂ŵ/∂θ = H⁻¹ ∂θ∇_w."""
        return self.H.solve(self.explicit.score)

    @cached_property
    def gradient(self) -> Float[Array, "k"]:
        """The joint is flat at ŵ, which moves with θ; log|H| is not."""
        slope_w, slope_theta = self.mode.log_det_slopes(self.H)
        return self.explicit.log_joint - (slope_theta + self.drift.T @ slope_w) / 2

    @cached_property
    def information(self) -> Float[Array, "k k"]:
        """A rough −∂²/∂θ², positive semidefinite, in which log|H| moves through the prior alone."""
        assert isinstance(self.mode, LinearExpansion)
        return self.mode.information(self.inverse, self.explicit.score, self.drift)
