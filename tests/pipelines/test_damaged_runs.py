"""A run whose files were damaged is resumed after the newest round of which all is whole, to the same bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import fogtune
from fogtune.platform.config import Config
from fogtune.platform.errors import InputError
from fogtune.platform.run import RoundRecord, RunDirectory

MakeConfig = Callable[..., Config]
Left = Callable[[RunDirectory], object]

CHANGES = ("rounds=4", "federation.cadence={fog: 2}", "output.keep_checkpoints=9", "evaluation.every=2")


@pytest.fixture(scope="module")
def whole(watches: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of four rounds."""
    return fogtune.run(watches(*CHANGES, f"output.directory={tmp_path_factory.mktemp('runs')}")).directory


@pytest.fixture(scope="module")
def stopped(watches: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The same run, stopped after round 3. Not to be changed."""

    def stop(record: RoundRecord) -> None:
        if record.round == 3:
            raise KeyboardInterrupt

    return fogtune.run(
        watches(*CHANGES, f"output.directory={tmp_path_factory.mktemp('runs')}"), on_event=stop
    ).directory


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """One bit in the middle, which in a JSON number makes another number."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("file", "damage", "first"),
    [
        ("checkpoints/round-000003/state.safetensors", flip, 3),
        ("checkpoints/round-000003/state.json", truncate, 3),
        ("rounds.jsonl", flip, 2),  # in the second line
        ("rounds.jsonl", truncate, 2),
        ("checkpoints/ledger/round-000002-*", flip, 2),
        ("checkpoints/ledger/round-000003-*", truncate, 3),
        ("checkpoints/ledger/round-000003-*", empty, 3),
        ("run.json", truncate, 4),
    ],
)
def test_it_goes_on_before_what_is_damaged_and_says_what_that_is(
    tmp_path: Path,
    whole: RunDirectory,
    stopped: RunDirectory,
    left: Left,
    caplog: pytest.LogCaptureFixture,
    file: str,
    damage: Callable[[Path], None],
    first: int,
) -> None:
    path = Path(shutil.copytree(stopped.path, tmp_path / stopped.id))
    (damaged,) = path.glob(file)
    damage(damaged)
    stages: list[str] = []
    resumed = fogtune.resume(path, on_stage=stages.append)
    assert resumed.status == "completed"
    assert f"run {stopped.id}, from round {first}" in stages
    where = damaged.parent if damaged.name.startswith("state.") else damaged
    assert str(where) in caplog.text
    assert left(resumed.directory) == left(whole)
    assert resumed.directory.info.summary.rounds == 4


@pytest.mark.parametrize("file", ["rounds.jsonl", "checkpoints/ledger/round-000001-*"])
def test_where_nothing_is_whole_that_is_said_and_nothing_changed(
    tmp_path: Path, stopped: RunDirectory, file: str
) -> None:
    path = Path(shutil.copytree(stopped.path, tmp_path / stopped.id))
    (damaged,) = path.glob(file)
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(InputError, match="no whole checkpoint among round-000001, round-000002, round-000003") as error:
        fogtune.resume(path)
    assert "\n" not in str(error.value)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
