"""What a run and its actors log: every line says of which run, which round, and whose it is."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import ray

import fogtune
from fogtune.platform.config import Config
from fogtune.platform.run import RoundRecord

MakeConfig = Callable[..., Config]


def test_rounds_stages_and_the_end_are_in_the_log_of_a_resumed_run(watches: MakeConfig, tmp_path: Path) -> None:
    def on_event(record: RoundRecord) -> None:
        if record.round == 1:
            raise KeyboardInterrupt

    stopped = fogtune.run(watches("rounds=2", f"output.directory={tmp_path}"), on_event=on_event)
    run = fogtune.resume(stopped.directory.path).directory
    lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert {line["run"] for line in lines} == {run.id}
    told = [(line["round"], line["message"]) for line in lines]
    assert [number for number, text in told if text.startswith("finished in ")] == [1, 2]
    assert (None, "round 1 of 2") in told
    assert (1, "stopped") in told
    assert told[-1] == (2, "completed")


def test_actors_log_run_round_and_name_where_ray_keeps_it(
    watches: MakeConfig, tmp_path: Path, shared_ray: None
) -> None:
    fog = ("topology.tiers.0.count=1", "federation.cadence={fog: 2}")
    one_by_one = "execution.fused_devices=1"  # else one host trained them all
    changes = ("rounds=2", "execution.runner=ray", "execution.devices_per_actor=3", one_by_one, *fog)
    run = fogtune.run(watches(*changes, f"output.directory={tmp_path}")).directory
    logs = Path(ray.nodes()[0]["ObjectStoreSocketName"]).parents[1] / "logs"  # type: ignore[no-untyped-call]
    expected = {(name, n) for name in ("coordinator", "devices/0/0", "devices/0/1", "fog/0") for n in "12"}
    pattern = re.compile(rf"^\S+ \S+ INFO {re.escape(run.id)} round (\d+) (\S+): ", re.MULTILINE)
    found: set[tuple[str, str]] = set()
    for _ in range(50):  # processes write what they have left when they end
        texts = [path.read_text(errors="replace") for path in logs.glob("worker-*.err")]
        if (found := {(name, number) for text in texts for number, name in pattern.findall(text)}) == expected:
            break
        time.sleep(0.2)
    assert found == expected
