# SPDX-License-Identifier: BSD-3-Clause
"""The tree is the equation: which module may use which, and what importing marglik must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import marglik

SOURCE = Path(marglik.__file__).parent
TESTS = Path(__file__).parent

LAYERS = [  # a module imports from layers before its own alone
    {"supports"},
    {
        "",
        "gaussian",
        "posterior",
        "callers",
        "gaussian.bases",
        "hyperparameters",
        "lags",
        "linalg",
        "pareto",
        "pieces",
        "pools",
        "progress",
        "roots",
        "rows",
        "secants",
        "textbook",
        "validate",
    }
    | {"likelihoods.averages", "likelihoods.numerical", "likelihoods.special"},
    {
        "columns",
        "kernels",
        "interfaces",
        "report",
        "scatter",
        "likelihoods.base",
        "likelihoods.links",
        "priors.base",
        "gaussian.spectrum",
        "hyperpriors",
    }
    | {"interfaces.calls", "interfaces.data", "interfaces.factors", "interfaces.groups"},
    {f"likelihoods.{outcomes}" for outcomes in ("binary", "counts", "positive", "proportions", "real")}
    | {
        "interfaces.grammar",
        "interfaces.texts",
        "smooths.base",
        "smooths.sampling",
        "priors.dense",
        "priors.effects",
        "priors.field",
        "priors.process",
        "priors.smooth",
    },
    {"likelihoods", "priors", "smooths.knots"},
    {
        "expansion",
        "gaussian.gram",
        "gaussian.levels",
        "gaussian.components",
        "paths",
        "thin",
        "report.tour",
        "interfaces.designs",
        "interfaces.special",
    }
    | {f"smooths.{basis}" for basis in ("cubic", "factor_smooth", "p_spline", "random_effect", "thin_plate")},
    {"integrand"},
    {"model", "interfaces.families", "interfaces.response", "smooths.smooth", "smooths.tensor"},
    {
        "posterior.base",
        "posterior.prediction",
        "gaussian.projection",
        "simulation",
        "gaussian.solvers",
        "smooths.terms",
    },
    {"evidence.base", "evidence.nodes", "evidence.tempering", "evidence.noiseless", "newrows"}
    | {"posterior.mixed", "posterior.scales", "posterior.wide"},
    {"evidence.held", "evidence.slopes", "posterior.rows"},
    {"evidence.scoring"},
    {
        "evidence.fields",
        "evidence.kernels",
        "evidence.laplace",
        "evidence.mixed",
        "evidence.relevance",
        "evidence.spectral",
        "smooths",
    },
    {"evidence.annealed", "evidence.quadrature", "evidence.scales", "evidence.variational"},
    {"evidence.exact", "evidence.clouds", "evidence.densities", "evidence.draws"},
    {"evidence.groups", "evidence.proposals"},
    {"evidence.importance"},
    {"evidence.simple"},
    {"evidence.auto"},
    {"evidence"},
    {"learn"},
    {"stages"},
    {"profiles"},
    {"uncertainty"},
    {"check.consistency"},
    {"check.approximation"},
    {"check.verdict"},
    {"check.whole"},
    {"check", "effects", "intervals", "tables", "targets", "integration"},
    {"fitted"},
    {"integrated"},
    {"fitting"},
    {"testing.numbers"},
    {"testing.likelihoods", "testing.priors", "testing.evidence"},
    {f"interfaces.numpyro.{part}" for part in ("compiling", "derivatives", "layout")},
    {"interfaces.numpyro.sites"},
    {"interfaces.numpyro.theta"},
    {"interfaces.numpyro.density", "interfaces.numpyro.nuts"},
    {"interfaces.numpyro.members", "interfaces.numpyro.posterior", "interfaces.numpyro.replicates"},
    {"interfaces.numpyro.guides", "interfaces.numpyro.ascent"},
    {"interfaces.numpyro.stochastic"},
    {"interfaces.numpyro.bound"},
    {"interfaces.numpyro.program"},
    {"testing", "interfaces.formula", "interfaces.smooth_terms", "interfaces.numpyro", "interfaces.sklearn"},
    {
        "interfaces.classifier",
        "interfaces.front",
        "interfaces.process",
        "interfaces.process_terms",
        "report.text",
        "saving",
    },
    {"report.sheet"},
    {"report.smooth_plots", "report.field_plots", "report.row_plots", "report.density_plots"},
    {"report.plots"},
    {"interfaces.cli"},
    {"__main__"},
]
DOORS = {  # opened inside a function, when something is asked for that lies further out
    "fitted": {"report.text", "report.plots", "saving", "integrated"},
    "integrated": {"report.text", "report.density_plots"},
    "interfaces.numpyro.nuts": {"report.density_plots"},
}
HEAVY = ["jax", "numpyro", "pandas", "matplotlib", "sklearn", "formulae", "scipy.stats", "narwhals", "rich", "click"]
PROGRAMS_ONLY = {"jax", "jaxlib", "numpyro"}
FILES = sorted(SOURCE.rglob("*.py"))


def _name(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in FILES}
LAYER = {module: i for i, layer in enumerate(LAYERS) for module in layer}


def _imports(path):
    """(module or object, "top" | "function" | "types") for every import statement of a file."""

    def visit(node, where):
        for child in ast.iter_child_nodes(node):
            inner = where
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inner = "types"
            elif where == "top" and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                inner = "function"
            if isinstance(child, ast.Import):
                yield from ((alias.name, where) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path} has a relative import"
                yield from ((f"{child.module}.{alias.name}", where) for alias in child.names)
            yield from visit(child, inner)

    yield from visit(ast.parse(path.read_text()), "top")


def _own(imported):
    """The module of this package that an import statement names, if any."""
    head, _, rest = imported.partition(".")
    if head != "marglik":
        return None
    while rest not in MODULES:
        rest = rest.rpartition(".")[0]
    return rest


def test_every_module_has_its_place():
    missing = sorted(set(MODULES) - set(LAYER))
    assert not missing, f"Say in the table LAYERS where {missing} belong."
    assert sum(map(len, LAYERS)) == len(LAYER), "A module stands in two layers."


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_one_way(module):
    for imported, where in _imports(MODULES[module]):
        own = _own(imported)
        if own is None or where == "types" or (where == "function" and own in DOORS.get(module, ())):
            continue
        assert LAYER[own] < LAYER[module], f"{module} imports {imported}, which is not in a layer before its own."


def test_only_programs_import_jax():
    for module, path in MODULES.items():
        heads = {imported.split(".")[0] for imported, _ in _imports(path)}
        allowed = module.startswith("interfaces.numpyro")
        assert allowed or not heads & PROGRAMS_ONLY, f"{module} imports {heads & PROGRAMS_ONLY}"


def _loaded(code):
    """Which heavy modules a fresh interpreter holds after running the code."""
    report = f"import sys; print(*(m for m in {HEAVY} if m in sys.modules))"
    run = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_importing_marglik_is_light():
    assert _loaded("import marglik") == []


def test_an_exact_fit_of_arrays_needs_neither_pandas_nor_jax():
    code = """
import numpy as np
from marglik import fit
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Ridge
fit(LinearModel(Gaussian(), Ridge(np.eye(3)), np.arange(3.0))).log_evidence
"""
    assert _loaded(code) == []


@pytest.mark.parametrize("name", sorted(marglik.__all__))
def test_public_names_exist(name):
    assert getattr(marglik, name) is not None
    assert name in dir(marglik)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="module 'marglik' has no attribute 'bayes'"):
        _ = marglik.bayes


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(SOURCE)) for p in FILES])
def test_files_are_small_and_say_their_licence(path):
    lines = path.read_text().splitlines()
    assert lines[0] == "# SPDX-License-Identifier: BSD-3-Clause"
    assert len(lines) <= 600


def test_tests_say_their_licence():
    for path in TESTS.rglob("*.py"):
        assert path.read_text().startswith("# SPDX-License-Identifier: BSD-3-Clause\n"), path
