"""A run with as many personal variants as one likes: the default model, untrained, each device with modules of its own.

What a module's values are makes no difference to how long it takes; that they differ does. So nothing is trained: each
device has the adapter, the prompts and the heads of the start with noise of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from fogtune.pipelines.presets import preset
from fogtune.platform.config import Config
from fogtune.platform.data.labels import label_names
from fogtune.platform.data.sources import load_table
from fogtune.platform.model.heads import HEADS
from fogtune.platform.model.m3t import M3TModel
from fogtune.platform.run.checkpoint import file_sha256
from fogtune.platform.run.directory import RunDirectory

OWN = ("adapter", "prompt", "head")
"""Kinds of module that a device has for itself."""
GROUP = "phone"


class Published:
    """A run without rounds, to which versions are added."""

    def __init__(self, parent: Path, devices: int) -> None:
        """Make the run's directory; it has no version yet."""
        modalities, tasks = ["text", "image", "imu"], list(preset("default").tasks)
        group = {"name": GROUP, "count": devices, "modalities": modalities, "tasks": tasks}
        config = preset("default", f"devices={json.dumps([group])}")
        self.path = RunDirectory.create(config, parent).path
        self.config: Config = config
        tables = {name: load_table(source, name) for name, source in config.sources.items()}
        self._labels = {
            name: label_names(tables[task.source], task.label, HEADS[task.head].labels, name)
            for name, task in config.tasks.items()
        }
        self._model = M3TModel(config, self._labels)
        self._devices = devices

    def write(self, number: int, *, staged: bool = False) -> Path:
        """A version with contents of its own, in `modules/` or, to be renamed there later, beside it."""
        root = self.path / ("staged" if staged else "modules") / f"v{number}"
        entries = [self._module(root, "cloud", module, number) for module in self._model.tensors_of]
        own = [module for module in self._model.tensors_of if module.partition("/")[0] in OWN]
        for device in range(self._devices):
            entries += [self._module(root, f"{GROUP}-{device}", module, number) for module in own]
        tasks = {
            name: {"inputs": task.inputs, "head": task.head, "labels": self._labels[name], "metrics": {}}
            for name, task in self.config.tasks.items()
        }
        (root / "manifest.json").write_text(json.dumps({"modules": entries, "tasks": tasks}))
        return root

    def _module(self, root: Path, node: str, module: str, number: int) -> dict[str, str]:
        file = root / node / f"{module}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(hash((node, module, number)) % 2**31)
        save_file({name: t + 0.01 * torch.randn_like(t) for name, t in self._model.tensors(module).items()}, file)
        name = file.relative_to(root).as_posix()
        return {"module": module, "node": node, "file": name, "sha256": file_sha256(file)}
