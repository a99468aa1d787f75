"""Checkpoints: written whole or not at all, checked when read, the newest whole one is found."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fogtune.platform.errors import InputError
from fogtune.platform.run.checkpoint import (
    Flat,
    checkpoint_rounds,
    drop_checkpoints_after,
    read_checkpoint,
    read_newest_checkpoint,
    write_checkpoint,
)


@pytest.fixture(autouse=True)
def rounds(tmp_path: Path) -> Path:
    """Of the run whose checkpoints these are."""
    path = tmp_path / "rounds.jsonl"
    path.write_text("".join(f"{number}\n" for number in range(1, 21)))
    return path


def flat(round_number: int) -> Flat:
    shared = torch.arange(6.0).reshape(2, 3) * round_number
    tensors = {"node|cloud|version|head/vqa|weight": shared, "node|fog-0|version|head/vqa|weight": shared}
    return tensors | {"sum": torch.tensor([2**62])}, {"coordinator": {"round": round_number, "experts": {"a": [1]}}}


def names(run: Path) -> list[str]:
    return sorted(os.listdir(run / "checkpoints"))


def same(ours: Flat, theirs: Flat) -> bool:
    return (
        ours[1] == theirs[1]
        and ours[0].keys() == theirs[0].keys()
        and all(torch.equal(tensor, theirs[0][name]) for name, tensor in ours[0].items())
    )


def test_the_newest_comes_back_and_older_ones_go(tmp_path: Path) -> None:
    assert read_newest_checkpoint(tmp_path) is None
    for number in (1, 2, 9, 10):
        path = write_checkpoint(tmp_path, number, flat(number), keep=2)
        assert path.name == f"round-{number:06d}"
    assert names(tmp_path) == ["round-000009", "round-000010"]
    found = read_newest_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == 10
    assert same(found[1], flat(10))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def change_a_number(path: Path) -> None:
    path.write_text(path.read_text().replace('"round": 3, "experts"', '"round": 4, "experts"'))


def empty(path: Path) -> None:
    path.write_text("")


def other_json(path: Path) -> None:
    path.write_text("[1, 2]")


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("state.safetensors", truncate),
        ("state.safetensors", flip),
        ("state.safetensors", os.remove),
        ("state.json", truncate),
        ("state.json", change_a_number),
        ("state.json", empty),
        ("state.json", other_json),
        ("state.json", os.remove),
    ],
)
def test_a_damaged_one_is_passed_over(tmp_path: Path, file: str, damage: Any) -> None:
    for number in (2, 3):
        write_checkpoint(tmp_path, number, flat(number), keep=2)
    before = (tmp_path / "checkpoints/round-000003" / file).read_bytes()
    damage(tmp_path / "checkpoints/round-000003" / file)
    target = tmp_path / "checkpoints/round-000003" / file
    assert not target.exists() or target.read_bytes() != before
    found = read_newest_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == 2
    assert same(found[1], flat(2))


def test_what_stands_for_rounds_that_are_no_longer_there_is_passed_over(tmp_path: Path, rounds: Path) -> None:
    for number in (2, 3, 4):
        write_checkpoint(tmp_path, number, flat(number), keep=9)
    rounds.write_text(rounds.read_text().replace("3\n", "8\n"))
    found = read_newest_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == 2
    assert read_newest_checkpoint(tmp_path, until=2) is not None
    with pytest.raises(InputError, match=r"rounds.jsonl: damaged before the end of round 3"):
        read_checkpoint(tmp_path, 3)


def test_some_stay_for_good(tmp_path: Path) -> None:
    for number in range(1, 8):
        write_checkpoint(tmp_path, number, flat(number), 2, lambda number: number % 3 == 0)
    assert checkpoint_rounds(tmp_path) == [3, 6, 7]
    drop_checkpoints_after(tmp_path, 5)
    assert checkpoint_rounds(tmp_path) == [3]


def test_if_none_is_whole_that_is_said_in_one_line(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1, flat(1), keep=2)
    flip(tmp_path / "checkpoints/round-000001/state.safetensors")
    with pytest.raises(InputError) as refused:
        read_newest_checkpoint(tmp_path)
    assert "no whole checkpoint" in str(refused.value)
    assert "round-000001" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_fails_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1, flat(1), keep=2)
    tensors, rest = flat(2)
    with pytest.raises(TypeError):  # after the tensors were written
        write_checkpoint(tmp_path, 2, (tensors, rest | {"bad": object()}), keep=1)
    with pytest.raises(TypeError):  # a second failure on top of the first
        write_checkpoint(tmp_path, 1, (tensors, {"bad": object()}), keep=1)
    assert names(tmp_path) == ["round-000001"]
    found = read_newest_checkpoint(tmp_path)
    assert found is not None
    assert same(found[1], flat(1))


def test_leftovers_of_other_lives_go(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_checkpoint(tmp_path, number, flat(number), keep=3)
    for number in (2, 3):
        flip(tmp_path / f"checkpoints/round-00000{number}/state.safetensors")
    (tmp_path / "checkpoints/.round-000004.77.tmp").mkdir()  # a process was killed here
    (tmp_path / "checkpoints/ledger").mkdir()
    assert read_newest_checkpoint(tmp_path) is not None
    write_checkpoint(tmp_path, 2, flat(2), keep=1)  # resumed after round 1
    assert names(tmp_path) == ["ledger", "round-000002"]
    found = read_newest_checkpoint(tmp_path)
    assert found is not None
    assert same(found[1], flat(2))


def test_it_is_json_and_safetensors(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 5, flat(5), keep=1)
    assert sorted(os.listdir(path)) == ["state.json", "state.safetensors"]
    content = json.loads((path / "state.json").read_text())
    assert (content["round"], content["state"]) == (5, flat(5)[1])
