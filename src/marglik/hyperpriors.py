# SPDX-License-Identifier: BSD-3-Clause
"""p(θ), where θ is to be integrated rather than maximised."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from marglik.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from numpy import ndarray as Array


class Hyperprior(NamedTuple):
    """The prior of one hyperparameter, in the words of its table.

    Attributes
    ----------
    log_density
        Of the value itself, up to a constant where it is not proper.
    words
        Which it is.
    proper
        Whether its integral is one.
    """

    log_density: Callable[[Array], Array]
    words: str
    proper: bool

    def at(self, i: int, name: str) -> JointHyperprior:
        """Of the i-th coordinate of θ, which has this name."""
        return JointHyperprior((name,), lambda theta: float(self.log_density(theta[i])), self.words, self.proper)


class JointHyperprior(NamedTuple):
    """The prior that a model itself has of some of its hyperparameters, together.

    Attributes
    ----------
    names
        Of what is reported.
    log_density
        Of their values, as a function of θ.
    words
        Which it is.
    proper
        Whether its integral is one.
    """

    names: tuple[str, ...]
    log_density: Callable[[Array], float]
    words: str
    proper: bool


def half_normal(scale: float) -> Any:
    """|x| for x ~ N(0, scale²), a prior for standard deviations.

    Parameters
    ----------
    scale
        In the units of the standard deviation.

    Raises
    ------
    ValueError
        It is not above zero.

    Examples
    --------
    >>> from marglik.hyperpriors import half_normal
    >>> float(half_normal(2.0).mean().round(4))
    1.5958
    """
    from scipy.stats import halfnorm

    return halfnorm(scale=_above_zero(scale, "scale"))


def half_cauchy(scale: float) -> Any:
    """|x| for x Cauchy with this scale, its median (Gelman 2006).

    Parameters
    ----------
    scale
        In the units of the standard deviation.

    Raises
    ------
    ValueError
        It is not above zero.

    Examples
    --------
    >>> from marglik.hyperpriors import half_cauchy
    >>> float(half_cauchy(2.0).median().round(4))
    2.0
    """
    from scipy.stats import halfcauchy

    return halfcauchy(scale=_above_zero(scale, "scale"))


def penalised_complexity(upper: float, tail: float = 0.05) -> Any:
    """The prior of a standard deviation that penalises its distance from zero at a constant rate, P(s > upper) = tail.

        p(s) = r exp(−rs),    r = −log(tail) / upper

    Parameters
    ----------
    upper
        A standard deviation that would be large.
    tail
        The probability of one that is larger.

    Raises
    ------
    ValueError
        ``upper`` is not above zero, or ``tail`` no probability.

    References
    ----------
    Simpson, Rue, Riebler, Martins & Sørbye (2017), Statistical Science 32, 1, §3.3.

    Examples
    --------
    >>> from marglik.hyperpriors import penalised_complexity
    >>> float(penalised_complexity(3.0, 0.01).sf(3.0).round(6))
    0.01
    """
    from scipy.stats import expon

    if not 0 < tail < 1:
        raise ValueError(f"tail must be a probability between 0 and 1, such as 0.05, not {tail!r}.")
    return expon(scale=-_above_zero(upper, "upper") / math.log(tail))


def penalised_range(lower: float, tail: float = 0.05, dimension: int = 1) -> Any:
    """The prior of a length scale that penalises its distance from infinity at a constant rate, P(ℓ < lower) = tail.

        ℓ^(−d/2) ~ Exp(r),    r = −log(tail) · lower^(d/2)

    It keeps away from zero, and its tail falls as ℓ^(−1−d/2).

    Parameters
    ----------
    lower
        A length scale that would be short.
    tail
        The probability of one that is shorter.
    dimension
        d, of the inputs that share the length scale.

    Raises
    ------
    ValueError
        ``lower`` is not above zero, ``tail`` no probability, or ``dimension`` no whole number above zero.

    References
    ----------
    Fuglstad, Simpson, Lindgren & Rue (2019), JASA 114, 445, §2.

    Examples
    --------
    >>> from marglik.hyperpriors import penalised_range
    >>> prior = penalised_range(0.5, dimension=2)
    >>> float(prior.cdf(0.5).round(6)), float(prior.median().round(4))
    (0.05, 2.161)
    """
    from scipy.stats import invweibull

    if not 0 < tail < 1:
        raise ValueError(f"tail must be a probability between 0 and 1, such as 0.05, not {tail!r}.")
    if not isinstance(dimension, int | np.integer) or isinstance(dimension, bool) or dimension < 1:
        raise ValueError(f"dimension must be a whole number of inputs, 1 or more, not {dimension!r}.")
    return invweibull(dimension / 2, scale=_above_zero(lower, "lower") * (-math.log(tail)) ** (2 / dimension))


def simple_scale(upper: float) -> Hyperprior:
    """Of a standard deviation, the one that penalises complexity; 5 % lies above ``upper``."""
    return Hyperprior(penalised_complexity(upper).logpdf, f"penalised complexity, P(> {upper:.4g}) = 0.05", True)


def simple_variance(upper: float) -> Hyperprior:
    """The same of a variance v: √v is penalised, and 5 % of √v lies above ``upper``."""
    root = penalised_complexity(upper)
    words = f"penalised complexity of its square root, P(> {upper:.4g}) = 0.05"
    return Hyperprior(lambda v: root.logpdf(np.sqrt(v)) - np.log(2 * np.sqrt(v)), words, True)


def simple_range(lower: float, dimension: int = 1) -> Hyperprior:
    """Of a length scale, the one that penalises complexity; 5 % lies below ``lower``."""
    words = f"penalised complexity, P(< {lower:.4g}) = 0.05"
    return Hyperprior(penalised_range(lower, dimension=dimension).logpdf, words, True)


def _above_zero(value: float, name: str) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number above zero, not {value!r}.")
    return float(value)


FLAT = Hyperprior(np.zeros_like, "flat", proper=False)
FLAT_CORRELATION = Hyperprior(lambda x: np.full_like(x, -math.log(2)), "flat from -1 to 1", proper=True)
FLAT_ROOT = Hyperprior(lambda x: -1.5 * np.log(x), "flat in 1/sqrt(x)", proper=False)


def hyperpriors(names: Hyperparameters, given: Mapping[str, Any]) -> dict[str, Hyperprior]:
    """The prior of everything that is reported: as given, or by default.

    Flat on each standard deviation and on correlations; flat on x^(−½) for what is a precision by another name (the
    size of a negative binomial, the shape of a gamma, degrees of freedom). Terms whose evidence does not fall off have
    proper ones of their own; see `Term.hyperpriors`.

    Raises
    ------
    UnknownName
        A prior is given for something that the model does not have.
    ValueError
        One that is neither a function nor has ``logpdf``.
    """
    names.checked(dict.fromkeys(given, 0.0))
    return {name: _given(name, given[name]) if name in given else _default(names, name) for name in names.reported}


def _given(name: str, prior: Any) -> Hyperprior:
    log_density = getattr(prior, "logpdf", prior)
    if not callable(log_density):
        raise ValueError(
            f"The prior of {name!r} is {prior!r}, but it must be a log density: a function of the value, or an object "
            "with logpdf, such as marglik.half_normal(1.0)."
        )
    if not hasattr(prior, "dist"):
        return Hyperprior(np.vectorize(log_density, otypes=[float]), "as given", proper=hasattr(prior, "logpdf"))
    settings = ", ".join([*map(str, prior.args), *(f"{key}={value:.6g}" for key, value in prior.kwds.items())])
    return Hyperprior(log_density, f"{prior.dist.name}({settings})", proper=True)


def _default(names: Hyperparameters, name: str) -> Hyperprior:
    if name not in names.names:  # a factor reports it
        return FLAT_CORRELATION if np.isfinite(names.support_of(name).upper) else FLAT
    h = names[names.index(name)]
    return FLAT_ROOT if h.unbounded or h.without_end else FLAT
