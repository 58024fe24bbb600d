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
from marglik.interfaces.families import likelihood_of
from marglik.interfaces.groups import one_array, parse, side_by_side
from marglik.likelihoods import Likelihood
from marglik.model import LinearModel
from marglik.pools import within_one_pool
from marglik.posterior.base import NewRows
from marglik.posterior.prediction import averaged
from marglik.priors import Flat, Prior, Ridge
from marglik.rows import InMemory
from marglik.validate import check_response

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import DataFrame

    from marglik.interfaces.groups import Groups

INTERCEPT, WEIGHTS = "intercept", "weights"


@within_one_pool
class LinearEB(BaseEstimator):
    """What the estimators share: columns with scales and a flat intercept, and what is learned of them."""

    groups: Any
    fit_intercept: bool

    def _learn(
        self, X: Array, y: Array, counts: Array | None, likelihood: Likelihood, groups: Groups | None
    ) -> tuple[Array, Array]:
        """Posterior means of the weights and of the intercept, a first axis for targets where there are several."""
        names = getattr(self, "feature_names_in_", None)
        if self.groups is None:
            weights = Ridge(X, names, label=WEIGHTS)
        else:
            groups = groups or parse(self.groups, names if names is not None else [f"x{j}" for j in range(X.shape[1])])
            weights = Ridge(X, names, label=WEIGHTS, groups=groups.place, scales=groups.scales)
        flat = (Flat(np.ones((len(X), 1)), ("Intercept",), label=INTERCEPT),) if self.fit_intercept else ()
        model = LinearModel(likelihood, Prior((*flat, weights)), InMemory(y, counts=counts))
        self.fit_: Fit = self._maximised(model)
        self.__dict__.pop("sigma_", None)
        mean = self.fit_.posterior.mean
        return mean[WEIGHTS], mean[INTERCEPT][..., 0] if self.fit_intercept else np.zeros(y.shape[1:])[()]

    def _maximised(self, model: LinearModel) -> Fit:
        """The model at its best hyperparameters."""
        return fit_model(model)

    def _predictor(self, X: Array) -> tuple[Array, Array]:
        """Posterior mean and variance of the linear predictor."""
        columns = {WEIGHTS: X} | ({INTERCEPT: np.ones((len(X), 1))} if self.fit_intercept else {})
        return self.fit_.posterior.linear_predictor(NewRows(columns, {}))  # type: ignore[attr-defined]

    def _new(self, X: Any) -> Array:
        """Rows to predict, checked."""
        check_is_fitted(self)
        return validate_data(self, self._columns(X)[0], reset=False, dtype=np.float64)

    def _columns(self, X: Any) -> tuple[Any, Groups | None]:
        """X as one array, and the groups if it comes as a list of arrays."""
        listed = isinstance(self.groups, str) and self.groups == "input"
        return side_by_side(X) if listed else (one_array(X), None)

    @property
    def _theta(self) -> Array:
        """Scales, and what the likelihood has of its own; with a first axis for targets."""
        theta = self.fit_.optimum.theta
        return theta if self.fit_.model.rows.y.ndim == 2 else theta[0]  # type: ignore[attr-defined]

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
    def lambda_(self) -> Any:
        """Weight precision."""
        model: Any = self.fit_.model
        with np.errstate(divide="ignore"):
            each = 1 / self._theta[..., : model.n_prior_theta] ** 2
        place = model.dense[0].groups
        return each[..., 0] if place is None else each[..., place]

    @property
    def edf_(self) -> Any:
        """Effective degrees of freedom of the weights."""
        return self.fit_.posterior.edf[WEIGHTS]  # type: ignore[attr-defined]

    @cached_property
    def sigma_(self) -> Array:
        """Posterior covariance of the weights."""
        posterior: Any = self.fit_.posterior
        if self.fit_.model.rows.y.ndim == 1:  # type: ignore[attr-defined]
            return posterior.covariance()
        return np.stack([posterior.covariance(v) for v in range(self.fit_.model.n_targets)])


def kept_rows(weights: Any, X: Array, y: Array) -> tuple[Array, Array, Array | None, Any]:
    """Rows with their counts, those with a count of zero left out, and which rows these are."""
    if weights is None:
        return X, y, None, slice(None)
    counts = _check_sample_weight(weights, X, dtype=np.float64, ensure_non_negative=True)
    kept = counts > 0
    return X[kept], y[kept], counts[kept], kept


