# SPDX-License-Identifier: BSD-3-Clause
"""What the documentation shows is what happens: its code runs, its outputs are as printed, its links lead somewhere."""

import ast
import contextlib
import doctest
import inspect
import io
import re
import shlex
import shutil
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

import marglik
from marglik.interfaces.cli import main

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FRONT = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES = [*FRONT, *sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)]
FENCE = re.compile(r"^(?P<fence>`{3,})(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A fenced block of a page, and the text block that follows it, if one does."""

    page: Path
    line: int
    kind: str
    code: str
    shown: str | None

    @property
    def where(self):
        return f"{self.page.relative_to(ROOT)}, line {self.line}"

    @property
    def needs_numpyro(self):
        return "numpyro" in self.code


def blocks(page):
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    out = []
    for match, after in zip_longest(found, found[1:]):
        kind, code = match["info"].strip(), match["code"]
        if kind == "{code-cell}":
            code = re.sub(r"\A(:\w+:.*\n|---\n(?s:.*?)\n---\n)+", "", code)
        elif kind not in ("python", "console"):
            continue
        shown = None
        if after is not None and after["info"].strip() == "text" and not text[match.end() : after.start()].strip():
            shown = after["code"]
        out.append(Block(page, text.count("\n", 0, match.start()) + 1, kind, code, shown))
    return out


def run_python(block, namespace):
    """Run a block as a notebook would; return what it prints, and its last value if it ends with an expression."""
    filename = f"<{block.where}>"
    tree = ast.parse(block.code, filename)
    last = ast.Expression(tree.body.pop().value) if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, filename, "exec"), namespace)
        value = None if last is None else eval(compile(last, filename, "eval"), namespace)
        if value is not None:
            print(repr(value))
    return printed.getvalue()


def run_console(block):
    """Each command after a dollar sign, with what it prints."""
    for part in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        program, *arguments = shlex.split(command)
        assert program == "marglik", f"{block.where}: console blocks show marglik only; put {program} in an sh block."
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, f"{block.where}: {result.output}"
        yield shown, result.stdout


def assert_shown(block, shown, found):
    same = doctest.OutputChecker().check_output(shown, found, SAME)
    assert same, f"{block.where}: the page shows\n{shown}\nbut the code prints\n{found}"


def run_page(page, monkeypatch, tmp_path, programs=True):
    """The blocks of a page in order, in a copy of the checkout that holds only data."""
    for folder in ("examples", "tests/data"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    here = tmp_path / page.parent.relative_to(ROOT)
    here.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(here)
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        if block.kind == "console":
            for shown, found in run_console(block):
                assert_shown(block, shown, found)
        elif programs or not block.needs_numpyro:
            found = run_python(block, namespace)
            if block.shown is not None:
                assert_shown(block, block.shown, found)


def needs_numpyro(page):
    return page != ROOT / "README.md" and any(b.needs_numpyro for b in blocks(page))


def named(page):
    return str(page.relative_to(ROOT))


WITH_CODE = [page for page in PAGES if blocks(page)]
LONG = [DOCS / "explanation" / "monte-carlo.md"]


def marked(page):
    return pytest.param(page, marks=pytest.mark.slow) if page in LONG else page


@pytest.mark.parametrize("page", [marked(p) for p in WITH_CODE if not needs_numpyro(p)], ids=named)
def test_pages_run_and_print_what_they_show(page, monkeypatch, tmp_path):
    """The README's blocks that need NumPyro are left out here, and run by the next test."""
    run_page(page, monkeypatch, tmp_path, programs=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in WITH_CODE if any(b.needs_numpyro for b in blocks(p))], ids=named)
def test_pages_with_programs_run_and_print_what_they_show(page, monkeypatch, tmp_path):
    pytest.importorskip("numpyro")
    run_page(page, monkeypatch, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    broken = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert not broken


def test_every_module_has_a_line_on_the_design_page():
    text = (DOCS / "explanation" / "design.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "marglik"
    there = {p.relative_to(package).as_posix() for p in package.rglob("*.py") if p.name != "__init__.py"}
    listed = set(re.findall(r"^\| `([\w/]+\.py)` \|", text, re.MULTILINE))
    assert listed == there | {"__init__.py"}


def has_example(thing):
    return ">>>" in (inspect.getdoc(thing) or "")


@pytest.mark.parametrize("name", marglik.__all__)
def test_public_names_have_a_docstring_with_an_example(name):
    """Of a module, at least one public function or class has it."""
    thing = getattr(marglik, name)
    assert inspect.getdoc(thing)
    parts = [
        v
        for k, v in vars(thing).items()
        if not k.startswith("_") and str(getattr(v, "__module__", "")).startswith(thing.__name__)
    ]
    assert any(map(has_example, parts)) if inspect.ismodule(thing) else has_example(thing)
