"""The registry finds what a run has published, and refuses what is not what was published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fogtune.platform.errors import InputError
from fogtune.platform.run.checkpoint import file_sha256
from fogtune.serve.registry import Input, Registry, read_module


def change_manifest(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = run / "modules/v2/manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def refusal(run: Path, number: int = 2) -> str:
    registry = Registry(run)
    with pytest.raises(InputError) as refused:
        registry.verify(registry.read(number))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_it_finds_every_module_of_every_node(served: Path) -> None:
    registry = Registry(served)
    assert registry.versions() == (1, 2)
    version = registry.read(2)
    registry.verify(version)
    assert version.number == 2
    assert {("fog-0", "head/topic"), ("cloud", "encoder/imu"), ("watch-1", "prompt/exercise")} <= version.entries.keys()
    assert ("cloud", "head/topic") not in version.entries
    first, second = (read_module(registry.read(n).entries["fog-0", "head/topic"])["weight"] for n in (1, 2))
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_tasks_say_what_they_read_and_give(served: Path) -> None:
    tasks = Registry(served).read(2).tasks
    assert list(tasks) == ["exercise", "topic", "vqa"]
    assert tasks["exercise"].inputs == (Input("imu", "series", 6),)
    assert tasks["vqa"].inputs == (Input("text", "text", None), Input("image", "image", None))
    assert {"business", "sports"} < set(tasks["topic"].labels)
    assert tasks["topic"].metrics.keys() >= {"accuracy"}


def test_a_file_that_was_tampered_with_is_refused(copied: Path) -> None:
    file = copied / "modules/v2/fog-0/head/topic.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert refusal(copied) == "v2/fog-0/head/topic.safetensors: the file does not match the sha256 in manifest.json"
    registry = Registry(copied)
    registry.verify(registry.read(1))  # the other version is what it was
    with pytest.raises(InputError, match="does not match"):
        read_module(registry.read(2).entries["fog-0", "head/topic"])


def test_a_file_that_is_missing_is_named(copied: Path) -> None:
    (copied / "modules/v2/fog-0/adapter/fusion/adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors" in refusal(copied)


def test_what_has_the_right_hash_but_is_no_safetensors_is_refused(copied: Path) -> None:
    file = copied / "modules/v2/fog-0/head/topic.safetensors"
    file.write_bytes(b"\x80\x04K\x01.")  # a pickle

    def admit(manifest: dict[str, Any]) -> None:
        (entry,) = [found for found in manifest["modules"] if found["file"] == "fog-0/head/topic.safetensors"]
        entry["sha256"] = file_sha256(file)

    change_manifest(copied, admit)
    with pytest.raises(InputError, match="not safetensors"):
        read_module(Registry(copied).read(2).entries["fog-0", "head/topic"])


def test_a_manifest_cannot_point_elsewhere(copied: Path) -> None:
    outside = copied / "outside.safetensors"
    shutil.copy(copied / "modules/v2/fog-0/head/topic.safetensors", outside)

    def point_outside(manifest: dict[str, Any]) -> None:
        manifest["modules"][0] |= {"file": "../../outside.safetensors", "sha256": file_sha256(outside)}

    change_manifest(copied, point_outside)
    assert "lies outside the version" in refusal(copied)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("modules"),
        lambda manifest: manifest["modules"][0].pop("sha256"),
        lambda manifest: manifest.update(modules=7),
        lambda manifest: manifest["modules"].append(None),
        lambda manifest: manifest.update(tasks=[]),
        lambda manifest: manifest["tasks"]["topic"].pop("labels"),
    ],
)
def test_a_manifest_that_nobody_wrote_is_damaged(copied: Path, change: Callable[[dict[str, Any]], object]) -> None:
    change_manifest(copied, change)
    assert "damaged version" in refusal(copied)


def test_a_torn_manifest_is_damaged(copied: Path) -> None:
    path = copied / "modules/v2/manifest.json"
    path.write_text(path.read_text()[:-20])
    assert "damaged version" in refusal(copied)


def test_a_version_that_is_not_there(copied: Path, tmp_path: Path) -> None:
    assert refusal(copied, 7).endswith("no such version; published: v1, v2")
    (copied / "modules/.v3.77.tmp").mkdir()  # a process was killed here
    assert Registry(copied).versions() == (1, 2)
    assert Registry(tmp_path / "nowhere").versions() == ()
    assert refusal(tmp_path / "nowhere").endswith("no such version; published: none")
