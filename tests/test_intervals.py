# SPDX-License-Identifier: BSD-3-Clause
"""`Fit.confint`: every end lies where the best density of y, by SciPy over the dense covariance, has dropped enough."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from scipy.stats import chi2, norm

import marglik
from marglik.likelihoods import Gaussian, Poisson
from marglik.model import LinearModel
from marglik.priors import Flat, Prior, Ridge
from mixed_problems import FLAT, ONE, PAIR, RIDGE, TRIPLE, G, H, N, X, effects
from truth import Truth


@dataclass(frozen=True, eq=False)
class Profile:
    """Best densities with some standard deviations and correlations given.

    A standard deviation is |x|; a correlation matrix has rows of a triangular root in spherical coordinates: zeros and
    ±1 are ordinary points.
    """

    model: LinearModel

    def __call__(self, given, n=3):
        truth, names = Truth(self.model), self.model.hyperparameters.reported
        sds = [name for name in names if name[0] == "s" and name not in given]
        correlated = [t for t in self.model.prior if t.grouped and t.correlated and len(t.coefficients) > 1]
        angles = [self._free(t, given) for t in correlated]

        def short(x):
            values = dict(given) | dict(zip(sds, np.abs(x[: len(sds)]), strict=True))
            position = len(sds)
            for term, k in zip(correlated, angles, strict=True):
                values |= self._correlations(term, given, x[position : position + k])
                position += k
            return -truth.at_values(values).value

        rng = np.random.default_rng(0)
        starts = [np.append(rng.uniform(0.2, 1.5, len(sds)), rng.uniform(0.3, 2.8, sum(angles))) for _ in range(n)]
        return -min(minimize(short, x, method="BFGS", options={"gtol": 1e-6}).fun for x in starts)

    @staticmethod
    def _held(term, given):
        return [name for name in term.reported_names if name[0] == "c" and name in given]

    def _free(self, term, given):
        m = len(term.coefficients)
        return m * (m - 1) // 2 - len(self._held(term, given))

    def _correlations(self, term, given, angles):
        m, held = len(term.coefficients), self._held(term, given)
        pairs = list(zip(*np.triu_indices(m, 1), strict=True))
        names = term.reported_names[m:]
        first = [i for name in held for i in pairs[names.index(name)]]
        order = [*first, *(i for i in range(m) if i not in first)]
        angles = np.append([np.arccos(given[name]) for name in held], angles)
        L = np.zeros((m, m))
        for i in range(m):
            a, angles = angles[:i], angles[i:]
            L[i, : i + 1] = np.append(np.cos(a), 1) * np.append(1, np.cumprod(np.sin(a)))
        R = (L @ L.T)[np.ix_(np.argsort(order), np.argsort(order))]
        return {name: R[pair] for name, pair in zip(names, pairs, strict=True)} | {name: given[name] for name in held}


def without(model, column, value):
    """The ML model with one fixed effect given."""
    flat = next(t for t in model.prior if t.flat)
    keep = np.arange(flat.n_weights) != column
    rest = [Flat(flat.columns[:, keep], np.array(flat.names)[keep])] if keep.any() else []
    prior = Prior([*(t for t in model.prior if not t.flat), *rest])
    offset = value * flat.columns[:, column] + (0 if model.rows.offset is None else model.rows.offset)
    return replace(model, prior=prior, rows=replace(model.rows, offset=offset), reml=False)


def response(prior, seed, noise=0.7):
    """y with weights of size one."""
    rng = np.random.default_rng(seed)
    return sum(t.design @ rng.standard_normal(t.design.shape[1]) if not t.grouped else drawn(t, rng) for t in prior) + (
        noise * rng.standard_normal(N)
    )


def drawn(term, rng):
    return np.sum(term.columns * rng.standard_normal((len(term.levels), term.columns.shape[1]))[term.codes], axis=1)


AB = 2 * G + np.arange(N) % 2
MODELS = {
    "intercept": (FLAT + effects(G, "g"), 0),
    "intercept and slope": (FLAT + effects(G, "g", **PAIR), 3),
    "three correlated": (FLAT + effects(G, "g", **TRIPLE), 4),
    "crossed": (FLAT + effects(G, "g") + effects(H, "h"), 1),
    "nested": (FLAT + effects(G, "a") + effects(AB, "a:b"), 1),
    "ridge": (FLAT + effects(G, "g") + RIDGE, 2),
    "ridge beside a pair": (FLAT + effects(G, "g", **PAIR) + RIDGE, 2),
    "no fixed effects": (effects(G, "g") + effects(H, "h"), 0),
    "one fixed effect": (Flat(ONE, ["Intercept"]) + effects(G, "g"), 0),
}


def fitted(name, reml=True, y=None):
    prior, seed = MODELS[name]
    return marglik.fit(LinearModel(Gaussian(), prior, response(prior, seed) if y is None else y, reml))


def check_ends(fit, level, names=None, atol=1e-5):
    """The drop at each end is what it should be; at an end of the support it is no more."""
    table = fit.hyperparameters if names is None else fit.hyperparameters.loc[names]
    found = fit.confint("profile", level, list(table.index))
    best = Profile(fit.model)
    np.testing.assert_allclose(fit.log_evidence, best({}), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["estimate"], table["estimate"], rtol=1e-12)
    for name in table.index:
        boundary = table.loc[name, "at_boundary"]
        target = chi2.ppf(2 * level - 1 if boundary else level, 1) / 2
        low, estimate, high = found.loc[name, ["lower", "estimate", "upper"]]
        ends = (-1, 1) if name[0] == "c" else (0, np.inf)
        assert low <= estimate <= high
        for end in (low, high):
            if np.isinf(end):
                continue
            drop = fit.log_evidence - best({name: end})
            if end in ends:
                assert drop <= target + atol, (name, end, drop)
            else:
                np.testing.assert_allclose(drop, target, rtol=0, atol=atol, err_msg=f"{name} at {end}")


@pytest.mark.parametrize(
    ("name", "level", "reml", "some"),
    [
        ("intercept", 0.5, True, None),
        ("intercept", 0.99, False, None),
        ("intercept and slope", 0.95, True, None),
        ("intercept and slope", 0.9, False, None),
        ("three correlated", 0.9, True, ("cor(x, z | g)",)),
        ("crossed", 0.95, True, None),
        ("crossed", 0.99, False, None),
        ("nested", 0.95, True, None),
        ("ridge", 0.95, False, None),
        ("ridge beside a pair", 0.9, True, ("sd(weights)", "sd(x | g)")),
        ("no fixed effects", 0.95, True, None),
    ],
)
def test_profiles_of_hyperparameters(name, level, reml, some):
    check_ends(fitted(name, reml), level, some and list(some))


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_profiles_where_the_covariance_is_zero(level):
    """Zero is stationary: the noise's profile must still find the covariance that takes over at a smaller noise."""
    fit = fitted("intercept and slope", y=np.random.default_rng(101).standard_normal(N))
    table = fit.hyperparameters
    assert (table["estimate"][["sd(Intercept | g)", "sd(x | g)"]] == 0).all()
    names = ["sd(noise)"] if level < 0.9 else ["sd(Intercept | g)", "sd(x | g)", "sd(noise)"]
    check_ends(fit, level, names)
    assert fit.confint("profile", level, "cor(Intercept, x | g)").isna().all(axis=None)


