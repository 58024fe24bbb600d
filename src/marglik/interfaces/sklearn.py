# SPDX-License-Identifier: BSD-3-Clause
"""Estimators with scikit-learn's contract."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from marglik.fitted import Fit
from marglik.fitting import fit_model
from marglik.interfaces.groups import parse, side_by_side
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.posterior import NewRows
from marglik.priors import Flat, Prior, Ridge
from marglik.rows import InMemory

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import DataFrame


class RidgeEB(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Ridge regression whose penalties and noise are learned by maximising the marginal likelihood.

        y = b₀ + X w + ε,    w_j ~ N(0, s_{g(j)}²),    ε_i ~ N(0, σ²),    b₀ flat and integrated out

    One scale s for all columns; or one for each group g of them (banded ridge); or one for each column (automatic
    relevance determination, ARD). Each target has scales and a noise of its own: there are no start values, no grid
    and no cross-validation. With one scale it is the *global* maximum of the evidence. Where the data hold no signal, a
    scale and its coefficients are exactly zero.

    Parameters
    ----------
    groups : None, "columns", "input", (p,) labels, or list of arrays
        One scale for all columns; one for each; one for each array of a list that `fit` and `predict` take as X; one
        for each different label; or one for each array of column numbers.
    fit_intercept : bool
        Whether to include b₀; it is integrated out, so that centring X or y changes nothing but b₀.
    family : str
        ``"gaussian"``.

    Attributes
    ----------
    coef_ : (p,) or (V, p)
        Posterior means of the weights.
    intercept_ : float or (V,)
        Posterior mean of b₀.
    log_evidence_ : float or (V,)
        log p(y|ŝ, σ̂) in nats.
    alpha_ : float or (V,)
        Noise precision 1/σ², as in `sklearn.linear_model.BayesianRidge`.
    lambda_ : float or (V,); with groups (p,) or (V, p)
        Weight precision 1/s², as in BayesianRidge; with groups that of each column, as in ARDRegression.
    sigma_ : (p, p) or (V, p, p)
        Posterior covariance of the weights; computed on first use.
    hyperparameters_ : DataFrame
        ``sd(weights)``, or ``sd(<group>)`` for each group or column, and ``sd(noise)``, with standard errors and
        intervals; indexed by (target, name) for 2-D y.
    edf_ : float or (V,)
        Effective degrees of freedom of the weights.
    converged_ : bool or (V,)
    fit_ : Fit
        Everything else.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    References
    ----------
    MacKay (1992), Bayesian interpolation, Neural Computation 4, 415. Bishop (2006), §3.5, §7.2. Dupré la Tour,
    Eickenberg, Nunez-Elizalde & Gallant (2022), NeuroImage 264 (banded ridge, by cross-validation).

    Examples
    --------
    >>> import numpy as np
    >>> from marglik import RidgeEB
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((50, 5))
    >>> y = X @ [1.0, -1.0, 0.5, 0.0, 0.0] + 0.1 * rng.standard_normal(50)
    >>> model = RidgeEB().fit(X, y)
    >>> model.hyperparameters_["estimate"].round(2)
    name
    sd(weights)    0.66
    sd(noise)      0.11
    Name: estimate, dtype: float64
    >>> model.coef_.round(1)
    array([ 1. , -1. ,  0.5, -0. ,  0. ])
    >>> RidgeEB(groups=["a", "a", "a", "b", "b"]).fit(X, y).hyperparameters_["estimate"].round(2)
    name
    sd(a)        0.86
    sd(b)        0.00
    sd(noise)    0.10
    Name: estimate, dtype: float64
    """

    def __init__(self, groups: Any = None, fit_intercept: bool = True, family: str = "gaussian"):
        self.groups = groups
        self.fit_intercept = fit_intercept
        self.family = family

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> RidgeEB:
        """Learn scales and weights.

        Parameters
        ----------
        X : (n, p); with ``groups="input"`` a list of arrays (n, p_i)
        y : (n,) or (n, V)
        sample_weight : (n,), optional
            How often each row counts; a weight of zero leaves it out.

        Raises
        ------
        ValueError
            A value is not finite (which column, which row), shapes do not match, y is constant, groups do not fit X.
        """
        if self.family != "gaussian":
            raise ValueError(f"family={self.family!r} is not available yet. Use family='gaussian'.")
        groups = None
        if self._listed:
            X, groups = side_by_side(X)
        X, y = self._validated(X, y)
        counts = None
        if sample_weight is not None:
            counts = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            kept = counts > 0
            X, y, counts = X[kept], y[kept], counts[kept]
        names = getattr(self, "feature_names_in_", None)
        if self.groups is None:
            weights = Ridge(X, names, label=WEIGHTS)
        else:
            groups = groups or parse(self.groups, names if names is not None else [f"x{j}" for j in range(X.shape[1])])
            weights = Ridge(X, names, label=WEIGHTS, groups=groups.place, scales=groups.scales)
        flat = (Flat(np.ones((len(X), 1)), ("Intercept",), label=INTERCEPT),) if self.fit_intercept else ()
        model = LinearModel(Gaussian(), Prior((*flat, weights)), InMemory(y, counts=counts))
        self.fit_: Fit = fit_model(model)
        mean = self.fit_.posterior.mean
        self.coef_ = mean[WEIGHTS]
        self.intercept_ = mean[INTERCEPT][..., 0] if self.fit_intercept else np.zeros(y.shape[1:])[()]
        self.__dict__.pop("sigma_", None)
        return self

    def _validated(self, X: Any, y: Any) -> tuple[Array, Array]:
        """Arrays of floats; that they are finite is checked by the model, which names rows and columns."""
        plain = type(X) is type(y) is np.ndarray and X.dtype == y.dtype == np.float64
        if plain and X.ndim == 2 and y.ndim in (1, 2) and len(X) == len(y) > 1 and X.shape[1] and y.size:
            # Nothing is left for scikit-learn to convert, and its checks would cost as much as a small fit.
            self.n_features_in_ = X.shape[1]
            self.__dict__.pop("feature_names_in_", None)
            return X, y
        return validate_data(
            self,
            X,
            y,
            multi_output=True,
            y_numeric=True,
            dtype=np.float64,
            ensure_all_finite=False,
            ensure_min_samples=2,
        )

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Posterior mean for new rows; with ``return_std`` also the standard deviation of new observations.

        Parameters
        ----------
        X : (n, p)
        return_std : bool
            The deviation includes the noise, as BayesianRidge's does, and the uncertainty of the intercept.
        """
        check_is_fitted(self)
        X = side_by_side(X)[0] if self._listed else X
        X = validate_data(self, X, reset=False, dtype=np.float64)
        if not return_std:
            return X @ self.coef_.T + self.intercept_
        columns = {WEIGHTS: X} | ({INTERCEPT: np.ones((len(X), 1))} if self.fit_intercept else {})
        mean, variance = self.fit_.posterior.linear_predictor(NewRows(columns, {}))  # type: ignore[attr-defined]
        return mean, np.sqrt(variance + self._theta[..., -1] ** 2)

    @property
    def _listed(self) -> bool:
        """Whether X comes as a list of arrays."""
        return isinstance(self.groups, str) and self.groups == "input"

    @property
    def _theta(self) -> Array:
        """Scales and σ, with a first axis for targets."""
        theta = self.fit_.optimum.theta
        return theta if self.fit_.model.rows.y.ndim == 2 else theta[0]  # type: ignore[attr-defined]

    @property
    def log_evidence_(self) -> Any:
        """log p(y|ŝ, σ̂) in nats."""
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
    def alpha_(self) -> Any:
        """Noise precision."""
        with np.errstate(divide="ignore"):
            return 1 / self._theta[..., -1] ** 2

    @property
    def lambda_(self) -> Any:
        """Weight precision."""
        with np.errstate(divide="ignore"):
            each = 1 / self._theta[..., :-1] ** 2
        place = self.fit_.model.dense[0].groups  # type: ignore[attr-defined]
        return each[..., 0] if place is None else each[..., place]

    @property
    def edf_(self) -> Any:
        """Effective degrees of freedom of the weights."""
        return self.fit_.posterior.edf[WEIGHTS]  # type: ignore[attr-defined]

    @cached_property
    def sigma_(self) -> Array:
        """Posterior covariance of the weights."""
        posterior = self.fit_.posterior
        if np.ndim(self.coef_) == 1:
            return posterior.covariance()  # type: ignore[attr-defined]
        return np.stack([posterior.covariance(v) for v in range(len(self.coef_))])  # type: ignore[attr-defined]


INTERCEPT, WEIGHTS = "intercept", "weights"
