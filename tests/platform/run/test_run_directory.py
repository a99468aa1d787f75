"""The directory's contract, and what of it survives crashes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fogtune.platform.config import Config, DeviceGroup, EmbeddedSource, Task
from fogtune.platform.config.load import load_config
from fogtune.platform.errors import InputError
from fogtune.platform.run import RoundRecord, RunDirectory, atomic, list_runs

CONFIG = Config(
    name="demo",
    seed=7,
    devices=(DeviceGroup(name="reader", count=2, modalities=("text",), tasks=("topic",)),),
    sources={"news": EmbeddedSource(asset="bbc-news")},
    tasks={"topic": Task(source="news", inputs=("text",), label="topic")},
)


def record(number: int) -> RoundRecord:
    return RoundRecord(
        round=number,
        rounds=3,
        wall_s=1.0,
        virtual_time_s=None,
        energy_j=None,
        bytes={"uplink": 10 * number, "downlink": 5, "backhaul": 0, "d2d": 0},
        participants=2,
        dropped=0,
        updates_lost=0,
        loss={"topic": 1 / number},
        tasks={"topic": {"accuracy": 0.25 * number}},
        modules_moved={"head/topic": 15},
    )


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(CONFIG, tmp_path)


def test_restarts_add_up_and_older_runs_have_none(run: RunDirectory) -> None:
    run.truncate(0, "round 1: coordinator died:\nkilled")
    run.truncate(0, "round 1: fog/0 died")
    assert run.info.restarts == ("round 1: coordinator died: killed", "round 1: fog/0 died")
    found = json.loads((run.path / "run.json").read_text())
    del found["restarts"]
    (run.path / "run.json").write_text(json.dumps(found))
    assert not run.info.restarts


def test_a_new_run_has_all_files_of_the_contract(run: RunDirectory, tmp_path: Path) -> None:
    assert re.fullmatch(r"demo-\d{8}-\d{6}-[0-9a-f]{4}", run.id)
    assert load_config(run.path / "config.yaml") == CONFIG
    found = json.loads((run.path / "run.json").read_text())
    assert set(found) == {"name", "status", "seed", "versions", "timings", "error", "restarts", "summary"}
    assert found["restarts"] == []
    assert set(found["timings"]) == {"started", "finished", "wall_s"}
    assert set(found["summary"]) == {
        "rounds", "wall_s", "virtual_time_s", "energy_j", "updates_lost", "bytes", "tasks", "failures",
    }  # fmt: skip
    assert set(found["summary"]["bytes"]) == {"uplink", "downlink", "backhaul", "d2d"}
    assert (found["status"], found["seed"], found["error"]) == ("running", 7, None)
    assert {"python", "fogtune", "torch", "ray"} <= set(found["versions"])
    assert list(tmp_path.iterdir()) == [run.path]


def test_rounds_are_on_disk_and_in_the_summary_at_once(run: RunDirectory) -> None:
    run.append(record(1))
    run.append(record(2))
    assert RunDirectory.open(run.path).records() == [record(1), record(2)]
    summary = run.info.summary
    assert (summary.rounds, summary.wall_s, summary.virtual_time_s) == (2, 2.0, None)
    assert summary.bytes == {"uplink": 30, "downlink": 10, "backhaul": 0, "d2d": 0}
    assert summary.tasks == {"topic": {"accuracy": 0.5}}


def test_what_need_not_last_is_read_at_once_and_told_of_by_and_by(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.append(record(1), lasting=False)
    flushed: list[int] = []
    monkeypatch.setattr("fogtune.platform.run.directory.os.fsync", flushed.append)
    run.append(record(2), lasting=False)
    assert flushed == []
    assert RunDirectory.open(run.path).records() == [record(1), record(2)]
    assert run.info.summary.rounds == 1  # within the same second
    monkeypatch.setattr("fogtune.platform.run.directory.TELL_EVERY_S", 0.0)
    run.append(record(3), lasting=False)
    assert run.info.summary.rounds == 3
    monkeypatch.undo()
    run.append(record(4), lasting=False)
    run.finish("stopped")
    assert (run.info.summary.rounds, run.info.summary.bytes["uplink"]) == (4, 100)


def test_finish_notes_status_and_one_line_of_error(run: RunDirectory) -> None:
    run.finish("failed", "round 1:\n  too few")
    info = run.info
    assert (info.status, info.error) == ("failed", "round 1: too few")
    assert info.finished is not None


def test_a_torn_last_line_is_no_round_and_goes_when_resuming(run: RunDirectory) -> None:
    for number in (1, 2):
        run.append(record(number))
    with (run.path / "rounds.jsonl").open("a") as stream:
        stream.write(record(3).to_json()[:-9])
    run.finish("failed", "killed")

    resumed = RunDirectory.open(run.path)
    assert resumed.records() == [record(1), record(2)]
    resumed.truncate(1)
    assert (run.path / "rounds.jsonl").read_text() == record(1).to_json() + "\n"
    info = resumed.info
    assert (info.status, info.error, info.finished, info.summary.rounds) == ("running", None, None, 1)
    resumed.append(record(2))
    assert resumed.records() == [record(1), record(2)]
    assert resumed.info.summary.bytes["uplink"] == 30


def test_wall_time_of_resumed_runs_adds_up(run: RunDirectory) -> None:
    path = run.path / "run.json"
    found = json.loads(path.read_text())
    found["timings"]["wall_s"] = 1000.0
    path.write_text(json.dumps(found))
    resumed = RunDirectory.open(run.path)
    resumed.truncate(0)
    resumed.append(record(1))
    resumed.finish("completed")
    assert 1000.0 < resumed.info.wall_s < 1900.0


def test_a_damaged_line_before_the_last_is_named(run: RunDirectory) -> None:
    (run.path / "rounds.jsonl").write_text("{\n" + record(2).to_json() + "\n")
    with pytest.raises(InputError, match=r"rounds\.jsonl, line 1: damaged"):
        run.records()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run.path / "run.json").read_bytes()
    names = sorted(path.name for path in run.path.iterdir())

    def full(path: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(atomic, "sync", full)
    with pytest.raises(OSError, match="no space left"):
        run.finish("completed")
    with pytest.raises(OSError, match="no space left"):
        run.truncate(0)
    assert (run.path / "run.json").read_bytes() == before
    assert sorted(path.name for path in run.path.iterdir()) == names


def test_a_run_that_cannot_be_created_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        path.write_text(text[:3])
        raise RuntimeError("killed")

    monkeypatch.setattr("fogtune.platform.run.directory.write_text", full)
    with pytest.raises(RuntimeError, match="killed"):
        RunDirectory.create(CONFIG, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_is_no_directory_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output\.directory: cannot write to"):
        RunDirectory.create(CONFIG, tmp_path / "file")


def test_runs_open_by_path_and_by_id_and_nothing_else_does(run: RunDirectory, tmp_path: Path) -> None:
    assert RunDirectory.open(run.path).path == run.path
    assert RunDirectory.open(run.id, tmp_path).path == run.path
    with pytest.raises(InputError, match=f"nope: no such run.*{run.id}"):
        RunDirectory.open("nope", tmp_path)
    with pytest.raises(InputError, match=r"not a run: it has no run\.json"):
        RunDirectory.open(tmp_path, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"status": "done"}'])
def test_a_damaged_run_json_is_one_clear_line(run: RunDirectory, text: str) -> None:
    (run.path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run\.json: damaged") as caught:
        _ = run.info
    assert "\n" not in str(caught.value)


def test_runs_are_listed_oldest_first_whatever_their_names(tmp_path: Path) -> None:
    for name in ("b-20260101-000000-aaaa", "a-20260102-000000-aaaa", "c-20250101-000000-aaaa", "no-run"):
        (tmp_path / name).mkdir()
        if name != "no-run":
            (tmp_path / name / "run.json").write_text("")
    assert [found.id[0] for found in list_runs(tmp_path)] == ["c", "b", "a"]
    assert list_runs(tmp_path / "absent") == []


def test_topology_reads_back(run: RunDirectory) -> None:
    assert run.topology() == {}
    entry = {
        "tier": "device",
        "parent": "cloud",
        "group": "g",
        "modalities": ["text"],
        "tasks": [],
        "modules": ["head/x"],
    }
    run.write_topology({"g-0": entry})  # type: ignore[dict-item]
    assert run.topology() == {"g-0": entry}
    assert run.positions() == {}  # as older runs have it
    placed = {"g-0": {**entry, "x_m": 1.0, "y_m": 2.5}, "g-1": {**entry, "x_m": None, "y_m": None}}
    run.write_topology(placed, {"ap-0": (3.0, 4.0)})  # type: ignore[arg-type]
    assert run.topology() == placed
    assert run.positions() == {"g-0": (1.0, 2.5), "ap-0": (3.0, 4.0)}
    (run.path / "topology.json").write_text('{"nodes": {"g-0": {"tier": "device"}}}')
    with pytest.raises(InputError, match=r"topology\.json: damaged"):
        run.topology()
