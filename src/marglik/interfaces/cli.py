# SPDX-License-Identifier: BSD-3-Clause
"""``marglik fit data.csv "y ~ x + (1 | g)"``: the library from a terminal.

Exit status: 0 fitted; 1 the reader of the output went away; 2 bad usage or bad data, with one sentence on
standard error; 3 fitted but not converged. A traceback is a defect of marglik.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from marglik.check import Check
    from marglik.fitted import Fit

BAD_INPUT, NOT_CONVERGED = 2, 3


class Commands(click.Group):
    """A group of commands that ends with one sentence where something is wrong with what it was given."""

    def main(  # type: ignore[override]
        self, args: Any = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run, and leave the process with the exit status."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a terminal that lacks a character shows a question mark
                stream.reconfigure(errors="replace")
        extra["standalone_mode"] = False
        try:
            status = super().main(args, "marglik", **extra)
            sys.stdout.flush()
        except BrokenPipeError:
            _stop_writing()
            status = 1
        except click.Abort:
            status = 130
        except click.ClickException as error:
            status = _refuse(_with_help(error))
        except Exception as error:
            sentence = _sentence(error)
            if sentence is None:
                raise
            status = _refuse(sentence)
        sys.exit(status or 0)


def _stop_writing() -> None:
    """Leave nothing to be flushed into a pipe that nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(sentence: str) -> int:
    click.echo(f"marglik: {sentence}", err=True)
    return BAD_INPUT


def _with_help(error: click.ClickException) -> str:
    message = error.format_message().strip()
    context = getattr(error, "ctx", None)
    if isinstance(error, click.UsageError) and context is not None:
        return f"{message.rstrip('.')}; see '{context.command_path} --help'."
    return message


def _sentence(error: Exception) -> str | None:
    """What an error says to people, or None if it was not written for them."""
    from numpy.linalg import LinAlgError

    from marglik.fitted import Unsupported
    from marglik.hyperparameters import UnknownName

    if isinstance(error, OSError) and error.filename is not None:
        return f"{str(error.filename)!r}: {error.strerror}."
    written = isinstance(error, ValueError | ImportError | UnknownName | Unsupported)
    text = " ".join(str(error).split())
    return text if written and not isinstance(error, LinAlgError) and text.endswith(".") else None


class Registered(click.ParamType):
    """One of the names in a registry, which is not loaded before it is needed."""

    def __init__(self, name: str, names: Callable[[], list[str]]):
        self.name = name
        self.names = names

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The names, for --help."""
        return f"[{'|'.join(self.names())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is no name, with the nearest one."""
        names = self.names()
        if value not in names:
            from marglik.validate import did_you_mean

            hint = did_you_mean(value, names, most=1)
            self.fail(f"there is no {self.name} {value!r}.{hint} There are {', '.join(names)}", param, ctx)
        return value


def _families() -> list[str]:
    from marglik.likelihoods import Likelihood

    return sorted(Likelihood.registry)


def _methods() -> list[str]:
    from marglik.evidence import EvidenceMethod

    return ["auto", *sorted(EvidenceMethod.registry)]


