# SPDX-License-Identifier: BSD-3-Clause
import csv
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, ndtr, polygamma

import marglik
from marglik.hyperparameters import Hyperparameter
from marglik.likelihoods import (
    Bernoulli,
    Beta,
    Binomial,
    Gamma,
    Gaussian,
    Likelihood,
    NegativeBinomial,
    Outcomes,
    Poisson,
    StudentT,
)
from marglik.likelihoods.special import log1pmx, log_rising, polygammas, stirling
from marglik.model import LinearModel
from marglik.priors import Flat
from marglik.testing import check_likelihood
from marglik.validate import Unsupported

VALUES = Path(__file__).parent / "data" / "likelihood_values" / "values.csv"
EPS = np.finfo(float).eps
WITH_LINKS = [
    kind() if link is None else kind(link=link)
    for _, kind in sorted(Likelihood.registry.items())
    for link in kind.links or (None,)
]


def named(likelihood):
    return f"{type(likelihood).__name__} {likelihood.link}"


each = pytest.mark.parametrize("likelihood", WITH_LINKS, ids=named)


@each
def test_contract(likelihood):
    check_likelihood(likelihood)


@pytest.mark.parametrize("link", Binomial.links)
@pytest.mark.parametrize("trials", [2, 7, 300])
def test_contract_of_several_trials(trials, link):
    check_likelihood(Binomial(trials, link))


@pytest.mark.parametrize("scale", [1e-8, 1e8])
@pytest.mark.parametrize(("likelihood", "more"), [(Gaussian(), ()), (StudentT(), (3.0,))], ids=["gaussian", "t"])
def test_contract_at_any_scale(likelihood, more, scale):
    check_likelihood(likelihood, eta=(-2 * scale, 0.0, 3 * scale), theta=[[scale, *more]])


@pytest.mark.parametrize(
    ("likelihood", "eta", "theta"),
    [
        (Poisson(), (-9, -5, 5, 9), None),
        (NegativeBinomial(), (-6, 0, 5), [[0.1], [1e3], [1e9]]),
        (Gamma(), (-20, 0, 20), [[0.2], [1e3], [1e8]]),
        (Beta(), (-3, 0, 2), [[60], [1e4], [1e8]]),
        (Beta(), (-0.3, 0, 0.2), [[2.0]]),
        (StudentT(), (-2, 0), [[1.0, 0.5], [0.3, 2.0], [2.0, 1e6]]),
        (Bernoulli("cloglog"), (-9, -5, 1.5), None),
        (Bernoulli("probit"), (-5, 4), None),
        (Bernoulli("logit"), (-8, 8), None),
    ],
    ids=lambda value: named(value) if isinstance(value, Likelihood) else "",
)
def test_contract_far_from_one(likelihood, eta, theta):
    check_likelihood(likelihood, eta, theta)


# The numbers of values.csv have 17 digits; see make.py beside it.


def _reference():
    """Rows of values.csv by likelihood: (instance, θ, y, η, values (m, rows))."""
    rows = defaultdict(list)
    with open(VALUES, newline="") as file:
        for row in csv.DictReader(file):
            key = row["likelihood"], row["link"], row["trials"], row["theta"]
            rows[key].append([float(row["y"]), float(row["eta"]), *map(float, row["values"].split())])
    for (name, link, trials, theta), numbers in rows.items():
        more = {"link": link} if Likelihood.registry[name].links else {}
        more |= {"trials": int(trials)} if name == "binomial" else {}
        y, eta, *values = np.array(numbers).T
        yield pytest.param(
            *(Likelihood.registry[name](**more), np.array(theta.split(), float), y, eta, np.array(values)),
            id=" ".join(filter(None, (name, link, trials, theta))),
        )


REFERENCE = list(_reference())


def _found(likelihood, theta, y, eta, of=None):
    """In the order of values.csv: by the likelihood's own methods, or those of the class ``of``."""
    of = of or type(likelihood)
    own = of.theta_derivatives(likelihood, y, eta, theta)
    slopes = of.derivatives(likelihood, y, eta, theta)
    return np.array([likelihood.log_density(y, eta, theta), *slopes, *(d for one in own for d in one)])


