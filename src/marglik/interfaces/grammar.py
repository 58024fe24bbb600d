# SPDX-License-Identifier: BSD-3-Clause
"""The text of a formula taken apart: ``"y ~ x + (1 + x | a/b) + ridge(u, v)"``.

Only top-level terms are split here, and what stands inside ``(… | …)``, ``ridge()`` and ``ard()``. What a parametric
term such as ``log(x):g`` means is for `marglik.interfaces.designs`; what stands inside calls such as ``s(x, k=20)``,
for `marglik.interfaces.calls`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from marglik.interfaces.calls import NAME, BadFormula, Call, call

PRODUCTS = re.compile(rf"(?:[01]|{NAME})(?:\s*[+:*]\s*(?:[01]|{NAME}))*")
PENALISED = ("ridge", "ard")
SPELT_OTHERWISE = {
    "factor": "C(k)",
    "as.factor": "C(k)",
    "ordered": "C(k)",
    "Q": "the name in backticks, such as `my x`",
}
"""What other languages call something that has a spelling here."""
CALLS = ("s", "te", "ti", "gp")
"""Terms that are calls; `marglik.interfaces.special` knows what they stand for."""
LATER = {"t2": "tensor products of another form than te()"}


@dataclass(frozen=True)
class Grouping:
    """``(1 + x | a:b)``: effects that differ among the levels of a grouping factor.

    Parameters
    ----------
    effects
        Left of the bar, with its intercept written out: ``1 + x`` or ``0 + x``.
    columns
        The columns whose combined values are the levels.
    correlated
        False for ``||``.
    """

    effects: str
    columns: tuple[str, ...]
    correlated: bool = True

    @property
    def group(self) -> str:
        """The grouping factor's name."""
        return ":".join(self.columns)

    @property
    def text(self) -> str:
        """The term in one spelling."""
        return f"({self.effects} {'|' if self.correlated else '||'} {self.group})"


@dataclass(frozen=True)
class Penalised:
    """``ridge(a, b, c)``, columns with one scale, or ``ard(a, b, c)``, columns with one scale each."""

    kind: str
    columns: tuple[str, ...]

    @property
    def text(self) -> str:
        """The term in one spelling."""
        return f"{self.kind}({', '.join(self.columns)})"


@dataclass(frozen=True)
class Formula:
    """A formula taken apart.

    Parameters
    ----------
    text
        As it was written.
    response
        Left of the tilde.
    parametric
        Fixed effects and offsets, with the intercept written out: ``1 + x`` or ``0 + x``.
    grouping, penalised, calls
        The other terms.
    """

    text: str
    response: str
    parametric: str
    grouping: tuple[Grouping, ...]
    penalised: tuple[Penalised, ...]
    calls: tuple[Call, ...] = ()

    @property
    def counts(self) -> tuple[str, str] | None:
        """What stands inside ``cbind(successes, failures)``; None for another response."""
        if _function(self.response) != "cbind":
            return None
        parts = split(self.response[self.response.index("(") + 1 : -1], ",")
        if _top_level(self.response, ")") != [len(self.response) - 1] or len(parts) != 2 or not all(parts):
            raise BadFormula(
                f"{self.response!r} must be two columns: cbind(successes, failures), or cbind(successes, trials - "
                "successes)."
            )
        return parts[0], parts[1]


def parse(text: str) -> Formula:
    """Take a formula apart at its top level.

    Raises
    ------
    BadFormula
        It has no tilde, no response, unbalanced parentheses, or a term of a kind that is not available.

    Examples
    --------
    >>> parse("Reaction ~ Days + (Days | Subject)").parametric
    '1 + Days'
    >>> [term.text for term in parse("y ~ x + (x | a/b) + ard(u, v)").grouping]
    ['(1 + x | a)', '(1 + x | a:b)']
    """
    if text.count("~") != 1:
        raise BadFormula(
            f"A formula has one ~ between response and terms, as in 'y ~ x + (1 | g)', but this is {text!r}."
        )
    left, right = (side.strip() for side in text.split("~"))
    if not left or not right:
        side = "left" if not left else "right"
        raise BadFormula(
            f"The formula {text!r} has nothing on the {side} of its ~. Write 'y ~ 1' for an intercept alone."
        )
    parametric: list[tuple[str, str]] = []
    grouping: list[Grouping] = []
    penalised: list[Penalised] = []
    calls: list[Call] = []
    for sign, term in split_terms(right, text):
        if term.startswith("(") and term.endswith(")") and _top_level(term[1:-1], "|"):
            _no_minus(sign, term)
            grouping += (new := _groupings(term, text))
            _not_twice([t.text for t in grouping], term if len(new) > 1 else "")
        elif _function(term) in PENALISED:
            _no_minus(sign, term)
            penalised.append(_penalised(term, text))
            _not_twice([t.text for t in penalised])
        elif _function(term) in CALLS:
            _no_minus(sign, term)
            calls.append(call(term))
            _not_twice([t.text for t in calls])
        else:
            parametric.append((sign, term))
    return Formula(text, left, _canonical(parametric), tuple(grouping), tuple(penalised), tuple(calls))


