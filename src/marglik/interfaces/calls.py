# SPDX-License-Identifier: BSD-3-Clause
"""Terms of a formula that are calls, such as ``s(log(x), bs="cr", k=20)``: their arguments and options as text."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from marglik.validate import did_you_mean

NAME = r"(?:[^\W\d][\w.]*|`[^`]+`)"
BARE = re.compile(rf"`[^`]*`|'[^']*'|\"[^\"]*\"|(?<![\w.]){NAME}")
R_WORDS = {"TRUE": "True", "FALSE": "False", "NULL": "None", "NA": "None"}


class BadFormula(ValueError):
    """A formula that cannot be understood or does not fit the data, in one sentence."""


@dataclass(frozen=True)
class Call:
    """A term ``kind(argument, …, option=value, …)``.

    Parameters
    ----------
    kind
        The function's name.
    arguments
        Expressions in columns, in one spelling.
    options
        Their values, as they were written.
    written
        The whole term, as it was written.
    """

    kind: str
    arguments: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)
    written: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """The term in one spelling."""
        return f"{self.kind}({', '.join([*self.arguments, *(f'{k}={v}' for k, v in self.options.items())])})"

    @property
    def columns(self) -> tuple[str, ...]:
        """What is made of columns: the arguments, and the column that multiplies the term."""
        by = self.options.get("by", "None")
        if not re.fullmatch(NAME, by.strip("'\"")):
            raise BadFormula(f"{self.written!r} has by={by}, but what multiplies a term is a column. Name one.")
        return self.arguments if by == "None" else (*self.arguments, by.strip("'\""))

    def known(self, names: Sequence[str]) -> None:
        """Refuse options that are none of these."""
        for name in self.options:
            if name not in names:
                raise BadFormula(
                    f"{self.written!r} has an option {name!r}, which {self.kind}() does not know."
                    f"{did_you_mean(name, names)} Its options are {', '.join(names)}."
                )

    def value(self, name: str, default: Any = None) -> Any:
        """An option that is a number, text, True, False, None, or a list or dict of these."""
        if name not in self.options:
            return default
        text = self.options[name]
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError):
            raise BadFormula(f"{self.written!r} has {name}={text}, which is no value.{_hint(name, text)}") from None


def call(term: str) -> Call:
    """Take a call apart.

    Raises
    ------
    BadFormula
        It is not a call alone, or has no argument.

    Examples
    --------
    >>> found = call('s(log(x), `my z`, bs="tp", k=20)')
    >>> found.arguments, found.value("bs"), found.value("k")
    (('log(x)', '`my z`'), 'tp', 20)
    """
    kind = term[: term.index("(")].strip()
    names: list[str] = []

    def stand_in(found: re.Match[str]) -> str:
        """Names that Python does not have become such as it has."""
        word = found[0]
        if word[0] in "'\"" or (word.isidentifier() and not keyword.iskeyword(word)):
            return word
        if word in ("None", "True", "False"):
            return word
        names.append(word)
        return f"_{len(names) - 1}_"

    def restored(text: str) -> str:
        return re.sub(r"\b_(\d+)_\b", lambda found: names[int(found[1])], text)

    source = BARE.sub(stand_in, term)
    try:
        tree = ast.parse(source.strip(), mode="eval").body
    except SyntaxError:
        raise BadFormula(
            f"{term!r} could not be understood. Write columns first, then options as name=value: {kind}(x, …)."
        ) from None
    if not isinstance(tree, ast.Call):
        raise BadFormula(
            f"{term!r} combines {kind}(…) with other things, but it is a term of its own. Join terms by +; what "
            "multiplies a smooth is its by=."
        )
    if any(isinstance(part, ast.Starred) for part in tree.args) or any(k.arg is None for k in tree.keywords):
        raise BadFormula(f"{term!r} has a * before an argument, which formulas do not know. Name the columns.")
    if not tree.args:
        raise BadFormula(f"{term!r} names no column. Write what it is a function of, such as {kind}(x).")
    for text in (*(k.arg for k in tree.keywords if k.arg),):
        if [k.arg for k in tree.keywords].count(text) > 1:
            raise BadFormula(f"{term!r} gives {restored(text)!r} twice. Keep one.")
    return Call(
        kind,
        tuple(restored(ast.unparse(part)) for part in tree.args),
        {restored(str(k.arg)): restored(ast.unparse(k.value)) for k in tree.keywords},
        term,
    )


def _hint(name: str, text: str) -> str:
    inner = re.fullmatch(r"c\((.*)\)", text)
    if inner:
        return f" Write {name}=[{inner[1]}]."
    if text in R_WORDS:
        return f" Write {name}={R_WORDS[text]}."
    if re.fullmatch(NAME, text):
        return f" Write text in quotes: {name}={text!r}."
    return " Write a number, text in quotes, True, False, None, or a list of these."
