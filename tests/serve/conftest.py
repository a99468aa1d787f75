"""What tests of serving share: a run made up of versions with heads of all kinds, and what its model would say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from fogtune.platform.config import Config
from fogtune.platform.run import RunDirectory
from fogtune.serve.rows import Outcome, Row
from fogtune.serve.service import PredictRows


@pytest.fixture(scope="session")
def made_up(tiny: Callable[..., Config]) -> Callable[[Path, int], Path]:
    """Makes a run by hand, below a folder, with tasks of all kinds of heads and so many versions, the third damaged."""
    tasks = {
        "topic": {"source": "news", "inputs": ["text"], "label": "topic"},
        "tags": {"source": "vqa", "inputs": ["text", "image"], "label": "answer", "head": "multilabel"},
        "load": {"source": "watch", "inputs": ["imu"], "label": "exercise", "head": "regression"},
    }
    labels: dict[str, list[str]] = {"topic": ["short", "long"], "tags": ["red", "wordy"], "load": []}
    config = tiny(
        f"tasks={json.dumps(tasks)}",
        'devices=[{"name": "phone", "count": 2, "modalities": ["text", "image", "imu"], '
        '"tasks": ["topic", "tags", "load"]}]',
        'sources.vqa={"kind": "embedded", "asset": "easy-vqa"}',
        'model.encoders.image={"kind": "image"}',
    )

    def publish(run: Path, number: int) -> None:
        """A version with a head of each task at the cloud, and for topic at fog-0, too."""
        version = run / "modules" / f"v{number}"
        version.mkdir(parents=True)
        (version / "module.safetensors").write_bytes(b"weights")
        nodes = [("cloud", f"head/{task}") for task in tasks] + [("fog-0", "head/topic"), ("cloud", "encoder/imu")]
        nodes += [("cloud", "encoder/image")]
        entry = {"file": "module.safetensors", "sha256": hashlib.sha256(b"weights").hexdigest()}
        described = {
            name: {
                "inputs": task["inputs"],
                "head": task.get("head", "classification"),
                "labels": labels[name],
                "metrics": {"accuracy": number / 4},
            }
            for name, task in tasks.items()
        }
        modules = [{"node": node, "module": module, **entry} for node, module in nodes]
        (version / "manifest.json").write_text(json.dumps({"modules": modules, "tasks": described}))

    def make(parent: Path, versions: int) -> Path:
        run = RunDirectory.create(config, parent)
        for number in range(1, versions + 1):
            publish(run.path, number)
            if number == 3:
                (run.path / "modules/v3/module.safetensors").write_bytes(b"tampered")
        return run.path

    return make


@pytest.fixture(scope="session")
def answers() -> PredictRows:
    """What the model would say of rows of a run of `made_up`, computed from the samples."""

    async def predict_rows(rows: Sequence[Row]) -> Sequence[Outcome]:
        """topic: a text is long by its characters, ten are surely; tags: how red the image is, and how wordy the text;
        load: the sum of the series. The version and the variant show in none of them."""
        outcomes: list[Outcome] = []
        for row in rows:
            text, image, imu = (row.inputs.get(name) for name in ("text", "image", "imu"))
            if row.task == "topic":
                assert isinstance(text, str)
                outcomes.append(np.array([1 - len(text) / 10, len(text) / 10], np.float32))
            elif row.task == "tags":
                red = 0.25 if image is None else float(np.asarray(image)[..., 0].mean() / 255)
                outcomes.append(np.array([red, 0.25 if text is None else 0.75], np.float32))
            else:
                outcomes.append(np.array([np.sum(imu)], np.float32))  # type: ignore[arg-type]
        return outcomes

    return predict_rows
