"""Numbers of a federation on Ray's own metrics endpoint."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable

import pytest
import ray

from fogtune.actors.ray_runner import RayRunner
from fogtune.platform.config import Config
from fogtune.platform.run.record import Summary

MakeConfig = Callable[..., Config]


def told(run: str) -> dict[str, float]:
    """Sample -> value, of a run: name and labels but for those that Ray adds."""
    port = ray.nodes()[0]["MetricsExportPort"]  # type: ignore[no-untyped-call]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for name, labels, value in re.findall(r"^(ray_fogtune_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        known = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if known.get("run") == run:
            mine = [known[label] for label in ("task", "metric", "link", "host") if label in known]
            found[" ".join([name, *mine])] = float(value)
    return found


def test_what_rounds_record_can_be_scraped(watches: MakeConfig, shared_ray: None) -> None:
    runner = RayRunner(watches("rounds=3", "execution.runner=ray"), "scraped")
    try:
        records = [runner.round(number).record for number in (1, 2, 3)]
        last = told("scraped")
        for _ in range(120):  # Ray hands numbers on every few seconds
            if last.get("ray_fogtune_round") == 3:
                break
            time.sleep(0.5)
            last = told("scraped")
    finally:
        runner.close()
    summary = Summary.of(records)
    assert last["ray_fogtune_round"] == last["ray_fogtune_rounds"] == 3
    assert last["ray_fogtune_participants"] == records[-1].participants
    assert sum(value for name, value in last.items() if "host_queue devices/" in name) == records[-1].participants
    for link, count in summary.bytes.items():
        assert last.get(f"ray_fogtune_link_bytes_total {link}", 0) == count
    assert summary.tasks
    for task, metrics in summary.tasks.items():
        for metric, value in metrics.items():
            assert last[f"ray_fogtune_task_metric {task} {metric}"] == pytest.approx(value)
    for task, loss in records[-1].loss.items():
        assert last[f"ray_fogtune_task_loss {task}"] == pytest.approx(loss)
    assert last["ray_fogtune_round_seconds_total"] == pytest.approx(summary.wall_s)
