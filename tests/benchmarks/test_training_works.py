"""The benchmark's other sides train what FogTune trains: after a round the plain loop has the same weights."""

from __future__ import annotations

import copy
import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fogtune.platform.federation.local_runner import LocalRunner
from fogtune.platform.topology import CLOUD

TRAINING = Path(__file__).resolve().parents[2] / "benchmarks/training"


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT's own
@pytest.mark.parametrize(("name", "clients", "samples"), [("W1", 5, 22), ("W2k2", 2, 17)], ids=["digits", "news"])
def test_a_round_of_the_plain_loop_is_one_of_fogtune(
    name: str, clients: int, samples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TRAINING))
    works, prepare, plain = (importlib.import_module(module) for module in ("works", "prepare", "plain_loop"))
    work = works.WORKS[name]
    content = copy.deepcopy(work.config)
    content["devices"][0]["count"] = clients
    content["federation"]["participation"] = 1 if clients < 3 else 0.6
    content["sources"]["rows"] |= {"samples_per_device": samples, "held_out": {"split": "test", "limit": 20}}
    work = replace(work, config=content)
    prepare.prepare(work, tmp_path)
    plain.main(tmp_path, 1, 1, 0)

    # The same library of products: AdamW's first steps, all of one size, make much of the last bit of a gradient.
    same = {"runner": "local", "matmul": "default"}
    runner = LocalRunner(work.configure(str(tmp_path / "data"), rounds=1, execution=same))
    try:
        record = runner.round(1).record
        ours = prepare.peers_names(runner.snapshot().nodes[CLOUD].versions)
    finally:
        runner.close()
    theirs, initial = (dict(np.load(tmp_path / name)) for name in ("final/plain-1.npz", "initial.npz"))
    assert record.participants == max(1, round(content["federation"]["participation"] * clients))
    assert ours.keys() == theirs.keys()
    changed = np.concatenate([(theirs[n] - initial[n]).ravel() for n in theirs])
    apart = np.concatenate([(theirs[n] - ours[n]).ravel() for n in theirs])
    assert np.linalg.norm(apart) < 1e-4 * np.linalg.norm(changed)
    assert np.linalg.norm(changed) > 1e-3
