"""Python's garbage collector, kept from looking again and again at what has come to stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """A block that makes many objects and drops few, such as importing libraries: a fifth faster without collections.

    It does not nest across threads: the one that leaves first turns the collector on again.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
