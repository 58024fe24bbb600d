# SPDX-License-Identifier: BSD-3-Clause
"""Logistic regression with scikit-learn's contract."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, ndtr
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from marglik.callers import warn
from marglik.fitting import fit_model
from marglik.interfaces.sklearn import WEIGHTS, LinearEB, kept_rows
from marglik.likelihoods import Bernoulli
from marglik.pools import within_one_pool
from marglik.targets import stacked
from marglik.validate import listed

if TYPE_CHECKING:
    from numpy import ndarray as Array

    from marglik.fitted import Fit
    from marglik.model import LinearModel

IDLE = (
    "Every column of X is constant, so beside the intercept they tell nothing: weights are zero, and their scale "
    "cannot be learned. Give columns that vary."
)


@within_one_pool
class LogisticRidgeEB(ClassifierMixin, LinearEB):
    """Logistic regression whose penalties are learned by maximising the marginal likelihood.

        y_i ~ Bernoulli(σ(b₀ + x_i w)),    w_j ~ N(0, s_{g(j)}²),    σ(η) = 1/(1 + e^−η),    b₀ flat and integrated out

    One scale s for all columns, one for each group g of them, or one for each column, as in `RidgeEB`. The weights are
    integrated out by Laplace's approximation. Probabilities are averaged over the posterior, so that they are less
    sure where the data say little. Of more than two classes each is told from all others, with scales of its own.
    Where columns tell a class from the others without error, the evidence has no maximum; then its scales are held at
    a wide value, and a warning says so.

    Parameters
    ----------
    groups : None, "columns", "input", (p,) labels, or list of arrays
        As in `RidgeEB`.
    fit_intercept : bool
        Whether to include b₀.

    Attributes
    ----------
    classes_ : (K,)
        The classes in order.
    coef_ : (1, p), or (K, p) for K > 2 classes
        Posterior means of the weights (the mode, by Laplace's approximation).
    intercept_ : (1,) or (K,)
        Of b₀.
    log_evidence_ : float or (K,)
        log p(y|ŝ) in nats, of each class against the others.
    hyperparameters_ : DataFrame
        ``sd(weights)``, or ``sd(<group>)``; indexed by (target, name) for K > 2, where a target is a class's place in
        `classes_`.
    lambda_, sigma_, edf_, converged_, fit_
        As in `RidgeEB`; with a first axis for the classes where K > 2.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    References
    ----------
    MacKay (1992), The evidence framework applied to classification networks, Neural Computation 4, 720.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik import LogisticRidgeEB
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 4))
    >>> y = np.where(X @ [2.0, -1.0, 0.0, 0.0] + rng.logistic(size=200) > 0, "yes", "no")
    >>> model = LogisticRidgeEB().fit(X, y)
    >>> model.coef_.round(1)
    array([[ 2.2, -1.5, -0.2, -0. ]])
    >>> model.predict_proba(X[:2]).round(2)
    array([[0.49, 0.51],
           [0.9 , 0.1 ]])
    """

    def __init__(self, groups: Any = None, fit_intercept: bool = True):
        self.groups = groups
        self.fit_intercept = fit_intercept

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LogisticRidgeEB:
        """Learn scales and weights.

        Parameters
        ----------
        X : (n, p); with ``groups="input"`` a list of arrays (n, p_i)
        y : (n,)
            Classes: numbers, truth values or words.
        sample_weight : (n,), optional
            How often each row counts; a weight of zero leaves it out.

        Raises
        ------
        ValueError
            There is one class only, a value is not finite (which column, which row), groups do not fit X.
        """
        X, groups = self._columns(X)
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_all_finite=False)
        check_classification_targets(y)
        X, y, counts, _ = kept_rows(sample_weight, X, y)
        self.classes_, place = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            only = self.classes_.tolist()[0]
            raise ValueError(f"LogisticRidgeEB needs two classes, but y holds one class only: {only!r}. Check y.")
        Y = place.astype(float) if len(self.classes_) == 2 else (place[:, None] == np.arange(len(self.classes_))) * 1.0
        coef, intercept = self._learn(X, Y, counts, Bernoulli(), groups)
        self.coef_, self.intercept_ = np.atleast_2d(coef), np.atleast_1d(intercept)
        return self

    def _maximised(self, model: LinearModel) -> Fit:
        """As learned; with scales held for classes that are told apart without error.

        The wider the prior, the more intercepts do so, and all of them count: the evidence has no maximum.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit = fit_model(model)
        y = model.rows.y.reshape(model.rows.n, -1)
        mean, columns = fit.posterior.mean, {term.label: term.columns for term in model.prior}
        eta = sum(columns[label] @ w.T for label, w in mean.items()).reshape(y.shape)
        apart = ((2 * y - 1) * eta > 0).all(axis=0)
        if apart.any():
            apart &= ~np.atleast_1d(fit.converged)
        if not apart.any():
            idle = self.fit_intercept and not np.ptp(columns[WEIGHTS], axis=0).any()
            for warning in caught:
                warn(IDLE if idle else warning.message)
            return fit
        held = fit_model(model, fixed=_wide(model))
        which = self.classes_[1:] if y.shape[1] == 1 else self.classes_[apart]
        note = (
            f"The columns tell {listed(map(repr, which.tolist()))} from the rest without error, so the evidence rises "
            "without end as scales grow, and they cannot be learned. They are held where log odds have a prior "
            f"standard deviation of {WIDE:g}."
        )
        warn(note)
        notes = (*fit.notes, note)
        if y.shape[1] == 1:
            return replace(held, notes=notes)
        optima = [(held if away else fit).target(v).optimum for v, away in enumerate(apart)]
        return replace(fit, optimum=stacked(optima), notes=notes)

    def predict(self, X: Any) -> Array:
        """The likeliest class of each row.

        Parameters
        ----------
        X : (n, p)
        """
        p = self.predict_proba(X)
        return self.classes_[np.argmax(p, axis=1)]

    def predict_proba(self, X: Any) -> Array:
        """Probability of each class, averaged over the posterior; of several classes, in proportion to these averages.

            p = E[σ(η)],    η ~ N(η̄, v) given the data

        Parameters
        ----------
        X : (n, p)

        Returns
        -------
        Array (n, K)
        """
        others, own = self._averages(X)
        if own.ndim == 1:
            return np.column_stack([others, own])
        return own / own.sum(axis=1, keepdims=True)

    def decision_function(self, X: Any) -> Array:
        """Log odds of the averaged probability of each class against the others; (n,) for two classes.

        Nearer to zero than the posterior mean of the log odds, ``X @ coef_.T + intercept_``, and of the same sign.

        Parameters
        ----------
        X : (n, p)
        """
        others, own = np.maximum(self._averages(X), np.finfo(float).tiny)
        return np.log(own) - np.log(others)

    def _averages(self, X: Any) -> tuple[Array, Array]:
        """E[1 − σ(η)] and E[σ(η)]."""
        eta, variance = self._predictor(self._new(X))
        sd = np.sqrt(variance)
        return logistic_normal(-eta, sd), logistic_normal(eta, sd)