class Assignment(click.ParamType):
    """``NAME=VALUE``."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """Split at the last equals sign."""
        name, sign, number = str(value).rpartition("=")
        try:
            return name.strip(), float(number) if sign else self.fail("", param, ctx)
        except (ValueError, click.BadParameter):
            self.fail(f"{value!r} is not of the form NAME=NUMBER, such as 'sd(noise)=1'", param, ctx)


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="marglik", message="marglik %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Learn all hyperparameters of a Bayesian model by maximising its marginal likelihood."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


EXAMPLES = "\n".join(
    [
        "\b",  # tells click to keep the lines
        'marglik fit sleepstudy.csv "Reaction ~ Days + (1 | Subject)"',
        'marglik fit counts.csv "y ~ x + offset(log(t)) + (1 | g)" --family poisson',
        'marglik fit genes.csv "y ~ age + ridge(a, b, c)" --save genes.marglik',
        'marglik fit ozone.csv "o3 ~ s(wind) + s(temp, k=20)" --plot ozone.png',
    ]
)


@main.command(epilog=EXAMPLES)
@click.argument("data")
@click.argument("formula")
@click.option(
    "--family",
    type=Registered("family", _families),
    default="gaussian",
    show_default=True,
    help="Likelihood of the response.",
)
@click.option("--link", metavar="LINK", help="Link function, where the family has a choice.")
@click.option(
    "--method",
    type=Registered("method", _methods),
    default="auto",
    show_default=True,
    help="How weights are integrated out.",
)
@click.option("--points", type=int, metavar="N", help="Quadrature points in each dimension.")
@click.option("--draws", type=int, metavar="N", help="Draws of a method that draws.")
@click.option("--ml", is_flag=True, help="Maximise over fixed effects instead of integrating them out (REML).")
@click.option("--select", is_flag=True, help="Penalise all of each smooth, so that it can vanish.")
@click.option("--weights", metavar="COLUMN", help="Column of precision weights.")
@click.option(
    "--fixed",
    type=Assignment(),
    multiple=True,
    metavar="NAME=VALUE",
    help="Hold a hyperparameter, such as 'sd(noise)=1'; may be repeated.",
)
@click.option(
    "--missing",
    type=click.Choice(["raise", "drop"]),
    default="raise",
    show_default=True,
    help="What to do with rows that lack a value.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--plot", metavar="OUT", help="Write a picture (.svg, .png or .pdf).")
@click.option("--save", metavar="OUT", help="Write the fit to a file, for predict, check and marglik.load.")
def fit(
    data: str,
    formula: str,
    family: str,
    link: str | None,
    method: str,
    points: int | None,
    draws: int | None,
    ml: bool,
    select: bool,
    weights: str | None,
    fixed: Sequence[tuple[str, float]],
    missing: str,
    as_json: bool,
    plot: str | None,
    save: str | None,
) -> int:
    """Fit FORMULA to DATA, a CSV or Parquet file."""
    if plot is not None:
        from marglik.report.sheet import check_drawable

        check_drawable(plot)
    for path in (plot, save):
        _check_folder(path)
    with _told_plainly() as tell:
        from marglik.interfaces.front import fit as learn

        fitted = learn(
            formula,
            data,
            family=family,
            link=link,
            method=method,
            points=points,
            draws=draws,
            reml=not ml,
            select=select,
            weights=weights,
            fixed=dict(fixed) or None,
            missing=missing,
        )
        from marglik.check import checked

        check = checked(fitted, quick=not as_json)
        _print_json(as_object(fitted, check)) if as_json else _print_summary(fitted)
        if plot is not None:
            fitted.plot(plot)
            click.echo(f"Picture written to {plot}", err=as_json)
        if save is not None:
            fitted.save(save)
            click.echo(f"Fit saved to {save}", err=as_json)
        tell(check, fitted.n_iterations)
    return 0 if check.converged else NOT_CONVERGED


@main.command()
@click.argument("saved")
@click.argument("data")
@click.option("--interval", type=float, metavar="P", help="Add bounds of an interval for the mean, such as 0.95.")
@click.option(
    "--scale",
    type=click.Choice(["response", "link"]),
    default="response",
    show_default=True,
    help="Mean of the response, or linear predictor.",
)
@click.option("--average", is_flag=True, help="Average the inverse link over the posterior.")
@click.option(
    "--include",
    multiple=True,
    metavar="TERM",
    help="Use this term alone, such as 'fixed effects'; may be repeated.",
)
@click.option(
    "--new-levels",
    type=click.Choice(["population", "raise"]),
    default="population",
    show_default=True,
    help="What to do with levels that the fit has not seen.",
)
@click.option("--out", metavar="FILE", help="Write the CSV to a file instead of standard output.")
def predict(
    saved: str,
    data: str,
    interval: float | None,
    scale: str,
    average: bool,
    include: Sequence[str],
    new_levels: str,
    out: str | None,
) -> None:
    """Predict the rows of DATA from the fit in SAVED, as CSV: mean, lower, upper."""
    _check_folder(out)
    from pandas import DataFrame

    from marglik.saving import load

    mean = load(saved).predict(
        data,
        interval=interval,
        scale=scale,
        average=average,
        include=list(include) or None,
        new_levels=new_levels,
    )
    frame = mean if isinstance(mean, DataFrame) else DataFrame({"mean": mean})
    text = frame.to_csv(index=False, lineterminator="\n")
    if out is None:
        click.echo(text, nl=False)
    else:
        Path(out).write_text(text, encoding="utf-8")
        click.echo(f"{len(frame)} predictions written to {out}")


@main.command()
@click.argument("saved")
@click.option("--simulations", default=0, metavar="N", help="Also test the scores of N data sets from the fit.")
@click.option(
    "--anneal/--no-anneal", default=None, help="A second opinion by annealing; by default where it is needed."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def check(saved: str, simulations: int, anneal: bool | None, as_json: bool) -> int:
    """Say whether the fit in SAVED can be trusted."""
    from dataclasses import asdict

    from marglik.saving import load

    found = load(saved).check(simulations=simulations, anneal=anneal)
    if as_json:
        _print_json(plain(asdict(found)))
    else:
        click.echo("\n".join([found.verdict, *found.numbers]))
    return 0 if found.converged else NOT_CONVERGED


@main.command()
@click.option("--out", metavar="DIR", help="Also draw the five pictures into this directory.")
def tour(out: str | None) -> None:
    """Walk through empirical Bayes with one weight and five points."""
    from marglik.report.tour import tour as walk

    walk(out)


def _check_folder(path: str | None) -> None:
    """Refuse early what could not be written after a long fit."""
    if path is None:
        return
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise ValueError(f"There is no folder {str(folder)!r} to write {Path(path).name!r} in. Make it first.")
    if Path(path).is_dir():
        raise ValueError(f"{path!r} is a folder. Name a file in it.")


@contextmanager
def _told_plainly() -> Iterator[Callable[[Check, int], None]]:
    """Hold Python's warnings back; what they say to people is told in a sentence."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def tell(check: Check, n_iterations: int) -> None:
            if not check.converged:
                from marglik.validate import counted

                click.echo(
                    f"marglik: Learning did not converge in {counted(n_iterations, 'step')}, so do not trust these "
                    "numbers; rescale columns of very different size, or leave terms out.",
                    err=True,
                )
            for warning in caught if check.converged else ():
                if warning.category is UserWarning:
                    click.echo(f"marglik: {' '.join(str(warning.message).split())}", err=True)

        yield tell


def _print_summary(fitted: Fit) -> None:
    from rich.console import Console

    from marglik.report.text import WIDTH, renderable

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(renderable(fitted), width=min(console.width, WIDTH))
    else:
        click.echo(fitted.summary())


def _print_json(content: Any) -> None:
    import json

    click.echo(json.dumps(content, indent=2, allow_nan=False))


def as_object(fitted: Fit, check: Check) -> dict[str, Any]:
    """What ``--json`` prints: plain values, None where a number is NaN or infinite."""
    from dataclasses import asdict

    def table(frame: Any) -> dict[str, Any]:
        return {str(name): dict(row) for name, row in frame.to_dict("index").items()}

    return plain(
        {
            "log_evidence": fitted.log_evidence,
            "method": fitted.method,
            "converged": check.converged,
            "hyperparameters": table(fitted.hyperparameters),
            "fixed_effects": table(fitted.fixed_effects),
            "edf": fitted.edf.to_dict(),
            "check": asdict(check),
        }
    )


def plain(value: Any) -> Any:
    """Values that JSON has."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
