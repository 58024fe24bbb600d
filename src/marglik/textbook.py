# SPDX-License-Identifier: BSD-3-Clause
"""The scalar model, one equation a function: empirical Bayes where everything has a closed form.

    y_i = w x_i + ε_i,    w ~ N(0, σ²),    ε_i ~ N(0, δ²),    δ² known

The data enter through three sums, v = Σ y², m = Σ xy, c = Σ x², and two ratios rule the rest:

    t = m² / (cδ²)     the signal: the square of ŵ_ML = m/c in units of its sampling variance δ²/c
    r = cσ² / δ²       the prior variance in the same units

    log p(y|σ²) = −n/2 log 2πδ² − RSS/2δ² − ½ log(1 + r) − ½ t/(1 + r)
    σ̂² = ŵ_ML² max(0, 1 − 1/t)         positive only where t > 1
    ŵ_MAP = ŵ_ML r/(1 + r)               and σ̂² = ŵ_ML ŵ_MAP

Arguments are as in `scalar_log_evidence`; a bad one is answered by a ValueError that says which. Ratios are
formed from logarithms, and sums from data scaled by powers of two, so that no intermediate overflows where
the answer does not.

References: MacKay (2003), Information Theory, Inference, and Learning Algorithms, ch. 28; Bishop (2006),
Pattern Recognition and Machine Learning, ch. 3; Kass & Raftery (1995), Bayes factors, §4.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

Floats: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = float | Floats
LOG_2 = math.log(2)
LOG_2PI = math.log(2 * math.pi)


class ScalarStatistics(NamedTuple):
    """All that the scalar model sees of its data."""

    n: int
    v: float
    m: float
    c: float


class Posterior(NamedTuple):
    """The Gaussian p(w|y, σ²)."""

    mean: Numbers
    variance: Numbers


class Decomposition(NamedTuple):
    """A log evidence as three terms, in nats, that sum to it."""

    best_fit: float
    misfit: Numbers
    occam: Numbers


class JointMode(NamedTuple):
    """A point (w, σ) of the joint density."""

    w: float
    prior_sd: float


class MonteCarlo(NamedTuple):
    """An estimate of a log evidence and its standard error, in nats."""

    log_evidence: float
    std_error: float


def scalar_statistics(x: ArrayLike, y: ArrayLike) -> ScalarStatistics:
    """Number of observations and the sums of squares and products.

        v = Σ y²,    m = Σ xy,    c = Σ x²

    Raises a ValueError where one of them lies outside the range of floats; the other functions do not need
    the sums as such and work at any scale.

    Examples
    --------
    >>> scalar_statistics([1, 2, 3], [2, 4, 7])
    ScalarStatistics(n=3, v=69.0, m=31.0, c=14.0)
    """
    s = _scaled(x, y)
    v = _unscale(s.v, 2 * s.y_exponent, "Σ y²")
    m = _unscale(s.m, s.x_exponent + s.y_exponent, "Σ xy")
    c = _unscale(s.c, 2 * s.x_exponent, "Σ x²")
    return ScalarStatistics(s.n, v, m, c)


def scalar_signal(x: ArrayLike, y: ArrayLike, noise_variance: float) -> float:
    """Squared signal-to-noise ratio of the maximum-likelihood weight.

        t = m² / (cδ²) = ŵ_ML² / (δ²/c)

    Where t > 1 the evidence prefers a prior variance above zero; where t > 4 the joint density of y and w
    has a local maximum. It is χ² with one degree of freedom if w = 0, and 0 where x is all zero.

    Examples
    --------
    >>> scalar_signal([3.0, 4.0], [3.0, 4.0], 5.0)  # m = c = 25
    5.0
    """
    return _signal(_scaled(x, y), noise_variance)


def scalar_log_likelihood(x: ArrayLike, y: ArrayLike, w: ArrayLike, noise_variance: float) -> Numbers:
    """Log density of the data at given weights.

        log p(y|w) = −n/2 log 2πδ² − ½ [RSS + c (w − ŵ_ML)²] / δ²,    RSS = Σ (y − ŵ_ML x)²

    Examples
    --------
    >>> round(scalar_log_likelihood([1, 2], [1, 3], 1.0, 0.5), 4)
    -2.1447
    """
    s, weights = _scaled(x, y), _finite(w, "w")
    q = _logs(s, noise_variance)
    to_scaled = s.x_exponent - s.y_exponent
    with np.errstate(over="ignore"):
        log_distance = _log(abs(np.ldexp(weights, to_scaled) - s.slope)) - to_scaled * LOG_2
    return _plain(q.log_best_fit - _exp(_log_product(q.log_precision, 2 * log_distance)) / 2)


def scalar_log_evidence(x: ArrayLike, y: ArrayLike, prior_variance: ArrayLike, noise_variance: float) -> Numbers:
    """Log marginal likelihood of the prior variance.

        log p(y|σ²) = −n/2 log 2πδ² − ½ log(1 + cσ²/δ²) − ½ [v/δ² − m²/(δ⁴(1/σ² + c/δ²))]

    The bracket is a difference of two numbers that are close when the data fit well. With
    v = RSS + m²/c it is the sum

        RSS/δ² + t/(1 + r),    t = m²/(cδ²),    r = cσ²/δ²

    of two terms that are never negative, so nothing cancels; RSS = Σ (y − ŵ_ML x)² comes from the
    residuals themselves.

    Parameters
    ----------
    x, y : array_like of shape (n,)
        The data.
    prior_variance : array_like
        σ² ≥ 0, one or an array. Zero stands for w = 0; infinity gives −∞ unless x is all zero.
    noise_variance : float
        δ² > 0.

    Returns
    -------
    float or array
        In nats, every constant kept, in the shape of `prior_variance`.

    Examples
    --------
    >>> scalar_log_evidence([1, 2, 3], [2, 4, 7], [0, 1, 1000], 1.0).round(4)
    array([-37.2568,  -6.5775,  -7.7113])
    """
    best_fit, misfit, occam = scalar_decomposition(x, y, prior_variance, noise_variance)
    return best_fit + misfit + occam


def scalar_decomposition(x: ArrayLike, y: ArrayLike, prior_variance: ArrayLike, noise_variance: float) -> Decomposition:
    """Fit against complexity: the log evidence as three terms.

        best_fit = log p(y|ŵ_ML) = −n/2 log 2πδ² − RSS/2δ²
        misfit   = −½ t/(1 + r)             a prior too narrow puts ŵ_ML out of its reach
        occam    = −½ log(1 + r)            a prior too wide spends itself on weights that do not fit

    Their sum is log p(y|σ²); the complexity −(misfit + occam) ≥ 0 is the price of having had to learn the
    weight. `occam` is the log of the posterior sd over the prior sd, MacKay's Occam factor. `misfit` rises
    with σ² and `occam` falls: the balance is at σ̂². Where x is all zero both are 0.

    Examples
    --------
    >>> best_fit, misfit, occam = scalar_decomposition([1, 2, 3], [2, 4, 7], 1.0, 1.0)
    >>> round(best_fit, 4), round(misfit, 4), round(occam, 4)
    (-2.9354, -2.2881, -1.354)
    >>> round(best_fit + misfit + occam - scalar_log_evidence([1, 2, 3], [2, 4, 7], 1.0, 1.0), 12)
    0.0
    """
    q = _logs(_scaled(x, y), noise_variance)
    growth = _log_growth(q, prior_variance)
    return Decomposition(q.log_best_fit, _plain(0 - _exp(q.log_signal - growth) / 2), _plain(0 - growth / 2))


def scalar_log_evidence_slope(x: ArrayLike, y: ArrayLike, prior_variance: ArrayLike, noise_variance: float) -> Numbers:
    """Derivative of the log evidence in the prior variance.

        d log p(y|σ²) / dσ² = ½ (c/δ²) [t/(1 + r) − 1] / (1 + r)
                            = m²/2δ⁴ − c/2δ²    at σ² = 0

    Every zero is stationary in the standard deviation, so the slope in the variance is what tells a
    maximum at zero from a saddle.

    Examples
    --------
    >>> round(scalar_log_evidence_slope([1, 2, 3], [2, 4, 7], 0.0, 1.0), 6)  # (31² − 14) / 2
    473.5
    """
    q = _logs(_scaled(x, y), noise_variance)
    growth = _log_growth(q, prior_variance)
    z = q.log_signal - growth
    # t/(1 + r) − 1 = expm1(z) = sign(z) exp(max(z, 0)) (1 − exp(−|z|)), so that nothing is 0 · ∞.
    scale = _exp(q.log_precision - growth + np.maximum(z, 0)) / 2
    return _plain(np.sign(z) * scale * -np.expm1(-abs(z)) + 0.0)


def scalar_log_evidence_curvature(
    x: ArrayLike, y: ArrayLike, prior_variance: ArrayLike, noise_variance: float
) -> Numbers:
    """Second derivative of the log evidence in the prior variance.

        d² log p(y|σ²) / d(σ²)² = ½ (c/δ²)² [1 − 2t/(1 + r)] / (1 + r)²
                                = −½ (c/δ²)² / t²    at σ̂² > 0

    Examples
    --------
    >>> round(scalar_log_evidence_curvature([1, 2, 3], [2, 4, 7], 0.0, 1.0), 6)  # 14²/2 − 14 · 31²
    -13356.0
    """
    q = _logs(_scaled(x, y), noise_variance)
    growth = _log_growth(q, prior_variance)
    z = q.log_signal - growth
    scale = _exp(2 * (q.log_precision - growth) + np.maximum(z, 0)) / 2
    return _plain(scale * (_exp(-np.maximum(z, 0)) - 2 * _exp(np.minimum(z, 0))) + 0.0)


def scalar_prior_variance(x: ArrayLike, y: ArrayLike, noise_variance: float) -> float:
    """Prior variance of maximal evidence.

        σ̂² = max(0, (m² − cδ²)/c²) = ŵ_ML² max(0, 1 − 1/t)

    Exactly 0 where m² ≤ cδ². Where x is all zero the evidence is flat, and 0 stands for every value. It is
    σ̂, not σ̂², that is the geometric mean of ŵ_ML and ŵ_MAP; that holds for one weight only.

    Examples
    --------
    >>> x, y = [1, 2, 3], [2, 4, 7]
    >>> round(scalar_prior_variance(x, y, 1.0), 6)  # (31² − 14) / 14²
    4.831633
    >>> round(scalar_ml(x, y) * scalar_map(x, y, scalar_prior_variance(x, y, 1.0), 1.0), 6)
    4.831633
    >>> scalar_prior_variance(x, y, 69.0)
    0.0
    """
    s = _scaled(x, y)
    t = _signal(s, noise_variance)
    variance = s.slope**2 * (1 - 1 / t) if t > 1 else 0.0
    return _unscale(variance, 2 * (s.y_exponent - s.x_exponent), "The prior variance of maximal evidence")


def scalar_ml(x: ArrayLike, y: ArrayLike) -> float:
    """Maximum-likelihood weight: least squares through the origin.

        ŵ_ML = m/c

    Raises a ValueError where x is all zero, since every weight then fits alike.

    Examples
    --------
    >>> scalar_ml([3, 4], [3, 9])
    1.8
    """
    s = _scaled(x, y)
    if s.c == 0:
        raise ValueError(
            "The maximum-likelihood weight needs an x other than 0, but every x is 0: all weights fit alike. "
            "Give another x, or use `scalar_map`, which falls back on the prior mean, 0."
        )
    return _unscale(s.slope, s.y_exponent - s.x_exponent, "The maximum-likelihood weight")


def scalar_map(x: ArrayLike, y: ArrayLike, prior_variance: ArrayLike, noise_variance: float) -> Numbers:
    """Posterior mode of the weight, which is also its posterior mean.

        ŵ_MAP = σ²m / (δ² + σ²c) = ŵ_ML r/(1 + r)

    Ridge regression with penalty δ²/σ². It is 0 at σ² = 0 and ŵ_ML at σ² = ∞; where x is all zero it is
    the prior mean, 0.

    Examples
    --------
    >>> round(scalar_map([3, 4], [3, 9], 1.0, 25.0), 6)  # half of 1.8
    0.9
    """
    return scalar_posterior(x, y, prior_variance, noise_variance).mean


def scalar_posterior(x: ArrayLike, y: ArrayLike, prior_variance: ArrayLike, noise_variance: float) -> Posterior:
    """Posterior mean and variance of the weight.

        E[w|y]   = σ²m / (δ² + σ²c)
        var[w|y] = 1 / (1/σ² + c/δ²)

    Examples
    --------
    >>> mean, variance = scalar_posterior([3, 4], [3, 9], 2.0, 50.0)
    >>> round(mean, 6), round(variance, 6)
    (0.9, 1.0)
    """
    s, log_prior = _scaled(x, y), _log(_variance(prior_variance))
    q = _logs(s, noise_variance)
    log_ratio = _log_product(q.log_precision, log_prior)
    log_ml = float(_log(abs(s.slope))) + (s.y_exponent - s.x_exponent) * LOG_2
    mean = np.sign(s.m) * _exp(log_ml - np.logaddexp(0, -log_ratio)) + 0.0
    variance = _exp(-np.logaddexp(-log_prior, q.log_precision))
    return Posterior(_plain(mean), _plain(variance))


def scalar_log_joint(x: ArrayLike, y: ArrayLike, w: ArrayLike, prior_sd: ArrayLike, noise_variance: float) -> Numbers:
    """Log joint density of the data and the weight, a function of the weight and its prior scale.

        log p(y, w|σ) = log p(y|w) − ½ log 2πσ² − w²/2σ²

    It is no substitute for the evidence: maximised over both w and σ it has no maximum, see
    `scalar_log_joint_ridge`.

    Examples
    --------
    >>> round(scalar_log_joint([1, 2], [1, 3], 1.0, 2.0, 0.5), 4)
    -3.8818
    """
    weights, sd = _finite(w, "w"), _finite(prior_sd, "prior_sd")
    advice = "At 0 the prior of the weight is a point mass and has no density."
    _refuse(sd <= 0, sd, "prior_sd", "The joint density needs prior standard deviations above 0", advice)
    with np.errstate(over="ignore"):
        log_prior = -LOG_2PI / 2 - np.log(sd) - (weights / sd) ** 2 / 2
    return _plain(np.asarray(scalar_log_likelihood(x, y, weights, noise_variance)) + log_prior)


def scalar_log_joint_ridge(x: ArrayLike, y: ArrayLike, w: ArrayLike, noise_variance: float) -> Numbers:
    """Log joint density on the ridge σ = |w|, the best prior scale for a given weight.

        max_σ log p(y, w|σ) = log p(y|w) − log|w| − ½ log 2π − ½

    As w → 0 the likelihood tends to a constant and −log|w| to infinity: the joint density is unbounded,
    whatever the data, and "maximise over everything" has no answer.

    Examples
    --------
    >>> scalar_log_joint_ridge([1, 2], [1, 3], [1.0, 1e-10, 1e-100, 0.0], 0.5).round(2)
    array([ -3.56,  10.46, 217.69,    inf])
    """
    weights = _finite(w, "w")
    ridge = np.asarray(scalar_log_likelihood(x, y, weights, noise_variance)) - _log(abs(weights))
    return _plain(np.where(weights == 0, np.inf, ridge - LOG_2PI / 2 - 0.5))


def scalar_joint_mode(x: ArrayLike, y: ArrayLike, noise_variance: float) -> JointMode | None:
    """Local maximum of the joint density in the weight and its prior scale, where there is one.

        w = [m + sign(m) √(m² − 4cδ²)] / 2c = ŵ_ML [1 + √(1 − 4/t)] / 2,    σ = |w|

    It exists only where m² > 4cδ² (t > 4); it is never the global maximum, since the density is unbounded
    at w = 0. The other root, ŵ_ML − w, is a saddle.

    Examples
    --------
    >>> scalar_joint_mode([3, 4], [3, 4], 4.0)  # c = m = 25, √(625 − 400) = 15
    JointMode(w=0.8, prior_sd=0.8)
    >>> scalar_joint_mode([3, 4], [3, 4], 6.25) is None
    True
    """
    s = _scaled(x, y)
    t = _signal(s, noise_variance)
    if t <= 4:
        return None
    w = s.slope * (1 + math.sqrt(1 - 4 / t)) / 2
    w = _unscale(w, s.y_exponent - s.x_exponent, "The mode of the joint density")
    return JointMode(w, abs(w))


def simple_monte_carlo(
    log_likelihood: Callable[[NDArray], ArrayLike] | ArrayLike, prior_draws: ArrayLike
) -> MonteCarlo:
    """Log evidence as the average of the likelihood over draws from the prior.

        log p̂ = logsumexp_i log p(y|w_i) − log N,    w_i ~ p(w|θ)
        se(log p̂) ≈ se(p̂) / p̂ = √[ (N/ESS − 1) / (N − 1) ]

    The standard error is that of the mean, carried to the logarithm by the delta method, from weights
    exp(log p(y|w_i) − max) that can neither overflow nor all vanish.

    **It cannot be trusted where a few draws dominate.** It knows only the draws that were made, not the
    better ones that were missed, and it can never exceed 1 nat, however wrong the estimate is. Where
    `effective_sample_size` is below some hundreds, as is the rule in more than a handful of dimensions,
    expect an estimate too low and an error understated.

    Parameters
    ----------
    log_likelihood : callable or array_like of shape (N,)
        Maps the draws to N log likelihoods; or those themselves. −∞ is a likelihood of zero.
    prior_draws : array_like of shape (N, …)
        Independent draws from the prior.

    Returns
    -------
    MonteCarlo
        ``(log_evidence, std_error)``; the standard error is NaN where there is one draw, or no likelihood
        above zero.

    Examples
    --------
    >>> x, y = [1, 2, 3], [0.2, 0.5, 0.4]
    >>> w = np.random.default_rng(1).normal(size=100_000)
    >>> estimate = simple_monte_carlo(lambda w: scalar_log_likelihood(x, y, w, 1.0), w)
    >>> print(f"{estimate.log_evidence:.3f} ± {estimate.std_error:.3f}")
    -4.139 ± 0.004
    >>> print(f"{scalar_log_evidence(x, y, 1.0, 1.0):.3f}")
    -4.144
    """
    draws = np.asarray(prior_draws)
    values = _log_weights(log_likelihood(draws) if callable(log_likelihood) else log_likelihood)
    n = len(values)
    if draws.shape[:1] != (n,):
        raise ValueError(
            f"One log likelihood is needed a draw, but there are {n} for draws in shape {draws.shape}. "
            "Let the function map draws of shape (N, …) to shape (N,)."
        )
    top = values.max()
    if top == -np.inf or n == 1:
        return MonteCarlo(float(top), math.nan)
    weights = np.exp(values - top)
    log_evidence = logsumexp(values) - math.log(n)
    std_error = weights.std(ddof=1) / (weights.mean() * math.sqrt(n))
    return MonteCarlo(float(log_evidence), float(std_error))


def effective_sample_size(log_weights: ArrayLike) -> float:
    """How many equally weighted draws would be as good.

        ESS = (Σ u_i)² / Σ u_i²,    u_i = exp(log weight)

    Between 1, where one draw has all the weight, and N. It is 0 where no draw has any.

    Examples
    --------
    >>> effective_sample_size([-5000.0, -5000.0, -9000.0])
    2.0
    """
    values = _log_weights(log_weights)
    if values.max() == -np.inf:
        return 0.0
    weights = np.exp(values - values.max())
    return float(weights.sum() ** 2 / (weights**2).sum())


class _Scaled(NamedTuple):
    """Sums of x/2^x_exponent and y/2^y_exponent, whose largest entries lie in [½, 1)."""

    n: int
    v: float
    m: float
    c: float
    slope: float  # m/c, 0 where c is
    rss: float
    x_exponent: int
    y_exponent: int


class _Logs(NamedTuple):
    """The logarithms of which the evidence is made."""

    log_best_fit: float
    log_precision: float  # log c/δ²
    log_signal: float  # log m²/(cδ²)


def _scaled(x: ArrayLike, y: ArrayLike) -> _Scaled:
    x, y = (_finite(_sequence(z, name, "observation"), name) for z, name in ((x, "x"), (y, "y")))
    if len(x) != len(y):
        raise ValueError(f"Each x needs its y, but there are {len(x)} of x and {len(y)} of y. Pair them.")
    x_exponent, y_exponent = (math.frexp(abs(z).max())[1] for z in (x, y))
    x, y = np.ldexp(x, -x_exponent), np.ldexp(y, -y_exponent)
    v, m, c = float(y @ y), float(x @ y), float(x @ x)
    slope = m / c if c else 0.0
    residual = y - slope * x
    if c:
        # Projected a second time, so that one observation leaves nothing (Kahan: "twice is enough").
        residual = residual - float(x @ residual) / c * x
    return _Scaled(len(x), v, m, c, slope, float(residual @ residual), x_exponent, y_exponent)


def _signal(s: _Scaled, noise_variance: float) -> float:
    """The signal t, by division alone: exactly 1, or 4, where m² is exactly cδ², or 4cδ²."""
    mantissa, exponent = math.frexp(_noise(noise_variance))
    return _ldexp(s.m**2 / s.c / mantissa, 2 * s.y_exponent - exponent) if s.c else 0.0


def _logs(s: _Scaled, noise_variance: float) -> _Logs:
    log_noise = math.log(_noise(noise_variance))
    log_c = float(_log(s.c)) + 2 * s.x_exponent * LOG_2
    log_rss, log_explained = (float(_log(part)) + 2 * s.y_exponent * LOG_2 for part in (s.rss, s.m * s.slope))
    log_best_fit = -s.n / 2 * (LOG_2PI + log_noise) - float(_exp(log_rss - log_noise)) / 2
    return _Logs(log_best_fit, log_c - log_noise, log_explained - log_noise)


def _log_growth(q: _Logs, prior_variance: ArrayLike) -> Floats:
    """log(1 + r), r = cσ²/δ²."""
    return np.logaddexp(0, _log_product(q.log_precision, _log(_variance(prior_variance))))


def _log_product(log_a: float, log_b: Floats) -> Floats:
    """Log of a product in which an a of exactly zero outweighs an infinite b: x = 0 silences the weight."""
    return np.full_like(log_b, -np.inf) if log_a == -np.inf else log_a + log_b


def _log(z: Numbers) -> Floats:
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(z, dtype=float))


def _exp(z: Numbers) -> Floats:
    with np.errstate(over="ignore"):
        return np.exp(np.asarray(z, dtype=float))


def _ldexp(z: float, exponent: int) -> float:
    with np.errstate(over="ignore"):
        return float(np.ldexp(z, exponent))


def _unscale(z: float, exponent: int, name: str) -> float:
    value = _ldexp(z, exponent)
    if z and not np.finfo(float).tiny <= abs(value) < np.inf:
        raise ValueError(f"{name} is too large or too small for a float. Measure x or y in other units.")
    return value


def _plain(z: NDArray) -> Numbers:
    return z.item() if z.ndim == 0 else z


def _real(z: ArrayLike, name: str) -> Floats:
    array = np.asarray(z)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"Numbers are needed in {name}, but its type is {array.dtype}. Convert it to float.")
    return array.astype(float)


def _refuse(bad: NDArray[np.bool_], array: Floats, name: str, need: str, advice: str) -> None:
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        index = f"[{', '.join(map(str, where))}]" if where else ""
        raise ValueError(f"{need}, but {name}{index} is {array[where]}. {advice}")


def _finite(z: ArrayLike, name: str) -> Floats:
    array = _real(z, name)
    _refuse(~np.isfinite(array), array, name, "Finite numbers are needed", "Leave it out or mend it.")
    return array


def _sequence(z: ArrayLike, name: str, unit: str) -> Floats:
    array = _real(z, name)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"A sequence is needed in {name}, of shape (n,) with n ≥ 1, but its shape is {array.shape}. "
            f"Give one number for each {unit}."
        )
    return array


def _variance(z: ArrayLike) -> Floats:
    array = _real(z, "prior_variance")
    advice = "Give the square of a standard deviation; 0 holds the weight at 0."
    _refuse(~(array >= 0), array, "prior_variance", "A prior variance is 0 or more", advice)
    return array


def _noise(z: float) -> float:
    array = _real(z, "noise_variance")
    if array.ndim or not 0 < array < np.inf:
        raise ValueError(
            f"The noise variance is one finite number above 0, but noise_variance is {array}. "
            "Give the square of the standard deviation of y about w x."
        )
    return float(array)


def _log_weights(z: ArrayLike) -> Floats:
    array = _sequence(z, "the log likelihoods", "draw")
    need, advice = "A log likelihood is a number below infinity", "Look at the model at that draw."
    _refuse(~(array < np.inf), array, "the array", need, advice)
    return array
