"""Write a work's folder: the data for FogTune, and for the others what FogTune would train, asked of FogTune itself.

python prepare.py WORK FOLDER
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, disable_progress_bars
from exchange import Arrays, Orders, Settings, write_shared
from works import LABEL, ROWS, WORKS, Work

from fogtune.platform.aggregation import Tensors
from fogtune.platform.config import Config
from fogtune.platform.federation.coordinator import Coordinator
from fogtune.platform.federation.local_runner import LocalRunner
from fogtune.platform.federation.messages import Setup
from fogtune.platform.learning.batches import epochs, mixed_batches, rows_of_round
from fogtune.platform.learning.workbench import Workbench
from fogtune.platform.model.backbone import resolve

_BLOCK = re.compile(r"\.layer\.(\d+)\.")


def prepare(work: Work, folder: Path) -> None:
    """Make the folder of a work anew."""
    shutil.rmtree(folder, ignore_errors=True)
    disable_progress_bars()
    data = {split: Dataset.from_dict(columns) for split, columns in work.rows().items()}
    DatasetDict(data).save_to_disk(str(folder / "data"))
    if work.is_shared:
        write(work.configure(str(folder / "data")), folder)


def write(config: Config, folder: Path) -> None:
    """What the other sides read."""
    (group,) = config.devices
    devices = [f"{group.name}-{i}" for i in range(group.count)]
    runner = LocalRunner(config)
    setup = runner.setup
    runner.close()
    bench, backbone = Workbench(config), config.model.backbone
    x = _inputs(bench)
    initial = peers_names(setup.initial)
    settings = Settings(
        rounds=config.rounds,
        clients=group.count,
        optimizer=config.local.optimizer,
        learning_rate=config.local.learning_rate,
        batch_size=config.local.batch_size,
        classes=len(setup.labels[LABEL]),
        channels=x.shape[1],
        width=bench.model.backbone.width,
        backbone=None if backbone is None else resolve(backbone.name),
        lora_blocks=sorted({int(block) for name in initial for block in _BLOCK.findall(name)}),
    )
    held_out = bench.held_out(LABEL)
    write_shared(folder, settings, _orders(bench, setup, devices), initial, x, bench.targets[LABEL].numpy(), held_out)


def peers_names(modules: dict[str, Tensors]) -> Arrays:
    """FogTune's trained modules as arrays by the names that they have in the other sides' models (models.py)."""
    result = {}
    for module, tensors in modules.items():
        for name, tensor in tensors.items():
            match module.partition("/")[0]:
                case "adapter":  # PEFT saves lora_A.<adapter's name>.weight as lora_A.weight
                    known = "backbone." + re.sub(r"(lora_[AB])\.", r"\1.default.", name)
                case "encoder":
                    known = name.replace("layers.0", "encoder")
                case "head":
                    known = f"head.{name}"
                case kind:
                    raise ValueError(f"no other side trains a {kind}")
            result[known] = tensor.numpy()
    return result


def _inputs(bench: Workbench) -> np.ndarray:
    """All rows of the source: vectors (N, C) float32, or numbers of tokens (N, T) int64."""
    (modality,) = bench.config.tasks[LABEL].inputs
    raws = list(bench.dataset.tables[ROWS].modalities[modality])
    backbone = bench.config.model.backbone
    if backbone is None:
        return np.concatenate(raws)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve(backbone.name))
    # An array only if all texts have as many tokens: the other sides' models need no mask then.
    return np.array(tokenizer(raws, truncation=True, max_length=backbone.max_text_tokens)["input_ids"])


def _orders(bench: Workbench, setup: Setup, devices: list[str]) -> Orders:
    """Who trains on which batches, as FogTune's coordinator and devices draw it."""
    config, coordinator = bench.config, Coordinator(bench.config, setup)
    batches = {}
    for number in range(1, config.rounds + 1):
        for order in coordinator.plan(number).orders:
            device = order.device
            part = bench.parts(device, number)[LABEL]
            rows = rows_of_round(part.train, epochs(config, LABEL), number, config.seed, device)
            steps = mixed_batches({LABEL: rows}, config.local.batch_size, config.seed, number, device)
            batches[number, devices.index(device)] = [some for _, some in steps]
    return Orders(batches)


if __name__ == "__main__":
    prepare(WORKS[sys.argv[1]], Path(sys.argv[2]))
