# SPDX-License-Identifier: BSD-3-Clause
"""`GaussianProcessEB`: Gaussian process regression with scikit-learn's contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from marglik.callers import warn
from marglik.fitted import Fit
from marglik.fitting import fit_model
from marglik.interfaces.families import likelihood_of
from marglik.likelihoods import Likelihood
from marglik.model import LinearModel
from marglik.newrows import rows_to_predict
from marglik.pools import within_one_pool
from marglik.posterior.prediction import averaged
from marglik.priors import Flat, GaussianProcess, Prior
from marglik.rows import InMemory
from marglik.scatter import FittedExactly

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import DataFrame

LEAST = 1e-4
"""Share of the response's spread at which the noise is held where learning drives it to zero."""
INTERCEPT, PROCESS = "intercept", "gp"


@within_one_pool
class GaussianProcessEB(RegressorMixin, BaseEstimator):
    """Gaussian process regression whose kernel and noise are learned by maximising the marginal likelihood.

        y_i ~ p(y | η_i),    η = b₀ + f(x),    f ~ GP(0, s² k),    b₀ flat and integrated out

    With Gaussian noise the evidence is exact, otherwise Laplace's.

    Parameters
    ----------
    kernel
        A kernel of scikit-learn without WhiteKernel, or its text; RBF if not given. The amplitude s² and the noise are
        always learned, and free constants that multiply the kernel are merged with s².
    family : str or Likelihood
        How y scatters.
    fit_intercept : bool
        Whether there is b₀. Without it, the evidence is that of scikit-learn's GaussianProcessRegressor with
        ``kernel_ + WhiteKernel``.

    Attributes
    ----------
    kernel_
        s² k as a kernel of scikit-learn, as learned.
    log_evidence_ : float
        log p(y|θ̂) in nats.
    hyperparameters_ : DataFrame
        ``sd(gp)``, ``length_scale(gp)``, …, ``sd(noise)``, with standard errors and intervals.
    converged_ : bool
    edf_ : float
        Effective degrees of freedom of the process.
    fit_ : Fit
        Everything else.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik import GaussianProcessEB
    >>> x = np.linspace(0, 6, 30)[:, None]
    >>> y = np.sin(x[:, 0]) + 0.1 * np.random.default_rng(0).standard_normal(30)
    >>> model = GaussianProcessEB().fit(x, y)
    >>> model.predict([[1.5]], return_std=True)[0].round(1)
    array([1.])
    """

    def __init__(self, kernel: Any = None, family: str | Likelihood = "gaussian", fit_intercept: bool = True):
        self.kernel = kernel
        self.family = family
        self.fit_intercept = fit_intercept

    def fit(self, X: Any, y: Any) -> GaussianProcessEB:
        """Learn kernel and noise from X (n, d) and y (n,)."""
        X, y = validate_data(self, X, y, y_numeric=True, dtype=np.float64, ensure_min_samples=2)
        names = getattr(self, "feature_names_in_", None)
        term = GaussianProcess(X, "RBF()" if self.kernel is None else self.kernel, PROCESS, names)
        flat = (Flat(np.ones((len(X), 1)), ("Intercept",), label=INTERCEPT),) if self.fit_intercept else ()
        self.fit_ = _learned(LinearModel(likelihood_of(self.family), Prior((*flat, term)), InMemory(y)))
        self.kernel_ = term.fitted_kernel(self.fit_.optimum.theta[0, : len(term.hyperparameters())])
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Mean of new observations at X (n, d); with ``return_std`` also their standard deviation, noise included."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        fit: Any = self.fit_
        new = {PROCESS: X} | ({INTERCEPT: np.ones((len(X), 1))} if self.fit_intercept else {})
        eta, variance = fit._linear_predictor(fit.posterior, rows_to_predict(fit.model, None, new, None, "population"))
        likelihood, own = fit.model.likelihood.of_one_trial(), fit.optimum.theta[0, fit.model.n_prior_theta :]
        mean = likelihood.mean(eta, own)
        if not return_std:
            return mean
        if likelihood.gaussian:
            return mean, np.sqrt(variance + own[0] ** 2)
        sd = np.sqrt(variance)
        scatter = averaged(lambda x: likelihood.variance(x, own), eta, sd)
        first, second = (averaged(lambda x, k=k: likelihood.mean(x, own) ** k, eta, sd) for k in (1, 2))
        return mean, np.sqrt(scatter + np.maximum(second - first**2, 0))

    @property
    def log_evidence_(self) -> Any:
        """log p(y|θ̂) in nats."""
        return self.fit_.log_evidence

    @property
    def converged_(self) -> Any:
        """Whether the maximum was verified."""
        return self.fit_.converged

    @property
    def hyperparameters_(self) -> DataFrame:
        """Estimates with standard errors and intervals."""
        return self.fit_.hyperparameters

    @property
    def edf_(self) -> Array:
        """Effective degrees of freedom of the process."""
        return self.fit_.posterior.edf[PROCESS]  # type: ignore[attr-defined]


def _learned(model: LinearModel) -> Fit:
    """At the best hyperparameters; where the evidence has no maximum with noise, at a small one, with a warning."""
    try:
        return fit_model(model)
    except FittedExactly:
        pass
    noise = LEAST * model.response_scale
    warn(
        f"The process fits the response exactly, so that sd(noise) goes to zero. It is held at {noise:.3g}, 1/10,000 "
        "of the response's spread."
    )
    return fit_model(model, fixed={"sd(noise)": noise})
