# SPDX-License-Identifier: BSD-3-Clause
"""`marglik.fit`: whatever describes the model, one verb."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from marglik.fitted import Fit
from marglik.fitting import fit_model
from marglik.interfaces.families import likelihood_of
from marglik.likelihoods import Likelihood
from marglik.model import LinearModel, Model
from marglik.pools import one_pool
from marglik.progress import listening
from marglik.validate import check_flag

if TYPE_CHECKING:
    from marglik.newrows import Source


@one_pool()
def fit(
    model: Any,
    data: Any = None,
    *,
    family: str | Likelihood = "gaussian",
    method: str = "auto",
    reml: bool = True,
    link: str | None = None,
    weights: Any = None,
    fixed: Mapping[str, float] | None = None,
    hyperprior: Mapping[str, Any] | bool | None = None,
    missing: str = "raise",
    select: bool = False,
    points: int | None = None,
    draws: int | None = None,
    restarts: int = 0,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    hyper: Sequence[str] = (),
    guide: Any = None,
    samples: int | None = None,
    seed: int = 0,
    progress: Any = None,
) -> Fit:
    """Learn all hyperparameters of a model by maximising its marginal likelihood.

    Parameters
    ----------
    model
        A formula such as ``"y ~ x + (1 | g)"``, a `LinearModel`, or a NumPyro program.
    data
        For a formula: a pandas, polars or pyarrow frame, a dict of columns, or a path or glob of CSV or Parquet files.
    family
        For a formula: the likelihood's name, such as ``"gaussian"`` or ``"poisson"``, or a `Likelihood`.
    method
        How weights are integrated out: ``"auto"`` (exact if Gaussian, else Laplace), ``"exact"``, ``"laplace"``,
        ``"quadrature"`` (adaptive Gauss–Hermite, for one grouping factor with up to three coefficients a level),
        ``"variational"`` (a lower bound by the best Gaussian posterior), ``"annealed"`` (tempered Monte Carlo at θ̂ of
        Laplace, with a standard error), ``"importance"`` (weighted draws about the mode, level by level where there is
        one grouping factor, with a standard error), ``"simple"`` (an average over draws from the prior).
    reml
        For a formula: whether fixed effects are integrated out with a flat prior (REML) or maximised (ML).
    link
        For a formula: the likelihood's link function, where there is a choice.
    weights
        For a formula: a column's name or an array. Precision weights for a Gaussian, var(ε_i) = σ²/w_i; the log
        evidence includes ½ Σ log w_i. For other families they multiply log densities.
    fixed
        Hyperparameters to hold, name → value: ``{"sd(noise)": 1.0}``. With none left free the evidence is just
        evaluated.
    hyperprior
        Log densities to add, name → an object with ``logpdf`` or a function of the value; True for the priors that the
        sites in ``hyper`` have in a program. No Jacobian is added, and `Fit.log_evidence` stays log p(y|θ̂).
    missing
        For a formula: ``"raise"`` or ``"drop"`` rows with missing values.
    select
        For a formula: whether what the penalties of smooths do not see has penalties too, so that whole smooths can
        vanish.
    points
        For quadrature: points in each dimension, 15 if not given. One is Laplace's method.
    draws
        For importance sampling and simple Monte Carlo: how many draws, a power of two for the former; with one grouping
        factor, importance sampling has so many for each level.
    restarts
        Number of further starts, at random.
    args, kwargs, hyper
        For a program: its arguments, and the names of the sites that are hyperparameters.
    guide
        For a program under ``method="variational"``: ``"full"``, ``"low_rank"``, ``"mean_field"``, or a NumPyro
        guide of your own; full for up to 100 latent numbers if not given, else mean-field.
    samples
        For the same: how many draws make one bound. The more, the closer to the evidence.
    seed
        For restarts, and for methods that draw.
    progress
        True for a line in the terminal while θ is learned, or a function that is called with the number of evaluations
        of the evidence so far and the last log evidence (summed over targets), where θ̂ is searched for step by step.

    Returns
    -------
    Fit

    Raises
    ------
    ValueError
        What was asked for cannot be done; the sentence says what is wrong and what to try.

    Examples
    --------
    >>> import marglik
    >>> data = {"y": [1.0, 1.3, 2.9, 3.1, 5.2, 4.8], "g": ["a", "a", "b", "b", "c", "c"]}
    >>> fit = marglik.fit("y ~ 1 + (1 | g)", data)
    >>> fit.hyperparameters["estimate"].round(3)
    name
    sd(Intercept | g)    1.919
    sd(noise)            0.220
    Name: estimate, dtype: float64
    >>> float(round(fit.log_evidence, 4))
    -5.4496
    """
    of_formulas = {
        "data": data,
        "weights": weights,
        "family": family,
        "link": link,
        "reml": reml,
        "missing": missing,
        "select": select,
    }
    of_programs = {"args": args, "kwargs": kwargs, "hyper": hyper, "guide": guide, "samples": samples}
    described: Described
    if isinstance(model, str):
        _refuse(of_programs, "is for NumPyro programs, and this is a formula")
        described = _formula(model, data, family, link, reml, weights, missing, select)
    elif isinstance(model, LinearModel):
        _refuse(of_programs, "is for NumPyro programs, and this is a LinearModel")
        _refuse(of_formulas, "is for formulas, and a LinearModel holds that itself")
        described = Described(model)
    elif callable(model):
        _refuse(of_formulas, "is for formulas, and a program says that itself")
        from marglik.interfaces.numpyro import program

        translated = program(model, tuple(args), dict(kwargs or {}), hyper)
        described = Described(translated, notes=translated.notes)
    else:
        raise ValueError(
            f"model must be a formula, a LinearModel or a NumPyro program, but is a {type(model).__name__}. A formula "
            "looks like 'y ~ x + (1 | g)'."
        )
    with _listening(progress):
        return fit_model(
            described.model,
            method=method,
            fixed=fixed,
            hyperprior=hyperprior,
            restarts=restarts,
            seed=seed,
            points=points,
            draws=draws,
            guide=guide,
            samples=samples,
            source=described.source,
            notes=described.notes,
        )


DEFAULTS = {"family": "gaussian", "reml": True, "missing": "raise", "select": False, "args": (), "hyper": ()}
"""Of what belongs to one kind of model only; None for all else."""


def _refuse(options: Mapping[str, Any], why: str) -> None:
    """Say that an option is not for this kind of model, if it is given."""
    for name, value in options.items():
        default = DEFAULTS.get(name)
        if value is default or (isinstance(value, str | tuple | list | Mapping) and not value):
            continue
        if not (isinstance(default, str | tuple) and isinstance(value, type(default)) and value == default):
            raise ValueError(f"{name}= {why}. Leave it out.")


class Described(NamedTuple):
    """A model, where its rows come from, and what to say of them."""

    model: Model
    source: Source | None = None
    notes: tuple[str, ...] = ()


def _formula(
    text: str,
    data: Any,
    family: str | Likelihood,
    link: str | None,
    reml: bool,
    weights: Any,
    missing: str,
    select: bool,
) -> Described:
    from marglik.interfaces import formula

    likelihood = likelihood_of(family, link)
    if data is None:
        raise ValueError(f"The formula {text!r} needs data: a frame, a dict of columns, or the path of a file.")
    check_flag(select, "select")
    model, source, notes = formula.build(
        text, data, likelihood, reml=reml, weights=weights, missing=missing, select=bool(select)
    )
    if isinstance(family, str):
        source = formula.reset(source, family=family, reml=reml)
    return Described(model, source, notes)


@contextmanager
def _listening(progress: Any) -> Iterator[None]:
    """The caller, or a line in the terminal, hears how learning gets on."""
    if progress is None or progress is False:
        yield
    elif progress is True:
        from rich.console import Console

        with Console(stderr=True).status("learning") as line:

            def show(evaluations: int, log_evidence: float) -> None:
                line.update(f"{evaluations} evaluations of the evidence, the last {log_evidence:.4f} nats")

            with listening(show):
                yield
    elif callable(progress):
        with listening(progress):
            yield
    else:
        raise ValueError(
            "progress must be True, for a line in the terminal, or a function of the number of evaluations and of the "
            f"log evidence, but is {progress!r}."
        )
