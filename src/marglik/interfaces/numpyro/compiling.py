# SPDX-License-Identifier: BSD-3-Clause
"""Functions of a program, compiled once for all programs that compute the same.

A function is traced to a jaxpr, and its constants, which are the data, become arguments. What is compiled is found
again by the text of the jaxpr. So a second call with other data of the same shapes compiles nothing, whatever Python
object the program is; and a program that has changed behind the same name is never mistaken for the old one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MOST = 256
"""Compiled functions that are kept."""


def x64() -> Any:
    """Double precision within a ``with`` block, for this thread alone."""
    return jax.enable_x64(True)


_AGREED: dict[str, None] = {}
"""Fingerprints that two runs had, the latest last."""


@dataclass(frozen=True, eq=False)
class Staged:
    """A traced function: its jaxpr, the constants that it closes over, and the form of what it returns."""

    jaxpr: Any
    constants: Sequence[Any]
    form: Any

    @classmethod
    def of(cls, function: Callable[..., Any], *like: Any) -> Staged:
        """Trace a function of arrays like these: a shape stands for numbers."""
        args = [jax.ShapeDtypeStruct(a, np.float64) if isinstance(a, tuple) else a for a in like]
        with x64():
            closed, out = jax.make_jaxpr(function, return_shape=True)(*args)
        return cls(closed.jaxpr, closed.consts, jax.tree.structure(out))

    def compiled(self, make: Callable[[Any], Callable[..., Any]]) -> Callable[..., Any]:
        """``make`` of the function f(constants, …), compiled, with the constants put in; it returns NumPy arrays."""
        with x64():
            function, constants = _compiled(make, _ByKey(self)), [jnp.asarray(c) for c in self.constants]

        def run(*args: Any) -> Any:
            with x64():
                return jax.tree.map(np.asarray, function(constants, *args))

        return run

    @cached_property
    def key(self) -> str:
        """The same for two functions that compute the same from their arguments and constants."""
        text = str(self.jaxpr)
        if "callback" not in text:
            text = re.sub(r" at 0x[0-9a-f]+", "", text)
        digest = hashlib.sha256(text.encode())
        for value in _inner_constants(self.jaxpr):
            digest.update(np.asarray(value).tobytes())
        return digest.hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """The same for two functions that compute the same from the same constants."""
        digest = hashlib.sha256(self.key.encode())
        for value in map(np.asarray, self.constants):
            digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
        return digest.hexdigest()

    def agrees(self, again: Callable[[], Staged]) -> bool:
        """Whether another run computes the same: one that was made before, or else one made now."""
        if self.fingerprint not in _AGREED:
            if again().fingerprint != self.fingerprint:
                return False
            _AGREED[self.fingerprint] = None
            while len(_AGREED) > MOST:
                _AGREED.pop(next(iter(_AGREED)))
        return True

    def __call__(self, constants: Any, *args: Any) -> Any:
        return jax.tree.unflatten(self.form, jax.core.eval_jaxpr(self.jaxpr, constants, *args))


class _ByKey:
    """A staged function that equals all with its key, whatever their constants."""

    def __init__(self, staged: Staged):
        self.staged = replace(staged, constants=())
        self.key = f"{staged.key} {staged.form}"

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByKey) and self.key == other.key


@lru_cache(MOST)
def _compiled(make: Callable[[Any], Callable[..., Any]], key: _ByKey) -> Callable[..., Any]:
    return jax.jit(make(key.staged))


def _inner_constants(jaxpr: Any) -> Iterator[Any]:
    """Constants of the jaxprs inside this one, which its text names but does not hold."""
    for equation in jaxpr.eqns:
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
                if hasattr(inner, "consts") and hasattr(inner, "jaxpr"):
                    yield from inner.consts
                    yield from _inner_constants(inner.jaxpr)
                elif hasattr(inner, "eqns"):
                    yield from _inner_constants(inner)
