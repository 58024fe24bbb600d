# SPDX-License-Identifier: BSD-3-Clause
"""A fit as one file, and back: a zip of arrays and one JSON page, without pickle.

What was learned is kept (θ̂, gradient, Hessian, where learning ended), so that loading learns nothing anew.
The model is built again: from the formula and the columns that it uses, or from the arrays of its terms.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik import __version__, learn
from marglik.evidence import EvidenceMethod
from marglik.fitted import Fit, Unsupported
from marglik.interfaces import formula
from marglik.likelihoods import Likelihood
from marglik.model import LinearModel
from marglik.posterior.base import Gaussian
from marglik.priors import Prior, RandomEffects, Term
from marglik.rows import InMemory

if TYPE_CHECKING:
    from numpy import ndarray as Array

FORMAT = 1
"""Raised whenever older versions of marglik could not read what this one writes."""
PAGE = "marglik.json"
REGISTRIES: Mapping[str, Mapping[str, type]] = {
    "term": Term.registry,
    "likelihood": Likelihood.registry,
    "method": EvidenceMethod.registry,
}
EPOCH = (1980, 1, 1, 0, 0, 0)


class BadFile(ValueError):
    """A file that holds no fit that can be read, in one sentence."""


def save(fit: Fit, path: str | os.PathLike[str]) -> None:
    """Write a fit to one file, which `load` reads.

    The file holds the data that the model uses, its settings, and what was learned. The same fit gives the
    same bytes.

    Parameters
    ----------
    fit
        Of a formula or a `LinearModel`.
    path
        Where to write; a file that is there is replaced once all is written.

    Raises
    ------
    Unsupported
        The fit is of a program, or holds a function.
    """
    if not isinstance(fit.model, LinearModel):
        raise Unsupported(
            "A program cannot be saved, because it is code. Save its numbers instead, such as "
            "fit.hyperparameters.to_csv(path), or run it again."
        )
    arrays: dict[str, Array] = {}
    page = {
        "program": "marglik",
        "format": FORMAT,
        "version": __version__,
        **_described(fit, fit.model, arrays),
    }
    target = Path(path)
    if not target.absolute().parent.is_dir():
        raise BadFile(f"There is no folder {str(target.parent)!r} to save in. Make it first.")
    if target.is_dir():
        raise BadFile(f"{str(target)!r} is a folder. Name a file in it.")
    half = target.with_name(target.name + ".part")
    try:
        with zipfile.ZipFile(half, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            file.writestr(_member(PAGE), json.dumps(page, indent=1, ensure_ascii=False))
            for name, array in arrays.items():
                with file.open(_member(f"{name}.npy"), "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, array, allow_pickle=False)
        half.replace(target)
    finally:
        half.unlink(missing_ok=True)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def _described(fit: Fit, model: LinearModel, arrays: dict[str, Array]) -> dict[str, Any]:
    """A fit as plain values, its arrays put aside."""
    page: dict[str, Any] = {
        "method": pack(fit.evidence_method, "method", arrays),
        "likelihood": pack(model.likelihood, "likelihood", arrays),
        "reml": model.reml,
        "flat_in_theta": model.flat_in_theta,
        "hyperprior": {name: _prior(name, p) for name, p in fit.objective.hyperprior.items()},
        "optimum": _optimum(fit, arrays),
        "reason": fit.reason,
        "notes": list(fit.notes),
    }
    if isinstance(fit.source, formula.FormulaSource):
        settings, columns = fit.source.recipe()
        arrays |= {f"data.{name}": values for name, values in columns.items()}
        held = {t.label: [t.order, t.held_correlation] for t in model.prior if isinstance(t, RandomEffects) and t.order}
        return {"kind": "formula", "formula": settings, "held": held, **page}
    if fit.source is not None or not isinstance(model.rows, InMemory):
        raise Unsupported("This fit's data are not in memory, so they cannot be saved with it. Save its tables.")
    terms = [pack(term, f"term{i}", arrays) for i, term in enumerate(model.prior)]
    return {"kind": "arrays", "terms": terms, "rows": pack(model.rows, "rows", arrays), **page}


def _optimum(fit: Fit, arrays: dict[str, Array]) -> Any:
    optimum = fit.optimum
    if isinstance(optimum, learn.Located):
        kept = (optimum.theta, optimum.asked, optimum.n_iterations, _start(optimum.warm))
        return {"located": [pack(x, f"optimum{i}", arrays) for i, x in enumerate(kept)]}
    if fit.evidence_method.exact:  # an integral in closed form sets out from nowhere
        optimum = replace(optimum, warm=None)
    trace: Any = np.array(optimum.trace)
    optimum = replace(optimum, curvature=optimum.hessian, trace=trace, warm=_start(optimum.warm))
    return {"learned": pack(optimum, "optimum", arrays)}


def _start(warm: Any) -> Any:
    """A start needs its mean; what computes from the rows stays with the model."""
    if not isinstance(warm, Gaussian):
        return warm
    return replace(warm, precision=replace(warm.precision, levels=None, rooted=None), slopes=None)


def _prior(name: str, prior: Any) -> dict[str, Any]:
    """A frozen distribution of SciPy by name."""
    distribution = getattr(getattr(prior, "dist", None), "name", None)
    arguments = [*getattr(prior, "args", ()), *getattr(prior, "kwds", {}).values()]
    if distribution is None or not all(np.ndim(a) == 0 for a in arguments):
        raise Unsupported(
            f"The hyperprior of {name!r} is a function, which cannot be saved. Give it as a distribution of "
            "scipy.stats, such as halfnorm(scale=2)."
        )
    return {
        "scipy": distribution,
        "args": [float(a) for a in prior.args],
        "kwds": {key: float(a) for key, a in prior.kwds.items()},
    }


def pack(value: Any, name: str, arrays: dict[str, Array]) -> Any:
    """A value as JSON; its arrays go to ``arrays`` under names that begin with ``name``.

    Raises
    ------
    Unsupported
        It is neither a number, text, array or list of these, nor one of marglik's own or registered
        dataclasses.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if is_dataclass(value) and not isinstance(value, type):
        where = _address(type(value))
        if where is not None:
            parts = {f.name: pack(getattr(value, f.name), f"{name}.{f.name}", arrays) for f in fields(value)}
            return {"is": where, "fields": parts}
    elif isinstance(value, list | tuple):
        return {"list": [pack(item, f"{name}.{i}", arrays) for i, item in enumerate(value)]}
    else:
        array = np.asarray(value)
        if array.dtype != object:
            arrays[name] = array
            return {"array": name}
        if all(isinstance(item, str | int | float) for item in array.flat):
            return pack(array.tolist(), name, arrays)
    raise Unsupported(
        f"The fit holds a {type(value).__name__} ({name}), which cannot be saved. Save its tables instead."
    )


