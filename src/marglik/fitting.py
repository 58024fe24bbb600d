# SPDX-License-Identifier: BSD-3-Clause
"""From a model to a `Fit`: choose a method, learn θ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik import learn
from marglik.callers import warn
from marglik.evidence import Evidence, EvidenceMethod, choose
from marglik.evidence.base import FAR_BELOW, apart
from marglik.evidence.laplace import NOT_FINITE, STUCK
from marglik.fitted import Fit
from marglik.hyperparameters import Hyperparameters
from marglik.model import LinearModel, Model
from marglik.newrows import Source
from marglik.priors import RandomEffects
from marglik.scatter import check_fitted_exactly, check_noise, check_scatter
from marglik.stages import climbed
from marglik.targets import stacked
from marglik.uncertainty import undetermined
from marglik.validate import (
    check_grouping,
    check_restarts,
    counted,
    listed,
)

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


def fit_model(
    model: Model,
    *,
    method: str = "auto",
    fixed: Mapping[str, float] | None = None,
    hyperprior: Mapping[str, Any] | bool | None = None,
    restarts: int = 0,
    seed: int = 0,
    points: int | None = None,
    draws: int | None = None,
    guide: Any = None,
    samples: int | None = None,
    source: Source | None = None,
    notes: tuple[str, ...] = (),
) -> Fit:
    """Learn θ of a model and return the fit; see `marglik.fit` for the parameters."""
    check_restarts(restarts, seed)
    if fixed and isinstance(model, LinearModel):
        model = _holding(model, model.hyperparameters.checked(fixed))
    choice = choose(model, method, points, draws, guide, samples)
    choice = choice._replace(method=choice.method.seeded(seed))
    fit = _learned(model, choice, fixed, hyperprior, restarts, seed, source, notes)
    if isinstance(fit.optimum, learn.Optimum):
        _warn_unless_converged(fit.optimum, fit.model.hyperparameters)
    return fit


def _learned(
    model: Model, choice: Any, fixed: Any, hyperprior: Any, restarts: int, seed: int, source: Any, notes: Any
) -> Fit:
    """θ̂ by this method."""
    if isinstance(model, LinearModel) and model.rows.y.ndim == 2 and not choice.method.batched(model):
        return _fit_each(model, choice, fixed, hyperprior, restarts, seed, source, notes)
    if choice.method.first is not None:
        first = choice._replace(method=choice.method.first)
        return _in_stages(choice.method, _learned(model, first, fixed, hyperprior, restarts, seed, source, notes))
    if isinstance(model, LinearModel) and not model.reml and not choice.method.profiles_flat and model.n_flat:
        return _fit_with_flat_in_theta(model, choice, fixed, hyperprior, restarts, seed, source, notes)
    objective, base, free = _prepare(model, choice.method, fixed, hyperprior)
    found = None if hyperprior else choice.method.learner.maximum(model, base, free)
    if found is not None:
        optimum: learn.Found = learn.Located(objective, found.theta, free, warm=found.start, others=found.others)
        optimum = learn.settled(objective, optimum, free)
        if restarts and model.n_targets == 1:
            start = np.where(free, model.start_theta()[:1], base)
            optimum = learn.best([optimum, *_restarted(objective, start, free, restarts, seed)])
        return Fit(model, choice.method, choice.reason, optimum, objective, source, notes)
    starts = choice.method.learner.starts(model, base, free)
    optimum = _best(objective, starts, free, restarts, seed)
    if isinstance(model, LinearModel) and model.likelihood.gaussian and free[-1]:
        check_fitted_exactly(optimum.theta[0, -1], model.response_scale)
    return Fit(model, choice.method, choice.reason, optimum, objective, source, notes)


def _in_stages(method: EvidenceMethod, first: Fit) -> Fit:
    """θ̂ by a method that draws, from the fit of the one that it sets out from."""
    objective = replace(first.objective, method=method)
    return replace(first, evidence_method=method, objective=objective, optimum=climbed(objective, first.optimum))


def _fit_each(
    model: LinearModel, choice: Any, fixed: Any, hyperprior: Any, restarts: int, seed: int, source: Any, notes: Any
) -> Fit:
    """Every target by itself, where the method takes one at a time; one that cannot be learned costs no other."""
    fits: list[Fit | None] = []
    lost: dict[int, ValueError] = {}
    for v in range(model.n_targets):
        alone = model.target(v)
        try:
            fits.append(_learned(alone, choice, fixed, hyperprior, restarts, seed, None, ()))
        except ValueError as error:
            fits.append(None)
            lost[v] = error
        model.adopt(alone)
    found = next((fit for fit in fits if fit is not None), None)
    if found is None:
        raise lost[0]
    if lost:
        notes = (*notes, *(f"Target {v} could not be learned. {error}" for v, error in lost.items()))
        warn(f"Target {listed(lost)} could not be learned, so its numbers are NaN. {next(iter(lost.values()))}")
    optimum = stacked([None if fit is None else fit.optimum for fit in fits])
    model = replace(model, flat_in_theta=found._linear.flat_in_theta)
    objective = replace(found.objective, model=model)
    return Fit(model, choice.method, choice.reason, optimum, objective, source, notes)


def _prepare(
    model: Model, method: EvidenceMethod, fixed: Mapping[str, float] | None, hyperprior: Mapping[str, Any] | bool | None
) -> tuple[learn.Objective, Array, Array]:
    h = model.hyperparameters
    base = np.array([0.0 if x.image is not None else 1.0 for x in h])
    base = h.vector(fixed, base) if fixed else base
    free = ~_held(h, fixed) if fixed else np.array([True] * len(h), bool)
    if isinstance(model, LinearModel):
        _check_learnable(model, {x.name for x, f in zip(h, free, strict=True) if f})
    objective = learn.Objective(method.learner, model, {} if hyperprior is True else hyperprior or {})
    if hyperprior is True:
        if model.log_hyperprior is None:
            raise ValueError(
                "hyperprior=True adds the priors of the sites in hyper=[…] of a program, and this model has none. Give "
                "log densities by name: hyperprior={'sd(noise)': scipy.stats.gamma(2)}."
            )
        objective = learn.Objective(method.learner, model, log_prior=model.log_hyperprior)
    for name in objective.hyperprior:
        if name in h.reported and name not in h.names:
            raise ValueError(
                f"{name!r} is tied to others, as part of a covariance is, and can have no hyperprior of its own. Make "
                "effects independent, || in place of |, or hold it: fixed=."
            )
        h.index(name)
        given = objective.hyperprior[name]
        if not callable(getattr(given, "logpdf", given)):
            raise ValueError(
                f"The hyperprior of {name!r} is {given!r}, but it must be a log density: a function of the value, or "
                "an object with logpdf, such as scipy.stats.gamma(2)."
            )
    return objective, base, free


def _holding(model: LinearModel, fixed: Mapping[str, float]) -> LinearModel:
    """The model with factors that have what is held of a covariance among their entries, if it is not all of it."""
    for term in model.prior:
        if not isinstance(term, RandomEffects) or term.triangle is None:
            continue
        names = [name for name in term.reported_names if name in fixed]
        if 0 < len(names) < len(term.reported_names):
            found = term.holding(names, [fixed[name] for name in names])
            if found is None:
                raise ValueError(
                    f"fixed= cannot hold {', '.join(names)} while the rest of the covariance of {term.label} is "
                    "learned. Hold one standard deviation, one correlation, a correlation and one of its standard "
                    "deviations, or all."
                )
            model = model.with_term(term, found[0])
    return model


def _held(names: Hyperparameters, fixed: Mapping[str, float]) -> Array:
    """Which coordinates are held: by name; all that are reported together; the first of a factor."""
    held = np.array([h.name in fixed for h in names])
    for place, image in names.images:
        held[place] = all(name in fixed for name in image.names)
    for place, triangle in names.triangles:
        held[place.start] |= triangle.names[triangle.order[0]] in fixed
    return held


def _check_learnable(model: LinearModel, learned: set[str]) -> None:
    """Refuse what the data cannot tell, before it turns into a division by zero."""
    noise = model.likelihood.hyperparameters()[0].name if model.likelihood.gaussian else None
    check_grouping(model.prior, model.rows, learned, noise, model.reml and not model.flat_in_theta)
    if model.likelihood.located and noise is None:
        _check_scale(model, learned)
    if noise not in learned:
        return
    if model.one_scale:
        left_over = model.spectrum.total
    elif model.dense_scales:
        left_over = model.reduced.total
    elif model.dense_rows:
        left_over = (model.residuals.read(slice(0, 1))[0] ** 2).sum(axis=0)
    else:
        left_over = np.array([model.level_sums.border[-1, -1]])
    if model.rows.y.ndim == 1:
        y = model.rows.y
        if not left_over[0] > 1e-12 * (y @ y) or model.rows.n_observations <= len(model.flat_basis.R):
            check_noise(left_over, model.residuals.spread(), model.rows.n_observations, model.n_flat)
    elif not left_over.all():
        constant = listed(np.flatnonzero(left_over == 0))
        warn(
            f"Target {constant} is constant, so there is nothing to learn: its coefficients are zero and its log "
            "evidence is NaN."
        )


def _check_scale(model: LinearModel, learned: set[str]) -> None:
    """Refuse a response that flat columns fit exactly where noise that is not Gaussian has a scale to learn."""
    name = model.likelihood.hyperparameters()[0].name
    if name not in learned or model.rows.y.ndim > 1:
        return
    left_over = (model.residuals.read(slice(0, 1))[0] ** 2).sum(axis=0)
    if not left_over[0] > 1e-12 * (model.rows.y @ model.rows.y) or model.rows.n_observations <= model.n_flat:
        check_noise(left_over, model.residuals.spread(), model.rows.n_observations, model.n_flat, name)


def _fit_with_flat_in_theta(
    model: LinearModel, choice: Any, fixed: Any, hyperprior: Any, restarts: int, seed: int, source: Any, notes: Any
) -> Fit:
    """ML where flat weights cannot be profiled out: maximise over (θ, β), from the answer with β integrated."""
    integrated_model, model = replace(model, reml=True), model.with_flat_in_theta()
    objective, base, free = _prepare(model, choice.method, fixed, hyperprior)
    found = None if hyperprior else choice.method.learner.maximum(model, base, free)
    if found is not None:
        optimum: learn.Found = learn.Located(objective, found.theta, free, warm=found.start)
        optimum = learn.settled(objective, optimum, free)
        if restarts:
            first = np.where(free, model.start_theta()[:1], base)
            optimum = learn.best([optimum, *_restarted(objective, first, free, restarts, seed)])
        return Fit(model, choice.method, choice.reason, optimum, objective, source, notes)
    integrated = _learned(integrated_model, choice, fixed, None, restarts, seed, None, ())
    k = integrated.optimum.theta.shape[1]
    gamma = model.flat_basis.R @ integrated._terms("fixed effects").mean[next(t.label for t in model.prior if t.flat)]

    def start(theta: Array) -> Array:
        theta = np.where(theta > 0, theta, 0.3 * objective.units[:k])
        return np.concatenate([np.where(free[:k], theta, base[:k]), gamma])[None]

    here, lower = integrated.optimum, integrated.optimum.others
    tries: list[learn.Found] = [_best(objective, start(here.theta[0])[None], free, 0, seed)]
    tries += [learn.maximise(objective, start(theta), free) for theta in ([] if lower is None else lower)]
    optimum = replace(learn.best(tries), searches=here.searches, reached=here.reached)
    return Fit(model, choice.method, choice.reason, optimum, objective, source, notes)


def _extremes(model: Model) -> str:
    """Where to look for values that make a log density too steep to climb."""
    offset = model.offset if isinstance(model, LinearModel) else None
    if offset is None:
        return "Look for values of very different size in a column: rescale it, or correct these rows."
    return (
        f"The offset reaches from {offset.min():.3g} to {offset.max():.3g} on the scale of the linear predictor: "
        "correct its extreme rows, and those of columns."
    )


def _best(objective: learn.Objective, starts: Array, free: Array, restarts: int, seed: int) -> learn.Found:
    """The best of the maxima reached from the best starts, and from zero for each scale."""
    starts = np.asarray(starts, float)
    starts = starts[:, None] if starts.ndim == 2 else starts
    set_out: list[tuple[Array, Any, Any]] = [(starts[0], None, None)]
    if len(starts) > 1:
        found = _looked_at(objective, starts)
        values = [_value(e) for e in found]
        if not np.isfinite(max(values)):
            why = next((e.checks["mode"] for e in found if "mode" in e.checks), NOT_FINITE)
            advice = f" {_extremes(objective.model)}" if why in (STUCK, NOT_FINITE) else ""
            raise ValueError(f"The evidence could not be computed. {why}{advice}")
        first = [int(np.argmax(values))]
        if objective.model.several_maxima:
            first = apart(objective.hyperparameters.unconstrain(starts[: len(found), 0]), values)
        set_out = []
        for i in first:
            j = max((j for j in (i - 1, i + 1) if 0 <= j < len(found)), key=values.__getitem__)
            beside = (starts[j], found[j].posterior) if np.isfinite(values[j]) else None
            set_out.append((starts[i], found[i].posterior, beside))
    tries = [learn.maximise(objective, start, free, *near) for start, *near in set_out]
    tries += _restarted(objective, set_out[0][0], free, restarts, seed)
    best = learn.preferred(tries)
    check_scatter(objective.hyperparameters, best.theta[0], objective.units, free)
    even = [i for i, h in enumerate(objective.hyperparameters) if h.even and free[i]]
    scales = [i for i in even if best.theta[0, i] > 0 and objective.hyperparameters[i].name != "sd(noise)"]
    for i in scales if len(scales) <= MOST_SCALES_TRIED_AT_ZERO else []:
        at_zero = best.theta.copy()
        at_zero[:, i] = 0
        value = np.ravel(objective.evidence(at_zero, best.warm).log_value)[0]
        if value == -np.inf or best.value[0] - value > HOPELESS:
            continue
        if objective.slope_in_variance(at_zero, i, best.warm)[0] < 0:
            tries.append(learn.after(best, learn.maximise(objective, at_zero, free)))
            best = max(best, tries[-1], key=lambda o: o.value[0])
    return learn.best(tries)


def _looked_at(objective: learn.Objective, starts: Float[Array, "s V k"]) -> list[Evidence]:
    """The evidence at each start; of ever larger ones none beyond where it has fallen far."""
    found: list[Evidence] = []
    larger = not objective.model.several_maxima and bool(np.all(np.diff(starts, axis=0) > 0))
    for start in starts:
        found.append(objective.evidence(start))
        if larger and len(found) > 1 and _value(found[-1]) < _value(found[-2]) - FAR_BELOW:
            break
    return found


def _value(found: Evidence) -> float:
    """Of the first target; −∞ where there is no mode."""
    return float(np.ravel(found.log_value)[0]) if "mode" not in found.checks else -np.inf


def _restarted(objective: learn.Objective, start: Array, free: Array, restarts: int, seed: int) -> list[learn.Optimum]:
    """Where learning ends from starts with e² times the usual scales, more or less."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(restarts):
        moved = objective.hyperparameters.unconstrain(start) + 2 * rng.standard_normal(start.shape)
        there = np.where(free, objective.hyperparameters.constrain(moved), start)
        with np.errstate(over="ignore", invalid="ignore"):  # a search may run off where the evidence is flat
            found.append(learn.maximise(objective, there, free))
    return found


MOST_SCALES_TRIED_AT_ZERO = 4
HOPELESS = 30.0
"""A scale whose loss costs more than this many nats, the others as they are, is not tried at zero."""


def _warn_unless_converged(optimum: learn.Optimum, names: Hyperparameters) -> None:
    astray = ~optimum.converged & ~np.isnan(optimum.value)
    if astray.any():
        which = "" if len(astray) == 1 else f" for {counted(int(astray.sum()), 'target')}"
        warn(
            undetermined(names, optimum)
            or f"Learning did not converge{which} in {counted(optimum.n_iterations, 'step')}; see fit.check() and "
            "fit.trace. Rescale columns of very different size, or give start values through restarts=."
        )
