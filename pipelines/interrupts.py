"""Ctrl-C, and a request to terminate, at the right moment: files that belong together are written together."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C within the block takes effect at its end. Does nothing in a thread, where Ctrl-C never arrives."""
    if not _ours(signal.SIGINT):
        yield
        return
    arrived: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if signal.SIGTERM in arrived:
            raise KeyboardInterrupt
        if arrived:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM within the block (`kill`, a service manager, a batch system) is KeyboardInterrupt, as Ctrl-C is."""
    if not _ours(signal.SIGTERM):
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):  # Ctrl-C is ignored, as in the background of a script
            raise KeyboardInterrupt
        handler(number, frame)  # so that `uninterrupted` holds it back

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _ours(number: signal.Signals) -> bool:
    """Whether a signal reaches this thread and has a handler of Python's; None is a program that embeds Python."""
    return threading.current_thread() is threading.main_thread() and signal.getsignal(number) is not None