def _one_ulp(values, eta):
    """What four units in the last place of η, or of y, do to each of these numbers, by the next derivative."""
    following = np.abs(values)
    last = [3, *range(6, len(values), 3)]
    following[: len(values) - 1] = following[1:]
    following[last] = 0
    return 4 * EPS * np.maximum(1, np.abs(eta)) * following


@pytest.mark.parametrize(("likelihood", "theta", "y", "eta", "values"), REFERENCE)
def test_ten_digits_everywhere(likelihood, theta, y, eta, values):
    """Relative to each number itself, however small; derivatives in θ also to 1e-14 nats for each unit of log θ."""
    error = np.abs(_found(likelihood, theta, y, eta) - values)
    allowed = 1e-10 * np.abs(values) + _one_ulp(values, eta)
    for i, size in enumerate(theta):
        allowed[4 + 3 * i : 7 + 3 * i] += 1e-14 / size
    np.testing.assert_array_less(error, allowed + 1e-300)


@pytest.mark.parametrize(("likelihood", "theta", "y", "eta", "values"), REFERENCE)
def test_expected_information_is_that_of_the_derivatives(likelihood, theta, y, eta, values):
    """Where the second derivative is linear in y it is minus that at the mean, in both tails."""
    given = likelihood.expected_information(eta, theta)
    assert np.all(given >= 0)
    if likelihood.concave and not isinstance(likelihood, Bernoulli):
        at_mean = -likelihood.derivatives(likelihood.mean(eta, theta), eta, theta)[1]
        np.testing.assert_allclose(given, at_mean, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize(("likelihood", "theta", "y", "eta", "values"), REFERENCE)
def test_numerical_derivatives(likelihood, theta, y, eta, values):
    """What a likelihood has that gives its density alone: what the rounding of log p leaves, on the scale of η."""
    width = theta[0] if likelihood.link == "identity" else 1.0
    noise = 1e-9 * (1 + np.abs(values[0]))
    found = _found(likelihood, theta, y, eta, of=Likelihood)
    for order in range(1, 4):
        error = np.abs(found[order] - values[order]) * width**order
        assert np.all(error <= 1e-5 * np.abs(values[order]) * width**order + noise)
    for i, size in enumerate(theta):
        for order in range(3):
            error = np.abs(found[4 + 3 * i + order] - values[4 + 3 * i + order]) * width**order * size
            assert np.all(error <= 1e-5 * np.abs(values[4 + 3 * i + order]) * width**order * size + 5 * noise)


SCIPY = {
    "bernoulli": lambda eta, theta: stats.bernoulli(expit(eta)),
    "beta": lambda eta, theta: stats.beta(theta[0] * expit(eta), theta[0] * expit(-eta)),
    "gamma": lambda eta, theta: stats.gamma(theta[0], scale=np.exp(eta) / theta[0]),
    "gaussian": lambda eta, theta: stats.norm(eta, theta[0]),
    "negative_binomial": lambda eta, theta: stats.nbinom(theta[0], theta[0] / (theta[0] + np.exp(eta))),
    "poisson": lambda eta, theta: stats.poisson(np.exp(eta)),
    "student_t": lambda eta, theta: stats.t(theta[1], eta, theta[0]),
    "binomial": lambda eta, theta: stats.binom(1, expit(eta)),
}


@pytest.mark.parametrize("name", sorted(Likelihood.registry.keys() & SCIPY))
@pytest.mark.parametrize("scale", [0.7, 3.0, 40.0])
def test_density_mean_and_variance_are_scipys(name, scale):
    likelihood, eta = Likelihood.registry[name](), np.linspace(-3, 3, 13)
    theta = np.full(len(likelihood.hyperparameters()), scale)
    law = SCIPY[name](eta, theta)
    y = np.concatenate([np.arange(40.0), np.linspace(0.02, 0.98, 20)])
    y = y[~likelihood.outcomes.violations(y)][:, None]
    expected = law.logpmf(y) if likelihood.outcomes.integer else law.logpdf(y)
    np.testing.assert_allclose(likelihood.log_density(y, eta, theta), expected, rtol=1e-11, atol=1e-11)
    if scale > 1:
        np.testing.assert_allclose(likelihood.mean(eta, theta), law.mean(), rtol=1e-12)
        np.testing.assert_allclose(likelihood.variance(eta, theta), law.var(), rtol=1e-12)


LIMITS = {
    "negative binomial": (NegativeBinomial(), [1e14], Poisson(), [], stats.poisson(3).rvs),
    "student t": (StudentT(), [0.7, 1e14], Gaussian(), [0.7], stats.norm(1.5, 0.7).rvs),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits(name):
    """Size → ∞ is the Poisson, df → ∞ the Gaussian."""
    wide, theta, narrow, limit, draw = LIMITS[name]
    y, eta = draw(200, random_state=0).astype(float), np.linspace(-2, 2, 200)
    pairs = [(wide.log_density(y, eta, theta), narrow.log_density(y, eta, limit))]
    pairs += list(zip(wide.derivatives(y, eta, theta), narrow.derivatives(y, eta, limit), strict=True))
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


def test_gamma_of_a_large_shape_is_gaussian():
    """√k (log y − η) → N(0, 1), with skewness 2/√k."""
    k, r = 1e12, np.linspace(-3, 3, 31)
    y = np.exp(0.4 + r / np.sqrt(k))
    density = Gamma().log_density(y, np.full_like(y, 0.4), [k]) + np.log(y) - np.log(k) / 2
    np.testing.assert_allclose(density, stats.norm.logpdf(r), atol=1e-4)


def test_gamma_family_keeps_digits():
    x = 10.0 ** np.arange(-6, 12)
    for order, found in enumerate(polygammas(x)):
        np.testing.assert_allclose(found, polygamma(order, x), rtol=1e-13)
    np.testing.assert_allclose(log_rising(1.0, x), 0, atol=3e-15)
    np.testing.assert_allclose(log_rising(2.0, x), np.log1p(1 / x), rtol=1e-13, atol=1e-300)
    np.testing.assert_allclose(stirling(x[-6:]), 1 / (12 * x[-6:]), rtol=1e-10)
    np.testing.assert_allclose(log1pmx(1 / x[7:]), -1 / (2 * x[7:] ** 2), rtol=0.1)


@each
def test_counts_are_looked_up_alike(likelihood):
    """Many rows of few counts go through a table, single rows do not."""
    rng = np.random.default_rng(0)
    eta, theta = rng.standard_normal(50), [h.support.from_unconstrained(0.3) for h in likelihood.hyperparameters()]
    y = likelihood.sample(eta, theta, rng)
    alone = [likelihood.log_density(y[i : i + 1], eta[i : i + 1], theta)[0] for i in range(50)]
    np.testing.assert_allclose(likelihood.log_density(y, eta, theta), alone, rtol=1e-12, atol=1e-14)


@each
def test_starts(likelihood):
    """At the start η the mean is the data's, and θ is of the right order of magnitude."""
    rng, theta = np.random.default_rng(0), [h.support.from_unconstrained(0.5) for h in likelihood.hyperparameters()]
    y = likelihood.sample(np.full(4000, 0.3), theta, rng)
    start = likelihood.start(y), likelihood.start_theta(y)
    np.testing.assert_allclose(start[0], 0.3, atol=0.15)
    np.testing.assert_allclose(np.log(start[1]), np.log(theta), atol=0.5)


def test_links_are_a_choice():
    eta = np.array([-1.0, 0.5])
    for kind in (Bernoulli, Binomial):
        probabilities = {link: kind(link=link).response(eta, []) for link in kind.links}
        np.testing.assert_allclose(probabilities["logit"], expit(eta))
        np.testing.assert_allclose(probabilities["probit"], ndtr(eta))
        np.testing.assert_allclose(probabilities["cloglog"], 1 - np.exp(-np.exp(eta)))
        assert kind().with_link("probit").link == "probit"
    assert Poisson().with_link("log") is not None


def test_a_link_is_chosen_by_fit():
    data = {"y": [0, 1, 1, 0, 1, 1, 0, 1], "x": [0.1, 0.5, 0.4, -1, 1, 2, 0.6, -0.2]}
    at = {link: marglik.fit("y ~ 1", data, family="bernoulli", link=link) for link in Bernoulli.links}
    assert all(fit.model.likelihood == Bernoulli(link) for link, fit in at.items())
    modes = [fit.predict()[0] for fit in at.values()]
    np.testing.assert_allclose(modes, 5 / 8, rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Bernoulli("log"), "Bernoulli has the links 'logit', 'probit' and 'cloglog', not 'log'."),
        (lambda: Binomial(3).with_link("x"), "Binomial has the links 'logit', 'probit' and 'cloglog', not 'x'."),
        (lambda: Poisson().with_link("identity"), "Poisson has the link 'log' only, not 'identity'."),
        (
            lambda: Binomial(2.5),
            "trials must be a whole number from 0, one for all rows or one for each, but it is 2.5.",
        ),
        (
            lambda: Binomial([3, 1, -1]),
            "trials must be a whole number from 0, one for all rows or one for each, but it is -1 in row 2.",
        ),
        (
            lambda: LinearModel(Binomial([3, 4]), Flat(np.ones(3)), np.ones(3)),
            "The likelihood holds numbers of trials for 2 rows, but the response has shape (3,). Build both from the "
            "same rows of the data.",
        ),
    ],
)
def test_refusals(make, sentence):
    with pytest.raises(ValueError) as refused:
        make()
    assert str(refused.value) == sentence


