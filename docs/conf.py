# SPDX-License-Identifier: BSD-3-Clause
"""How the documentation is built: pages are executed, tables come from the registries."""

import inspect
import os
import re
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version as version_of

import marglik
from marglik.evidence import EvidenceMethod
from marglik.likelihoods import Likelihood
from marglik.priors import Term

project = "marglik"
author = copyright = "The marglik developers"
version = release = version_of("marglik")

extensions = ["myst_nb", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["_build", "jupyter_execute", ".jupyter_cache"]
default_role = "py:obj"

html_theme = "furo"
html_title = f"marglik {version}"
html_static_path = ["_static"]
html_show_sourcelink = False

# Every page with code cells is run from the start at every build; an error or a warning in a cell fails the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_output_stderr = "warn"
os.environ["PYTHONWARNINGS"] = "default,ignore:IProgress not found"  # tqdm in a kernel without widgets
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")

myst_enable_extensions = ["colon_fence", "substitution"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def first_sentence(thing: type) -> str:
    """Of its docstring."""
    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".")


def formula(thing: type) -> str:
    """The first indented paragraph of its docstring, where the model is written out."""
    paragraphs = (inspect.getdoc(thing) or "").split("\n\n")
    found = next((p for p in paragraphs if p.startswith("    ")), "")
    return " ".join(found.split())


def code(names: Iterable[str]) -> str:
    """Names as code, side by side."""
    return ", ".join(f"`{name}`" for name in names) or "–"


def yes(fact: object) -> str:
    """A fact in a table."""
    return "yes" if fact else "no"


def likelihoods() -> str:
    """What `family=` takes."""
    instances = {name: kind() for name, kind in sorted(Likelihood.registry.items())}
    return table(
        ["`family=`", "response", "model", "`link=`", "own hyperparameters", "log-concave", "evidence in closed form"],
        (
            [
                f"`{name}`",
                likelihood.outcomes.words,
                formula(type(likelihood)),
                code(likelihood.links or (likelihood.link,)),
                code(h.name for h in likelihood.hyperparameters()),
                yes(likelihood.concave),
                yes(likelihood.gaussian),
            ]
            for name, likelihood in instances.items()
        ),
    )


def priors() -> str:
    """What a model's prior is made of."""
    return table(
        ["term", "prior", "weights"],
        (
            [
                f"`{kind.__name__}`",
                first_sentence(kind),
                "flat" if kind.flat else "one block a level" if kind.grouped else "one a column",
            ]
            for _, kind in sorted(Term.registry.items())
        ),
    )


def methods() -> str:
    """What `method=` takes."""
    return table(
        ["`method=`", "what it does", "the integral itself", "a lower bound"],
        (
            [f"`{name}`", first_sentence(kind), yes(kind.exact), yes(kind.bound)]
            for name, kind in sorted(EvidenceMethod.registry.items())
        ),
    )


myst_substitutions = {
    "likelihoods": likelihoods(),
    "priors": priors(),
    "methods": methods(),
    "public_names": table(
        ["name", "what"],
        ([f"`marglik.{name}`", first_sentence(getattr(marglik, name))] for name in marglik.__all__),
    ),
}


def set_formulas(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Make literal blocks of the indented formulas before the first section; elsewhere |w| is a length."""
    end = next((i for i, line in enumerate(lines) if re.fullmatch(r"\s*-{3,}\s*", line)), len(lines) + 1) - 1
    out: list[str] = []
    for i, line in enumerate(lines[:end]):
        opens = line.startswith(" ") and i > 0 and not lines[i - 1].strip()
        before = next((previous for previous in reversed(lines[:i]) if previous.strip()), "")
        if opens and before and not before.startswith(" "):
            out += ["::", ""]
        out.append(line if line.startswith(" ") else re.sub(r"\|(\w+)\|", r"\\|\1\\|", line))
    lines[:end] = out


def setup(app):
    """Run before numpydoc, which listens at priority 500."""
    app.connect("autodoc-process-docstring", set_formulas, priority=400)
