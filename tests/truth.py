# SPDX-License-Identifier: BSD-3-Clause
"""Gaussian models with every covariance written out: what the engine is held to.

    y ~ N(Xβ + offset + Σ_t D_t μ_t, V),    V = Σ_t D_t K_t D_tᵀ,    K_t = I ⊗ L_t L_tᵀ

D_t has a column for each weight: for a grouping term one a level and coefficient. The noise is one more term, with
D = W^-½ and L = σI. Factors are linear in θ, L = Σ_k θ_k T_k.
"""

from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag
from scipy.optimize import minimize

from marglik.model import LinearModel
from marglik.priors import Gaussian, Ridge

DIGITS = 60


class Block(NamedTuple):
    """Weights w ~ N(mean, given + I ⊗ L Lᵀ) and their columns."""

    label: str
    columns: np.ndarray
    mean: np.ndarray
    given: np.ndarray
    templates: np.ndarray

    @property
    def size(self):
        """Of L."""
        return self.templates.shape[1]

    @property
    def repeats(self):
        return self.columns.shape[1] // self.size

    def covariance(self, L):
        return self.given + self.repeated(L @ L.T)

    def repeated(self, M):
        """I ⊗ M."""
        q, m = self.repeats, self.size
        out = np.zeros((q, m, q, m), M.dtype)
        out[range(q), :, range(q), :] = M
        return out.reshape(q * m, q * m)

    def pooled(self, M):
        """Sum of the blocks of M that belong to one level."""
        m, q = self.size, range(self.repeats)
        return M.reshape(len(q), m, len(q), m)[q, :, q, :].sum(axis=0)


def block(term):
    """A term of a model, from what its user gave."""
    k = len(term.hyperparameters())
    if term.grouped:
        Z = np.ones((len(term.codes), 1)) if term.Z is None else term.Z
        m = Z.shape[1]
        D = np.zeros((len(Z), len(term.levels) * m))
        for j in range(m):
            D[np.arange(len(Z)), np.asarray(term.codes) * m + j] = Z[:, j]
        M = np.eye(m) if term.mixing is None else term.mixing
        templates = np.array([M @ term.factor(unit) for unit in np.eye(k)])
        return Block(term.label, D, np.zeros(D.shape[1]), np.zeros((D.shape[1],) * 2), templates)
    D = np.reshape(term.X, (len(term.X), -1))
    p = D.shape[1]
    if isinstance(term, Gaussian):
        return Block(term.label, D, np.asarray(term.mean), np.asarray(term.covariance), np.zeros((0, p, p)))
    assert isinstance(term, Ridge)
    groups = np.zeros(p, int) if term.groups is None else term.groups
    return Block(term.label, D, np.zeros(p), np.zeros((p, p)), np.array([np.diag(groups == i) for i in range(k)]) * 1.0)


def _decimal(A):
    return np.vectorize(Decimal, otypes=[object])(A)


def _inverse(A):
    """A⁻¹ and log |A| of a positive definite matrix, by sweeps unless it is of floats."""
    if A.dtype == float:
        return np.linalg.inv(A), np.linalg.slogdet(A)[1]
    A, log_det = A.copy(), Decimal(0)
    for i in range(len(A)):
        pivot, row, column = A[i, i], A[i] / A[i, i], A[:, i].copy()
        A -= np.outer(column, row)
        A[i], A[:, i], A[i, i] = row, -column / pivot, 1 / pivot
        log_det += pivot.ln()
    return A, log_det


@dataclass(frozen=True, eq=False)
class Truth:
    """The density of y under a Gaussian model; in decimal arithmetic where it is to be exact."""

    model: LinearModel
    exact: bool = False

    @cached_property
    def blocks(self):
        """Of every term with a prior, and of the noise."""
        rows = self.model.rows
        roots = np.diag(np.ones(rows.n) if rows.weights is None else rows.weights**-0.5)
        noise = Block("noise", roots, np.zeros(rows.n), np.zeros((rows.n,) * 2), np.eye(rows.n)[None])
        return [*(block(term) for term in self.model.prior if not term.flat), noise]

    @cached_property
    def X(self):
        flat = [term.X for term in self.model.prior if term.flat]
        return np.column_stack([np.zeros((self.model.rows.n, 0)), *flat])

    @cached_property
    def offset(self):
        given = 0 if self.model.rows.offset is None else self.model.rows.offset
        return given + sum(b.columns @ b.mean for b in self.blocks)

    @property
    def freedom(self):
        """Number of observations that are not spent on β."""
        return self.model.rows.n - self.X.shape[1] * self.model.reml

    def factors(self, theta):
        """L of every block."""
        out, position = [], 0
        for b in self.blocks:
            k = len(b.templates)
            out.append(np.tensordot(theta[position : position + k], b.templates, 1))
            position += k
        return out

    def reported(self, table):
        """L of every block, some root of L Lᵀ, from a table of hyperparameters' estimates."""
        return [
            *(self._root(term, table) for term in self.model.prior if not term.flat),
            table["sd(noise)"] * np.eye(self.model.rows.n),
        ]

    @staticmethod
    def _root(term, table):
        if term.hyperparameters():
            return root(reported_covariance(term, table))
        return np.zeros((len(term.names),) * 2)

    def at(self, theta):
        return self.at_factors(self.factors(np.asarray(theta, float)))

    def at_values(self, table):
        """At standard deviations and correlations by name."""
        return self.at_factors(self.reported(table))

    def at_factors(self, factors):
        return Density(self, factors)