RESPONSES = {
    "bernoulli": ([0, 1, 2], "0 (no) or 1 (yes), but the response is 2 in row 2"),
    "binomial": ([0, 1, 2], "whole numbers from 0 to the row's number of trials, but the response is 2 in row 2"),
    "poisson": ([0, 1.5, 2], "counts: whole numbers from 0, but the response is 1.5 in row 1"),
    "negative_binomial": ([0, 1, -1], "counts: whole numbers from 0, but the response is -1 in row 2"),
    "gamma": ([0, 1, 2], "numbers above 0, but the response is 0 in row 0"),
    "beta": ([0.5, 1, 0.2], "proportions: numbers between 0 and 1, both excluded, but the response is 1 in row 1"),
}


@pytest.mark.parametrize("family", RESPONSES)
def test_impossible_responses_are_named(family):
    y, sentence = RESPONSES[family]
    with pytest.raises(ValueError) as refused:
        marglik.fit(LinearModel(Likelihood.registry[family](), Flat(np.ones(len(y))), np.array(y)))
    assert f"This likelihood needs {sentence}" in str(refused.value)


K = np.array([3.0, 0.0, 9.0, 4.0, 7.0, 2.0])
TRIALS = np.array([5.0, 2.0, 9.0, 6.0, 30.0, 4.0])


