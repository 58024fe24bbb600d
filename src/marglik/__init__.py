# SPDX-License-Identifier: BSD-3-Clause
"""Learn all the hyperparameters of a Bayesian model by maximising its marginal likelihood.

    log p(y|θ) = log ∫ p(y|w,θ) p(w|θ) dw,      θ̂ = argmax log p(y|θ)

Start with `marglik.fit`, or with `marglik.RidgeEB` for arrays.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "fit": "marglik.interfaces.front",
    "load": "marglik.saving",
    "Fit": "marglik.fitted",
    "lagged": "marglik.lags",
    "GaussianProcessEB": "marglik.interfaces.process",
    "LogisticRidgeEB": "marglik.interfaces.classifier",
    "RidgeEB": "marglik.interfaces.sklearn",
    "LinearModel": "marglik.model",
    "InMemory": "marglik.rows",
    "Flat": "marglik.priors",
    "Ridge": "marglik.priors",
    "RandomEffects": "marglik.priors",
    "ReceptiveField": "marglik.priors",
    "GaussianProcess": "marglik.priors",
    "Gaussian": "marglik.likelihoods",
    "Poisson": "marglik.likelihoods",
    "half_cauchy": "marglik.hyperpriors",
    "half_normal": "marglik.hyperpriors",
    "penalised_complexity": "marglik.hyperpriors",
    "penalised_range": "marglik.hyperpriors",
}
_MODULES = ("likelihoods", "priors", "testing", "textbook")

__all__ = [
    "Fit",
    "Flat",
    "Gaussian",
    "GaussianProcess",
    "GaussianProcessEB",
    "InMemory",
    "LinearModel",
    "LogisticRidgeEB",
    "Poisson",
    "RandomEffects",
    "ReceptiveField",
    "Ridge",
    "RidgeEB",
    "fit",
    "half_cauchy",
    "half_normal",
    "lagged",
    "likelihoods",
    "load",
    "penalised_complexity",
    "penalised_range",
    "priors",
    "testing",
    "textbook",
]

if TYPE_CHECKING:
    from marglik import likelihoods, priors, testing, textbook
    from marglik.fitted import Fit
    from marglik.hyperpriors import half_cauchy, half_normal, penalised_complexity, penalised_range
    from marglik.interfaces.classifier import LogisticRidgeEB
    from marglik.interfaces.front import fit
    from marglik.interfaces.process import GaussianProcessEB
    from marglik.interfaces.sklearn import RidgeEB
    from marglik.lags import lagged
    from marglik.likelihoods import Gaussian, Poisson
    from marglik.model import LinearModel
    from marglik.priors import Flat, GaussianProcess, RandomEffects, ReceptiveField, Ridge
    from marglik.rows import InMemory
    from marglik.saving import load


def __getattr__(name: str) -> Any:
    """Load a public name on its first use (PEP 562), so that importing marglik costs next to nothing."""
    if name in _MODULES:
        return import_module(f"marglik.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'marglik' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