def is_name(text: str) -> bool:
    """Whether a text is the name of one column."""
    return re.fullmatch(NAME, text) is not None


def products(text: str) -> list[tuple[str, ...]] | None:
    """The cells of a parametric text that holds names, ``+``, ``:`` and ``*`` only; None for any other.

    A cell is the names whose columns are multiplied; () is the intercept. A ``*`` B is A + B + A:B.

    Examples
    --------
    >>> products("1 + a*b + c:a")
    [(), ('a',), ('b',), ('a', 'b'), ('c', 'a')]
    >>> products("0 + log(a)") is None
    True
    """
    if not PRODUCTS.fullmatch(text):
        return None
    cells: list[tuple[str, ...]] = []
    for _, term in split_terms(text, text):
        if term in ("0", "1"):
            cells = [()] * (term == "1") + [cell for cell in cells if cell]
            continue
        expanded: list[tuple[str, ...]] = []
        for factor in split(term, "*"):
            cell = tuple(name.strip("`") for name in split(factor, ":"))
            expanded += [cell, *((*before, *cell) for before in expanded)]
        if any(len(set(cell)) < len(cell) or {"0", "1"} & set(cell) for cell in expanded):
            return None
        cells += expanded
    return list(dict.fromkeys(cells))


def _canonical(terms: list[tuple[str, str]]) -> str:
    """Parametric terms in one text, which begins with 1 where there is an intercept, with 0 where not."""
    intercept, rest = "1", ""
    for sign, term in terms:
        if term in ("0", "1"):
            intercept = "1" if (sign, term) in {("+", "1"), ("-", "0")} else "0"
        else:
            _plausible(term)
            rest += "".join(f" {sign} {cell}" for cell in _nested(term))
    return intercept + rest.replace("^", "**")


def _nested(term: str) -> list[str]:
    """``a/b/c`` is a, a:b and a:b:c."""
    parts = split(term, "/")
    if len(parts) > 1 and (_top_level(term, "*") or any(part.startswith("(") for part in parts)):
        raise BadFormula(f"{term!r} has a / beside a * or parentheses. Write it out: a/b is a + a:b.")
    return [":".join(parts[: i + 1]) for i in range(len(parts))]


def _function(term: str) -> str:
    """The function that a term begins with, if it does."""
    name = re.match(r"(\w+)\s*\(", term)
    return name[1] if name else ""


def _plausible(term: str) -> None:
    """Refuse what formulae would pass over in silence, or with words about its insides."""
    if _function(term) in LATER:
        raise BadFormula(f"{term!r} asks for {LATER[_function(term)]}, which formulas do not have yet.")
    bare = re.sub(r"`[^`]*`|'[^']*'|\"[^\"]*\"", "q", term)
    if "%" in bare:
        raise BadFormula(f"{term!r} has a %, which formulas do not know. Use * and : for interactions.")
    if _top_level(bare, "|"):
        raise BadFormula(f"{term!r} has a | outside parentheses. A grouping factor is written '(1 | g)'.")
    if "|" in bare:
        raise BadFormula(f"{term!r} has a | inside. A term with a grouping factor, '(1 | g)', stands by itself.")
    functions = re.findall(r"([\w.]+)\s*\(", bare)
    inside = next((name for name in functions if name in (*CALLS, *LATER)), None)
    if inside:
        raise BadFormula(f"{term!r} has {inside}() inside. It is a term of its own: join terms by +.")
    called = next((name for name in functions if name in SPELT_OTHERWISE), None)
    if called:
        raise BadFormula(f"{term!r}: formulas have no {called}(). Write {SPELT_OTHERWISE[called]}.")
    if re.search(r"\bC\s*\([^()]*\[", bare):
        raise BadFormula(
            f"{term!r} has levels in brackets, which formulas do not know. Order the categories of the column in the "
            "data, such as pandas.Categorical(k, categories=…), and write its name alone."
        )
    _no_power_of_one(term, term)
    for sign in "*:/":
        parts = split(bare.replace("**", "^"), sign)
        if not all(parts):
            side = "before" if not parts[0] else "after"
            raise BadFormula(f"{term!r} has nothing {side} its {sign}. Name a column there, or leave the {sign} out.")
    if re.search(r"[\w.)\]}]\s+[\w.({]", bare):
        raise BadFormula(f"{term!r} has two names without a sign between them. Join terms by +, * or :.")
    if bare == ".":
        raise BadFormula("A lone '.' for all other columns is not available. Name the columns.")
    if re.match(r"[\d.]", bare):
        raise BadFormula(
            f"{term!r} begins with a number, but terms are columns; 0 and 1 stand for the intercept. For "
            "arithmetic write I(2 * x)."
        )


