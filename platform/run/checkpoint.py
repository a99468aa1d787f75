"""Checkpoints: all state of a federation after a round, written whole or not at all, checked when read. No pickle.

checkpoints/round-000008/state.safetensors    tensors by flat key
                         state.json           everything else, and a sha256 of both and of rounds.jsonl until then

It stands for its rounds: one is passed over, too, where the run's `rounds.jsonl` is no longer what it was then.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from fogtune.platform.errors import InputError

from .atomic import commit, sync, temporary_beside

log = logging.getLogger(__name__)

Flat = tuple[dict[str, torch.Tensor], dict[str, Any]]
"""Tensors by flat key, and JSON values."""

_NAME = re.compile(r"^round-(\d{6,})$")


def write_checkpoint(
    run: Path, round_number: int, flat: Flat, keep: int, stays: Callable[[int], bool] = lambda _: False
) -> Path:
    """Write the checkpoint of a round, then remove all but the newest `keep` and those of rounds that `stays` names.

    What there is of later rounds goes as well. The round is in the run's `rounds.jsonl` already.
    """
    tensors, rest = flat
    path = run / "checkpoints" / _name(round_number)
    path.parent.mkdir(exist_ok=True)
    temporary = temporary_beside(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        save_file(_with_memory_of_their_own(tensors), temporary / "state.safetensors")
        text = json.dumps(rest)
        digest = _digest(temporary / "state.safetensors", text)
        (temporary / "state.json").write_text(
            f'{{"round": {round_number}, "sha256": "{digest}", "rounds_sha256": "{_rounds_digest(run, round_number)}", '
            f'"state": {text}}}\n',
            encoding="utf-8",
        )
        for file in temporary.iterdir():
            sync(file)
        shutil.rmtree(path, ignore_errors=True)  # of an earlier life of a resumed run
        commit(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    earlier = [number for number in checkpoint_rounds(run) if number <= round_number]
    kept = {_name(number) for number in earlier if number in earlier[-keep:] or stays(number)}
    for other in path.parent.glob("*round-*"):  # later ones are of an earlier life too, hidden ones never got finished
        if other.name not in kept:
            shutil.rmtree(other, ignore_errors=True)
    return path


def read_newest_checkpoint(run: Path, until: float = math.inf) -> tuple[int, Flat] | None:
    """The newest checkpoint that is whole; it is logged which are passed over, and why.

    Args:
        run: the run's directory.
        until: the last round that it may be of.

    Returns:
        Its round, and what was written; None if there is no checkpoint, so no round was finished.

    Raises:
        InputError: there are some, and none of them is whole.
    """
    rounds = checkpoint_rounds(run)
    for round_number in reversed([number for number in rounds if number <= until]):
        try:
            return round_number, read_checkpoint(run, round_number)
        except InputError as problem:
            log.warning("%s; passed over", problem)
    if rounds:
        raise InputError(str(run / "checkpoints"), f"no whole checkpoint among {', '.join(map(_name, rounds))}")
    return None


def read_checkpoint(run: Path, round_number: int) -> Flat:
    """What was written after a round. InputError, naming the file, if that or the rounds until then are damaged."""
    path = run / "checkpoints" / _name(round_number)
    try:
        content = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if _digest(path / "state.safetensors", json.dumps(content["state"])) != content["sha256"]:
            raise ValueError("the content does not match its sha256")
        if content.get("rounds_sha256") not in (None, _rounds_digest(run, round_number)):  # older ones have none
            raise InputError(str(run / "rounds.jsonl"), f"damaged before the end of round {round_number}")
        return load_file(path / "state.safetensors"), content["state"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(str(path), f"damaged ({error})") from error


def checkpoint_rounds(run: Path) -> list[int]:
    """Rounds with a checkpoint, whole or not, ascending."""
    directory = run / "checkpoints"
    names = os.listdir(directory) if directory.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := _NAME.match(name)))


def drop_checkpoints_after(run: Path, round_number: int) -> None:
    """Remove the checkpoints of later rounds, the newest first."""
    for number in reversed(checkpoint_rounds(run)):
        if number > round_number:
            shutil.rmtree(run / "checkpoints" / _name(number))


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _with_memory_of_their_own(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What safetensors wants: no two in the same memory, none with gaps."""
    taken: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if memory in taken else tensor.contiguous()
        taken.add(memory)
    return result


def _digest(tensors: Path, rest: str) -> str:
    """sha256 over the tensors' file and the JSON of the rest, which is the same before writing and after reading."""
    return hashlib.sha256(f"{file_sha256(tensors)} {rest}".encode()).hexdigest()


def _rounds_digest(run: Path, round_number: int) -> str:
    """sha256 of the first so many lines of `rounds.jsonl`."""
    with (run / "rounds.jsonl").open("rb") as stream:
        return hashlib.sha256(b"".join(islice(stream, round_number))).hexdigest()


def _name(round_number: int) -> str:
    return f"round-{round_number:06d}"
