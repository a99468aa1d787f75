"""The log in a run's directory, and who else hears what is logged meanwhile."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from fogtune.platform.run import logs

log = logging.getLogger("fogtune.somewhere")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_when_how_bad_which_run_which_round_where_and_what(tmp_path: Path) -> None:
    with logs.logged(tmp_path):
        log.info("took %d s", 3, extra={"round": 2})
        assert len(lines(tmp_path / "log.jsonl")) == 1  # at once
        try:
            raise ZeroDivisionError("mine")
        except ZeroDivisionError as error:
            log.error("two\nlines", exc_info=error)
    log.error("afterwards")
    first, second = lines(tmp_path / "log.jsonl")
    time = first.pop("time")
    assert time[10] == "T"
    assert first == {"level": "INFO", "run": tmp_path.name, "round": 2, "where": "somewhere", "message": "took 3 s"}
    assert (second["level"], second["round"], second["message"]) == ("ERROR", None, "two\nlines")
    assert second["traceback"].endswith("ZeroDivisionError: mine")


def test_a_run_that_goes_on_adds_to_it_and_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        with logs.logged(tmp_path):
            log.info("life %d", number)
    assert [line["message"] for line in lines(tmp_path / "log.jsonl")] == ["life 1", "life 2"]
    monkeypatch.setattr(logs, "MOST_BYTES", 2000)
    with logs.logged(tmp_path):
        for number in range(100):
            log.info("%d", number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "log.jsonl.1"]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())
    assert lines(tmp_path / "log.jsonl")[-1]["message"] == "99"


def test_others_hear_what_they_heard_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with logs.logged(tmp_path):
        log.info("quietly")
        log.warning("aloud")
    assert caplog.messages == ["aloud"]
    assert [line["message"] for line in lines(tmp_path / "log.jsonl")] == ["quietly", "aloud"]


def test_where_it_cannot_be_written_it_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logs.logged(tmp_path / "nowhere" / "log.jsonl"):
        log.info("lost")
    assert capsys.readouterr().err == ""
