"""Aggregating nodes that share actors, on a real Ray: the bits of one process, and names of whom an actor serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import ray

from fogtune.actors.ray_runner import RayRunner
from fogtune.platform.config import Config
from fogtune.platform.federation.local_runner import LocalRunner, Runner
from fogtune.platform.run.record import LedgerRow, RoundRecord

MakeConfig = Callable[..., Config]

SHORT = ("devices.0.count=4", "rounds=4", "evaluation.every=4", "evaluation.personal=false")
FLAT = ("topology.tiers.0.count=5", "federation.cadence.fog=2", "federation.participation=0.6", *SHORT)
DEEP = ('topology.tiers=[{"name": "region", "count": 2}, {"name": "fog", "count": 5}]', *SHORT)
SCOPES = 'federation.modules=[{"match": "head/*", "scope": "fog"}, {"match": "prompt/*", "scope": "region"}]'
CADENCES = "federation.cadence={fog: 2, region: 4}"
LATE = ("devices.1.joins=3",)


def left(
    start: Callable[[], Runner], times: int, look: Callable[[], None]
) -> tuple[list[RoundRecord], list[list[LedgerRow]], object]:
    """What two rounds by each of some runners leave; each goes on from the snapshot of the one before, and is looked at
    at its end."""
    results, snapshot = [], None
    for i in range(times):
        runner = start()
        try:
            if snapshot is not None:
                runner.restore(snapshot)
            results += [runner.round(number) for number in (2 * i + 1, 2 * i + 2)]
            snapshot = runner.snapshot()
            look()
        finally:
            runner.close()
    assert snapshot is not None
    tensors, rest = snapshot.flatten()
    bits = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    return [replace(r.record, wall_s=0.0) for r in results], [list(r.rows) for r in results], (bits, rest)


@pytest.mark.parametrize(
    ("changes", "times", "names"),
    [
        (FLAT, 1, {"fog/0+1", "fog/2+3+4"}),
        ((*DEEP, SCOPES, CADENCES), 2, {"fog/0+2", "fog/4+1+3", "region/0+1"}),
        ((*DEEP, *LATE), 2, set()),  # nobody has anything to add up
    ],
    ids=["cadence", "scopes", "late"],
)
def test_the_bits_do_not_depend_on_which_nodes_share_an_actor(
    bare: MakeConfig,
    shared_ray: None,
    changes: tuple[str, ...],
    times: int,
    names: set[str],
    request: pytest.FixtureRequest,
) -> None:
    config = bare(*changes, "execution.nodes_per_actor=3", "execution.devices_per_actor=9")
    namespace = f"packed-{request.node.callspec.id}"

    def look() -> None:
        found = {a["name"] for a in ray.util.list_named_actors(all_namespaces=True) if a["namespace"] == namespace}
        assert {name for name in found if name.startswith(("fog/", "region/"))} == names

    there = left(lambda: RayRunner(config, namespace), times, look)
    assert there == left(lambda: LocalRunner(config), times, lambda: None)
