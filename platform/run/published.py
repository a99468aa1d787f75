"""Published versions: what a run's modules are after a round, as files that others load. Safetensors only.

    modules/v8/manifest.json                           what is in the version, with a sha256 a file
               cloud/encoder/image.safetensors         <node>/<kind>/<name>.safetensors
               cloud/adapter/fusion/                   a directory that PEFT loads
               fog-0/head/vqa.safetensors              modules averaged below the cloud: a file a node

A version is written whole or not at all, and never changed.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from fogtune.platform.aggregation import Tensors, is_control
from fogtune.platform.config import Config
from fogtune.platform.federation.device_state import NOTHING
from fogtune.platform.federation.messages import Setup
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.model.adapters import write_adapter_config
from fogtune.platform.model.backbone import backbone_hash, resolve
from fogtune.platform.modules import ADAPTER
from fogtune.platform.ownership import Ownership, own
from fogtune.platform.topology import DEVICE, Tree
from fogtune.platform.topology_build import build_tree

from .atomic import commit, sync, temporary_beside
from .checkpoint import file_sha256
from .record import Metrics


def publish(run: Path, config: Config, setup: Setup, snapshot: Snapshot, metrics: Metrics) -> Path:
    """Write `modules/v<N>` for the round of the snapshot; N is the round.

    Args:
        run: the run's directory.
        config: the run's configuration.
        setup: labels and adapter description.
        snapshot: the federation's state.
        metrics: of the last evaluated round, for the manifest.

    Returns:
        The version's directory.
    """
    version, backbone = snapshot.coordinator.round, config.model.backbone
    tree = build_tree(config)
    ownership = own(config, tree)
    path = run / "modules" / f"v{version}"
    path.parent.mkdir(exist_ok=True)
    temporary = temporary_beside(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        entries = [
            _write_module(temporary, config, setup, node, module, ownership.scope(module), tensors, snapshot)
            for node, module, tensors in _variants(tree, ownership, snapshot)
        ]
        manifest = {
            "version": version,
            "round": version,
            "run": run.name,
            "backbone": backbone and {"name": backbone.name, "sha256": _backbone_sha256(backbone.name)},
            "modules": entries,
            "tasks": {
                name: {
                    "inputs": task.inputs,
                    "head": task.head,
                    "labels": setup.labels[name],
                    "metrics": metrics.get(name, {}),
                }
                for name, task in config.tasks.items()
            },
        }
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for file in temporary.rglob("*"):
            sync(file)
        shutil.rmtree(path, ignore_errors=True)  # of an earlier life of a resumed run
        commit(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return path


@cache
def _backbone_sha256(name: str) -> str:
    """Read once: what a run publishes belongs to the weights that it began with."""
    return backbone_hash(name)


def _variants(tree: Tree, ownership: Ownership, snapshot: Snapshot) -> list[tuple[str, str, Tensors]]:
    """(node, module, tensors) for every module at every node of its scope, in the order of the tree."""
    scopes = set(ownership.scopes.values())
    result: list[tuple[str, str, Tensors]] = []
    for tier, nodes in tree.of_tier.items():
        for node in nodes if tier in scopes else ():
            held = snapshot.devices.get(node, NOTHING).kept if tier == DEVICE else snapshot.nodes[node].versions
            mine = (m for m in ownership.subtree_modules(node) if ownership.scope(m) == tier)
            result += [(node, module, held[module]) for module in mine if module in held]
    return result


def _write_module(
    root: Path, config: Config, setup: Setup, node: str, module: str, scope: str, tensors: Tensors, snapshot: Snapshot
) -> dict[str, Any]:
    """Write one module and describe it."""
    directory = root / node / module.partition("/")[0]
    file = root / node / f"{module}.safetensors"
    if module == ADAPTER and setup.adapter_config is not None:
        directory = root / node / module
        file = directory / "adapter_model.safetensors"
    directory.mkdir(parents=True, exist_ok=True)
    parameters = {name: tensor.contiguous() for name, tensor in tensors.items() if not is_control(name)}
    save_file(parameters, file, metadata={"format": "pt"})
    if file.name == "adapter_model.safetensors" and config.model.backbone is not None:
        write_adapter_config(dict(setup.adapter_config or {}), resolve(config.model.backbone.name), directory)
    stamp = snapshot.coordinator.stamps.get(node, {}).get(module, snapshot.coordinator.round)
    return {
        "module": module,
        "node": node,
        "scope": scope,
        "round": stamp,
        "file": file.relative_to(root).as_posix(),
        "sha256": file_sha256(file),
        "bytes": file.stat().st_size,
    }
