"""The registry finds what a run has published, and refuses what is not what was published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fogtune.platform.config import Config
from fogtune.platform.errors import InputError
from fogtune.platform.federation.local_runner import LocalRunner
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.run.checkpoint import file_sha256
from fogtune.platform.run.published import publish
from fogtune.serve.registry import Registry

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def published(tiny: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Snapshot]:
    """A run with versions 0 and 1, heads a region."""
    run = tmp_path_factory.mktemp("runs") / "run-1"
    run.mkdir()
    config = tiny('federation.modules=[{"match": "head/*", "scope": "fog"}]')
    runner = LocalRunner(config)
    publish(run, config, runner.setup, runner.snapshot(), {})
    result = runner.round(1)
    publish(run, config, runner.setup, runner.snapshot(), result.record.tasks)
    runner.close()
    return run, runner.snapshot()


@pytest.fixture
def run(published: tuple[Path, Snapshot], tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(published[0], tmp_path / "run-1"))


def change_manifest(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = run / "modules/v1/manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def refusal(run: Path, number: int = 1) -> str:
    with pytest.raises(InputError) as refused:
        Registry(run).load(number)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_it_loads_every_module_of_every_node(published: tuple[Path, Snapshot]) -> None:
    run, snapshot = published
    registry = Registry(run)
    assert registry.versions() == (0, 1)
    version = registry.load(1)
    assert (version.number, version.manifest["round"], version.manifest["run"]) == (1, 1, "run-1")
    assert {("fog-0", "head/topic"), ("fog-1", "head/topic"), ("cloud", "encoder/imu")} <= version.modules.keys()
    for (node, module), tensors in version.modules.items():
        expected = snapshot.nodes[node].versions[module]
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items())
    assert not torch.equal(
        version.modules["fog-0", "head/topic"]["weight"], registry.load(0).modules["fog-0", "head/topic"]["weight"]
    )


def test_a_file_that_was_tampered_with_is_refused(run: Path) -> None:
    file = run / "modules/v1/fog-0/head/topic.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert refusal(run) == f"{file.resolve()}: the file does not match the sha256 in manifest.json"
    assert Registry(run).load(0).number == 0  # the other version is what it was


def test_a_file_that_is_missing_is_named(run: Path) -> None:
    (run / "modules/v1/cloud/adapter/fusion/adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors" in refusal(run)


def test_a_manifest_cannot_point_elsewhere(run: Path) -> None:
    outside = run / "outside.safetensors"
    shutil.copy(run / "modules/v1/fog-0/head/topic.safetensors", outside)

    def point_outside(manifest: dict[str, Any]) -> None:
        manifest["modules"][0] |= {"file": "../../outside.safetensors", "sha256": file_sha256(outside)}

    change_manifest(run, point_outside)
    assert "lies outside the version" in refusal(run)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("modules"),
        lambda manifest: manifest["modules"][0].pop("sha256"),
        lambda manifest: manifest.update(modules=7),
        lambda manifest: manifest["modules"].append(None),
    ],
)
def test_a_manifest_that_nobody_wrote_is_damaged(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    change_manifest(run, change)
    assert "damaged version" in refusal(run)


def test_a_torn_manifest_is_damaged(run: Path) -> None:
    path = run / "modules/v1/manifest.json"
    path.write_text(path.read_text()[:-20])
    assert "damaged version" in refusal(run)


def test_a_version_that_is_not_there(run: Path, tmp_path: Path) -> None:
    assert refusal(run, 7).endswith("no such version; published: v0, v1")
    (run / "modules/.v2.77.tmp").mkdir()  # a process was killed here
    assert Registry(run).versions() == (0, 1)
    assert Registry(tmp_path / "nowhere").versions() == ()
    assert refusal(tmp_path / "nowhere").endswith("no such version; published: none")
