# SPDX-License-Identifier: BSD-3-Clause
"""The integrand p(y|w,θ) p(w|θ) of any model: all that an evidence method asks of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from marglik.expansion import Expansion
from marglik.hyperparameters import Hyperparameters
from marglik.linalg import Arrow
from marglik.paths import Path
from marglik.validate import Unsupported

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.evidence.densities import GroupDensities
    from marglik.hyperpriors import JointHyperprior
    from marglik.posterior.base import Gaussian


class Model(ABC):
    """A joint density of data and weights that knows its derivatives.

    Weights are in the coordinates in which the model is best expanded; for linear models these are the factor
    coordinates u of w = L(θ) u.
    """

    @property
    @abstractmethod
    def hyperparameters(self) -> Hyperparameters:
        """The coordinates of θ."""

    @property
    @abstractmethod
    def n_weights(self) -> int:
        """Number of weights that are integrated out."""

    @property
    def n_targets(self) -> int:
        """Number of responses, each with a θ of its own."""
        return 1

    @property
    def one_scale(self) -> bool:
        """Whether the evidence is known along a single scale in closed form; see `LinearModel`."""
        return False

    @property
    def dense_scales(self) -> bool:
        """Whether there are several scales, all of dense columns; see `LinearModel`."""
        return False

    @property
    def dense_rows(self) -> bool:
        """Whether the covariance of the rows is as good as dense; see `LinearModel`."""
        return False

    @property
    def dense_weights(self) -> bool:
        """Whether there are fewer correlated weights than rows, and no others but dense ones; see `LinearModel`."""
        return False

    @property
    def several_maxima(self) -> bool:
        """Whether the evidence has more than one maximum as a rule; see `LinearModel`."""
        return False

    @property
    def working(self) -> Model:
        """The same integral over as few weights as the rows can tell apart; see `LinearModel`."""
        return self

    def compact(self, theta: Float[Array, "k"]) -> Model:
        """The same integral near θ, over as few weights as it takes."""
        return self.working

    def subset(self, targets: Array) -> Model:
        """The model of some of the targets."""
        return self

    def improper(self, H: Arrow) -> str | None:
        """Why the posterior with this precision has no finite volume, if it has none."""
        return None

    @property
    def log_volume(self) -> float:
        """What is subtracted from the log integral where the weights' coordinates are not those of their density."""
        return 0.0

    @property
    def log_hyperprior(self) -> Callable[[Float[Array, "k"]], tuple[float, Array, Array]] | None:
        """log p(θ) with its gradient and Hessian, where the model itself has one."""
        return None

    def hyperpriors(self) -> Sequence[JointHyperprior]:
        """Priors that the model itself has of its hyperparameters; for the rest there are defaults."""
        return ()

    @property
    def part(self) -> str | None:
        """Which part of the data the model looks at at a time, as a clause; None if it looks at all."""
        return None

    def bound(self, guide: Any = None, samples: int = 1, seed: int = 0) -> Any:
        """The model's own lower bound, with evidences and starts; None where it has none."""
        return None

    @property
    def members(self) -> GroupDensities | None:
        """Densities of parts of the model that are independent given its border; None where there are none."""
        return None

    def replicates(self, theta: Float[Array, "k"], n: int, seed: int = 0) -> Iterator[Model]:
        """The model with other data, drawn from p(y|θ), n times.

        Raises
        ------
        Unsupported
            Nothing can be drawn from it.
        """
        raise Unsupported("Nothing is known of how to simulate the data of this model.")

    @abstractmethod
    def at(self, weights: Float[Array, "p"], theta: Float[Array, "k"]) -> Expansion:
        """The log joint density and its derivatives at one point."""

    def path(self, theta: Float[Array, "k"], around: Gaussian | None = None, prior: bool = True) -> Path | None:
        """To the joint density from the prior, from a Gaussian, or from half of each; None where there is none."""
        return None

    @abstractmethod
    def start_weights(self) -> Float[Array, "p"]:
        """Weights from which a mode search may set out."""

    @abstractmethod
    def start_theta(self) -> Float[Array, "s k"]:
        """Values of θ from which learning may set out, of the right order of magnitude for these data."""
