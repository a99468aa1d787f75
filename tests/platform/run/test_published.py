"""Published versions: files that others load, PEFT among them, with hashes that fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fogtune.platform.aggregation import is_control
from fogtune.platform.config import Config
from fogtune.platform.data.assets import minilm_directory
from fogtune.platform.federation.local_runner import LocalRunner
from fogtune.platform.federation.messages import Setup
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.learning.workbench import Workbench
from fogtune.platform.run.checkpoint import file_sha256
from fogtune.platform.run.published import publish

MakeConfig = Callable[..., Config]
MIXED = 'federation.modules=[{"match": "head/topic", "scope": "fog"}, {"match": "head/exercise", "scope": "device"}]'
METRICS = {"topic": {"accuracy": 0.5}}


def ran(config: Config, rounds: int) -> tuple[Setup, Snapshot]:
    runner = LocalRunner(config)
    for number in range(1, rounds + 1):
        runner.round(number)
    runner.close()
    return runner.setup, runner.snapshot()


@pytest.fixture(scope="module")
def config(tiny: MakeConfig) -> Config:
    scaffold = ("federation.rule.kind=scaffold", "local.optimizer=sgd", "local.learning_rate=0.2")
    return tiny(MIXED, *scaffold, "evaluation.personal=false", "evaluation.every=4")


@pytest.fixture(scope="module")
def trained(config: Config) -> tuple[Setup, Snapshot]:
    return ran(config, 2)


@pytest.fixture(scope="module")
def version(config: Config, trained: tuple[Setup, Snapshot], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("published") / "run-1"
    run.mkdir()
    return publish(run, config, *trained, METRICS)


@pytest.fixture(scope="module")
def manifest(version: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((version / "manifest.json").read_text())
    return found


def test_the_manifest_lists_every_file_with_its_hash(version: Path, manifest: dict[str, Any]) -> None:
    files = {path.relative_to(version).as_posix() for path in version.rglob("*.safetensors")}
    assert {entry["file"] for entry in manifest["modules"]} == files
    for entry in manifest["modules"]:
        assert file_sha256(version / entry["file"]) == entry["sha256"]
        assert (version / entry["file"]).stat().st_size == entry["bytes"]
    assert version.name == "v2"
    assert (manifest["run"], manifest["version"], manifest["round"]) == ("run-1", 2, 2)
    assert manifest["tasks"]["topic"] == {
        "inputs": ["text"],
        "head": "classification",
        "labels": ["business", "entertainment", "politics", "sports", "tech"],
        "metrics": {"accuracy": 0.5},
    }
    assert manifest["backbone"]["name"] == "embedded:minilm"


def test_a_module_has_a_file_for_each_node_of_its_scope(manifest: dict[str, Any]) -> None:
    nodes: dict[str, list[str]] = {}
    for entry in manifest["modules"]:
        nodes.setdefault(entry["module"], []).append(entry["node"])
    assert sorted(nodes["head/topic"]) == ["fog-0", "fog-1"]
    assert sorted(nodes["head/exercise"]) == ["coach-0", "watch-0", "watch-1"]
    assert nodes["encoder/imu"] == nodes["adapter/fusion"] == nodes["expert/3"] == ["cloud"]
    assert {entry["module"]: entry["scope"] for entry in manifest["modules"]}["head/exercise"] == "device"


def test_files_hold_the_tensors_of_the_snapshot(
    version: Path, manifest: dict[str, Any], trained: tuple[Setup, Snapshot]
) -> None:
    snapshot = trained[1]
    for entry in manifest["modules"]:
        node, module = entry["node"], entry["module"]
        held = snapshot.devices[node].kept if node in snapshot.devices else snapshot.nodes[node].versions
        expected = {name: tensor for name, tensor in held[module].items() if not is_control(name)}
        found = load_file(version / entry["file"])
        assert found.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    controls = [name for name in snapshot.nodes["cloud"].versions["encoder/imu"] if is_control(name)]
    assert controls  # SCAFFOLD's variates are there, and they are the federation's business alone


def test_the_round_of_a_module_is_when_its_version_was_made(tiny: MakeConfig, tmp_path: Path) -> None:
    config = tiny("federation.cadence.fog=2", 'federation.modules=[{"match": "head/topic", "scope": "fog"}]')
    runner = LocalRunner(config)
    rounds = []
    for number in (1, 2, 3):
        runner.round(number)
        path = publish(tmp_path, config, runner.setup, runner.snapshot(), {})
        manifest = json.loads((path / "manifest.json").read_text())
        rounds.append({entry["module"]: entry["round"] for entry in manifest["modules"]})
    runner.close()
    assert [found["head/topic"] for found in rounds] == [1, 2, 3]
    assert [found["adapter/fusion"] for found in rounds] == [0, 2, 2]


# PEFT asks transformers for a property of an older name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_loads_the_adapter_onto_the_plain_backbone(
    version: Path, config: Config, trained: tuple[Setup, Snapshot]
) -> None:
    from peft import PeftModel
    from transformers import AutoModel, AutoTokenizer

    text = "Shares rose after the merger was announced."
    plain = AutoModel.from_pretrained(minilm_directory(), dtype=torch.float32).eval()
    assert config.model.backbone is not None
    encoded = AutoTokenizer.from_pretrained(minilm_directory())(
        text, truncation=True, max_length=config.model.backbone.max_text_tokens, return_tensors="pt"
    )
    with torch.no_grad():
        untouched = plain(**encoded).last_hidden_state
        adapted = PeftModel.from_pretrained(plain, version / "cloud/adapter/fusion").eval()
        theirs = adapted(**encoded).last_hidden_state
        bench = Workbench(config)
        tokens = bench.model.prefix("text", text)[None]
        with bench.model.holding({"adapter/fusion": trained[1].nodes["cloud"].versions["adapter/fusion"]}):
            ours = bench.model.backbone.fuse(tokens, torch.ones(tokens.shape[:2], dtype=torch.int64))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert float((theirs - untouched).abs().max()) > 1e-3


def test_what_fails_in_the_middle_leaves_nothing(
    tmp_path: Path, config: Config, trained: tuple[Setup, Snapshot]
) -> None:
    path = publish(tmp_path, config, *trained, METRICS)
    before = (path / "manifest.json").read_bytes()
    unwritable: Mapping[str, Any] = {"topic": {"accuracy": object()}}
    with pytest.raises(TypeError):
        publish(tmp_path, config, *trained, unwritable)
    assert [entry.name for entry in (tmp_path / "modules").iterdir()] == ["v2"]
    assert (path / "manifest.json").read_bytes() == before


def test_a_resumed_run_publishes_over_an_earlier_life(
    tmp_path: Path, config: Config, trained: tuple[Setup, Snapshot]
) -> None:
    path = publish(tmp_path, config, *trained, METRICS)
    (path / "manifest.json").write_text("torn")
    (path / "stray.safetensors").write_bytes(b"")
    publish(tmp_path, config, *trained, METRICS)
    assert json.loads((path / "manifest.json").read_text())["round"] == 2
    assert not (path / "stray.safetensors").exists()