def test_trials_differ_from_row_to_row():
    eta = np.linspace(-2, 2, 6)
    whole = Binomial(TRIALS, "probit")
    np.testing.assert_allclose(
        whole.log_density(K, eta, []), stats.binom(TRIALS, ndtr(eta)).logpmf(K), rtol=1e-12, atol=1e-14
    )
    part = slice(1, 4)
    np.testing.assert_array_equal(
        whole.at_rows(part).log_density(K[part], eta[part], []), whole.log_density(K, eta, [])[part]
    )
    down = whole.at_rows(np.s_[:, None]).log_density(K[:, None], eta, [])
    np.testing.assert_allclose(np.diag(down), whole.log_density(K, eta, []), rtol=1e-14)
    assert not whole.outcomes.violations(K).any()
    np.testing.assert_array_equal(whole.outcomes.violations(TRIALS + 1), True)


@pytest.mark.parametrize("link", Binomial.links)
def test_a_binomial_model_is_one_of_single_trials(link, tmp_path):
    """The evidence of k of n successes is that of n trials, times the number of their orders; and it can be saved."""
    x = np.linspace(-1, 1, 6)
    X = np.column_stack([np.ones(6), x])
    together = marglik.fit(LinearModel(Binomial(TRIALS, link), Flat(X), K))
    each = np.repeat(np.arange(6), TRIALS.astype(int))
    y = np.concatenate([np.arange(n) < k for k, n in zip(K, TRIALS, strict=True)]).astype(float)
    single = marglik.fit(LinearModel(Bernoulli(link), Flat(X[each]), y))
    orders = float(np.sum(Binomial(TRIALS).log_base(K)))
    np.testing.assert_allclose(together.log_evidence, single.log_evidence + orders, rtol=1e-10)
    np.testing.assert_allclose(together.predict(), single.predict()[np.cumsum(TRIALS).astype(int) - 1], rtol=1e-8)
    together.save(tmp_path / "fit")
    assert marglik.load(tmp_path / "fit").log_evidence == together.log_evidence