def root(S):
    d, U = np.linalg.eigh(S)
    return U * np.sqrt(np.maximum(d, 0))


def named(model, theta):
    """Standard deviations and correlations by name at θ."""
    out = {"sd(noise)": float(theta[-1])}
    for term, L in zip((t for t in model.prior if not t.flat), Truth(model).factors(theta), strict=False):
        S = L @ L.T
        sd = np.sqrt(S.diagonal())
        if not term.grouped:
            out |= {
                h.name: float(sd[block(term).templates[i].any(axis=0)][0]) for i, h in enumerate(term.hyperparameters())
            }
            continue
        c, g = term.coefficients, term.group
        out |= {f"sd({name} | {g})": float(s) for name, s in zip(c, sd, strict=True)}
        for i, j in zip(*np.triu_indices(len(c), 1), strict=True):
            if term.correlated:
                size = sd[i] * sd[j]
                out[f"cor({c[i]}, {c[j]} | {g})"] = float(np.clip(S[i, j] / size, -1, 1)) if size else 0.0
    return out


def reported_covariance(term, values):
    """L Lᵀ of a term from standard deviations and correlations (a correlation that is no number counts as zero)."""
    if not term.grouped:
        L = np.tensordot([values[h.name] for h in term.hyperparameters()], block(term).templates, 1)
        return L @ L.T
    names, g = term.coefficients, term.group
    sd = np.array([values[f"sd({name} | {g})"] for name in names])
    R = np.eye(len(names))
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            R[i, j] = R[j, i] = np.nan_to_num(values[f"cor({names[i]}, {names[j]} | {g})"]) if term.correlated else 0
    return R * np.outer(sd, sd)


def reported(model):
    """Names of the standard deviations and correlations."""
    names = ["sd(noise)"]
    for term in (t for t in model.prior if t.grouped):
        c, g = term.coefficients, term.group
        pairs = zip(*np.triu_indices(len(c), 1), strict=True) if term.correlated else ()
        names += [*(f"sd({name} | {g})" for name in c), *(f"cor({c[i]}, {c[j]} | {g})" for i, j in pairs)]
    return names


def best_at(model, given, starts=(None,), polish=False):
    """The best log density with some standard deviations and correlations held, by SciPy, and where it is.

    Parameters
    ----------
    starts
        Values by name from which to set out; None for scales of one without correlations.
    polish
        Go on by the simplex method, which minds where correlations cease to be any.
    """
    names, truth = [h for h in reported(model) if h not in given], Truth(model)
    terms = [term for term in model.prior if term.grouped and len(term.coefficients) > 2]

    def values(v):
        free = {n: np.tanh(x) if n.startswith("cor") else np.exp(x) for n, x in zip(names, v, strict=True)}
        return {**given, **free}

    def short(v):
        there = values(v)
        if any(np.linalg.eigvalsh(reported_covariance(term, there))[0] < -1e-12 for term in terms):
            return 1e6
        return -truth.at_values(there).value

    def unconstrained(start):
        return [np.arctanh(0.999 * start[n]) if n.startswith("cor") else np.log(start[n] + 1e-3) for n in names]

    from_where = [np.zeros(len(names)) if start is None else unconstrained(start) for start in starts]
    found = [minimize(short, v, method="BFGS", options={"gtol": 1e-6}) for v in from_where]
    if polish:
        fine = {"xatol": 1e-9, "fatol": 1e-12}
        found += [minimize(short, r.x, method="Nelder-Mead", options=fine) for r in found]
    best = min(found, key=lambda r: r.fun)
    return -best.fun, values(best.x)


