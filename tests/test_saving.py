# SPDX-License-Identifier: BSD-3-Clause
import dataclasses
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
from scipy.stats import gamma, halfnorm

import marglik
from marglik import Flat, InMemory, LinearModel, RandomEffects, Ridge
from marglik.fitted import Unsupported
from marglik.fitting import fit_model
from marglik.likelihoods import Gaussian, Poisson
from marglik.model import Model
from marglik.saving import BadFile, load, save

N = 48
rng = np.random.default_rng(2)
EFFECT = np.repeat([-1.0, 0.0, 1.5, 0.3], 12)
DATA = pd.DataFrame(
    {
        "y": rng.poisson(np.exp(0.8 + 0.5 * EFFECT)).astype(float),
        "x": rng.standard_normal(N),
        "g": np.repeat(["ä b", "c", "ß", "z"], 12),
        "k": pd.Categorical(rng.choice(["lo", "hi", "mid"], N), ["mid", "lo", "hi", "never"]),
        "q": pd.Categorical(rng.choice([10, 2, 33], N), [33, 2, 10]),
        "n": np.arange(N) % 6,
        "on": rng.random(N) > 0.4,
        "größe m": rng.standard_normal(N),
        "w": rng.uniform(0.5, 2, N),
    }
)
X = rng.standard_normal((N, 5))
Y = rng.standard_normal((N, 3)) + X[:, :1] * [0.0, 1.0, 2.0]
LEVELS = rng.standard_normal((6, 2))[DATA["n"]]
COUNTS = rng.poisson(np.exp(1 + X[:, :3] @ [0.5, -0.4, 0.6] + LEVELS[:, 0] + LEVELS[:, 1] * X[:, 3])).astype(float)
ONES = Flat(np.ones(N), ["Intercept"])


def _arrays(likelihood=None, y=Y[:, 1], prior=None, **more):
    return fit_model(LinearModel(likelihood or Gaussian(), prior or ONES + Ridge(X), InMemory(y, **more)))


FITS = {
    "text": lambda: marglik.fit("y ~ x + (1 | g)", DATA),
    "maximum likelihood": lambda: marglik.fit("y ~ x + (1 | g)", DATA, reml=False),
    "categories": lambda: marglik.fit("y ~ x*k + C(q) + on + (1 | g)", DATA),
    "truth values": lambda: marglik.fit("y ~ x + (1 | on)", DATA),
    "numbers as groups": lambda: marglik.fit("log(y + 1) ~ scale(x) + (1 | n)", DATA),
    "names": lambda: marglik.fit("y ~ `größe m` + offset(log(w)) + (1 | g)", DATA, family="poisson"),
    "poisson": lambda: marglik.fit("y ~ x + (1 | g)", DATA, family="poisson"),
    "poisson, maximum likelihood": lambda: marglik.fit("y ~ x + (1 | g)", DATA, family="poisson", reml=False),
    "a likelihood": lambda: marglik.fit("y ~ x + (1 | g)", DATA, family=Poisson()),
    "weights by name": lambda: marglik.fit("y ~ ridge(x, k)", DATA, weights="w"),
    "weights as numbers": lambda: marglik.fit("y ~ x + (1 | g)", DATA, weights=DATA["w"].to_numpy()),
    "missing": lambda: marglik.fit(
        "y ~ x + (1 | g)", DATA.assign(x=DATA["x"].where(DATA.index != 5)), missing="drop", weights=DATA["w"]
    ),
    "held": lambda: marglik.fit("y ~ x + (1 | g)", DATA, fixed={"sd(noise)": 1.5}),
    "all held": lambda: marglik.fit("y ~ x", DATA, fixed={"sd(noise)": 1.5}),
    "boundary": lambda: marglik.fit("x ~ 1 + (1 | n)", DATA),
    "hyperprior": lambda: marglik.fit(
        "y ~ x + (1 | g)", DATA, hyperprior={"sd(Intercept | g)": halfnorm(scale=0.5), "sd(noise)": gamma(2.0)}
    ),
    "asked for": lambda: marglik.fit("y ~ x + (1 | g)", DATA, method="laplace"),
    "arrays": lambda: _arrays(),
    "arrays, many targets": lambda: _arrays(y=Y),
    "arrays, counts": lambda: _arrays(y=Y[:, 2], counts=rng.integers(1, 4, N), chunk=7),
    "arrays, offset and weights": lambda: _arrays(offset=X[:, 0], weights=DATA["w"].to_numpy()),
    "arrays, single precision": lambda: _arrays(y=Y.astype(np.float32), prior=ONES + Ridge(X.astype(np.float32))),
    "arrays, all terms": lambda: _arrays(
        Poisson(),
        COUNTS,
        RandomEffects(DATA["n"].to_numpy(), list("uvwxyz"), X[:, 3:], ("Intercept", "s"), "g")
        + ONES
        + Ridge(X[:, :2], ["a", "b"], "sd(ab)", "two")
        + Ridge(pd.DataFrame(X[:, 2:3]), label="one"),
    ),
    "estimator": lambda: marglik.RidgeEB().fit(pd.DataFrame(X, columns=list("abcde")), Y[:, 2]).fit_,
}