@within_one_pool
class RidgeEB(MultiOutputMixin, RegressorMixin, LinearEB):
    """Ridge regression whose penalties and noise are learned by maximising the marginal likelihood.

        y = b₀ + X w + ε,    w_j ~ N(0, s_{g(j)}²),    ε_i ~ N(0, σ²),    b₀ flat and integrated out

    or, with ``family=``, y_i ~ p(y|η_i) with η = b₀ + X w, for counts, proportions, positive or heavy-tailed data.
    One scale s for all columns; or one for each group g of them (banded ridge); or one for each column (automatic
    relevance determination, ARD). Each target has scales and a noise of its own: there are no start values, no grid
    and no cross-validation. With one scale and Gaussian noise it is the *global* maximum of the evidence, else the best
    that was found; families beside the Gaussian go through Laplace's approximation, target by target. Where the data
    hold no signal, a scale and its coefficients are exactly zero.

    Parameters
    ----------
    groups : None, "columns", "input", (p,) labels, or list of arrays
        One scale for all columns; one for each; one for each array of a list that `fit` and `predict` take as X; one
        for each different label; or one for each array of column numbers.
    fit_intercept : bool
        Whether to include b₀; it is integrated out, so that centring X or y changes nothing but b₀.
    family : str or Likelihood
        How y scatters: the name of a family, such as ``"poisson"``, or a likelihood, such as
        ``Binomial(trials=n)`` or ``Bernoulli("probit")``. There is no exposure here: for an offset use `marglik.fit`.

    Attributes
    ----------
    coef_ : (p,) or (V, p)
        Posterior means of the weights.
    intercept_ : float or (V,)
        Posterior mean of b₀.
    log_evidence_ : float or (V,)
        log p(y|ŝ, σ̂) in nats.
    alpha_ : float or (V,)
        Noise precision 1/σ², as in `sklearn.linear_model.BayesianRidge`; Gaussian noise only.
    lambda_ : float or (V,); with groups (p,) or (V, p)
        Weight precision 1/s², as in BayesianRidge; with groups that of each column, as in ARDRegression.
    sigma_ : (p, p) or (V, p, p)
        Posterior covariance of the weights; computed on first use.
    hyperparameters_ : DataFrame
        ``sd(weights)``, or ``sd(<group>)`` for each group or column, and ``sd(noise)`` or what else the family has,
        with standard errors and intervals; indexed by (target, name) for 2-D y.
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
    >>> counts = rng.poisson(np.exp(1 + X[:, :2] @ [0.5, -0.5]))
    >>> RidgeEB(family="poisson").fit(X, counts).coef_.round(2)
    array([ 0.49, -0.55,  0.06, -0.01, -0.06])
    """

    def __init__(self, groups: Any = None, fit_intercept: bool = True, family: str | Likelihood = "gaussian"):
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
        likelihood = likelihood_of(self.family)
        if likelihood.needs_trials:
            raise ValueError(
                f"{type(likelihood).__name__} needs the number of trials of each row: family=Binomial(trials=…). For "
                "a response of 0 and 1 use family='bernoulli'."
            )
        X, groups = self._columns(X)
        X, y, counts, kept = kept_rows(sample_weight, *self._validated(X, y))
        self.coef_, self.intercept_ = self._learn(X, y, counts, likelihood.at_rows(kept), groups)
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
        """Mean of new observations; with ``return_std`` also their standard deviation.

            E[y] = μ(η̄),    var[y] = E[var(y|η)] + var[μ(η)],    η ~ N(η̄, v) given the data

        Outside the Gaussian the mean is the inverse link μ at the posterior mean η̄ of the linear predictor, and the
        variance is averaged over η by 21-point Gauss–Hermite quadrature. Of binomial counts it is one trial's.

        Parameters
        ----------
        X : (n, p)
        return_std : bool
            The deviation includes the noise, as BayesianRidge's does, and the uncertainty of the intercept.
        """
        X = self._new(X)
        likelihood, own = self._family
        if not return_std:
            eta = X @ self.coef_.T + self.intercept_
            return eta if likelihood.gaussian else likelihood.mean(eta, own)
        eta, variance = self._predictor(X)
        if likelihood.gaussian:
            return eta, np.sqrt(variance + own[0] ** 2)
        sd = np.sqrt(variance)
        scatter = averaged(lambda x: likelihood.variance(x, own), eta, sd)
        first, second = (averaged(lambda x, k=k: likelihood.mean(x, own) ** k, eta, sd) for k in (1, 2))
        return likelihood.mean(eta, own), np.sqrt(scatter + np.maximum(second - first**2, 0))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Share of the deviance that is explained, D² = 1 − D(y, η̄)/D(y, η₀); with Gaussian noise it is R².

        η₀ is the best constant for this y, all other hyperparameters as learned; several targets are averaged.

        Parameters
        ----------
        X : (n, p)
        y : (n,) or (n, V)
        sample_weight : (n,), optional
        """
        check_is_fitted(self)
        model: Any = self.fit_.model
        likelihood: Likelihood = model.likelihood
        if likelihood.gaussian:
            return super().score(X, y, sample_weight)
        X, y = self._new(X), np.asarray(y, float)
        check_response(y, likelihood.outcomes)
        w, n = _check_sample_weight(sample_weight, X), len(X)
        eta, own = X @ self.coef_.T + self.intercept_, np.atleast_2d(self._theta)[:, model.n_prior_theta :]
        each = zip(y.reshape(n, -1).T, eta.reshape(n, -1).T, own, strict=True)
        return float(np.mean([_explained(likelihood, *one, w) for one in each]))

    @property
    def _family(self) -> tuple[Likelihood, Array]:
        """The likelihood of one trial, and its own hyperparameters (k,) or (k, V)."""
        model: Any = self.fit_.model
        return model.likelihood.of_one_trial(), self._theta[..., model.n_prior_theta :].T

    @property
    def alpha_(self) -> Any:
        """Noise precision."""
        likelihood, own = self._family
        if not likelihood.gaussian:
            raise AttributeError(f"{type(likelihood).__name__} has no noise precision; see hyperparameters_.")
        with np.errstate(divide="ignore"):
            return 1 / own[0] ** 2


def _explained(likelihood: Likelihood, y: Array, eta: Array, theta: Array, weights: Array) -> float:
    """1 − D(y, η)/D(y, η₀), with η₀ found by Fisher's scoring; 0 where a constant leaves nothing to explain."""
    constant = np.full(len(y), likelihood.start(y))
    for _ in range(STEPS):
        slope = weights @ likelihood.derivatives(y, constant, theta)[0]
        step = slope / (weights @ np.broadcast_to(likelihood.expected_information(constant, theta), y.shape))
        constant = constant + step
        if abs(step) < 1e-10:
            break
    left, total = (float(weights @ likelihood.deviance(y, at, theta)) for at in (eta, constant))
    return 1 - left / total if total > 1e-12 * len(y) else 0.0


STEPS = 100