WIDE = 5.0
"""Log odds that are as good as certain: 99.3 %."""


def _wide(model: LinearModel) -> dict[str, float]:
    """Scales for which x w, over the rows, has a standard deviation of `WIDE` in the prior, the same share of each."""
    (term,) = model.dense
    counts = model.rows.counts
    spread = np.average((term.columns - np.average(term.columns, 0, counts)) ** 2, 0, counts)
    k = len(term.hyperparameters())
    place = np.zeros(len(spread), int) if k == 1 else term.groups  # type: ignore[attr-defined]
    total = np.bincount(place, spread, minlength=k)
    scales = np.divide(WIDE, np.sqrt(k * total), out=np.zeros(k), where=total > 0)
    return dict(zip((h.name for h in term.hyperparameters()), map(float, scales), strict=True))


def logistic_normal(mean: Array, sd: Array) -> Array:
    """E[σ(η)] for η ~ N(mean, sd²), to 2e-9.

    For sd < 2 by the trapezoidal rule, which converges geometrically here. Beyond, σ is as good as a mixture of normal
    distribution functions, σ(η) ≈ Σ_k p_k Φ(s_k η), for which E[Φ(s η)] = Φ(s mean / √(1 + s² sd²)).

    References
    ----------
    Monahan & Stefanski (1992), in Balakrishnan, Handbook of the Logistic Distribution, ch. 22 (eight terms).

    Examples
    --------
    >>> logistic_normal(np.array([2.0, 2.0, 2.0]), np.array([0.0, 1.0, 10.0])).round(6)
    array([0.880797, 0.844537, 0.578015])
    """
    narrow = np.minimum(sd, 2.0)
    near = sum(w * expit(mean + z * narrow) for z, w in zip(NODES, NODE_WEIGHTS, strict=True))
    far = sum(p * ndtr(s * mean / np.sqrt(1 + (s * sd) ** 2)) for p, s in MIXTURE)
    return np.where(sd < 2, near, far)


NODES = np.arange(-40, 49) / 4
NODE_WEIGHTS = np.exp(-(NODES**2) / 2) / 4 / np.sqrt(2 * np.pi)
MIXTURE = (
    (0.003246343272134, 1.365340806296348),
    (0.051517477033972, 1.059523971016916),
    (0.195077912673858, 0.830791313765644),
    (0.315569823632818, 0.650732166639391),
    (0.274149576158423, 0.508135425366489),
    (0.131076880695470, 0.396313345166341),
    (0.027912418727972, 0.308904252267995),
    (0.001449567805354, 0.238212616409306),
)