@pytest.fixture(params=FITS, scope="module")
def pair(request, tmp_path_factory):
    fit = FITS[request.param]()
    path = tmp_path_factory.mktemp("saved") / "fit.marglik"
    fit.save(path)
    return fit, load(path), path


def _frame(x):
    return x if isinstance(x, pd.DataFrame) else pd.DataFrame(x)


@pytest.mark.parametrize("table", ["hyperparameters", "fixed_effects", "edf", "occam"])
def test_tables_are_equal_to_the_last_digit(pair, table):
    fit, again, _ = pair
    pd.testing.assert_frame_equal(_frame(getattr(again, table)), _frame(getattr(fit, table)), check_exact=True)


@pytest.mark.parametrize("attribute", ["log_evidence", "converged", "n_iterations", "trace"])
def test_numbers_are_equal_to_the_last_digit(pair, attribute):
    fit, again, _ = pair
    np.testing.assert_array_equal(getattr(again, attribute), getattr(fit, attribute))


def test_what_the_fit_says_is_equal(pair):
    fit, again, _ = pair
    assert again.check() == fit.check()
    assert again.summary() == fit.summary()
    assert (again.method, again.reason, again.notes, again.reml) == (fit.method, fit.reason, fit.notes, fit.reml)
    assert again.criterion == fit.criterion


def test_predictions_are_equal_to_the_last_digit(pair):
    fit, again, _ = pair
    for more in ({}, {"interval": 0.9}, {"scale": "link"}, {"average": True}):
        one, other = fit.predict(**more), again.predict(**more)
        np.testing.assert_array_equal(np.asarray(other), np.asarray(one))


def test_predictions_for_new_data_are_equal_to_the_last_digit(pair):
    fit, again, _ = pair
    if fit.source is None:
        pytest.skip("of arrays")
    new = DATA.iloc[::-3].drop(columns="y")
    if "log(y" not in fit.source.formula.text and fit.source.formula.response != "x":
        np.testing.assert_array_equal(again.predict(new), fit.predict(new))
    unseen = DATA.iloc[:2].assign(g="new", n=99, on=[True, False])
    np.testing.assert_array_equal(again.predict(unseen, interval=0.95), fit.predict(unseen, interval=0.95))


def test_the_evidence_elsewhere_is_equal_to_the_last_digit(pair):
    fit, again, _ = pair
    for name in fit.hyperparameters.index.get_level_values(-1).unique():
        for value in (0.3, -0.7) if name.startswith("cor(") else (0.3, 1.7):
            np.testing.assert_array_equal(again.log_evidence_at({name: value}), fit.log_evidence_at({name: value}))


def test_random_effects_are_equal_with_their_levels(pair):
    fit, again, _ = pair
    groups = [t.group for t in fit.model.prior if t.grouped]
    for group in groups:
        one, other = fit.random_effects(group), again.random_effects(group)
        pd.testing.assert_frame_equal(other, one, check_exact=True)
        pd.testing.assert_frame_equal(other.attrs["sd"], one.attrs["sd"], check_exact=True)


def test_draws_are_equal(pair):
    fit, again, _ = pair
    one, other = fit.posterior.sample(3, seed=4), again.posterior.sample(3, seed=4)
    for label in one:
        np.testing.assert_array_equal(other[label], one[label])


def test_the_same_fit_gives_the_same_bytes(pair, tmp_path):
    fit, again, path = pair
    save(fit, tmp_path / "once")
    save(again, tmp_path / "twice")
    assert (tmp_path / "once").read_bytes() == path.read_bytes() == (tmp_path / "twice").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["once", "twice"]


def test_nothing_in_the_file_needs_pickle(pair):
    path = pair[2]
    with np.load(path, allow_pickle=False) as file:
        members = [name for name in file.files if name != "marglik.json"]
        assert members
        assert all(file[name].dtype != object for name in members)
    with zipfile.ZipFile(path) as file:
        json.loads(file.read("marglik.json"), parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))


def test_loading_learns_nothing_anew(pair, monkeypatch):
    _, _, path = pair
    monkeypatch.setattr("marglik.learn.maximise", lambda *_: pytest.fail("learnt"))
    load(path)


def test_a_file_keeps_only_the_columns_of_the_formula(tmp_path):
    marglik.fit("y ~ x + (1 | g)", DATA).save(tmp_path / "fit")
    with zipfile.ZipFile(tmp_path / "fit") as file:
        assert json.loads(file.read("marglik.json"))["formula"]["columns"] == ["y", "x", "g"]


