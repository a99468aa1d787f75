"""Checkpoints: all state of a federation after a round, written whole or not at all, checked when read. No pickle.

checkpoints/round-000008/state.safetensors    tensors by flat key
                         state.json           everything else, and a sha256 of both
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from fogtune.platform.errors import InputError

from .atomic import commit, sync, temporary_beside

Flat = tuple[dict[str, torch.Tensor], dict[str, Any]]
"""Tensors by flat key, and JSON values."""

_NAME = re.compile(r"^round-(\d{6,})$")


def write_checkpoint(run: Path, round_number: int, flat: Flat, keep: int) -> Path:
    """Write the checkpoint of a round below a run's directory, then remove all but the newest `keep`."""
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
            f'{{"round": {round_number}, "sha256": "{digest}", "state": {text}}}\n', encoding="utf-8"
        )
        for file in temporary.iterdir():
            sync(file)
        shutil.rmtree(path, ignore_errors=True)  # of an earlier life of a resumed run
        commit(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    newest = [number for number in _rounds(run) if number <= round_number][-keep:]
    for other in path.parent.glob("*round-*"):  # later ones are of an earlier life too, hidden ones never got finished
        if other.name not in [_name(number) for number in newest]:
            shutil.rmtree(other, ignore_errors=True)
    return path


def read_newest_checkpoint(run: Path) -> tuple[int, Flat] | None:
    """The newest checkpoint that is whole.

    Returns:
        Its round, and what was written; None if there is no checkpoint, so no round was finished.

    Raises:
        InputError: none of them is whole.
    """
    problem = None
    for round_number in reversed(_rounds(run)):
        path = run / "checkpoints" / _name(round_number)
        try:
            content = json.loads((path / "state.json").read_text(encoding="utf-8"))
            if _digest(path / "state.safetensors", json.dumps(content["state"])) != content["sha256"]:
                raise ValueError("the content does not match its sha256")
            return round_number, (load_file(path / "state.safetensors"), content["state"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"no whole checkpoint; the last one tried, {path.name}, is damaged ({error})"
    if problem is not None:
        raise InputError(str(run / "checkpoints"), problem)
    return None


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


def _name(round_number: int) -> str:
    return f"round-{round_number:06d}"


def _rounds(run: Path) -> list[int]:
    """Rounds with a checkpoint, ascending."""
    directory = run / "checkpoints"
    names = os.listdir(directory) if directory.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := _NAME.match(name)))
