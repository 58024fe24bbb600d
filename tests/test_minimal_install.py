# SPDX-License-Identifier: BSD-3-Clause
"""Without the extras all that is core works, and what needs an extra says which."""

import subprocess
import sys

import numpy as np

import marglik
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, Ridge

EXTRAS = ("jax", "jaxlib", "numpyro", "matplotlib", "pyarrow")


def without_extras(code):
    """Run code in an interpreter that has no extras, whatever is installed."""
    absent = f"import sys\nfor name in {EXTRAS}:\n    sys.modules[name] = None\n"
    return subprocess.run([sys.executable, "-W", "error", "-c", absent + code], capture_output=True, text=True)


def sentence(code):
    """The one-line message of the ImportError that the code raises."""
    run = without_extras(f"try:\n    {code}\nexcept ImportError as error:\n    print(error)")
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_formula_fit():
    """A balanced one-way layout, whose estimates have a closed form: σ² = MSW, s² = (MSB − MSW)/3."""
    code = """
import marglik
data = {"y": [1.0, 2, 3, 5, 6, 7, 12, 13, 14], "g": list("aaabbbccc")}
fit = marglik.fit("y ~ 1 + (1 | g)", data)
print(*fit.hyperparameters["estimate"] ** 2, *fit.fixed_effects["estimate"])
"""
    run = without_extras(code)
    assert run.returncode == 0, run.stderr
    between, within = 3 * np.var([2, 6, 13], ddof=1), 1.0
    np.testing.assert_allclose([float(x) for x in run.stdout.split()], [(between - within) / 3, within, 7], rtol=1e-8)


def test_exact_fit_of_arrays():
    code = """
import numpy as np
from marglik import fit
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, Ridge
x = np.linspace(-1, 1, 9)
print(repr(fit(LinearModel(Gaussian(), Flat(np.ones(9)) + Ridge(x), 2 * x + x**2)).log_evidence))
"""
    run = without_extras(code)
    assert run.returncode == 0, run.stderr
    x = np.linspace(-1, 1, 9)
    here = marglik.fit(LinearModel(Gaussian(), Flat(np.ones(9)) + Ridge(x), 2 * x + x**2))
    assert float(run.stdout.strip().removeprefix("np.float64(").removesuffix(")")) == here.log_evidence


def test_poisson_fit_by_laplace():
    code = """
import marglik
data = {"y": [3, 5, 4, 9, 12, 10, 2, 1, 2], "g": list("aaabbbccc")}
fit = marglik.fit("y ~ 1 + (1 | g)", data, family="poisson", reml=False)
print(fit.converged, fit.method)
"""
    run = without_extras(code)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["True", "laplace"]


def test_programs_ask_for_their_extra():
    expected = "NumPyro programs need NumPyro and JAX"
    found = sentence("import marglik; marglik.fit(lambda x: None, args=(1,), hyper=['tau'])")
    assert found.startswith(expected)
    assert "pip install 'marglik[numpyro]'" in found


def test_pictures_ask_for_their_extra():
    code = "import marglik; marglik.fit('y ~ 1', {'y': [1.0, 2.0, 4.0]}).plot()"
    found = sentence(code)
    assert "need matplotlib" in found
    assert "pip install 'marglik[plot]'" in found


def test_parquet_asks_for_its_extra(tmp_path):
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1")
    run = without_extras(
        f"import marglik\ntry:\n    marglik.fit('y ~ 1', {str(path)!r})\nexcept ValueError as error:\n    print(error)"
    )
    assert run.returncode == 0, run.stderr
    assert "needs pyarrow: pip install 'marglik[parquet]'" in run.stdout


def test_every_module_but_that_of_programs_is_core():
    code = """
import importlib, pkgutil, marglik
for module in pkgutil.walk_packages(marglik.__path__, "marglik.", onerror=lambda name: None):
    if not module.name.startswith("marglik.interfaces.numpyro"):
        importlib.import_module(module.name)
"""
    run = without_extras(code)
    assert run.returncode == 0, run.stderr
