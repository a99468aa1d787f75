"""The line that a round is, and the summary that rounds add up to."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from fogtune.platform.run import RoundRecord, Summary, headline

FIRST = RoundRecord(
    round=1,
    rounds=3,
    wall_s=2.0,
    virtual_time_s=10.0,
    energy_j=None,
    bytes={"uplink": 100, "downlink": 300, "backhaul": 0, "d2d": 0},
    participants=4,
    dropped=1,
    updates_lost=1,
    loss={"vqa": 1.5},
    tasks={"vqa": {"accuracy": 0.25, "personal_mean": 0.5}},
    modules_moved={"head/vqa": 400},
)


def test_a_line_has_the_keys_of_the_contract_and_reads_back() -> None:
    line = FIRST.to_json()
    assert "\n" not in line
    assert set(json.loads(line)) == {
        "round", "rounds", "wall_s", "virtual_time_s", "energy_j", "bytes", "participants", "dropped", "updates_lost",
        "loss", "tasks", "modules_moved", "decisions", "disagreement", "failures", "under_way",
    }  # fmt: skip
    assert json.loads(line)["energy_j"] is None
    assert RoundRecord.from_json(line) == FIRST


def test_what_is_not_finite_is_null_in_json_and_nan_again_when_read() -> None:
    diverged = dataclasses.replace(FIRST, loss={"vqa": math.inf}, tasks={"vqa": {"accuracy": math.nan}})
    assert json.loads(diverged.to_json())["loss"] == {"vqa": None}
    back = RoundRecord.from_json(diverged.to_json())
    assert math.isnan(back.loss["vqa"])
    assert math.isnan(back.tasks["vqa"]["accuracy"])


@pytest.mark.parametrize("line", ["", "[]", "{", '{"round": 1}', FIRST.to_json().replace('{"vqa": 1.5}', "3")])
def test_what_no_record_wrote_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        RoundRecord.from_json(line)


def test_a_summary_adds_costs_and_keeps_the_last_evaluation() -> None:
    second = dataclasses.replace(FIRST, round=2, wall_s=3.0, updates_lost=0, tasks={})
    summary = Summary.of([FIRST, second])
    assert summary.rounds == 2
    assert summary.wall_s == 5.0
    assert summary.virtual_time_s == 20.0
    assert summary.energy_j is None
    assert summary.updates_lost == 1
    assert summary.bytes == {"uplink": 200, "downlink": 600, "backhaul": 0, "d2d": 0}
    assert summary.tasks == FIRST.tasks


def test_the_headline_is_neither_a_loss_nor_personal() -> None:
    assert headline({"loss": 2.0, "personal_mean": 0.5, "f1": 0.75, "recall": 0.5}) == ("f1", 0.75)
    assert headline({"personal_mean": 0.5}) is None