class Logistic(Likelihood):
    """As a user writes one: outcomes, density, a hyperparameter."""

    outcomes = Outcomes("finite numbers")

    def hyperparameters(self):
        return (Hyperparameter("scale"),)

    def log_density(self, y, eta, theta):
        r = np.abs(y - eta) / theta[0]
        return -r - 2 * np.log1p(np.exp(-r)) - np.log(theta[0])


class Weibull(Likelihood):
    outcomes = Gamma.outcomes

    def hyperparameters(self):
        return (Hyperparameter("shape"),)

    def log_density(self, y, eta, theta):
        log_z = theta[0] * (np.log(y) - eta)
        return np.log(theta[0]) + log_z - np.log(y) - np.exp(log_z)


class Truncated(Likelihood):
    outcomes = Outcomes("counts from 1", integer=True, lower=1)

    def log_density(self, y, eta, theta):
        return Poisson().log_density(y, eta, theta) - np.log(-np.expm1(-np.exp(eta)))


class Kumaraswamy(Likelihood):
    outcomes = Beta.outcomes

    def log_density(self, y, eta, theta):
        a = 1 + np.exp(eta)
        return np.log(2 * a) + (a - 1) * np.log(y) + np.log1p(-(y**a))


for kind in (Logistic, Weibull, Truncated, Kumaraswamy):
    del Likelihood.registry[kind.__name__.lower()]


@pytest.mark.parametrize("kind", [Logistic, Weibull, Truncated, Kumaraswamy])
def test_a_density_suffices(kind):
    check_likelihood(kind())


@pytest.mark.parametrize("method", ["mean", "variance", "response", "expected_information", "sample", "deviance"])
def test_what_a_density_does_not_say(method):
    arguments = {"sample": (np.random.default_rng(0),)}.get(method, ())
    if method == "deviance":
        arguments = ([2.0],)
    with pytest.raises(Unsupported, match=r"Logistic does not say how to compute .*\. Give the class a method \w+\("):
        getattr(Logistic(), method)(np.zeros(2), [2.0], *arguments)


def test_registry_has_snake_case_names():
    assert Likelihood.registry["gaussian"] is Gaussian
    assert Likelihood.registry["negative_binomial"] is NegativeBinomial
    assert Likelihood.registry["student_t"] is StudentT


def _unsupported(*arguments):
    raise Unsupported("…")


def _changed(likelihood, **changes):
    """A likelihood with parts of it replaced, and its own class left as it is."""
    names = [n for n in dir(likelihood) if not n.startswith("_")]
    if "log_density" in changes:
        rest = {"log_kernel": changes["log_density"], "log_base": lambda y: 0.0, "deviance": _unsupported}
        changes = rest | changes
    return SimpleNamespace(**{n: getattr(likelihood, n) for n in names} | changes)


