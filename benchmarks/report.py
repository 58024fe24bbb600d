# SPDX-License-Identifier: BSD-3-Clause
"""A workload's reports as one table on the screen and one JSON file under results/."""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.environment import ONE_THREAD, pinned_peers, r_versions
from benchmarks.harness import CaseReport, Timing

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("marglik", "numpy", "scipy", "scikit-learn", *pinned_peers())


def print_table(title: str, reports: list[CaseReport]) -> None:
    scores = list(dict.fromkeys(name for r in reports for t in r.timings for name in t.scores))
    table = Table(title=title)
    table.add_column("")
    for heading in ("median", "min", "max", "calls", "cpu", "/ marglik", "/ floor", *scores):
        table.add_column(heading, justify="right", no_wrap=True)
    for report in reports:
        table.add_row(f"[bold]{report.name}[/bold]")
        ours, floor = report.of_role("marglik"), report.of_role("floor")
        for timing in report.timings:
            row = (*times(timing), ratio(timing, ours), ratio(timing, floor))
            table.add_row(*row, *figures(timing.scores, scores))
        if report.best_possible:
            table.add_row("  best possible", *[""] * len(row[1:]), *figures(report.best_possible, scores))
        for name, reason in report.skipped.items():
            table.add_row(f"  {name}", "skipped", style="dim")
            table.add_row(f"    {reason}", style="dim")
        table.add_section()
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)
    versions = ", ".join(f"{name} {number}" for name, number in versions_used().items())
    console.print(f"{versions}; {threads()}; {platform.machine()}, {processor()}", highlight=False)


def times(timing: Timing) -> tuple[str, ...]:
    cpu = "" if timing.cpu_share is None else f"{timing.cpu_share:.2f}"
    low, high = min(timing.seconds), max(timing.seconds)
    return (
        f"  {timing.name}",
        duration(timing.median),
        duration(low),
        duration(high),
        str(len(timing.seconds)),
        cpu,
    )


def figures(values: dict[str, float], names: list[str]) -> list[str]:
    return [f"{values[name]:.4f}" if name in values else "" for name in names]


def ratio(timing: Timing, base: Timing | None) -> str:
    return f"{timing.median / base.median:.2f}" if base else ""


def duration(seconds: float) -> str:
    if seconds >= 1000:
        return f"{seconds:,.0f} s"
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def record(name: str, title: str, reports: list[CaseReport]) -> None:
    RESULTS.mkdir(exist_ok=True)
    content = {
        "workload": name,
        "title": title,
        "unit": "wall-clock seconds; cpu_share is processor seconds over them",
        "machine": machine(),
        "versions": {"python": platform.python_version(), **versions_used()},
        "threads": {variable: os.environ.get(variable) for variable in ONE_THREAD},
        "blas": blas(),
        "cases": [as_dict(report) for report in reports],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def as_dict(report: CaseReport) -> dict:
    return {
        "name": report.name,
        "best_possible": report.best_possible,
        "sides": {timing.name: side_as_dict(timing) for timing in report.timings},
        "ratios": report.ratios(),
        "skipped": report.skipped,
    }


def side_as_dict(timing: Timing) -> dict:
    return {
        "role": timing.role,
        "median": timing.median,
        "min": min(timing.seconds),
        "max": max(timing.seconds),
        "calls": len(timing.seconds),
        "extrapolated_by": timing.repeats,
        "cpu_share": timing.cpu_share,
        "scores": timing.scores,
    }


def machine() -> dict:
    return {
        "architecture": platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
    }


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def versions_used() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**found, **r_versions()}


def threads() -> str:
    settings = {os.environ.get(variable, "unset") for variable in ONE_THREAD}
    return f"BLAS threads: {', '.join(sorted(settings))}"


def blas() -> list[dict]:
    from threadpoolctl import threadpool_info

    keys = ("user_api", "internal_api", "version", "architecture", "num_threads")
    return [{key: library.get(key) for key in keys} for library in threadpool_info()]
