# SPDX-License-Identifier: BSD-3-Clause
"""p(w|y,θ̂): what is known of the weights once θ is chosen, in the words of the model's terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from marglik.columns import Columns, Factor
from marglik.likelihoods import LOG_2PI
from marglik.linalg import Arrow, Scaling, cholesky, level_blocks, solve_upper
from marglik.rows import InMemory

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.gaussian.levels import Grouping
    from marglik.gaussian.spectrum import Spectrum
    from marglik.model import LinearModel
    from marglik.priors import Term


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian with structured precision, in the coordinates in which the model integrates.

    Parameters
    ----------
    mean : (p,)
    precision
        H, the negative Hessian of the log joint at the mean.
    theta : (k,), optional
        Where it was computed.
    slopes
        Has ∂mean/∂θ, (p, k), as ``drift``, computed when it is read.
    """

    mean: Float[Array, "p"]
    precision: Arrow
    theta: Float[Array, "k"] | None = None
    slopes: Any = None

    def near(self, theta: Float[Array, "k"]) -> Float[Array, "p"]:
        """The mean at a θ nearby, to first order."""
        return self.mean if self.slopes is None else self.mean + self.slopes.drift @ (theta - self.theta)

    @cached_property
    def covariance(self) -> Arrow:
        """H⁻¹ where H has entries."""
        return self.precision.inverse_on_pattern()

    def draws(self, n: int, rng: np.random.Generator) -> Float[Array, "n p"]:
        """Samples, one a row."""
        return self.mean + self.precision.solve_half(rng.standard_normal((len(self.mean), n))).T


class NewRows(NamedTuple):
    """Columns for prediction, by the label of the term that owns them.

    A dense or flat term has its columns (n, c); a grouped one has its columns and the level of each row, −1 where the
    level was not seen. Terms that are absent contribute nothing. ``unseen`` is the prior variance, in units of a term's
    squared scale, of what a dense term has no weights for; whoever asks for the linear predictor adds it.
    """

    columns: Mapping[str, Float[Array, "n c"]]
    codes: Mapping[str, Float[Array, "n"]]
    offset: Float[Array, "n"] | float = 0.0
    unseen: Mapping[str, Float[Array, "n"]] = MappingProxyType({})


class Site(NamedTuple):
    """A site of a program that is integrated out: its mean and standard deviation, and whether it is within a plate."""

    name: str
    mean: Array
    sd: Array
    plated: bool


class Posterior(ABC):
    """Weights given data and θ̂, term by term.

    Attributes
    ----------
    mean
        Term's label → posterior means: (c,) for dense and flat terms, (levels, c) for grouped ones; with several
        targets a first axis of length V. Programs: site → values.
    """

    @property
    @abstractmethod
    def mean(self) -> Mapping[str, Array]:
        """Term's label → posterior means."""

    @property
    @abstractmethod
    def sd(self) -> Mapping[str, Array]:
        """Term's label → posterior standard deviations, shaped like `mean`."""

    @property
    def sites(self) -> Sequence[Site]:
        """What a program integrates over, to be listed."""
        return ()

    @abstractmethod
    def sample(self, n: int, seed: int = 0) -> Mapping[str, Array]:
        """Draws by term, the first axis of length n."""


class TermPosterior(Posterior):
    """The posterior of a linear model: what its tables and predictions are made of."""

    @property
    @abstractmethod
    def flat_covariance(self) -> Float[Array, "*V f f"]:
        """Covariance of the fixed effects."""

    @property
    @abstractmethod
    def edf(self) -> Mapping[str, Float[Array, "*V"]]:
        """Effective degrees of freedom by term: the trace of its block of H⁻¹XᵀWX."""

    @abstractmethod
    def occam(self) -> Mapping[str, Float[Array, "*V"]]:
        """Parts of the Gaussian approximation to the evidence in nats: ``fit``, each term, ``overlap``."""

    def at_inputs(self, rows: NewRows) -> tuple[Array, Array] | None:
        """The same from what rows to predict consist of, where the posterior needs no columns; see `Term.inputs`."""
        return None

    @abstractmethod
    def linear_predictor(self, rows: NewRows) -> tuple[Float[Array, "n *V"], Float[Array, "n *V"]]:
        """Posterior mean and variance of η for new rows."""


