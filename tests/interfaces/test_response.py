# SPDX-License-Identifier: BSD-3-Clause
"""Left of the tilde: successes and failures, yes and no in words; weights and links outside the Gaussian."""

import numpy as np
import pandas as pd
import pytest

import marglik
from marglik import Flat, LinearModel, RandomEffects
from marglik.likelihoods import Bernoulli, Binomial, Likelihood, Poisson

RNG = np.random.default_rng(2)
N = 60
G = np.repeat(list("abcdef"), 10)
B = np.repeat(RNG.normal(0, 0.6, 6), 10)
DATA = pd.DataFrame({"x": RNG.standard_normal(N), "g": G, "n": RNG.integers(1, 12, N), "w": RNG.integers(1, 4, N)})
DATA["s"] = RNG.binomial(DATA["n"], 1 / (1 + np.exp(-(0.3 + 0.5 * DATA["x"] + B))))
DATA["f"] = DATA["n"] - DATA["s"]
DATA["yes"] = DATA["s"] > DATA["n"] / 2
DATA["word"] = np.where(DATA["yes"], "no", "yes")  # sorted, "yes" is 1
DATA["ordered"] = pd.Categorical(DATA["word"], ["yes", "no"])  # "no" is 1


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("link", [None, "probit", "cloglog"])
@pytest.mark.parametrize("left", ["cbind(s, f)", "cbind(s, n - s)", "cbind(n - f, f)"])
def test_successes_and_failures(left, link, reml):
    fit = marglik.fit(f"{left} ~ x + (1 | g)", DATA, family="binomial", link=link, reml=reml)
    likelihood = Binomial(trials=DATA["n"].to_numpy(float), link=link or "logit")
    prior = Flat(np.column_stack([np.ones(N), DATA["x"]]), ["Intercept", "x"])
    prior = prior + RandomEffects(np.repeat(np.arange(6), 10), list("abcdef"), group="g")
    alone = marglik.fit(LinearModel(likelihood, prior, DATA["s"].to_numpy(float), reml=reml))
    np.testing.assert_allclose(fit.log_evidence, alone.log_evidence, rtol=1e-10)
    np.testing.assert_allclose(fit.fixed_effects, alone.fixed_effects, rtol=1e-6)
    p = fit.predict(DATA.head(3)[["x", "g"]])
    np.testing.assert_allclose(p, fit.predict()[:3], rtol=1e-10)
    assert ((p > 0) & (p < 1)).all()


def test_counts_of_successes_are_rows_of_yes_and_no():
    """The log evidences differ by the number of ways to order successes, Σ log (n choose s)."""
    rows = DATA.loc[DATA.index.repeat(DATA["n"])].reset_index(drop=True)
    rank = rows.groupby(DATA.index.repeat(DATA["n"])).cumcount()
    rows["y"] = (rank < rows["s"]).astype(int)
    many = marglik.fit("cbind(s, f) ~ x + (1 | g)", DATA, family="binomial")
    each = marglik.fit("y ~ x + (1 | g)", rows, family="bernoulli")
    ways = Binomial(trials=DATA["n"].to_numpy(float)).log_base(DATA["s"].to_numpy(float)).sum()
    np.testing.assert_allclose(many.log_evidence, each.log_evidence + ways, rtol=1e-8)
    np.testing.assert_allclose(many.hyperparameters["estimate"], each.hyperparameters["estimate"], rtol=1e-5)


def test_missing_values_and_saving(tmp_path):
    holes = DATA.astype({"s": float})
    holes.loc[4, "s"] = np.nan
    fit = marglik.fit("cbind(s, n - s) ~ x + (1 | g)", holes, family="binomial", missing="drop")
    alone = marglik.fit("cbind(s, n - s) ~ x + (1 | g)", DATA.drop(index=4), family="binomial")
    np.testing.assert_allclose(fit.log_evidence, alone.log_evidence, rtol=1e-12)
    fit.save(tmp_path / "fit")
    again = marglik.load(tmp_path / "fit")
    np.testing.assert_allclose(again.log_evidence, fit.log_evidence, rtol=1e-12)
    np.testing.assert_allclose(again.predict(DATA), fit.predict(DATA), rtol=1e-12)
    assert fit.simulate(3).shape == (3, N - 1)


