# SPDX-License-Identifier: BSD-3-Clause
"""Published mixed models with their gold-standard answers, each number at its own tolerance."""

import numpy as np
import pytest

import marglik
from truth import Truth, reported_covariance

CASES = {
    "lmm_sleepstudy": {
        "formulas": ["Reaction ~ Days + (Days | Subject)", "Reaction ~ 1 + Days + (1 + Days | Subject)"],
        "groups": {"Subject": "Subject"},
        "names": ["sd(Intercept | Subject)", "sd(Days | Subject)", "cor(Intercept, Days | Subject)", "sd(noise)"],
        "labels": ["(1 + Days | Subject)"],
    },
    "lmm_pastes": {
        "formulas": [
            "strength ~ 1 + (1 | batch/cask)",
            "strength ~ 1 + (1 | batch) + (1 | batch:cask)",
            "strength ~ (1 | sample) + (1 | batch)",
        ],
        "groups": {"batch": "batch", "sample": "batch:cask"},
        "names": ["sd(Intercept | batch)", "sd(Intercept | batch:cask)", "sd(noise)"],
        "labels": ["(1 | batch)", "(1 | batch:cask)"],
    },
    "lmm_machines": {
        "formulas": [
            "score ~ Machine + (1 | Worker) + (1 | Worker:Machine)",
            "score ~ Machine + (1 | Worker/Machine)",
            "score ~ C(Machine) + (1 | WM) + (1 | Worker)",
        ],
        "groups": {"Worker": "Worker", "WM": "Worker:Machine"},
        "names": ["sd(Intercept | Worker)", "sd(Intercept | Worker:Machine)", "sd(noise)"],
        "labels": ["(1 | Worker)", "(1 | Worker:Machine)"],
    },
}
EVERY = [(name, formula) for name, c in CASES.items() for formula in c["formulas"]]
FIRST = [(name, c["formulas"][0]) for name, c in CASES.items()]
CRITERIA = ["REML", "ML"]


def data(case):
    """Level codes that are whole numbers as such."""
    whole = [c for c in ("Subject", "Worker") if c in case.data]
    return case.data.astype(dict.fromkeys(whole, int))


def grouping(fitted):
    """Grouping factor → its term."""
    return {term.group: term for term in fitted.model.prior if term.grouped}


def covariances(fitted):
    """Grouping factor → L Lᵀ."""
    estimate = fitted.hyperparameters["estimate"]
    return {g: reported_covariance(term, estimate) for g, term in grouping(fitted).items()}


def own_name(name, groups, terms):
    """What the fit calls the reference's grouping factor, if two formulas call it differently."""
    return groups[name] if groups[name] in terms else name


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize(("name", "formula"), EVERY)
def test_every_number(case, name, formula, criterion):
    reference, groups = case(name), CASES[name]["groups"]
    fitted = marglik.fit(formula, data(reference), reml=criterion == "REML")
    assert fitted.converged
    assert fitted.method == "exact"
    terms, S = grouping(fitted), covariances(fitted)
    table, sigma = fitted.hyperparameters, fitted.hyperparameters.loc["sd(noise)", "estimate"]
    assert not table["at_boundary"].any()
    assert (table["se"] > 0).all()
    reference.check(f"{criterion}_criterion_minus2loglik", -2 * fitted.log_evidence)
    reference.check(f"{criterion}_sigma", sigma)
    for theirs in groups:
        own = own_name(theirs, groups, terms)
        sds = [table.loc[f"sd({c} | {own})", "estimate"] for c in terms[own].coefficients]
        reference.check(f"{criterion}_random_effect_sd", sds, lambda v, g=theirs: v[g])
        reference.check(f"{criterion}_random_effect_cov", S[own], lambda v, g=theirs: v[g])
        first = list(reference.value(f"{criterion}_blup_first_levels")[theirs])
        effects = fitted.random_effects(own)
        levels = [int(level) if effects.index.dtype.kind == "i" else level for level in first]
        blups = effects.loc[levels].to_numpy()
        reference.check(f"{criterion}_blup_first_levels", blups, lambda v, g=theirs, x=first: [v[g][i] for i in x])
    factors = [np.linalg.cholesky(S[own_name(g, groups, terms)]) / sigma for g in groups]
    entries = np.concatenate([L.T[np.triu_indices(len(L))] for L in factors])
    reference.check(f"{criterion}_theta_relative_cholesky", entries)
    for column, part in (("estimate", "fixef"), ("se", "fixef_se")):
        found = fitted.fixed_effects[column].to_numpy()
        reference.check(f"{criterion}_{part}", found, lambda v: list(v.values()))