def _no_power_of_one(text: str, term: str) -> None:
    """Refuse ``x^2``, which in R is x: a power crosses the terms of a sum; inside calls it is arithmetic."""
    text = text.replace("**", "^").strip()
    for separator in "+-:*/":
        parts = split(text, separator)
        if len(parts) > 1:
            for part in parts:
                _no_power_of_one(part, term)
            return
    base, *powers = split(text, "^")
    inner = base.strip("() ") if base.startswith("(") else base
    if powers and (is_name(inner) or _function(base)):
        raise BadFormula(
            f"{term!r} takes a power of one column, which as in R is that column itself. Write I({inner}**{powers[0]}) "
            "for the number; (a + b)^2 is for interactions."
        )
    if base.startswith("("):
        _no_power_of_one(base[1:-1], term)


def _no_minus(sign: str, term: str) -> None:
    if sign == "-":
        raise BadFormula(f"{term!r} cannot be taken away with a minus; leave it out of the formula.")


def _not_twice(texts: list[str], nested: str = "") -> None:
    twice = next((t for t in texts if texts.count(t) > 1), None)
    if twice is not None:
        also = f"; {nested!r} has it too" if nested else ""
        raise BadFormula(f"{twice!r} is in the formula twice. Keep one{also}.")


def _penalised(term: str, text: str) -> Penalised:
    kind = _function(term)
    inner = term[term.index("(") + 1 : -1]
    if _top_level(term, ")") != [len(term) - 1] or not inner.strip():
        raise BadFormula(f"{term!r} could not be understood. Write a term of its own, such as '{kind}(a, b, c)'.")
    columns = tuple(part for _, part in split_terms(inner, text, ","))
    for column in columns:
        _plausible(column)
        if columns.count(column) > 1:
            raise BadFormula(f"{term!r} names {column!r} twice. Keep one.")
    return Penalised(kind, columns)


def _groupings(term: str, text: str) -> list[Grouping]:
    """``(x | a/b)`` is one grouping for a and one for a:b."""
    inner = term[1:-1]
    bar = _top_level(inner, "|")[0]
    correlated = not inner.startswith("||", bar)
    left, right = inner[:bar].strip(), inner[bar + (1 if correlated else 2) :].strip()
    parts = split_terms(left, text) if left else []
    for _, part in parts:
        if _function(part) in (*PENALISED, "offset"):
            raise BadFormula(f"{term!r} has {part!r} inside. Write it as a term of its own.")
    effects = _canonical(parts)
    if effects == "0" or not left:
        raise BadFormula(
            f"{term!r} has no effect to vary. Left of its bar write 1 for an intercept, or columns: '(1 + x | g)'."
        )
    columns: tuple[str, ...] = ()
    groupings = []
    for part in split(right, "/"):
        names = split(part, ":")
        if not all(re.fullmatch(NAME, name) for name in names):
            raise BadFormula(_no_factor(term, left, right))
        columns += tuple(name.strip("`") for name in names)
        groupings.append(Grouping(effects, columns, correlated or effects == "1"))
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise BadFormula(f"{term!r} has {twice!r} twice in its grouping factor. Keep one.")
    return groupings


def _no_factor(term: str, effects: str, group: str) -> str:
    several = split(group, "+")
    if len(several) > 1 and all(re.fullmatch(NAME, name) for name in several):
        separate = " + ".join(f"({effects} | {name})" for name in several)
        crossed = f"({effects} | {':'.join(several)})"
        return f"{term!r} has a + in its grouping factor. Write '{separate}', or '{crossed}' for combinations."
    return (
        f"{term!r}: the grouping factor must be a column, or columns joined by : or /, as in '(1 | g)', '(1 | a:b)', "
        "'(1 | a/b)'. It is categorical whatever its type."
    )


def _top_level(text: str, character: str) -> list[int]:
    """Positions of a character outside parentheses and back-quotes."""
    depth, quoted, out = 0, False, []
    for i, c in enumerate(text):
        if c == "`":
            quoted = not quoted
        elif not quoted:
            depth += (c in "([{") - (c in ")]}")
            if c == character and depth == 0:
                out.append(i)
    return out


def split(text: str, separator: str) -> list[str]:
    """The parts between one separator at the top level; parts may be empty."""
    edges = [-1, *_top_level(text, separator), len(text)]
    return [text[start + 1 : stop].strip() for start, stop in pairwise(edges)]


def split_terms(text: str, formula: str, separator: str = "+-") -> list[tuple[str, str]]:
    """Signs and terms at the top level."""
    opened = sum(text.count(c) for c in "([{") - sum(text.count(c) for c in ")]}")
    if opened:
        raise BadFormula(f"The parentheses in {formula!r} do not match.")
    text = re.sub(r"\+\s*-", "-", text)
    cuts = sorted(i for c in separator for i in _top_level(text, c))
    edges = [-1, *cuts, len(text)]
    words = "comma" if separator == "," else "'+' or '-'"
    terms = []
    for start, stop in pairwise(edges):
        term = text[start + 1 : stop].strip()
        sign = "-" if start >= 0 and text[start] == "-" else "+"
        if not term and not (start == -1 and cuts):
            raise BadFormula(f"In {formula!r} a {words} has no term after it.")
        if term:
            terms.append((sign, term))
    return terms