def _address(kind: type) -> str | None:
    for family, registry in REGISTRIES.items():
        for name, registered in registry.items():
            if registered is kind:
                return f"{family}:{name}"
    return f"{kind.__module__}:{kind.__qualname__}" if kind.__module__.startswith("marglik.") else None


def unpack(value: Any, arrays: Callable[[str], Array]) -> Any:
    """What `pack` took apart."""
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float.fromhex(value["float"])
    if "array" in value:
        return arrays(value["array"])
    if "list" in value:
        return tuple(unpack(item, arrays) for item in value["list"])
    parts = {name: unpack(part, arrays) for name, part in value["fields"].items()}
    return _class_at(value["is"])(**parts)


def _class_at(address: str) -> type:
    family, _, name = address.partition(":")
    if family in REGISTRIES:
        if name not in REGISTRIES[family]:
            raise BadFile(
                f"The file needs the {family} {name!r}, which is not there. Import the module that defines it first."
            )
        return REGISTRIES[family][name]
    kind = getattr(import_module(family), name) if family.startswith("marglik.") else None
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise BadFile(f"The file names {address!r}, which is no part of a fit. It may be damaged.")
    return kind


def load(path: str | os.PathLike[str]) -> Fit:
    """Read a fit that `save` or `Fit.save` wrote.

    Parameters
    ----------
    path
        Of the file.

    Returns
    -------
    Fit
        With the numbers of the fit that was saved; nothing is learned anew.

    Raises
    ------
    BadFile
        There is no such file, it holds no fit, or a newer marglik wrote it.

    Examples
    --------
    >>> import marglik, tempfile, pathlib
    >>> data = {"y": [1.0, 1.3, 2.9, 3.1, 5.2, 4.8], "g": ["a", "a", "b", "b", "c", "c"]}
    >>> fit = marglik.fit("y ~ 1 + (1 | g)", data)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fit.save(pathlib.Path(folder) / "fit.marglik")
    ...     again = marglik.load(pathlib.Path(folder) / "fit.marglik")
    >>> again.log_evidence == fit.log_evidence
    True
    """
    shown = repr(str(path))
    if not Path(path).is_file():
        raise BadFile(f"There is no file {shown}. Check the path.")
    if not zipfile.is_zipfile(path):
        raise BadFile(f"{shown} is not a fit that marglik saved. Give a file that fit.save(path) wrote.")
    with zipfile.ZipFile(path) as file:
        page = _page(file, shown)
        try:
            return _fit(page, lambda name: _array(file, name))
        except (
            KeyError,
            TypeError,
            IndexError,
            EOFError,
            OSError,
            zipfile.BadZipFile,
            AttributeError,
            ImportError,
        ) as error:
            raise BadFile(f"{shown} is damaged: {type(error).__name__}, {error}. Save the fit again.") from error