P, G, T = Poisson(), Gaussian(), StudentT()
FAULTS = {
    "not normalised": (
        _changed(P, log_density=lambda y, eta, theta: P.log_density(y, eta, theta) + 1e-6),
        "the sum of the density is not one",
    ),
    "not normalised, continuous": (
        _changed(G, log_density=lambda y, eta, theta: G.log_density(y, eta, theta) + 1e-6),
        "the integral of the density is not one",
    ),
    "mean": (
        _changed(P, mean=lambda eta, theta: np.exp(eta) * (1 + 1e-5), expected_information=_unsupported),
        "mean is not that of the density",
    ),
    "variance": (
        _changed(P, variance=lambda eta, theta: np.exp(eta) * (1 + 1e-5)),
        "variance is not that of the density",
    ),
    "first derivative": (
        _changed(P, derivatives=lambda y, eta, theta: (y - np.exp(eta) + 1e-5, -np.exp(eta), -np.exp(eta))),
        r"differ from differences: found .* at \(0, ",
    ),
    "third derivative": (
        _changed(P, derivatives=lambda y, eta, theta: (y - np.exp(eta), -np.exp(eta), np.exp(eta))),
        r"differ from differences: found .* at \(2, ",
    ),
    "derivative in theta": (
        _changed(
            G,
            theta_derivatives=lambda y, eta, theta: [
                (a, b, c * (1 + 1e-5)) for a, b, c in G.theta_derivatives(y, eta, theta)
            ],
        ),
        r"theta_derivatives in 'sd\(noise\)'",
    ),
    "average": (
        _changed(P, averaged=lambda y, eta, v, theta: P.averaged(y, eta, v * 1.001, theta)),
        r"entry 0 of averaged and averaged_theta is not the mean over η",
    ),
    "average of a derivative in theta": (
        _changed(
            G,
            averaged_theta=lambda y, eta, v, theta: [
                (a, b, c * (1 + 1e-5)) for a, b, c in G.averaged_theta(y, eta, v, theta)
            ],
        ),
        r"entry 6 of averaged and averaged_theta is not the mean over η",
    ),
    "number of derivatives in theta": (
        _changed(G, theta_derivatives=lambda y, eta, theta: []),
        "theta_derivatives must be three arrays for each of 1",
    ),
    "expected information": (
        _changed(T, expected_information=lambda eta, theta: T.expected_information(eta, theta) * 1.001),
        "expected_information is not the average of the second derivative",
    ),
    "observed for expected information": (
        _changed(T, expected_information=lambda eta, theta: -T.derivatives(eta + 9, eta, theta)[1]),
        "expected_information is .*, which is not positive",
    ),
    "deviance": (
        _changed(P, deviance=lambda y, eta, theta: P.deviance(y, eta, theta) + 1e-4),
        "deviance is not twice the distance",
    ),
    "slope": (
        _changed(P, slope=lambda y, eta, theta: P.slope(y, eta, theta) * (1 + 1e-9)),
        "slope is not the first derivative",
    ),
    "base": (_changed(P, log_base=lambda y: 0.0 * y), "log_kernel and log_base do not add up"),
    "draws": (
        _changed(G, sample=lambda eta, theta, rng: G.sample(eta, theta, rng) * 1.05),
        "do not follow the density|standard errors",
    ),
    "draws of the right mean and variance": (
        _changed(G, sample=lambda eta, theta, rng: eta + theta[0] * rng.choice([-1, 1], np.shape(eta))),
        "do not follow the density",
    ),
    "impossible draws": (
        _changed(P, sample=lambda eta, theta, rng: P.sample(eta, theta, rng) + 0.5),
        "a draw is no possible outcome",
    ),
    "not concave": (
        _changed(
            P,
            log_density=lambda y, eta, theta: T.log_density(y, eta, [1.0, 2.0]),
            derivatives=lambda y, eta, theta: T.derivatives(y, eta, [1.0, 2.0]),
            slope=lambda y, eta, theta: T.slope(y, eta, [1.0, 2.0]),
        ),
        "declared concave, but the second derivative is",
    ),
    "not gaussian": (_changed(P, gaussian=True), "declared gaussian, but the curvature"),
    "outcomes": (
        _changed(P, outcomes=SimpleNamespace(**vars(P.outcomes), violations=lambda y: ~np.isfinite(y) | (y < 0))),
        "outcomes accepts y = 0.5",
    ),
    "ends": (
        _changed(Gamma(), outcomes=SimpleNamespace(**vars(Gamma().outcomes), violations=lambda y: ~(y >= 0))),
        "outcomes accepts y = inf",
    ),
    "start": (_changed(P, start=lambda y: float(np.log(np.mean(y)) if np.any(y) else -np.inf)), "start gives η"),
    "start of theta": (_changed(G, start_theta=lambda y: (0.0,)), r"start_theta gives 0 for 'sd\(noise\)'"),
    "two names alike": (
        _changed(G, hyperparameters=lambda: (Hyperparameter("a"), Hyperparameter("a"))),
        "two hyperparameters have the same name",
    ),
    "shape": (
        _changed(P, log_density=lambda y, eta, theta: P.log_density(y, eta, theta).sum()),
        "log_density must have the shape of y",
    ),
    "broadcasting": (
        _changed(
            P, log_density=lambda y, eta, theta: P.log_density(y, eta, theta).max(axis=tuple(range(1, np.ndim(y))))
        ),
        "log_density must broadcast y and η",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_contract_sees_faults(fault):
    likelihood, sentence = FAULTS[fault]
    with np.errstate(divide="ignore"), pytest.raises(AssertionError, match=sentence):
        check_likelihood(likelihood)
