# SPDX-License-Identifier: BSD-3-Clause
"""One pool of BLAS threads at a time.

NumPy's and SciPy's wheels each bring their own OpenBLAS, and its threads wait busily for the next call. Where both have
as many as there are cores, alternating between them takes two to five times as long. While marglik computes, NumPy's
own therefore computes in the calling thread alone; heavy algebra goes through SciPy's, with as many threads as the user
has given it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property, wraps
from inspect import isfunction
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)


class _Depth:
    """How many callers are within `one_pool`, and the number of NumPy's threads before the first of them."""

    def __init__(self) -> None:
        self.lock, self.inside, self.threads = Lock(), 0, 1


_depth = _Depth()


@contextmanager
def one_pool() -> Iterator[None]:
    """While it lasts NumPy's BLAS has one thread, if its pool is one of several; also a decorator.

    Examples
    --------
    >>> import numpy as np
    >>> with one_pool():
    ...     A = np.eye(2) @ np.eye(2)
    """
    own = numpys_pool()
    if own is None:
        yield
        return
    with _depth.lock:
        if not _depth.inside:
            _depth.threads = own.num_threads
            own.set_num_threads(1)
        _depth.inside += 1
    try:
        yield
    finally:
        with _depth.lock:
            _depth.inside -= 1
            if not _depth.inside:
                own.set_num_threads(_depth.threads)


@cache
def numpys_pool() -> Any:
    """The BLAS that came with NumPy's wheel, where SciPy has another one; else None."""
    import scipy.linalg  # noqa: F401  # loads its own
    from threadpoolctl import ThreadpoolController

    found = [lib for lib in ThreadpoolController().lib_controllers if lib.user_api == "blas"]
    own = [lib for lib in found if any(p.name.split(".")[0] == "numpy" for p in list(Path(lib.filepath).parents)[:2])]
    return own[0] if len(own) == 1 < len(found) else None


def within_one_pool(cls: Class) -> Class:
    """A class whose public functions and properties compute within `one_pool`."""
    for name, member in list(vars(cls).items()):
        if name.startswith("_"):
            continue
        if isfunction(member):
            setattr(cls, name, _within(member))
        elif isinstance(member, property) and member.fget is not None:
            setattr(cls, name, property(_within(member.fget), member.fset, member.fdel))
        elif isinstance(member, cached_property):
            member.func = _within(member.func)
    return cls


def _within(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if _depth.inside:
            return function(*args, **kwargs)
        with one_pool():
            return function(*args, **kwargs)

    return run
