"""A snapshot survives being taken apart into tensors and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

from fogtune.platform.aggregation import ModuleSum
from fogtune.platform.aggregation.tier import TierState
from fogtune.platform.federation.device_state import DeviceState
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.federation.state import OWN, CoordinatorState

Named = Mapping[str, Mapping[str, torch.Tensor]]


def same(ours: Named, theirs: Named) -> bool:
    """Same modules and names, bit for bit the same tensors."""
    return ours.keys() == theirs.keys() and all(
        ours[module].keys() == theirs[module].keys()
        and all(torch.equal(tensor, theirs[module][name]) for name, tensor in ours[module].items())
        for module in ours
    )


def test_everything_comes_back() -> None:
    version = {"weight": torch.randn(3, 2), "control/weight": torch.randn(3, 2)}
    pending = ModuleSum.of({"weight": torch.randn(2)}, 7) + ModuleSum.of({"weight": torch.randn(2)}, 2**20)
    before = Snapshot(
        CoordinatorState(
            round=12,
            stamps={"cloud": {"head/vqa": 12}, "fog-0": {}},
            held={"camera-0": {"head/vqa": 11, "prompt/vqa": OWN}},
            experts={"camera-0": [0, 3], "watch-0": []},
            updates_lost=5,
        ),
        {
            "cloud": TierState({"head/vqa": version}, {}, {"head/vqa": {"m/weight": torch.randn(3, 2)}}),
            "fog-0": TierState({"head/vqa": version}, {"head/vqa": pending}, {"prompt/vqa": {}}),
            "fog-1": TierState({}),
        },
        {
            "camera-0": DeviceState({"prompt/vqa": {"tokens": torch.randn(1)}}, {"head/vqa": version}, (0, 3)),
            "watch-0": DeviceState(),
        },
    )
    tensors, rest = before.flatten()
    after = Snapshot.unflatten(tensors, json.loads(json.dumps(rest)))
    assert after.coordinator == before.coordinator
    assert after.nodes.keys() == before.nodes.keys()
    for node, state in before.nodes.items():
        assert same(after.nodes[node].versions, state.versions)
        assert same(after.nodes[node].rules, state.rules)  # a rule without tensors has a state too
        assert after.nodes[node].pending == state.pending
    assert after.devices.keys() == before.devices.keys()
    for device, own in before.devices.items():
        assert same(after.devices[device].kept, own.kept)
        assert same(after.devices[device].controls, own.controls)
        assert after.devices[device].experts == own.experts


def test_a_version_that_nodes_share_is_stored_once_and_comes_back_as_one() -> None:
    version, copy, other = ({"weight": torch.full((2,), value)} for value in (1.0, 1.0, 3.0))
    states = {"fog-1": version, "fog-0": copy, "cloud": version, "fog-2": other}
    nodes = {node: TierState({"head/vqa": found}) for node, found in states.items()}
    tensors, rest = Snapshot(CoordinatorState(), nodes, {}).flatten()
    assert set(tensors) == {"node|cloud|version|head/vqa|weight", "node|fog-2|version|head/vqa|weight"}
    again = Snapshot.unflatten(tensors, json.loads(json.dumps(rest))).nodes
    assert again.keys() == nodes.keys()
    for node in ("fog-0", "fog-1"):  # the one had a copy of its own
        assert again[node].versions["head/vqa"] is again["cloud"].versions["head/vqa"]
    assert again["fog-2"].versions["head/vqa"]["weight"].tolist() == [3.0, 3.0]