def _page(file: zipfile.ZipFile, shown: str) -> dict[str, Any]:
    try:
        page = json.loads(file.read(PAGE))
        if page["program"] != "marglik":
            raise KeyError(PAGE)
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile):
        raise BadFile(f"{shown} is not a fit that marglik saved. Give a file that fit.save(path) wrote.") from None
    if page["format"] > FORMAT:
        raise BadFile(
            f"{shown} was written by marglik {page['version']} in format {page['format']}, but this is marglik "
            f"{__version__}, which reads formats up to {FORMAT}. Upgrade: pip install --upgrade marglik."
        )
    return page


def _array(file: zipfile.ZipFile, name: str) -> Array:
    with file.open(f"{name}.npy") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _fit(page: Mapping[str, Any], arrays: Callable[[str], Array]) -> Fit:
    likelihood = unpack(page["likelihood"], arrays)
    source = None
    if page["kind"] == "formula":
        settings = page["formula"]
        frame = formula.restored(settings, lambda name: arrays(f"data.{name}"))
        asked = {"weights": settings["weights"], "select": settings.get("select", False)}
        model, source, _ = formula.build(settings["formula"], frame, likelihood, reml=page["reml"], **asked)
        for term in model.prior:
            if isinstance(term, RandomEffects) and term.label in page.get("held", {}):
                order, rho = page["held"][term.label]
                model = model.with_term(term, replace(term, order=tuple(order), held_correlation=rho))
        kept = {k: v for k, v in settings.items() if k not in {"formula", "columns", "kinds"}}
        source = replace(source, settings=kept)
    else:
        prior = Prior(unpack(term, arrays) for term in page["terms"])
        model = LinearModel(likelihood, prior, unpack(page["rows"], arrays), reml=page["reml"])
    if page["flat_in_theta"]:
        model = replace(model, flat_in_theta=True)
    method = unpack(page["method"], arrays)
    hyperprior = {name: _distribution(p) for name, p in page["hyperprior"].items()}
    objective = learn.Objective(method.learner, model, hyperprior)
    if "located" in page["optimum"]:
        optimum: Any = learn.Located(objective, *(unpack(x, arrays) for x in page["optimum"]["located"]))
    else:
        optimum = unpack(page["optimum"]["learned"], arrays)
        optimum = replace(optimum, trace=list(optimum.trace))
    return Fit(model, method, page["reason"], optimum, objective, source, tuple(page["notes"]))


def _distribution(page: Mapping[str, Any]) -> Any:
    from scipy import stats

    distribution = getattr(stats, page["scipy"], None)
    if not isinstance(distribution, stats.rv_continuous):
        raise BadFile(f"The file names the hyperprior {page['scipy']!r}, which is no distribution of scipy.stats.")
    return distribution(*page["args"], **page["kwds"])