def level_sds(term: Term, C: Float[Array, "q c c"]) -> Float[Array, "l c"]:
    """Standard deviations of a grouped term's weights w = Mv, from the covariance of each level's v."""
    C = C[: len(term.levels)]  # type: ignore[attr-defined]
    variance = (
        np.einsum("qcc->qc", C) if term.mixing is None else np.einsum("ci,qij,cj->qc", term.mixing, C, term.mixing)
    )
    return np.sqrt(np.maximum(variance, 0))


def mixed(term: Term, X: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """The columns of a term's coefficients v, from those of its weights w = Mv."""
    return X if term.mixing is None else X @ term.mixing


@dataclass(frozen=True, eq=False)
class ArrowPosterior(TermPosterior):
    """By the arrow matrix of the model.

    Parameters
    ----------
    model
        With its flat weights among the weights.
    theta : (k,)
    joint
        p(u, γ|y, θ) in the model's coordinates.
    """

    model: LinearModel
    theta: Float[Array, "k"]
    joint: Gaussian

    def __getstate__(self) -> dict[str, Any]:
        """Without what is found by the identity of terms, which a copy does not share."""
        return {name: value for name, value in self.__dict__.items() if name != "_groups"}

    @cached_property
    def _flat(self) -> slice:
        return slice(0, self.model.columns.n_flat)

    @cached_property
    def _factors(self) -> tuple[Array, Scaling]:
        return self.model.factors(self.theta, lambda term, theta: term.factor(theta), flat=1.0)

    @cached_property
    def _groups(self) -> dict[int, tuple[int, Grouping, slice]]:
        """Of each grouped term: the number of its grouping factor, the factor, its columns among the factor's."""
        out = {}
        for i, grouping in enumerate(self.model.groupings):
            row = 0
            for term in grouping.terms:
                out[id(term)] = i, grouping, slice(row, row + len(term.coefficients))
                row += len(term.coefficients)
        return out

    @cached_property
    def _to_flat(self) -> Float[Array, "f F"]:
        """γ, in which the model's own columns are meant, from the working columns' γ and the border's u: γ − AL u."""
        c = self.model.columns
        out = np.eye(c.n_flat, c.shape[2])
        out[:, : c.shift.shape[1]] -= c.shift
        return self._factors[1].right(out)

    def _place(self, term: Term) -> slice:
        """Of a dense term, or of the grouping factor of a grouped one, on the border."""
        dense, outer = self.model.border_places
        return dense[id(term)] if id(term) in dense else outer[self._groups[id(term)][0] - 1]

    def _by_term(self, top: Array, bottom: Array) -> dict[str, Array]:
        """u → w by term; leading axes are kept."""
        model, out = self.model, {}
        L, T = self._factors
        inner, border = top @ L.T, T.right(bottom, transposed=True)
        for term in model.prior:
            if term.flat:
                gamma = bottom @ self._to_flat.T
                out[term.label] = np.linalg.solve(model.flat_basis.R, gamma[..., None])[..., 0]
            elif term.grouped:
                i, grouping, columns = self._groups[id(term)]
                w = inner if i == 0 else border[..., self._place(term)]
                w = w.reshape(*bottom.shape[:-1], grouping.n_levels, -1)
                out[term.label] = term.weights(w[..., : len(term.levels), columns])  # type: ignore[attr-defined, index]
            else:
                out[term.label] = term.weights(border[..., self._place(term)])
        return out

    @cached_property
    def mean(self):
        return self._by_term(*self.model.columns.split(self.joint.mean))

    @cached_property
    def flat_covariance(self):
        M = np.linalg.solve(self.model.flat_basis.R, self._to_flat)
        return M @ self.joint.covariance.border @ M.T

    @cached_property
    def _covariance(self) -> Arrow:
        """Of the working columns' coefficients, on the pattern of H."""
        return self.joint.covariance.congruence(*self._factors, transposed=True)

    def covariance(self) -> Float[Array, "p p"]:
        """Posterior covariance of the weights of the one dense term."""
        (term,) = self.model.dense
        return self.term_covariance(term.label)

    def term_covariance(self, label: str) -> Float[Array, "p p"]:
        """That of the weights of a dense term."""
        (term,) = (t for t in self.model.dense if t.label == label)
        C, M = self._covariance.border[self._place(term), self._place(term)], term.mixing
        return C if M is None else M @ C @ M.T

    @cached_property
    def sd(self):
        C, out = self._covariance, {}
        border = np.sqrt(np.maximum(C.border.diagonal(), 0))
        for term in self.model.prior:
            if term.flat:
                out[term.label] = np.sqrt(self.flat_covariance.diagonal())
            elif term.grouped:
                i, grouping, columns = self._groups[id(term)]
                blocks = C.blocks if i == 0 else level_blocks(C.border, self._place(term), grouping.n_levels)
                out[term.label] = level_sds(term, blocks[:, columns, columns])
            else:
                place, M = self._place(term), term.mixing
                sd = border[place]
                if M is not None:
                    sd = np.sqrt(np.einsum("ij,jk,ik->i", M, C.border[place, place], M, optimize=True))
                out[term.label] = sd
        return out

    def sample(self, n, seed=0):
        draws = self.joint.draws(n, np.random.default_rng(seed))
        c = self.model.columns
        size = c.n_levels * c.Z.shape[1]
        return self._by_term(draws[:, :size].reshape(n, c.n_levels, c.Z.shape[1]), draws[:, size:])

    @cached_property
    def edf(self):
        C, out = self.joint.covariance, {}
        inner, border = np.einsum("qmm->m", C.blocks), C.border.diagonal()
        for term in self.model.prior:
            if term.flat:
                left = 0.0
            elif term.grouped:
                i, grouping, columns = self._groups[id(term)]
                left = inner if i == 0 else border[self._place(term)].reshape(grouping.n_levels, -1).sum(axis=0)
                left = float(left[columns].sum())
            else:
                left = float(border[self._place(term)].sum())
            out[term.label] = float(term.n_weights) - left
        return out

    def occam(self):
        model, H, u = self.model, self.joint.precision, self.joint.mean
        top, bottom = model.columns.split(u)
        out = {"fit": model.at(u, self.theta).rows.log_density}
        keep = np.ones(len(H.border), bool)
        keep[self._flat] = model.reml
        integrated = H if model.reml else H.keep_border(keep)
        log_dets = 0.0
        for term in model.prior:
            if term.flat:
                block, log_prior = H.border[self._flat, self._flat], len(bottom[self._flat]) * LOG_2PI / 2
                if not model.reml:
                    out[term.label] = 0.0
                    continue
                log_prior -= model.log_volume
                log_det = 2 * float(np.log(cholesky(block).diagonal()).sum())
            elif term.grouped:
                i, grouping, columns = self._groups[id(term)]
                if i == 0:
                    blocks, own = H.blocks, top
                else:
                    place, m = self._place(term), grouping.Z.shape[1]
                    at = np.arange(place.start, place.stop).reshape(-1, m)
                    blocks, own = H.border[at[:, :, None], at[:, None]], bottom[place].reshape(-1, m)
                log_det = float(np.linalg.slogdet(blocks[:, columns, columns])[1].sum())
                log_prior = -float(np.sum(own[:, columns] ** 2)) / 2
            else:
                place = self._place(term)
                K = self._to_flat[:, place]
                beside = K.T @ H.border[self._flat, place]
                block = H.border[place, place] - beside - beside.T + K.T @ H.border[self._flat, self._flat] @ K
                log_det = 2 * float(np.log(cholesky(block).diagonal()).sum())
                log_prior = -float(bottom[place] @ bottom[place]) / 2
            out[term.label] = log_prior - log_det / 2
            log_dets += log_det
        out["overlap"] = (log_dets - integrated.log_det) / 2
        return out

    def linear_predictor(self, rows):
        model = self.model
        n = len(next(iter(rows.columns.values())))
        dense = np.zeros((n, model.columns.dense.shape[1]))
        levels = [(np.zeros(n, int), np.zeros((n, g.Z.shape[1]))) for g in model.groupings]
        eta, extra = np.zeros(n) + rows.offset, np.zeros(n)
        for term, theta in model.term_theta(self.theta):
            X = rows.columns.get(term.label)
            if X is None:
                continue
            if term.flat:
                dense[:, self._flat] = np.linalg.solve(model.flat_basis.R.T, X.T).T
                eta += X @ self.mean[term.label]
            elif term.grouped:
                i, _, columns = self._groups[id(term)]
                seen = rows.codes[term.label] >= 0
                code = np.where(seen, rows.codes[term.label], 0)
                known = X * seen[:, None]
                eta += np.einsum("nm,nm->n", known, self.mean[term.label][code])
                known, unseen = mixed(term, known), mixed(term, X - known)
                extra += ((unseen @ term.factor(theta)) ** 2).sum(axis=1)
                levels[i][0][seen] = code[seen]
                levels[i][1][:, columns] = known
            else:
                dense[:, self._place(term)] = mixed(term, X)
                eta += X @ self.mean[term.label]
        factors = [Factor(codes, g.n_levels, Z) for (codes, Z), g in zip(levels, model.groupings, strict=True)]
        dense -= dense[:, self._flat] @ model.columns.shift
        new = Columns.of(factors, [dense], model.columns.n_flat)
        return eta, new.quadratic(self._covariance, InMemory(eta)) + extra


@dataclass(frozen=True, eq=False)
class SpectralPosterior(TermPosterior):
    """Through the spectrum of the one design with a shared scale; all targets at once.

    Parameters
    ----------
    model
        Which owns the spectrum.
    a, b : (V,)
        Variance of a weight, and of the noise.
    """

    model: LinearModel
    a: Float[Array, "V"]
    b: Float[Array, "V"]

    @property
    def _spectrum(self) -> Spectrum:
        return self.model.spectrum

    @cached_property
    def _labels(self) -> tuple[str | None, str]:
        flat = next((t.label for t in self.model.prior if t.flat), None)
        return flat, self.model.dense[0].label

    def _squeezed(self, x: Array) -> Array:
        return x[0] if self.model.rows.y.ndim == 1 else x

    @cached_property
    def _solution(self) -> tuple[Float[Array, "V p"], Float[Array, "V f"]]:
        return self._spectrum.weights(self.a, self.b)

    @property
    def _weights(self) -> Float[Array, "V p"]:
        return self._solution[0]

    @cached_property
    def _flat(self) -> Float[Array, "V f"]:
        return (self._spectrum.shift - solve_upper(self.model.flat_basis.R, self._solution[1].T)).T

    @cached_property
    def mean(self):
        return {t.label: self._squeezed(self._flat if t.flat else self._weights) for t in self.model.prior}

    @cached_property
    def _shrinkage(self) -> tuple[Array, Array]:
        """Eigenvectors in the space of weights (p, r), and the variance each loses: a²d/(ad + b), (V, r)."""
        s = self._spectrum
        d, U = s.basis.eigenvalues, s.basis.eigenvectors
        if not s.primal:
            U = (s.X.T @ U - s.means.T @ (s.Q.T @ U)) / np.sqrt(d)
        with np.errstate(invalid="ignore"):
            lost = np.multiply.outer(self.a**2, d) / (np.multiply.outer(self.a, d) + self.b[:, None])
        return U, np.nan_to_num(lost)

    def covariance(self, v: int = 0) -> Float[Array, "p p"]:
        """Posterior covariance of one target's weights."""
        U, lost = self._shrinkage
        return self.a[v] * np.eye(len(U)) - (U * lost[v]) @ U.T

    @cached_property
    def flat_covariance(self):
        s, R = self._spectrum, self.model.flat_basis.R
        U, lost = self._shrinkage
        M = s.means @ U
        C = np.einsum("v,fp,gp->vfg", self.a, s.means, s.means) - np.einsum("fr,vr,gr->vfg", M, lost, M)
        C = C + self.b[:, None, None] / len(s.X) * np.eye(len(R))
        half = np.linalg.solve(R, C)
        return self._squeezed(np.linalg.solve(R, half.transpose(0, 2, 1)))

    @cached_property
    def sd(self):
        flat, ridge = self._labels
        U, lost = self._shrinkage
        variance = np.maximum(self.a[:, None] - lost @ (U**2).T, 0)
        out = {ridge: self._squeezed(np.sqrt(variance))}
        if flat is not None:
            out[flat] = np.sqrt(np.einsum("...ff->...f", self.flat_covariance))
        return {t.label: out[t.label] for t in self.model.prior}

    def sample(self, n, seed=0):
        rng = np.random.default_rng(seed)
        s = self._spectrum
        U, lost = self._shrinkage
        V, p = self._weights.shape
        z = rng.standard_normal((n, V, p))
        kept = np.sqrt(np.maximum(1 - lost / np.where(self.a > 0, self.a, 1)[:, None], 0)) - 1
        w = self._weights + np.sqrt(self.a)[:, None] * (z + (z @ U * kept) @ U.T)
        out = {self._labels[1]: w if self.model.rows.y.ndim == 2 else w[:, 0]}
        if self._labels[0] is not None:
            f = len(s.means)
            noise = rng.standard_normal((n, V, f)) * np.sqrt(self.b / len(s.X))[:, None]
            beta = np.linalg.solve(self.model.flat_basis.R, (noise - w @ s.means.T)[..., None])[..., 0] + s.shift.T
            out[self._labels[0]] = beta if self.model.rows.y.ndim == 2 else beta[:, 0]
        return out

    @cached_property
    def edf(self):
        flat, ridge = self._labels
        d = self._spectrum.basis.eigenvalues
        ad = np.multiply.outer(self.a, d)
        with np.errstate(invalid="ignore"):  # of a target that is constant
            out = {ridge: self._scalar((ad / (ad + self.b[:, None])).sum(axis=1))}
        if flat is not None:
            out[flat] = self._scalar(np.full(len(self.a), float(self.model.n_flat)))
        return {t.label: out[t.label] for t in self.model.prior}

    def _scalar(self, x: Array) -> Any:
        return float(x[0]) if self.model.rows.y.ndim == 1 else x

    def occam(self):
        model, s, a, b = self.model, self._spectrum, self.a, self.b
        flat, ridge = self._labels
        n, d = len(s.X), s.basis.eigenvalues
        targets = [s.basis.moments(t, a[t], b[t]).db for t in s.response.blocks()]
        rss = s.rest - b**2 * np.concatenate(targets)
        fit = -n / 2 * (LOG_2PI + np.log(b)) - rss / (2 * b) + model.log_row_scale
        schur = np.log1p(np.multiply.outer(a / b, d)).sum(axis=1)
        U, lost = self._shrinkage
        M = s.means @ U
        inner = np.einsum("v,fp,gp->vfg", a, s.means, s.means) - np.einsum("fr,vr,gr->vfg", M, lost, M)
        overlap = np.linalg.slogdet(np.eye(len(s.means)) + n / b[:, None, None] * inner)[1]
        squared = np.einsum("vp,vp->v", self._weights, self._weights)
        unit = np.divide(squared, a, out=np.zeros_like(a), where=a > 0)
        out = {"fit": fit, ridge: -unit / 2 - (schur + overlap) / 2}
        if flat is not None:
            f = s.Q.shape[1]
            out[flat] = f * LOG_2PI / 2 - model.log_volume - f / 2 * np.log(n / b)
        out["overlap"] = overlap / 2
        order = ["fit", *(t.label for t in model.prior), "overlap"]
        return {label: self._scalar(out[label]) for label in order}

    def linear_predictor(self, rows):
        flat, ridge = self._labels
        s, (U, lost) = self._spectrum, self._shrinkage
        X, F = rows.columns.get(ridge), rows.columns.get(flat) if flat else None
        n = len(next(iter(rows.columns.values())))
        eta = np.zeros((n, len(self.a))) + np.reshape(rows.offset, (-1, 1))
        variance = np.zeros((n, len(self.a)))
        K = np.zeros((n, s.X.shape[1]))
        if F is not None:
            Q = np.linalg.solve(self.model.flat_basis.R.T, F.T).T
            eta += F @ self._flat.T
            K -= Q @ s.means
            variance += np.multiply.outer(np.einsum("nf,nf->n", Q, Q) / len(s.X), self.b)
        if X is not None:
            eta += X @ self._weights.T
            K += X
        variance += np.multiply.outer(np.einsum("np,np->n", K, K), self.a) - (K @ U) ** 2 @ lost.T
        variance = np.maximum(variance, 0)
        return (eta[:, 0], variance[:, 0]) if self.model.rows.y.ndim == 1 else (eta, variance)
