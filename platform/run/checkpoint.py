"""Checkpoints: all state of a federation after a round, written whole or not at all, checked when read. No pickle.

checkpoints/round-000008/state.safetensors    tensors by flat key
                         state.json           everything else, and the sha256 of the tensors' file
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
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
    path = run / "checkpoints" / f"round-{round_number:06d}"
    path.parent.mkdir(exist_ok=True)
    temporary = temporary_beside(path)
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)  # of an earlier life of a resumed run
    temporary.mkdir()
    try:
        # Nodes may share a version's tensors; safetensors wants each with memory of its own.
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, temporary / "state.safetensors")
        digest = file_sha256(temporary / "state.safetensors")
        text = json.dumps({"round": round_number, "sha256": digest, "state": rest})
        (temporary / "state.json").write_text(text + "\n", encoding="utf-8")
        for file in temporary.iterdir():
            sync(file)
        commit(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in _rounds(run)[:-keep]:
        shutil.rmtree(run / "checkpoints" / f"round-{old:06d}", ignore_errors=True)
    return path


def read_newest_checkpoint(run: Path) -> tuple[int, Flat]:
    """The newest checkpoint that is whole.

    Returns:
        Its round, and what was written.

    Raises:
        InputError: there is none, or none is whole.
    """
    rounds = _rounds(run)
    problem = "the run has no checkpoint: it did not finish its first round; start it again"
    for round_number in reversed(rounds):
        path = run / "checkpoints" / f"round-{round_number:06d}"
        try:
            content = json.loads((path / "state.json").read_text(encoding="utf-8"))
            if file_sha256(path / "state.safetensors") != content["sha256"]:
                raise ValueError("state.safetensors does not match its sha256")
            return round_number, (load_file(path / "state.safetensors"), content["state"])
        except (OSError, ValueError, KeyError) as error:
            problem = f"no whole checkpoint; the last one tried, {path.name}, is damaged ({error})"
    raise InputError(str(run / "checkpoints"), problem)


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _rounds(run: Path) -> list[int]:
    """Rounds with a checkpoint, ascending."""
    directory = run / "checkpoints"
    names = os.listdir(directory) if directory.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := _NAME.match(name)))
