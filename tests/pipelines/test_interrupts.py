"""Ctrl-C waits for the end of what must be written together."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fogtune
from fogtune.pipelines.interrupts import terminated_as_interrupted, uninterrupted
from fogtune.platform.config import Config


@pytest.fixture(autouse=True)
def python_listens() -> Iterator[None]:
    """As in a terminal; a process that was started in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_it_takes_effect_at_the_end_of_the_block() -> None:
    steps = []

    def write() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            steps.append("written")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert steps == ["written"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_one_nothing_happens() -> None:
    with uninterrupted():
        pass
    with pytest.raises(OSError, match="disk"), uninterrupted():
        raise OSError("disk")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_program_with_a_handler_of_its_own_gets_it() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            assert heard == []
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN], ids=["heard", "ignored"])
def test_a_request_to_terminate_is_ctrl_c(ctrl_c: Any) -> None:
    signal.signal(signal.SIGINT, ctrl_c)
    before = signal.getsignal(signal.SIGTERM)
    steps = []

    def work() -> None:
        with terminated_as_interrupted():
            with uninterrupted():
                signal.raise_signal(signal.SIGTERM)
                steps.append("written")
            steps.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["written"]
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_who_is_told_of_the_first_round_may_end_the_run(watches: Callable[..., Config], tmp_path: Path) -> None:
    too_early: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: too_early.append(number))

    def on_stage(text: str) -> None:
        if text == "round 1 of 2":
            signal.raise_signal(signal.SIGTERM)

    try:
        run = fogtune.run(watches("rounds=2", f"output.directory={tmp_path}"), on_stage=on_stage)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (run.status, run.directory.records(), too_early) == ("stopped", [], [])


def test_a_thread_may_use_it_too() -> None:
    done = []

    def work() -> None:
        with terminated_as_interrupted(), uninterrupted():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
