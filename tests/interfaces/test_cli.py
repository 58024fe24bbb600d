# SPDX-License-Identifier: BSD-3-Clause
import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import marglik
from marglik.evidence import EvidenceMethod
from marglik.interfaces import cli
from marglik.likelihoods import Likelihood

SLEEP = str(Path(__file__).parents[2] / "examples" / "sleepstudy.csv")
FORMULA = "Reaction ~ Days + (1 | Subject)"


def run(*args):
    return CliRunner().invoke(cli.main, [str(a) for a in args])


def process(*args, **more):
    command = [sys.executable, "-W", "error", "-m", "marglik.interfaces.cli", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **more)


@pytest.fixture(scope="module")
def fit():
    return marglik.fit(FORMULA, SLEEP)


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """Counts with a weight, a hole and a constant column."""
    rng = np.random.default_rng(3)
    g = np.arange(60) % 6
    frame = pd.DataFrame({"g": g, "x": rng.standard_normal(60), "t": rng.uniform(1, 3, 60), "w": rng.uniform(1, 2, 60)})
    frame["n"] = rng.poisson(frame["t"] * np.exp(0.3 * frame["x"] + 0.4 * (g - 2.5)))
    frame["hole"] = frame["x"].where(frame.index != 4)
    path = tmp_path_factory.mktemp("data") / "counts.csv"
    frame.to_csv(path, index=False)
    return str(path)


def test_the_summary_is_printed(fit):
    done = run("fit", SLEEP, FORMULA)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == fit.summary() + "\n"


def test_a_process_of_its_own_prints_the_same(fit):
    done = process("fit", SLEEP, FORMULA)
    assert (done.returncode, done.stdout, done.stderr) == (0, fit.summary() + "\n", "")


def test_json_holds_the_numbers_of_the_fit(fit):
    done = process("fit", SLEEP, FORMULA, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert list(found) == ["log_evidence", "method", "converged", "hyperparameters", "fixed_effects", "edf", "check"]
    assert found["log_evidence"] == pytest.approx(fit.log_evidence, rel=1e-14)
    assert (found["method"], found["converged"]) == ("exact", True)
    for name in ("hyperparameters", "fixed_effects"):
        pd.testing.assert_frame_equal(
            pd.DataFrame.from_dict(found[name], "index"), getattr(fit, name).rename_axis(None), rtol=1e-12
        )
    assert found["edf"] == pytest.approx(fit.edf.to_dict(), rel=1e-12)
    assert found["check"]["verdict"] == fit.check().verdict
    assert found["check"]["boundary"] == {}


def test_reml_and_ml_are_those_of_lme4():
    """-2 log evidence: REMLcrit and deviance of lmer for the random intercept model."""
    for more, expected in (((), 1786.465), (("--ml",), 1794.079)):
        found = json.loads(run("fit", SLEEP, FORMULA, "--json", *more).stdout)
        assert -2 * found["log_evidence"] == pytest.approx(expected, abs=6e-4)


def test_what_is_not_a_number_is_null(counts):
    done = run("fit", counts, "x ~ 1 + (1 | g)", "--fixed", "sd(noise)=1.5", "--fixed", "sd(Intercept | g)=0", "--json")
    found = json.loads(done.stdout)["hyperparameters"]
    assert found["sd(noise)"] == {"estimate": 1.5, "se": None, "lower": 1.5, "upper": 1.5, "at_boundary": False}


def test_every_option_reaches_the_fit(counts):
    done = run(
        *("fit", counts, "n ~ hole + offset(log(t)) + (1 | g)", "--family", "poisson", "--link", "log"),
        *("--method", "laplace", "--ml", "--weights", "w", "--missing", "drop", "--fixed", "sd(Intercept | g) = 0.6"),
        "--json",
    )
    expected = marglik.fit(
        "n ~ hole + offset(log(t)) + (1 | g)",
        counts,
        family="poisson",
        reml=False,
        weights="w",
        missing="drop",
        fixed={"sd(Intercept | g)": 0.6},
    )
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["log_evidence"] == expected.log_evidence
    assert found["fixed_effects"]["hole"]["estimate"] == expected.fixed_effects.loc["hole", "estimate"]
    assert found["method"] == "laplace"


def test_families_and_methods_are_those_of_the_registries():
    text = " ".join(run("fit", "--help").stdout.split())
    assert f"--family [{'|'.join(sorted(Likelihood.registry))}]" in text
    assert f"--method [auto|{'|'.join(sorted(EvidenceMethod.registry))}]" in text


def test_save_and_predict(fit, tmp_path):
    path = tmp_path / "sleep.marglik"
    done = run("fit", SLEEP, FORMULA, "--save", path)
    assert done.stdout == f"{fit.summary()}\nFit saved to {path}\n"
    new = pd.DataFrame({"Days": [0, 5, 20], "Subject": [308, 337, 1]})
    new.to_csv(tmp_path / "new.csv", index=False)
    done = run("predict", path, tmp_path / "new.csv")
    assert (done.exit_code, done.stderr) == (0, "")
    found = pd.read_csv(StringIO(done.stdout))
    assert found["mean"].tolist() == fit.predict(new).tolist()

    out = tmp_path / "out.csv"
    done = run("predict", path, tmp_path / "new.csv", "--interval", 0.8, "--include", "fixed effects", "--out", out)
    assert done.stdout == f"3 predictions written to {out}\n"
    expected = fit.predict(new, interval=0.8, include=["fixed effects"])
    pd.testing.assert_frame_equal(pd.read_csv(out), expected, check_exact=True)


def test_predictions_on_either_scale_and_on_average(counts, tmp_path):
    path = tmp_path / "n.marglik"
    assert run("fit", counts, "n ~ x + (1 | g)", "--family", "poisson", "--save", path).exit_code == 0
    fit = marglik.fit("n ~ x + (1 | g)", counts, family="poisson")
    for args, more in (
        ((), {}),
        (("--scale", "link"), {"scale": "link"}),
        (("--average",), {"average": True}),
        (("--include", "(1 | g)", "--include", "fixed effects"), {}),
    ):
        done = run("predict", path, counts, *args)
        assert pd.read_csv(StringIO(done.stdout))["mean"].tolist() == fit.predict(counts, **more).tolist()


def test_unseen_levels_on_request(fit, tmp_path):
    fit.save(tmp_path / "fit")
    pd.DataFrame({"Days": [1], "Subject": [7]}).to_csv(tmp_path / "new.csv", index=False)
    done = run("predict", tmp_path / "fit", tmp_path / "new.csv", "--new-levels", "raise")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        "marglik: 'Subject' has levels that were not in the fit: 7. Use new_levels='population' to predict them with "
        "an effect of zero.\n"
    )


