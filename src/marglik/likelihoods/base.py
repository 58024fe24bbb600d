# SPDX-License-Identifier: BSD-3-Clause
"""What a likelihood is: the density of one observation given its linear predictor."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

import numpy as np

from marglik.hyperparameters import Hyperparameter
from marglik.likelihoods import numerical
from marglik.validate import Unsupported

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The values that a response may take: what they are called, and which of given values are none.

    Parameters
    ----------
    words
        For sentences: "This likelihood needs …".
    integer
        Whether they are whole numbers.
    lower, upper
        Their ends; the upper one may differ from row to row.
    open
        Whether the ends themselves are left out.
    """

    words: str
    integer: bool = False
    lower: float = -np.inf
    upper: float | Float[Array, "n"] = np.inf
    open: bool = False

    @property
    def binary(self) -> bool:
        """Whether they are 0 and 1."""
        return self.integer and np.ndim(self.upper) == 0 and (self.lower, self.upper) == (0, 1)

    def violations(self, y: Float[Array, "n"]) -> Array:
        """True where a value is impossible."""
        upper = np.asarray(self.upper)
        if upper.ndim and len(upper) != len(y):
            raise ValueError(
                f"The likelihood holds numbers of trials for {len(upper)} rows, but the response has shape "
                f"{np.shape(y)}. Build both from the same rows of the data."
            )
        upper = upper[:, None] if upper.ndim < np.ndim(y) and upper.ndim else upper
        outside = ~np.isfinite(y) | (y < self.lower) | (y > upper)
        if self.open:
            outside |= (y == self.lower) | (y == upper)
        return outside | (y != np.floor(y)) if self.integer else outside


REAL_NUMBERS = Outcomes("finite numbers")
POSITIVE_NUMBERS = Outcomes("numbers above 0", lower=0, open=True)
PROPORTIONS = Outcomes("proportions: numbers between 0 and 1, both excluded", lower=0, upper=1, open=True)
COUNTS = Outcomes("counts: whole numbers from 0", integer=True, lower=0)
BINARY = Outcomes("0 (no) or 1 (yes)", integer=True, lower=0, upper=1)