@pytest.mark.parametrize(("column", "one"), [("yes", True), ("word", "yes"), ("ordered", "no")])
def test_yes_and_no(column, one, tmp_path):
    """Of two levels the second is 1, as in R."""
    fit = marglik.fit(f"{column} ~ x + (1 | g)", DATA, family="bernoulli")
    expected = marglik.fit("y ~ x + (1 | g)", DATA.assign(y=(DATA[column] == one).astype(int)), family="bernoulli")
    assert fit.log_evidence == expected.log_evidence
    pd.testing.assert_frame_equal(fit.fixed_effects, expected.fixed_effects)
    said = f"{column} is 1 where it is {one!r}"
    assert (said in " ".join(fit.summary().split())) == (column != "yes")
    fit.save(tmp_path / "fit")
    assert marglik.load(tmp_path / "fit").log_evidence == pytest.approx(fit.log_evidence, rel=1e-12)


@pytest.mark.parametrize("family", [name for name, kind in Likelihood.registry.items() if not kind.gaussian])
def test_weights_multiply_log_densities(family):
    """Whole weights are rows that stand there so often."""
    data = DATA.assign(
        y={"beta": (DATA["s"] + 0.5) / (DATA["n"] + 1), "gamma": DATA["s"] + 0.5}.get(family, DATA["yes"])
    )
    left = "cbind(s, f)" if family == "binomial" else "y"
    more = {"fixed": {"scale": 0.5, "df": 4.0}} if family == "student_t" else {}
    weighted = marglik.fit(f"{left} ~ x + (1 | g)", data, family=family, weights="w", **more)
    repeated = marglik.fit(f"{left} ~ x + (1 | g)", data.loc[data.index.repeat(data["w"])], family=family, **more)
    np.testing.assert_allclose(weighted.log_evidence, repeated.log_evidence, rtol=1e-8)
    np.testing.assert_allclose(
        weighted.fixed_effects["estimate"], repeated.fixed_effects["estimate"], rtol=1e-4, atol=1e-7
    )


def test_where_a_family_becomes_another_at_its_limit():
    """Counts that vary less than a Poisson's, tails lighter than a Gaussian's: the limit is an answer, no warning."""
    rng = np.random.default_rng(0)
    data = DATA.assign(k=rng.binomial(6, 1 / (1 + np.exp(-0.4 * DATA["x"] - B))), t=np.tanh(rng.normal(size=N)) + B)
    for left, family, name, peer, words in [
        ("k", "negative_binomial", "size", "poisson", "family='poisson' suffices"),
        ("t", "student_t", "df", "gaussian", "family='gaussian' suffices"),
    ]:
        fit = marglik.fit(f"{left} ~ x + (1 | g)", data, family=family)
        table = fit.hyperparameters
        assert table.loc[name, "estimate"] == np.inf
        assert table.loc[name, "at_boundary"]
        assert np.isnan(table.loc[name, "se"])
        assert fit.converged
        assert words in str(fit.check())
        assert words in " ".join(fit.summary().split())
        limit = marglik.fit(f"{left} ~ x + (1 | g)", data, family=peer)
        np.testing.assert_allclose(fit.log_evidence, limit.log_evidence, atol=1e-7)
        for column in ("estimate", "se", "lower", "upper"):
            mine, other = (f.hyperparameters.loc["sd(Intercept | g)", column] for f in (fit, limit))
            np.testing.assert_allclose(mine, other, rtol=1e-4)


def test_family_is_a_name_or_a_likelihood():
    by_name = marglik.fit("s ~ x + (1 | g)", DATA, family="poisson")
    assert marglik.fit("s ~ x + (1 | g)", DATA, family=Poisson()).log_evidence == by_name.log_evidence
    by_link = marglik.fit("yes ~ x", DATA, family="bernoulli", link="cloglog")
    assert marglik.fit("yes ~ x", DATA, family=Bernoulli("cloglog")).log_evidence == by_link.log_evidence