def test_check(fit, tmp_path):
    fit.save(tmp_path / "fit")
    done = run("check", tmp_path / "fit")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{fit.check().verdict}\nLargest slope ")
    told = run("check", tmp_path / "fit", "--simulations", 20).stdout
    assert "Scores of 20 simulated data sets" in told
    found = json.loads(run("check", tmp_path / "fit", "--json").stdout)
    assert found["curvature"] == fit.check().curvature


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_picture_is_written_and_said_to_be(kind, fit, tmp_path):
    path = tmp_path / f"sleep.{kind}"
    done = run("fit", SLEEP, FORMULA, "--plot", path)
    assert done.stdout == f"{fit.summary()}\nPicture written to {path}\n"
    fit.plot(tmp_path / f"same.{kind}")
    assert path.read_bytes() == (tmp_path / f"same.{kind}").read_bytes()
    done = run("fit", SLEEP, FORMULA, "--plot", path, "--json")
    assert json.loads(done.stdout)["converged"]
    assert done.stderr == f"Picture written to {path}\n"


def test_the_tour_draws_where_it_is_told(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("marglik.report.tour.tour", told.append)
    assert run("tour").exit_code == 0
    assert run("tour", "--out", tmp_path).exit_code == 0
    assert told == [None, str(tmp_path)]


BAD = {
    "no formula": (("fit", SLEEP), "Missing argument 'FORMULA'; see 'marglik fit --help'."),
    "an unknown command": (("fti",), "No such command 'fti'"),
    "an unknown option": (("fit", SLEEP, FORMULA, "--bogus"), "No such option '--bogus'"),
    "a family": (
        ("fit", SLEEP, FORMULA, "--family", "poison"),
        "Invalid value for '--family': there is no family 'poison'. Did you mean 'poisson'? There are ",
    ),
    "a method": (
        ("fit", SLEEP, FORMULA, "--method", "laplce"),
        "Invalid value for '--method': there is no method 'laplce'. Did you mean 'laplace'? There are auto, annealed, ",
    ),
    "an assignment": (
        ("fit", SLEEP, FORMULA, "--fixed", "sd(noise)"),
        "Invalid value for '--fixed': 'sd(noise)' is not of the form NAME=NUMBER, such as 'sd(noise)=1'; see ",
    ),
    "an assignment of text": (
        ("fit", SLEEP, FORMULA, "--fixed", "sd(noise)=big"),
        "Invalid value for '--fixed': 'sd(noise)=big' is not of the form NAME=NUMBER, such as 'sd(noise)=1'; see ",
    ),
    "a hyperparameter": (
        ("fit", SLEEP, FORMULA, "--fixed", "sd(noize)=1"),
        "No hyperparameter is called 'sd(noize)'. Did you mean 'sd(noise)'",
    ),
    "a file": (("fit", "nope.csv", FORMULA), "There is no file 'nope.csv'."),
    "a column": (
        ("fit", SLEEP, "Reaction ~ Day"),
        "The formula uses 'Day', but the data have no such column. Did you mean 'Days'? The columns are Reaction, "
        "Days, Subject.",
    ),
    "a formula": (("fit", SLEEP, "Reaction"), "A formula has one ~ between response and terms"),
    "an impossible response": (("fit", SLEEP, FORMULA, "--family", "poisson"), "This likelihood needs counts"),
    "an unsuited method": (
        ("fit", SLEEP, "Days ~ 1", "--family", "poisson", "--method", "exact"),
        "method='exact' needs a Gaussian likelihood",
    ),
    "a folder for the fit": (
        ("fit", SLEEP, FORMULA, "--save", "/no/such/fit"),
        "There is no folder '/no/such' to write 'fit' in. Make it first.",
    ),
    "a folder for the picture": (
        ("fit", SLEEP, FORMULA, "--plot", "/no/such/fit.png"),
        "There is no folder '/no/such' to write 'fit.png' in. Make it first.",
    ),
    "an ending": (
        ("fit", SLEEP, FORMULA, "--plot", "fit.gif"),
        "Pictures end in .svg, .png, .pdf, but the path is 'fit.gif'. Give it one of these.",
    ),
    "a saved fit that is not there": (("predict", "nope", SLEEP), "There is no file 'nope'. Check the path."),
    "a saved fit that is none": (
        ("check", SLEEP),
        f"{SLEEP!r} is not a fit that marglik saved. Give a file that fit.save(path) wrote.",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_with_one_sentence(name):
    args, sentence = BAD[name]
    done = run(*args)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"marglik: {sentence}")
    assert done.stderr.endswith(".\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args", [("fit", "nope.csv", FORMULA), ("fit", SLEEP), ("fit", SLEEP, "Reaction ~ log(Subjects)")]
)
def test_bad_input_to_a_process_leaves_no_traceback(args):
    done = process(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_an_unreadable_file_is_a_sentence(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "data.csv")

    monkeypatch.setattr("marglik.interfaces.data._read_file", refuse)
    done = run("fit", "data.csv", FORMULA)
    assert (done.exit_code, done.stderr) == (2, "marglik: 'data.csv': Permission denied.\n")


@pytest.mark.parametrize(
    "defect", [RuntimeError("boom"), ValueError("operands could not be broadcast"), np.linalg.LinAlgError("Singular.")]
)
def test_a_defect_keeps_its_traceback(defect, monkeypatch):
    def fail(self):
        raise defect

    monkeypatch.setattr("marglik.fitted.Fit.summary", fail)
    assert run("fit", SLEEP, FORMULA).exception is defect


UNBALANCED = "Reaction ~ Days + (1 | Subject) + ridge(I(Days**2), I(Days**3))"  # more than one step from its start


def test_an_unconverged_fit_is_printed_and_has_its_own_status(monkeypatch):
    monkeypatch.setattr("marglik.learn.MAX_STEPS", 1)
    for more in ((), ("--json",)):
        done = run("fit", SLEEP, UNBALANCED, *more)
        assert done.exit_code == 3
        assert done.stderr == (
            "marglik: Learning did not converge in one step, so do not trust these numbers; rescale columns of very "
            "different size, or leave terms out.\n"
        )
    found = json.loads(done.stdout)
    assert (found["converged"], found["check"]["converged"]) == (False, False)


def test_other_warnings_to_people_are_a_line_each(monkeypatch):
    import warnings

    build = marglik.interfaces.formula.build

    def warn(*args, **more):
        warnings.warn("The column\nis odd.", UserWarning, stacklevel=2)
        warnings.warn("internal", RuntimeWarning, stacklevel=2)
        return build(*args, **more)

    monkeypatch.setattr("marglik.interfaces.formula.build", warn)
    done = run("fit", SLEEP, FORMULA)
    assert (done.exit_code, done.stderr) == (0, "marglik: The column is odd.\n")


@pytest.mark.parametrize("args", [("fit", SLEEP, FORMULA), ("fit", SLEEP, FORMULA, "--json"), ("fit", "--help")])
def test_a_broken_pipe_is_quiet(args):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "marglik.interfaces.cli", *args]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_output_survives_a_terminal_without_these_characters(fit):
    done = process("fit", SLEEP, FORMULA, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == fit.summary().encode("latin-1", "replace").decode() + "\n"


def test_help_without_arguments():
    done = run()
    assert done.exit_code == 0
    assert done.stdout == run("--help").stdout
    for command in ("fit", "predict", "check", "tour"):
        assert f"\n  {command} " in done.stdout
        assert run(command, "-h").exit_code == 0


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "marglik", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"marglik {marglik.__version__}\n")


def test_version():
    assert run("--version").stdout == f"marglik {marglik.__version__}\n"


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['marglik', '--help']\n"
        "from marglik.interfaces.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'pandas', 'scipy', 'rich', 'matplotlib', 'formulae', 'jax'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "[]\n"


def test_the_entry_point_is_this_one():
    from importlib.metadata import entry_points

    (entry,) = [e for e in entry_points(group="console_scripts") if e.name == "marglik"]
    assert entry.load() is cli.main