@pytest.mark.parametrize(("name", "formula"), FIRST)
def test_names(case, name, formula):
    fitted = marglik.fit(formula, data(case(name)))
    expected = CASES[name]
    assert fitted.hyperparameters.index.tolist() == expected["names"]
    assert [term.label for term in fitted.model.prior if not term.flat] == expected["labels"]
    assert fitted.edf.index.tolist() == ["fixed effects", *expected["labels"]]
    assert fitted.occam.index.tolist() == ["fit", "fixed effects", *expected["labels"], "overlap"]
    for term in fitted.model.prior:
        if term.grouped:
            effects = fitted.random_effects(term.group)
            assert effects.shape == (len(term.levels), len(term.coefficients))
            assert effects.index.name == term.group
            assert effects.columns.tolist() == list(term.coefficients)


def test_names_of_levels(case):
    pastes = marglik.fit("strength ~ 1 + (1 | batch/cask)", data(case("lmm_pastes")))
    assert pastes.random_effects("batch").index.tolist() == list("ABCDEFGHIJ")
    assert pastes.random_effects("batch:cask").index.tolist()[:4] == ["A:a", "A:b", "A:c", "B:a"]
    machines = marglik.fit("score ~ Machine + (1 | Worker/Machine)", data(case("lmm_machines")))
    assert machines.random_effects("Worker").index.tolist() == [1, 2, 3, 4, 5, 6]
    assert sorted(machines.random_effects("Worker:Machine").index)[:3] == ["1:A", "1:B", "1:C"]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", CASES)
def test_density_at_the_published_values(case, name, criterion):
    """The density of y with its covariance written out has the criterion there, and no slope."""
    reference, setting = case(name), CASES[name]
    fitted = marglik.fit(setting["formulas"][0], data(reference), reml=criterion == "REML")
    S = reference.value(f"{criterion}_random_effect_cov")
    values = {"sd(noise)": reference.value(f"{criterion}_sigma")}
    for theirs, own in setting["groups"].items():
        names, C = grouping(fitted)[own].coefficients, np.array(S[theirs])
        sd = np.sqrt(C.diagonal())
        values |= {f"sd({c} | {own})": s for c, s in zip(names, sd, strict=True)}
        if len(names) == 2:
            values[f"cor({names[0]}, {names[1]} | {own})"] = C[0, 1] / (sd[0] * sd[1])
    density = Truth(fitted.model).at_values(values)
    reference.check(f"{criterion}_criterion_minus2loglik", -2 * density.value)
    reference.check(f"{criterion}_criterion_minus2loglik", -2 * fitted.log_evidence_at(values))
    for term, L in zip(grouping(fitted).values(), density.factors, strict=False):
        np.testing.assert_allclose(L.T @ density.slopes[term.label] @ L, 0, atol=1e-6)
    np.testing.assert_allclose(values["sd(noise)"] * density.gradient[-1], 0, atol=1e-6)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", CASES)
def test_log_evidence_at_given_values(case, name, criterion):
    """Anywhere, correlations of ±1 and scales of zero included; what is not named stays at its estimate."""
    setting = CASES[name]
    fitted = marglik.fit(setting["formulas"][0], data(case(name)), reml=criterion == "REML")
    estimate, truth = fitted.hyperparameters["estimate"], Truth(fitted.model)
    trials = [{}, {"sd(noise)": 2 * estimate["sd(noise)"]}]
    for key in estimate.index:
        trials += [{key: value} for value in ((-1, -0.8, 0, 0.9, 1) if key[0] == "c" else (0.4 * estimate[key],))]
        trials += [{key: 0.0}] if key != "sd(noise)" else []
    for given in trials:
        expected = truth.at_values({**estimate, **given}).value
        np.testing.assert_allclose(fitted.log_evidence_at(given), expected, rtol=1e-9, err_msg=str(given))


def test_independent_effects_of_sleep(case):
    """`||` is two terms on one factor, or the correlated model at a correlation of zero."""
    frame = data(case("lmm_sleepstudy"))
    fits = [
        marglik.fit(f"Reaction ~ Days + {terms}", frame)
        for terms in ("(Days || Subject)", "(1 | Subject) + (0 + Days | Subject)")
    ]
    for fitted in fits:
        assert fitted.hyperparameters.index.tolist() == ["sd(Intercept | Subject)", "sd(Days | Subject)", "sd(noise)"]
        density = Truth(fitted.model).at_values(fitted.hyperparameters["estimate"])
        np.testing.assert_allclose(fitted.log_evidence, density.value, rtol=1e-10)
    tables = [fitted.hyperparameters.astype(float) for fitted in fits]
    np.testing.assert_allclose(*tables, rtol=1e-6)
    held = {"cor(Intercept, Days | Subject)": 0.0}
    correlated = marglik.fit("Reaction ~ Days + (Days | Subject)", frame, fixed=held)
    np.testing.assert_allclose(correlated.log_evidence, fits[0].log_evidence, rtol=1e-10)
    free = marglik.fit("Reaction ~ Days + (Days | Subject)", frame)
    assert free.log_evidence > fits[0].log_evidence
    np.testing.assert_allclose(
        free.log_evidence_at({**fits[0].hyperparameters["estimate"], **held}), fits[0].log_evidence, rtol=1e-10
    )