class Likelihood(ABC):
    """The density of one observation given its linear predictor η.

    Concrete likelihoods are frozen dataclasses; defining one registers it under its name in snake case, from where
    tests, documentation and the command line take it. `outcomes` and `log_density` suffice: derivatives are then
    taken numerically, to about eight digits. `marglik.testing.check_likelihood` checks all that a likelihood says.

    In every method y and η are arrays that broadcast, θ a sequence with one number for each of `hyperparameters`.

    Attributes
    ----------
    concave
        Whether log p(y|η) is concave in η for every θ, so that a posterior mode is unique.
    gaussian
        Whether log p(y|η) is quadratic in η, so that the evidence has a closed form. Weights are then precisions.
    located
        Whether η is a place among the responses, in their units, and the first of θ their scale about it.
    link
        Name of the function from the mean to η.
    links
        Where there is a choice of them: those that the field ``link`` can take.

    Examples
    --------
    >>> import numpy as np
    >>> from dataclasses import dataclass
    >>> from marglik.likelihoods import REAL_NUMBERS, Likelihood
    >>> @dataclass(frozen=True)
    ... class Logistic(Likelihood):
    ...     outcomes = REAL_NUMBERS
    ...
    ...     def log_density(self, y, eta, theta):
    ...         return -np.abs(y - eta) - 2 * np.log1p(np.exp(-np.abs(y - eta)))
    >>> first, second, third = Logistic().derivatives(np.array([1.0]), np.array([0.0]), [])
    >>> bool(abs(first - np.tanh(0.5)) < 1e-10)
    True
    """

    registry: ClassVar[dict[str, type[Likelihood]]] = {}
    concave: ClassVar[bool] = False
    gaussian: ClassVar[bool] = False
    located: ClassVar[bool] = False
    links: ClassVar[tuple[str, ...]] = ()
    link: str = "identity"

    def __init_subclass__(cls) -> None:
        Likelihood.registry[re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()] = cls

    @property
    @abstractmethod
    def outcomes(self) -> Outcomes:
        """The values that y may take."""

    def hyperparameters(self) -> tuple[Hyperparameter, ...]:
        """Its own coordinates of θ, such as a noise scale."""
        return ()

    @abstractmethod
    def log_density(self, y: Array, eta: Array, theta: Array) -> Array:
        """log p(y|η, θ), every constant kept."""

    def log_base(self, y: Array) -> Array | float:
        """The part of `log_density` that depends on y alone; it need not be computed again for other η and θ."""
        return 0.0

    def log_kernel(self, y: Array, eta: Array, theta: Array) -> Array:
        """`log_density` less `log_base`."""
        return self.log_density(y, eta, theta)

    def derivatives(self, y: Array, eta: Array, theta: Array) -> tuple[Array, Array, Array]:
        """First three derivatives of `log_density` in η."""
        return numerical.derivatives(lambda at: self.log_density(y, at, theta), np.broadcast_arrays(y, eta)[1])

    def slope(self, y: Array, eta: Array, theta: Array) -> Array:
        """The first of `derivatives` alone, where that is cheaper, to the rounding of its largest part."""
        return self.derivatives(y, eta, theta)[0]

    def theta_derivatives(self, y: Array, eta: Array, theta: Array) -> list[tuple[Array, Array, Array]]:
        """For each of its hyperparameters, the derivative of `log_density` and of its first two η-derivatives."""

        def orders(own: Array) -> Array:
            first, second, _ = self.derivatives(y, eta, own)
            return np.array(np.broadcast_arrays(self.log_density(y, eta, own), first, second))

        return numerical.theta_derivatives(orders, self.hyperparameters(), theta)

    def averaged(self, y: Array, eta: Array, variance: Array, theta: Array) -> tuple[Array, Array, Array, Array] | None:
        """E over N(η, variance) of `log_kernel` and of its first three derivatives; None if there is no closed form."""
        return None

    def averaged_theta(
        self, y: Array, eta: Array, variance: Array, theta: Array
    ) -> list[tuple[Array, Array, Array]] | None:
        """E over N(η, variance) of `theta_derivatives`; None if there is no closed form."""
        return None

    def expected_information(self, eta: Array, theta: Array) -> Array:
        """−E ∂²log p/∂η², positive also where `log_density` is not concave.

        Wherever this second derivative is linear in y it is −∂²log p/∂η² at y = E[y|η, θ]; others override it.
        """
        return -self.derivatives(self.mean(eta, theta), eta, theta)[1]

    def mean(self, eta: Array, theta: Array) -> Array:
        """E[y|η, θ], the inverse link."""
        self._lacks("a mean", "mean(eta, theta)")

    def variance(self, eta: Array, theta: Array) -> Array:
        """var[y|η, θ]."""
        self._lacks("a variance", "variance(eta, theta)")

    def response(self, eta: Array, theta: Array) -> Array:
        """What is predicted on the scale of the response: the mean; of one trial, where a row has several."""
        return self.mean(eta, theta)

    def observed(self, y: Array) -> Array:
        """y on the scale of `response`: the share of successes, where a row has several trials."""
        return y

    def sample(self, eta: Array, theta: Array, rng: np.random.Generator) -> Array:
        """Draws of y."""
        self._lacks("draws", "sample(eta, theta, rng)")

    def deviance(self, y: Array, eta: Array, theta: Array) -> Array:
        """2 (max_η log p(y|η, θ) − log p(y|η, θ)), so that a sum over rows is the scaled deviance."""
        self._lacks("a deviance", "deviance(y, eta, theta)")

    def start(self, y: Array) -> float:
        """A constant η from which Newton's method may set out: here the likeliest of a grid."""
        theta = np.array(self.start_theta(y))
        grid = np.sinh(np.linspace(-8, 8, 65))
        with np.errstate(all="ignore"):
            total = np.array([np.sum(self.log_density(y, np.full(np.shape(y), eta), theta)) for eta in grid])
        return float(grid[np.argmax(np.where(np.isfinite(total), total, -np.inf))])

    def start_theta(self, y: Array) -> tuple[float, ...]:
        """Values of its hyperparameters from which learning may set out: here the middle of each support."""
        return tuple(float(h.support.from_unconstrained(np.zeros(()))) for h in self.hyperparameters())

    def at_rows(self, rows: Any) -> Self:
        """The likelihood of the rows that this index selects, for one that holds something of each row."""
        return self

    @property
    def needs_trials(self) -> bool:
        """Whether it counts successes in a number of trials that it has not been told."""
        return False

    def with_trials(self, trials: Float[Array, "n"]) -> Self:
        """The same likelihood, for successes in so many trials.

        Raises
        ------
        ValueError
            It does not count successes.
        """
        raise ValueError(
            f"{type(self).__name__} takes one column as its response, not cbind(successes, failures). Use "
            "family='binomial'."
        )

    def of_one_trial(self) -> Self:
        """The likelihood of one trial, where a row has several."""
        return self

    def with_link(self, link: str) -> Self:
        """The same likelihood with another link.

        Raises
        ------
        ValueError
            It does not have that link; the sentence names those that it has.
        """
        if link == self.link:
            return self
        self.check_link(link)
        return replace(self, link=link)  # type: ignore[type-var]

    def check_link(self, link: str) -> None:
        """Raise unless it has this link."""
        if self.links and link not in self.links:
            *others, last = map(repr, self.links)
            raise ValueError(f"{type(self).__name__} has the links {', '.join(others)} and {last}, not {link!r}.")
        if not self.links and link != self.link:
            raise ValueError(f"{type(self).__name__} has the link {self.link!r} only, not {link!r}.")

    def _lacks(self, what: str, method: str) -> NoReturn:
        raise Unsupported(
            f"{type(self).__name__} does not say how to compute {what}. Give the class a method {method}."
        )