@pytest.mark.parametrize("method", ["wald", "profile"])
@pytest.mark.parametrize("level", [0.3, 0.5])
def test_a_boundary_is_all_of_a_narrow_interval(method, level):
    """The likelihood ratio there is zero half of the time."""
    fit = fitted("intercept and slope", y=np.random.default_rng(101).standard_normal(N))
    names = ["sd(Intercept | g)", "sd(x | g)"]
    assert (fit.confint(method, level, names) == 0).all(axis=None)
    wider = fit.confint(method, 0.5001, names)["upper"]
    assert (wider < 0.05).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_tight_correlation_near_one(sign):
    """Both ends lie inside, beyond 0.9."""
    rng = np.random.default_rng(1)
    b = rng.standard_normal((200, 2)) @ np.array([[1, 0.98 * sign], [0, 0.199]])
    g, x = np.arange(1200) % 200, rng.standard_normal(1200)
    data = {"y": b[g, 0] + b[g, 1] * x + 0.1 * rng.standard_normal(1200), "x": x, "g": g}
    fit, name = marglik.fit("y ~ x + (x | g)", data), "cor(Intercept, x | g)"
    estimate, *ends = fit.confint("profile", names=name).loc[name]
    assert 0.9 < min(np.abs(ends)) < abs(estimate) < max(np.abs(ends)) < 1
    np.testing.assert_allclose(ends, fit.confint(names=name).loc[name, ["lower", "upper"]], atol=1e-4)
    for end in ends:
        held = marglik.fit("y ~ x + (x | g)", data, fixed={name: end})
        np.testing.assert_allclose(fit.log_evidence - held.log_evidence, chi2.ppf(0.95, 1) / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["intercept and slope", "crossed", "ridge", "one fixed effect"])