@dataclass(frozen=True, eq=False)
class Density:
    """log p(y|θ), β integrated (REML) or maximised; its derivatives; and what y says of the weights.

    log p(y|θ) = −½ [(n − f) log 2π + log |V| + log |XᵀV⁻¹X| + rᵀPr]     (ML: without f and |XᵀV⁻¹X|)
    P = V⁻¹ − V⁻¹X (XᵀV⁻¹X)⁻¹ XᵀV⁻¹
    """

    truth: Truth
    factors: list

    def _number(self, A):
        return _decimal(A) if self.truth.exact else np.asarray(A, float)

    @cached_property
    def _parts(self):
        with localcontext(prec=DIGITS):
            truth, number = self.truth, self._number
            blocks = [Block(b.label, *map(number, b[1:])) for b in truth.blocks]
            factors = [number(L) for L in self.factors]
            X = number(truth.X)
            r = number(truth.model.rows.y) - number(truth.offset)
            V = sum(b.columns @ b.covariance(L) @ b.columns.T for b, L in zip(blocks, factors, strict=True))
            inverse, log_det = _inverse(V)
            B, log_det_B = _inverse(X.T @ inverse @ X)
            P = inverse - inverse @ X @ B @ X.T @ inverse
            if truth.model.reml:
                log_det += log_det_B
            return blocks, factors, X, r, inverse, B, P, log_det, r @ P @ r

    @cached_property
    def quadratic(self):
        """rᵀPr."""
        return float(self._parts[-1])

    @cached_property
    def value(self):
        *_, log_det, quadratic = self._parts
        with localcontext(prec=DIGITS):
            return -float(log_det + quadratic) / 2 - self.truth.freedom * np.log(2 * np.pi) / 2

    @cached_property
    def _in_columns(self):
        """DᵀQD, DᵀPD and DᵀPr over all weights; Q is P, or V⁻¹ under ML."""
        blocks, _, _, r, inverse, _, P, *_ = self._parts
        with localcontext(prec=DIGITS):
            D = np.concatenate([b.columns for b in blocks], axis=1)
            S = D.T @ P @ D
            G = S if self.truth.model.reml else D.T @ inverse @ D
            return G, S, D.T @ (P @ r)

    @cached_property
    def _places(self):
        ends = np.cumsum([b.columns.shape[1] for b in self.truth.blocks])
        return [slice(e - b.columns.shape[1], e) for b, e in zip(self.truth.blocks, ends, strict=True)]

    @cached_property
    def _slopes(self):
        G, _, s = self._in_columns
        with localcontext(prec=DIGITS):
            return [
                b.pooled(np.outer(s[p], s[p]) - G[p, p]) / 2 for b, p in zip(self._parts[0], self._places, strict=True)
            ]

    @cached_property
    def slopes(self):
        """Label → ∂ log p/∂Σ, with Σ = L Lᵀ."""
        return {b.label: slope.astype(float) for b, slope in zip(self.truth.blocks, self._slopes, strict=True)}

    @cached_property
    def _directions(self):
        """(i, T) for each coordinate of θ, T of block i."""
        return [(i, T) for i, b in enumerate(self._parts[0]) for T in b.templates]

    @cached_property
    def gradient(self):
        with localcontext(prec=DIGITS):
            L = self._parts[1]
            return np.array([float(2 * np.sum(T * (self._slopes[i] @ L[i]))) for i, T in self._directions])

    @cached_property
    def hessian(self):
        G, S, s = self._in_columns
        blocks, factors, *_ = self._parts
        k, places = len(self._directions), self._places
        H = np.empty((k, k))
        with localcontext(prec=DIGITS):
            bends = [blocks[i].repeated(T @ factors[i].T + factors[i] @ T.T) for i, T in self._directions]
            for a, (i, T) in enumerate(self._directions):
                p = places[i]
                left, pull = bends[a] @ G[p], (s[p] @ bends[a]) @ S[p]
                for b, (j, U) in enumerate(self._directions[: a + 1]):
                    q = places[j]
                    value = np.sum(left[:, q] * (bends[b] @ G[q, p]).T) / 2 - pull[q] @ bends[b] @ s[q]
                    if i == j:
                        value += 2 * np.sum(T * (self._slopes[i] @ U))
                    H[a, b] = H[b, a] = float(value)
        return H

    @cached_property
    def weights(self):
        """Labels with the places of their weights in `mean` and `covariance`: β first, the noise left out."""
        f, places = self.truth.X.shape[1], self._places
        out = {b.label: slice(f + p.start, f + p.stop) for b, p in zip(self.truth.blocks[:-1], places, strict=False)}
        return {"fixed effects": slice(0, f), **out}

    @cached_property
    def columns(self):
        """X and D side by side."""
        return np.column_stack([self.truth.X, *(b.columns for b in self.truth.blocks[:-1])])

    @cached_property
    def _moments(self):
        blocks, factors, X, r, inverse, B, P, *_ = self._parts
        blocks, factors = blocks[:-1], factors[:-1]
        D = np.column_stack([np.zeros((len(r), 0)), *(b.columns for b in blocks)])
        K = block_diag(np.zeros((0, 0)), *(b.covariance(L) for b, L in zip(blocks, factors, strict=True)))
        mean = np.concatenate([B @ X.T @ inverse @ r, *(b.mean for b in blocks)])
        mean[len(B) :] += K @ D.T @ P @ r
        between = -B @ X.T @ inverse @ D @ K
        return mean, np.block([[B, between], [between.T, K - K @ D.T @ P @ D @ K]])

    @property
    def mean(self):
        """E(β, w | y)."""
        return self._moments[0]

    @property
    def covariance(self):
        """cov(β, w | y); of β also the sampling covariance of the generalised least squares fit."""
        return self._moments[1]
