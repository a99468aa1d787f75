"""The three views of a run that goes on."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from fogtune.pipelines.progress import Eta, JsonView, LiveView, PlainView, watching
from fogtune.platform.run import RoundRecord

Record = Callable[..., RoundRecord]


def test_plain_text_has_a_line_a_stage_and_a_round(record: Record) -> None:
    stream = io.StringIO()
    view = PlainView(stream)
    view.stage("loading data")
    view.round(record(1))
    view.round(record(2))
    assert stream.getvalue().splitlines() == [
        "loading data ...",
        "round 1/3: virtual 20.0 s, moved 3.50 MB, wall 1.50 s",
        "round 2/3: topic accuracy 0.500, vqa accuracy 0.250, virtual 20.0 s, moved 3.50 MB, wall 1.50 s, "
        "1 update lost",
    ]


def test_json_is_the_line_of_rounds_jsonl_and_nothing_else(record: Record) -> None:
    stream = io.StringIO()
    view = JsonView(stream)
    view.stage("loading data")
    view.round(record(2))
    assert stream.getvalue() == record(2).to_json() + "\n"


def test_what_libraries_print_does_not_get_between_json_lines(
    record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    with watching(json=True) as view:
        print("a library talks")
        view.round(record(1))
        sys.stdout.write("again\n")
    captured = capsys.readouterr()
    assert [json.loads(line)["round"] for line in captured.out.splitlines()] == [1]
    assert captured.err == "a library talks\nagain\n"


def test_a_terminal_shows_aligned_rows_under_one_header(record: Record) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, color_system=None, _environ={})
    with LiveView(console) as view:
        view.stage("starting Ray")
        for number in (2, 3):
            view.round(record(number))
    # Without the codes that move the cursor and redraw the bar.
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue().replace("\r", "\n")).splitlines()
    header = [line for line in lines if line.strip().startswith("round")]
    rows = [line for line in lines if "3.50 MB" in line]
    assert len(header) == 1
    assert header[0].split() == ["round", "topic", "vqa", "virtual", "moved", "wall"]
    assert [row.split()[:3] for row in rows] == [["2", "0.500", "0.250"], ["3", "0.750", "0.375"]]
    assert rows[0].rstrip().endswith("1 update lost")
    assert header[0].rstrip().endswith("wall")
    assert rows[0].index("0.500") + 5 == header[0].index("topic") + 5
    assert "3/3" in stream.getvalue()


def test_the_time_left_is_the_mean_of_the_last_rounds_counted_down(record: Record) -> None:
    now_s = 100.0
    eta = Eta(lambda: now_s)
    assert str(eta) == ""
    eta.finished(record(1, rounds=11))  # 10 rounds of 1.5 s to go
    assert str(eta) == "15 s left"
    now_s = 105.0
    assert str(eta) == "10 s left"
    now_s = 200.0
    assert str(eta) == "0 s left"