def test_profiles_of_fixed_effects(name):
    """Under ML, for a REML fit too."""
    fit, ml = fitted(name), fitted(name, reml=False)
    names = list(fit.fixed_effects.index)
    found = fit.confint("profile", 0.9, names)
    np.testing.assert_allclose(found["estimate"], fit.fixed_effects["estimate"], rtol=1e-12)
    theirs = ml.confint("profile", 0.9, names)
    np.testing.assert_allclose(found[["lower", "upper"]], theirs[["lower", "upper"]], rtol=1e-6)
    for i, effect in enumerate(names):
        for end in found.loc[effect, ["lower", "upper"]]:
            drop = ml.log_evidence - Profile(without(fit.model, i, end))({})
            np.testing.assert_allclose(drop, chi2.ppf(0.9, 1) / 2, rtol=0, atol=1e-5, err_msg=f"{effect} at {end}")


@pytest.mark.parametrize("unit", [1e-3, 1e3, 1e6])
def test_profiles_of_fixed_effects_have_the_units_of_the_response(unit):
    rng = np.random.default_rng(3)
    g = np.arange(60) % 12
    data = {"y": 3 + rng.standard_normal(12)[g] + rng.standard_normal(60), "x": rng.standard_normal(60), "g": g}
    expected = marglik.fit("y ~ x + (1 | g)", data).confint("profile")
    found = marglik.fit("y ~ x + (1 | g)", {**data, "y": unit * data["y"]}).confint("profile")
    np.testing.assert_allclose(found, unit * expected, rtol=1e-6)


SLEEP = {  # lme4's confint of the ML fit
    "sd(Intercept | Subject)": (14.38140, 37.715996),
    "cor(Intercept, Days | Subject)": (-0.4815007, 0.6849863),
    "sd(Days | Subject)": (3.801177, 8.753383),
    "sd(noise)": (22.89826, 28.85800),
    "(Intercept)": (237.6807, 265.1295),
    "Days": (7.358653, 13.575919),
}


def test_published_profiles_of_sleep(case):
    data = case("lmm_sleepstudy").data
    formula = "Reaction ~ Days + (Days | Subject)"
    names = [name.strip("()") if name[0] == "(" else name for name in SLEEP]
    found = marglik.fit(formula, data, reml=False).confint("profile", names=names)
    assert found.index.tolist() == names
    np.testing.assert_allclose(found[["lower", "upper"]], list(SLEEP.values()), rtol=2e-4)
    restricted = marglik.fit(formula, data).confint("profile", names=names[-2:])
    np.testing.assert_allclose(restricted, found.loc[names[-2:]], rtol=1e-6)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_wald_intervals(level):
    """By the log of standard deviations and artanh of correlations; as they are for fixed effects."""
    fit, z = fitted("intercept and slope"), norm.ppf((1 + level) / 2)
    table, found = fit.hyperparameters, fit.confint(level=level)
    assert not table["at_boundary"].any()
    for name, (estimate, se) in table[["estimate", "se"]].iterrows():
        to, back, slope = (np.arctanh, np.tanh, 1 - estimate**2) if name[0] == "c" else (np.log, np.exp, estimate)
        ends = [back(to(estimate) + sign * z * se / slope) for sign in (-1, 1)]
        np.testing.assert_allclose(found.loc[name], [estimate, *ends], rtol=1e-9)
    for name, (estimate, se) in fit.fixed_effects[["estimate", "se"]].iterrows():
        np.testing.assert_allclose(found.loc[name], [estimate, estimate - z * se, estimate + z * se], rtol=1e-9)