def test_a_file_is_replaced_only_once_all_is_written(tmp_path):
    path = tmp_path / "fit"
    marglik.fit("y ~ x", DATA).save(path)
    before = path.read_bytes()
    bad = fit_model(LinearModel(Gaussian(), Ridge(X, label="odd"), Y[:, 0]))
    object.__setattr__(bad.model.prior[0], "column_names", [object()] * 5)
    with pytest.raises(Unsupported, match=r"^The fit holds a object \(term0\.column_names"):
        bad.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["fit"]


@dataclasses.dataclass(frozen=True)
class Program(Model):
    """Stands for code."""

    hyperparameters = ()
    n_weights = 0

    def at(self, weights, theta):
        raise AssertionError

    def start_weights(self):
        raise AssertionError

    def start_theta(self):
        raise AssertionError


def test_programs_cannot_be_saved(tmp_path):
    fit = dataclasses.replace(_arrays(), model=Program())
    with pytest.raises(Unsupported) as refused:
        fit.save(tmp_path / "fit")
    assert str(refused.value) == (
        "A program cannot be saved, because it is code. Save its numbers instead, such as "
        "fit.hyperparameters.to_csv(path), or run it again."
    )
    assert not list(tmp_path.iterdir())


def test_functions_cannot_be_saved(tmp_path):
    fit = marglik.fit("y ~ x + (1 | g)", DATA, hyperprior={"sd(noise)": lambda s: -s})
    with pytest.raises(Unsupported) as refused:
        fit.save(tmp_path / "fit")
    assert str(refused.value) == (
        "The hyperprior of 'sd(noise)' is a function, which cannot be saved. Give it as a distribution of "
        "scipy.stats, such as halfnorm(scale=2)."
    )


def _says(sentence, path):
    with pytest.raises(BadFile) as refused:
        load(path)
    assert str(refused.value) == sentence
    assert isinstance(refused.value, ValueError)


def test_a_file_that_is_not_there(tmp_path):
    _says(f"There is no file '{tmp_path}/fit'. Check the path.", tmp_path / "fit")
    _says(f"There is no file '{tmp_path}'. Check the path.", tmp_path)


@pytest.mark.parametrize("content", [b"", b"y,x\n1,2\n", b"PK\x03\x04 and nothing more"])
def test_a_file_of_something_else(content, tmp_path):
    path = tmp_path / "fit"
    path.write_bytes(content)
    _says(f"'{path}' is not a fit that marglik saved. Give a file that fit.save(path) wrote.", path)


def test_a_zip_of_something_else(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    path = tmp_path / "a.npz"
    _says(f"'{path}' is not a fit that marglik saved. Give a file that fit.save(path) wrote.", path)


def _changed(path, change, drop=()):
    """The file with its page changed and some members dropped."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    page = json.loads(members["marglik.json"])
    change(page)
    members["marglik.json"] = json.dumps(page).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            if name not in drop:
                file.writestr(name, content)


def test_a_file_of_a_newer_format(tmp_path):
    path = tmp_path / "fit"
    marglik.fit("y ~ x", DATA).save(path)
    _changed(path, lambda page: page.update(format=2, version="9.1"))
    _says(
        f"'{path}' was written by marglik 9.1 in format 2, but this is marglik {marglik.__version__}, which reads "
        "formats up to 1. Upgrade: pip install --upgrade marglik.",
        path,
    )


def test_a_file_of_a_likelihood_that_is_not_there(tmp_path):
    path = tmp_path / "fit"
    marglik.fit("y ~ x", DATA).save(path)
    _changed(path, lambda page: page["likelihood"].update({"is": "likelihood:mine"}))
    _says("The file needs the likelihood 'mine', which is not there. Import the module that defines it first.", path)


@pytest.mark.parametrize("address", ["os:system", "marglik.saving:load", "marglik.learn:maximise"])
def test_a_file_cannot_name_anything_but_parts_of_a_fit(address, tmp_path):
    path = tmp_path / "fit"
    marglik.fit("y ~ x", DATA).save(path)
    _changed(path, lambda page: page["likelihood"].update({"is": address}))
    _says(f"The file names {address!r}, which is no part of a fit. It may be damaged.", path)


def test_a_file_that_lacks_an_array(tmp_path):
    path = tmp_path / "fit"
    marglik.fit("y ~ x", DATA).save(path)
    _changed(path, lambda page: None, drop=["data.column1.values.npy"])
    with pytest.raises(BadFile, match=rf"^'{path}' is damaged: KeyError, .*column1.*\. Save the fit again\.$"):
        load(path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(BadFile) as refused:
        _arrays().save(tmp_path / "no" / "fit")
    assert str(refused.value) == f"There is no folder '{tmp_path}/no' to save in. Make it first."
    with pytest.raises(BadFile) as refused:
        _arrays().save(tmp_path)
    assert str(refused.value) == f"'{tmp_path}' is a folder. Name a file in it."
