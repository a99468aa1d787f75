"""The ledger: who moved which module where, with the bytes of the real serialisation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import save

from fogtune.platform.aggregation import ModuleSum, Tensors
from fogtune.platform.config import Config
from fogtune.platform.federation.local_runner import LocalRunner, RoundResult
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.ownership import Ownership, own
from fogtune.platform.run.record import LedgerRow
from fogtune.platform.topology import Tree
from fogtune.platform.topology_build import build_tree

MakeConfig = Callable[..., Config]

DEEP = 'topology.tiers=[{"name": "region", "count": 2}, {"name": "fog", "count": 2}]'
HEADS = 'federation.modules=[{"match": "head/topic", "scope": "fog"}, {"match": "head/exercise", "scope": "device"}]'


class Ran:
    """Some rounds of a federation, and what is needed to judge their ledger."""

    def __init__(self, config: Config, rounds: int = 3) -> None:
        runner = LocalRunner(config)
        self.config = config
        self.results: list[RoundResult] = [runner.round(number) for number in range(1, rounds + 1)]
        self.snapshot: Snapshot = runner.snapshot()
        self.initial = dict(runner.setup.initial)
        self.tree: Tree = build_tree(config)
        self.ownership: Ownership = own(config, self.tree)
        runner.close()

    @property
    def rows(self) -> list[LedgerRow]:
        return [row for result in self.results for row in result.rows]


@pytest.fixture(scope="module")
def ran(tiny: MakeConfig) -> Ran:
    return Ran(tiny(DEEP, HEADS, "federation.participation=0.8", "model.experts.per_device=2", "model.experts.count=6"))


def test_rows_are_links_of_the_tree(ran: Ran) -> None:
    for row in ran.rows:
        devices = [node for node in (row.source, row.target) if node in ran.tree.devices]
        assert row.source == ran.tree[row.target].parent or row.target == ran.tree[row.source].parent
        assert bool(devices) == (row.kind in ("uplink", "downlink"))
        assert (row.kind == "uplink") == (row.source in ran.tree.devices)
        assert row.hops == 1


def test_only_owners_move_a_module(ran: Ran) -> None:
    assert {row.module for row in ran.rows} >= {"encoder/imu", "prompt/topic", "adapter/fusion", "router/fusion"}
    for row in ran.rows:
        lower = row.source if ran.tree[row.source].parent == row.target else row.target
        assert row.module in ran.ownership.subtree_modules(lower)


def test_nothing_moves_above_its_scope(ran: Ran) -> None:
    assert {row.kind for row in ran.rows if row.module == "head/topic"} == {"uplink", "downlink"}
    assert not [row for row in ran.rows if row.module == "head/exercise"]


def test_bytes_are_those_of_the_real_serialisation(ran: Ran) -> None:
    def version(tensors: Tensors) -> int:
        return len(save(tensors))

    def total(tensors: Tensors) -> int:
        return len(save(ModuleSum.of(tensors, 1).total))

    for row in ran.rows:
        upward = row.kind == "backhaul" and ran.tree[row.source].parent == row.target
        assert row.bytes == (total if upward else version)(ran.initial[row.module])
    kept = ran.snapshot.nodes["cloud"].versions["adapter/fusion"]
    assert version(kept) == version(ran.initial["adapter/fusion"])


def test_experts_that_a_device_does_not_use_cost_nothing(ran: Ran) -> None:
    sent, fetched = Counter[tuple[int, str]](), Counter[tuple[int, str]]()
    for row in ran.rows:
        if row.module.startswith("expert/"):
            if row.kind == "uplink":
                sent[row.round, row.source] += 1
            elif row.kind == "downlink":
                fetched[row.round, row.target] += 1
    assert set(sent.values()) <= {1, 2}  # per_device is 2
    again = [count for (number, device), count in fetched.items() if any((n, device) in sent for n in range(1, number))]
    assert again
    assert max(again) <= 3  # the two of last time, and one to try


def test_the_round_adds_up_its_rows(ran: Ran) -> None:
    for result in ran.results:
        by_kind, by_module = Counter[str](), Counter[str]()
        for row in result.rows:
            assert row.round == result.record.round
            by_kind[row.kind] += row.bytes
            by_module[row.module] += row.bytes
        assert dict(result.record.bytes) == {"uplink": 0, "downlink": 0, "backhaul": 0, "d2d": 0} | by_kind
        assert result.record.modules_moved == by_module


def test_version_0_is_not_sent_and_new_versions_come_down_to_who_owns_them(ran: Ran) -> None:
    first = [row for row in ran.rows if row.round == 1]
    assert not [row for row in first if row.kind == "downlink"]
    down = Counter(
        (r.source, r.target, r.module) for r in first if r.kind == "backhaul" and ran.tree[r.target].parent == r.source
    )
    assert set(down.values()) == {1}
    for node in ("region-0", "region-1", "fog-0", "fog-1"):
        parent = ran.tree[node].parent or ""
        owned = {m for m in ran.ownership.subtree_modules(node) if not m.startswith("head/")}
        moved = {module for source, target, module in down if (source, target) == (parent, node)}
        assert {m for m in owned if not m.startswith("expert/")} <= moved <= owned  # some experts are used by nobody


def test_a_device_that_holds_the_newest_version_fetches_nothing(tiny: MakeConfig) -> None:
    star = Ran(tiny("topology.tiers=[]", 'federation.modules=[{"match": "*", "scope": "device"}]'), 2)
    assert star.rows == []  # all modules are personal: they never travel
    alone = Ran(tiny("federation.cadence.device=2", "federation.cadence.fog=2"), 3)
    by_round = [Counter(row.kind for row in result.rows) for result in alone.results]
    assert by_round[0]["uplink"] == 0
    assert by_round[1]["downlink"] == 0  # nothing newer than its own
    assert by_round[1]["uplink"] > 0
    assert by_round[2]["downlink"] > 0


def test_scaffolds_variates_are_paid_for(tiny: MakeConfig) -> None:
    plain = Ran(tiny("local.optimizer=sgd", "topology.tiers=[]"), 1)
    scaffold = Ran(tiny("local.optimizer=sgd", "topology.tiers=[]", "federation.rule.kind=scaffold"), 1)
    module = plain.initial["adapter/fusion"]
    both = module | {f"control/{name}": torch.zeros_like(tensor) for name, tensor in module.items()}
    for ran, tensors in ((plain, module), (scaffold, both)):
        moved = {row.bytes for row in ran.rows if row.module == "adapter/fusion"}
        assert moved == {len(save(tensors))}


def test_who_has_the_version_before_gets_a_new_one_as_its_change(tiny: MakeConfig) -> None:
    quantised = 'federation.compression=[{"kind": "quantise"}]'
    for down in (False, True):
        runner = LocalRunner(tiny(quantised, f"federation.compress_down={str(down).lower()}"))
        whole = {module: len(save(tensors)) for module, tensors in runner.setup.initial.items()}
        assert not [row for row in runner.round(1).rows if row.kind == "downlink"]
        sizes = {row.module: row.bytes for row in runner.round(2).rows if row.kind == "downlink"}
        runner.close()
        assert len(sizes) > 5
        for module, size in sizes.items():
            if down and not module.startswith("statistics/"):
                assert size < whole[module]
            else:
                assert size == whole[module]
