# SPDX-License-Identifier: BSD-3-Clause
"""What is timed, and how: sides of a case in one process, called in turn (A B A B …)."""

import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

LEAST_CALLS = 10
EXTRA_SECONDS = 4.0
APART_CALLS = 5
APART_SECONDS = 30.0


@dataclass(frozen=True)
class Options:
    slow: bool = False
    small: bool = False


@dataclass(frozen=True)
class Side:
    """One contender.

    `prepare` imports what the side needs and returns the call to be timed; if the import fails the side is
    skipped. `scores` reads figures off what the call returned. `apart`: timed by itself before the turns, a
    few calls at most (a slow side in every turn would empty the caches of a fast one). `repeats`: its time is
    multiplied by this (a loop of which only a part was run). `self_timed`: the call returns its own `Sample`, and
    its result.
    """

    name: str
    prepare: Callable[[], Callable[[], Any]]
    role: str = "peer"
    scores: Callable[[Any], dict[str, float]] = lambda _: {}
    apart: bool = False
    repeats: float = 1.0
    self_timed: bool = False


@dataclass(frozen=True)
class Case:
    name: str
    sides: list[Side]
    rounds: int
    best_possible: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    wall: float
    cpu: float | None


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of each call, and the processor's seconds over them (1 on a quiet machine)."""

    name: str
    role: str
    repeats: float
    seconds: list[float]
    cpu_share: float | None
    scores: dict[str, float]

    @property
    def median(self) -> float:
        return median(self.seconds)


@dataclass(frozen=True)
class CaseReport:
    """What a case leaves behind: figures only, so that its arrays can go before the next case comes."""

    name: str
    best_possible: dict[str, float]
    timings: list[Timing]
    skipped: dict[str, str]

    def of_role(self, role: str) -> Timing | None:
        return next((timing for timing in self.timings if timing.role == role), None)

    def ratios(self) -> dict[str, float]:
        ours, floor = self.of_role("marglik"), self.of_role("floor")
        peers = [timing for timing in self.timings if timing.role == "peer"]
        against = [(peer, base) for base in (ours, floor) if base for peer in peers]
        against += [(ours, floor)] if ours and floor else []
        return {f"{a.name} / {b.name}": a.median / b.median for a, b in against}


def measure(case: Case) -> CaseReport:
    """Warm every side up once, take its scores from that call, then time the sides in turn."""
    calls, skipped, scores, first, warm = {}, {}, {}, {}, {}
    for side in case.sides:
        try:
            calls[side] = side.prepare()
        except ImportError as error:
            skipped[side.name] = str(error).replace(f" ({error.path})", "")
            continue
        result, first[side] = timed(side, calls[side])
        # A short first call says little: it also pays for pages and caches.
        warm[side] = timed(side, calls[side])[1].wall if first[side].wall < 0.1 else first[side].wall
        scores[side] = side.scores(result)
        del result
    samples = {side: apart(side, calls[side], first[side]) if side.apart else [] for side in calls}
    per_round = {side: calls_per_round(warm[side], case.rounds) for side in calls if not side.apart}
    for side in in_turn(per_round, case.rounds):
        samples[side].append(timed(side, calls[side])[1])
    timings = [summarise(side, samples[side], scores[side]) for side in calls]
    return CaseReport(case.name, case.best_possible, timings, skipped)


def apart(side: Side, call: Callable[[], Any], first: Sample) -> list[Sample]:
    """A few more calls; none, and the first one counts, where it was long."""
    calls = min(APART_CALLS, int(APART_SECONDS / first.wall))
    return [timed(side, call)[1] for _ in range(calls)] or [first]


def calls_per_round(seconds: float, rounds: int) -> int:
    """One; more where a few rounds, set by a slow side, would leave a fast side with a poor median."""
    return max(1, min(math.ceil(LEAST_CALLS / rounds), int(EXTRA_SECONDS / seconds)))


def in_turn(per_round: dict[Side, int], rounds: int) -> Iterator[Side]:
    for _ in range(rounds):
        for turn in range(max(per_round.values(), default=0)):
            yield from (side for side, calls in per_round.items() if turn < calls)


def timed(side: Side, call: Callable[[], Any]) -> tuple[Any, Sample]:
    gc.disable()
    try:
        cpu, start = time.process_time(), time.perf_counter()
        result = call()
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    finally:
        gc.enable()
    if side.self_timed:
        sample, result = result
        return result, sample
    if wall > 0.1:
        gc.collect()
    return result, Sample(wall, cpu)


def summarise(side: Side, samples: list[Sample], scores: dict[str, float]) -> Timing:
    wall = sum(sample.wall for sample in samples)
    cpu = [sample.cpu for sample in samples if sample.cpu is not None]
    cpu_share = sum(cpu) / wall if cpu else None
    seconds = [side.repeats * sample.wall for sample in samples]
    return Timing(side.name, side.role, side.repeats, seconds, cpu_share, scores)
