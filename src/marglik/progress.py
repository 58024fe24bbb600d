# SPDX-License-Identifier: BSD-3-Clause
"""How learning gets on, for whoever wants to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

Listener = Callable[[int, float], Any]
_told: ContextVar[Callable[[Any], None] | None] = ContextVar("told", default=None)


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """While this is open, the listener hears of every evaluation: how many there were, and the log evidence in nats.

    Examples
    --------
    >>> from marglik.progress import listening, tell
    >>> with listening(lambda evaluations, log_evidence: print(evaluations, log_evidence)):
    ...     tell(-3.5)
    ...     tell([-1.0, -2.0])
    1 -3.5
    2 -3.0
    """
    count = 0

    def told(log_value: Any) -> None:
        nonlocal count
        count += 1
        assert listener is not None
        listener(count, float(np.sum(log_value)))

    before = _told.set(None if listener is None else told)
    try:
        yield
    finally:
        _told.reset(before)


def tell(log_value: Any) -> None:
    """The log evidence was evaluated: in nats, of one target or of each."""
    told = _told.get()
    if told is not None:
        told(log_value)