@pytest.mark.parametrize("method", ["wald", "profile"])
def test_what_is_held_has_no_interval(method):
    prior, seed = MODELS["intercept and slope"]
    model = LinearModel(Gaussian(), prior, response(prior, seed))
    held = {"cor(Intercept, x | g)": 0.3, "sd(x | g)": 0.8}
    found = marglik.fit(model, fixed=held).confint(method, names=["sd(noise)", *held])
    np.testing.assert_allclose(found.loc[list(held)], np.tile(list(held.values()), (3, 1)).T, rtol=1e-12)
    low, estimate, high = found.loc["sd(noise)", ["lower", "estimate", "upper"]]
    assert low < estimate < high


def test_profiles_with_something_held():
    prior, seed = MODELS["crossed"]
    fit = marglik.fit(LinearModel(Gaussian(), prior, response(prior, seed)), fixed={"sd(Intercept | h)": 0.4})
    best = Profile(fit.model)
    for end in fit.confint("profile", names="sd(noise)").loc["sd(noise)", ["lower", "upper"]]:
        drop = fit.log_evidence - best({"sd(noise)": end, "sd(Intercept | h)": 0.4})
        np.testing.assert_allclose(drop, chi2.ppf(0.95, 1) / 2, rtol=0, atol=1e-5)


def test_one_name_or_several():
    fit = fitted("intercept")
    everything = fit.confint()
    assert everything.index.tolist() == ["sd(Intercept | g)", "sd(noise)", "Intercept", "x"]
    assert fit.confint(names="x").equals(everything.loc[["x"]])
    assert fit.confint(names=["x", "sd(noise)"]).equals(everything.loc[["x", "sd(noise)"]])
    assert fit.confint(names=[]).empty


def poisson():
    y = np.random.default_rng(0).poisson(2, N)
    return marglik.fit(LinearModel(Poisson(), FLAT + effects(G, "g"), y))


def two_targets():
    rng = np.random.default_rng(0)
    return marglik.fit(LinearModel(Gaussian(), Prior((Ridge(X),)), rng.standard_normal((N, 2))))


SENTENCES = {
    "method": (lambda: fitted("intercept").confint("boot"), r"^method must be 'wald' or 'profile', not 'boot'\.$"),
    "level": (
        lambda: fitted("intercept").confint(level=95),
        r"^level must be a probability between 0 and 1, such as 0\.95, not 95\.$",
    ),
    "name": (
        lambda: fitted("intercept").confint(names=["x", "sd(nose)"]),
        r"no 'sd\(nose\)'\. Did you mean 'sd\(noise\)'\? It has 'sd\(Intercept \| g\)', 'sd\(noise\)', 'Intercept'",
    ),
    "several targets": (lambda: two_targets().confint(), r"^confint is for one target at a time"),
    "no likelihood of fixed effects": (
        lambda: poisson().confint("profile", names="x"),
        r"^Profiles of fixed effects are for Gaussian models so far\. Use confint\('wald'\)",
    ),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_sentences(name):
    call, words = SENTENCES[name]
    with pytest.raises(ValueError, match=words):
        call()


def test_profiles_of_a_program_keep_to_the_supports_of_its_sites():
    """A negative mean, and a standard deviation in an interval that ends before the profile does."""
    numpyro = pytest.importorskip("numpyro")
    y = np.array([-3.0, -5.0, -4.2, -2.8])

    def program(y):
        mean = numpyro.sample("mean", numpyro.distributions.Normal(0, 10))
        sd = numpyro.sample("sd", numpyro.distributions.Uniform(0.5, 1.5))
        numpyro.sample("y", numpyro.distributions.Normal(mean, sd), obs=y)

    found = marglik.fit(program, args=(y,), hyper=["mean", "sd"]).confint(method="profile")
    top, target = norm.logpdf(y, y.mean(), y.std()).sum(), chi2.ppf(0.95, 1) / 2

    def excess(mean, sd=None):
        best = np.clip(np.sqrt(np.mean((y - mean) ** 2)), 0.5, 1.5) if sd is None else sd
        return top - norm.logpdf(y, mean, best).sum() - target

    half = brentq(lambda t: excess(y.mean() + t), 0, 5)
    np.testing.assert_allclose(found.loc["mean", ["lower", "upper"]], y.mean() + np.array([-half, half]), rtol=1e-4)
    low = brentq(lambda sd: excess(y.mean(), sd), 0.5, y.std())
    assert excess(y.mean(), 1.5) < 0
    np.testing.assert_allclose(found.loc["sd", ["lower", "upper"]], [low, 1.5], rtol=1e-4)
