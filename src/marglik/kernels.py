# SPDX-License-Identifier: BSD-3-Clause
"""Covariance functions: scikit-learn's kernels as text, as objects, and with derivatives in their parameters."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.validate import did_you_mean, listed

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

KNOWN = ("RBF", "Matern", "RationalQuadratic", "ExpSineSquared", "DotProduct", "ConstantKernel")
"""Kernels that text may name."""
OPERATORS = {ast.Add: operator.add, ast.Mult: operator.mul, ast.Pow: operator.pow}
CALLED = {"Sum": operator.add, "Product": operator.mul, "Exponentiation": operator.pow}
"""The same, by the names that scikit-learn has for them; each takes two."""
SPELLED = {"Sum": "+", "Product": "*"}
WORDS = {"periodicity": "period"}
"""What a parameter is called here, where scikit-learn calls it otherwise."""
STEP = 2e-3
"""Of the differences that give second derivatives, in the logarithm of a parameter."""


def parse(text: str) -> Any:
    """The kernel that text such as ``RBF() + Matern(nu=1.5)`` stands for; it names kernels and numbers, nothing else.

    Examples
    --------
    >>> from marglik.kernels import parse
    >>> parse("2.0 * RBF(length_scale=3.0)")
    1.41**2 * RBF(length_scale=3)
    """
    try:
        return _built(ast.parse(text.strip(), mode="eval").body, text)
    except SyntaxError:
        raise ValueError(
            f"kernel={text!r} could not be understood. Write a kernel such as RBF() or Matern(nu=1.5)."
        ) from None


def _built(node: ast.expr, text: str) -> Any:
    import sklearn.gaussian_process.kernels as home

    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_built(node.left, text), _built(node.right, text))
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id
        if name == "WhiteKernel":
            raise ValueError(_no_noise(text))
        if name in CALLED and len(node.args) == 2 and not node.keywords:
            return CALLED[name](*(_built(part, text) for part in node.args))
        if name in KNOWN:
            try:
                given = {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg}
                return getattr(home, name)(*map(ast.literal_eval, node.args), **given)
            except (TypeError, ValueError) as error:
                raise ValueError(f"kernel={text!r} has options that {name} does not take: {error}.") from None
        raise ValueError(f"kernel={text!r} names {name!r}.{did_you_mean(name, KNOWN)} {_kernels()}")
    raise ValueError(f"kernel={text!r} may hold kernels, numbers, +, * and ** alone, such as RBF() + Matern(nu=1.5).")


def _kernels() -> str:
    return f"The kernels are {listed(KNOWN, len(KNOWN))}; they may be joined by +, * and **."


def _no_noise(text: str) -> str:
    return f"kernel={text!r} has a WhiteKernel, but the noise is the likelihood's, as sd(noise). Leave it out."


def spell(kernel: Any) -> str:
    """A kernel as text that `parse` understands, to the last digit."""
    name, params = type(kernel).__name__, kernel.get_params(deep=False)
    if name in SPELLED:
        return f"({spell(params['k1'])} {SPELLED[name]} {spell(params['k2'])})"
    if name == "Exponentiation":
        return f"({spell(params['kernel'])} ** {float(params['exponent'])!r})"
    if name == "WhiteKernel":
        raise ValueError(_no_noise(str(kernel)))
    if name not in KNOWN:
        raise ValueError(f"kernel={kernel} holds a {name}, which is not known here. {_kernels()}")
    return f"{name}({', '.join(f'{k}={_plain(v)!r}' for k, v in params.items())})"


def _plain(value: Any) -> Any:
    """A parameter in plain Python."""
    if isinstance(value, str):
        return value
    return tuple(map(_plain, value)) if np.ndim(value) else float(value)


def without_scale(kernel: Any) -> Any:
    """The kernel less one free constant that multiplies all of it; in a sum, less that of its first part.

    A Gaussian process has an amplitude of its own, beside which such a constant would mean nothing.
    """
    name, params = type(kernel).__name__, kernel.get_params(deep=False)
    if name == "Product":
        for one, other in (("k1", "k2"), ("k2", "k1")):
            if _free_constant(params[one]):
                return without_scale(params[other])
        return without_scale(params["k1"]) * without_scale(params["k2"])
    if name == "Sum":
        return without_scale(params["k1"]) + params["k2"]
    return kernel


def _free_constant(kernel: Any) -> bool:
    return type(kernel).__name__ == "ConstantKernel" and kernel.constant_value_bounds != "fixed"


@dataclass(frozen=True)
class Kernel:
    """k(x, x') with parameters p, and its derivatives in them.

    Parameters
    ----------
    text
        The kernel, as `parse` takes it.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.kernels import Kernel
    >>> kernel = Kernel("RBF()")
    >>> kernel.names, kernel.matrix(np.array([2.0]), np.array([[0.0], [2.0]])).round(3)[0]
    (('length_scale',), array([1.   , 0.607]))
    """

    text: str

    @cached_property
    def _kernel(self) -> Any:
        return parse(self.text)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the free parameters, in order; one a dimension where there are several."""
        free = [h for h in self._kernel.hyperparameters if not h.fixed]
        words = (h.name.split("__")[-1] for h in free)
        return tuple(WORDS.get(w, w) for w, h in zip(words, free, strict=True) for _ in range(h.n_elements))

    @cached_property
    def dimensions(self) -> tuple[int | None, ...]:
        """The dimension of the inputs that each parameter belongs to, None for all."""
        free = [h for h in self._kernel.hyperparameters if not h.fixed]
        return tuple(d if h.n_elements > 1 else None for h in free for d in range(h.n_elements))

    @cached_property
    def distances(self) -> tuple[bool, ...]:
        """Which parameters are distances of inputs; beside a period the length scale is none."""
        every = self._kernel.hyperparameters
        periodic = {h.name.removesuffix("periodicity") for h in every if h.name.endswith("periodicity")}
        lengths = {h.name for h in every if h.name.endswith("length_scale")}
        lengths -= {prefix + "length_scale" for prefix in periodic}
        return tuple(
            h.name in lengths or h.name.endswith("periodicity")
            for h in every
            if not h.fixed
            for _ in range(h.n_elements)
        )

    @property
    def values(self) -> Float[Array, "k"]:
        """The parameters as they were written."""
        return np.exp(self._kernel.theta)

    def at(self, p: Float[Array, "k"]) -> Any:
        """The kernel with other parameters."""
        return self._kernel.clone_with_theta(np.log(p))

    def matrix(self, p: Float[Array, "k"], x: Float[Array, "n d"], z: Float[Array, "m d"] | None = None) -> Array:
        """k(x, z)."""
        return self.at(p)(x, z)

    def diagonal(self, p: Float[Array, "k"], x: Float[Array, "n d"]) -> Float[Array, "n"]:
        """k(x_i, x_i)."""
        return self.at(p).diag(x)

    @cached_property
    def radial(self) -> Callable[[Array], tuple[Array, Array]] | None:
        """g and g' for k = g(Σ_d (x_d − x'_d)²/ℓ_d²), where the kernel is of that kind and its lengths are free."""
        kernel = self._kernel
        free = set(self.names) == {"length_scale"}
        return RADIAL.get((type(kernel).__name__, kernel.get_params(deep=False).get("nu"))) if free else None

    def tangents(self, p: Float[Array, "k"], x: Float[Array, "n d"]) -> Float[Array, "k n n"]:
        """∂K/∂log p."""
        return np.moveaxis(self.at(p)(x, eval_gradient=True)[1], -1, 0)

    def curvatures(self, p: Float[Array, "k"], x: Float[Array, "n d"]) -> Float[Array, "k k n n"]:
        """∂²K/∂log p ∂log p, by differences of the fourth order of the first derivatives."""
        out = np.zeros((len(p), len(p), len(x), len(x)))
        for k, e in enumerate(np.eye(len(p))):
            one, two = (
                self.tangents(p * np.exp(i * STEP * e), x) - self.tangents(p * np.exp(-i * STEP * e), x) for i in (1, 2)
            )
            out[k] = (8 * one - two) / (12 * STEP)
        return (out + out.transpose(1, 0, 2, 3)) / 2


def _rbf(u: Array) -> tuple[Array, Array]:
    """exp(−u/2)."""
    K = np.exp(u * -0.5)
    return K, K * -0.5


def _exponential(u: Array) -> tuple[Array, Array]:
    """exp(−r), r² = u; the slope at r = 0 only ever meets a distance of zero."""
    r = np.sqrt(u)
    K = np.exp(-r)
    return K, -np.divide(K, 2 * r, out=np.zeros_like(r), where=r > 0)


def _matern32(u: Array) -> tuple[Array, Array]:
    """(1 + a) exp(−a), a² = 3u."""
    a = np.sqrt(3 * u)
    e = np.exp(-a)
    return (1 + a) * e, -1.5 * e


def _matern52(u: Array) -> tuple[Array, Array]:
    """(1 + a + a²/3) exp(−a), a² = 5u."""
    a = np.sqrt(5 * u)
    e = np.exp(-a)
    return (1 + a + a * a / 3) * e, -5 / 6 * (1 + a) * e


RADIAL: dict[tuple[str, float | None], Callable[[Array], tuple[Array, Array]]] = {
    ("RBF", None): _rbf,
    ("Matern", 0.5): _exponential,
    ("Matern", 1.5): _matern32,
    ("Matern", 2.5): _matern52,
}
"""By name and smoothness: g(u) and g'(u) of the squared distance u in units of the length scales."""
