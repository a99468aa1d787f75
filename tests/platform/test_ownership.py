"""Owners, scopes, cadences and rounds, on a house with cameras, watches and readers."""

from __future__ import annotations

from typing import Any

import pytest

from fogtune.platform.config import Config
from fogtune.platform.ownership import Ownership, own
from fogtune.platform.topology_build import build_tree


def ownership(federation: dict[str, Any] | None = None, tiers: tuple[str, ...] = ("fog",), **model: Any) -> Ownership:
    encoders = {"image": {"kind": "image"}, "imu": {"kind": "series", "channels": 6}}
    config = Config.model_validate(
        {
            "topology": {"kind": "counted", "tiers": [{"name": tier, "count": 2} for tier in tiers]},
            "devices": [
                {"name": "camera", "count": 2, "modalities": ["image", "text", "imu"], "tasks": ["vqa"]},
                {"name": "watch", "count": 1, "modalities": ["imu"], "tasks": ["side", "exercise"]},
                # Reads the questions but has no camera: no image encoder on it.
                {"name": "reader", "count": 2, "modalities": ["text"], "tasks": ["topic", "vqa"]},
            ],
            "sources": {
                "pictures": {"kind": "embedded", "asset": "easy-vqa"},
                "gym": {"kind": "embedded", "asset": "seglearn"},
                "news": {"kind": "embedded", "asset": "bbc-news"},
            },
            "tasks": {
                "vqa": {"source": "pictures", "inputs": ["text", "image"], "label": "answer"},
                "exercise": {"source": "gym", "inputs": ["imu"], "label": "exercise"},
                "side": {"source": "gym", "inputs": ["imu"], "label": "side"},
                "topic": {"source": "news", "inputs": ["text"], "label": "topic"},
            },
            "model": {"encoders": encoders, **model},
            "federation": federation or {},
        }
    )
    return own(config, build_tree(config))


def test_devices_own_what_their_modalities_and_tasks_need() -> None:
    owned = ownership(experts={"count": 2}).modules_of
    shared = ("adapter/fusion", "router/fusion", "expert/0", "expert/1")
    assert list(owned) == ["camera-0", "camera-1", "watch-0", "reader-0", "reader-1"]
    # Cameras collect imu too, but none of their tasks reads it.
    assert owned["camera-0"] == ("encoder/image", "statistics/image", "prompt/vqa", *shared, "head/vqa")
    assert owned["watch-0"] == (
        "encoder/imu",
        "statistics/imu",
        "prompt/exercise",
        "prompt/side",
        *shared,
        "head/exercise",
        "head/side",
    )
    assert owned["reader-1"] == ("prompt/vqa", "prompt/topic", *shared, "head/vqa", "head/topic")


def test_owners_of_a_module() -> None:
    owners = ownership().owners_of
    assert owners["encoder/image"] == ("camera-0", "camera-1")
    assert owners["encoder/imu"] == owners["statistics/imu"] == ("watch-0",)
    assert owners["head/vqa"] == ("camera-0", "camera-1", "reader-0", "reader-1")
    assert owners["head/topic"] == ("reader-0", "reader-1")
    assert owners["adapter/fusion"] == ("camera-0", "camera-1", "watch-0", "reader-0", "reader-1")


def test_a_model_without_shared_modules() -> None:
    owned = ownership(adapter=None, prompts=None)
    assert owned.modules_of["reader-0"] == ("head/vqa", "head/topic")
    assert owned.modules == (
        *("encoder/image", "encoder/imu", "statistics/image", "statistics/imu"),
        *("head/vqa", "head/exercise", "head/side", "head/topic"),
    )


def test_inputs_are_those_that_the_device_collects_in_the_order_of_the_task() -> None:
    owned = ownership()
    assert owned.inputs_of("camera-0", "vqa") == ("text", "image")
    assert owned.inputs_of("reader-0", "vqa") == ("text",)
    with pytest.raises(KeyError):
        owned.inputs_of("watch-0", "vqa")


def test_subtrees_are_the_union_of_their_leaves_in_module_order() -> None:
    # Dealt in turn: fog-0 has camera-0, watch-0, reader-1; fog-1 has camera-1, reader-0.
    owned = ownership(adapter=None, prompts=None)
    assert owned.subtree_modules("fog-1") == ("encoder/image", "statistics/image", "head/vqa", "head/topic")
    assert owned.subtree_modules("fog-0") == owned.modules
    assert owned.subtree_modules("cloud") == owned.modules
    assert owned.subtree_modules("watch-0") == ("encoder/imu", "statistics/imu", "head/exercise", "head/side")


def test_defaults_are_cloud_and_every_round() -> None:
    owned = ownership()
    assert {owned.scope(module) for module in owned.modules} == {"cloud"}
    assert {owned.cadence(module, tier) for module in owned.modules for tier in ("fog", "device")} == {1}


def test_the_last_match_that_gives_a_field_wins() -> None:
    owned = ownership(
        {
            "cadence": {"fog": 2},
            "modules": [
                {"match": "head/*", "scope": "device", "cadence": {"fog": 4}},
                {"match": "head/vqa", "scope": "fog"},
                {"match": "head/[vt]*", "cadence": {"device": 3, "fog": 3}},
                {"match": "HEAD/*", "scope": "cloud"},
            ],
        }
    )
    assert owned.scope("head/side") == "device"
    assert owned.scope("head/vqa") == "fog"
    assert owned.scope("head/topic") == "device"
    assert owned.scope("prompt/vqa") == "cloud"
    assert [owned.cadence(module, "fog") for module in ("prompt/vqa", "head/side", "head/vqa")] == [2, 4, 3]
    assert [owned.cadence(module, "device") for module in ("prompt/vqa", "head/side", "head/vqa")] == [1, 1, 3]


def test_a_policy_replaces_the_whole_cadence() -> None:
    owned = ownership({"cadence": {"device": 2, "fog": 4}, "modules": [{"match": "prompt/*", "cadence": {"fog": 3}}]})
    assert (owned.cadence("prompt/vqa", "device"), owned.cadence("prompt/vqa", "fog")) == (1, 3)
    assert (owned.cadence("head/vqa", "device"), owned.cadence("head/vqa", "fog")) == (2, 4)


def going_up(owned: Ownership, module: str, tier: str) -> list[int]:
    return [number for number in range(1, 9) if owned.goes_up(module, tier, number)]


def test_rounds_in_which_modules_go_up() -> None:
    owned = ownership(
        {
            "cadence": {"fog": 2},
            "modules": [{"match": "head/*", "scope": "fog"}, {"match": "prompt/*", "scope": "device"}],
        }
    )
    every = [1, 2, 3, 4, 5, 6, 7, 8]
    assert {
        (module, tier): going_up(owned, module, tier)
        for module in ("adapter/fusion", "head/vqa", "prompt/vqa")
        for tier in ("device", "fog", "cloud")
    } == {
        ("adapter/fusion", "device"): every,
        ("adapter/fusion", "fog"): [2, 4, 6, 8],
        ("adapter/fusion", "cloud"): [],
        ("head/vqa", "device"): every,
        ("head/vqa", "fog"): [],
        ("head/vqa", "cloud"): [],
        ("prompt/vqa", "device"): [],
        ("prompt/vqa", "fog"): [],
        ("prompt/vqa", "cloud"): [],
    }


def test_scopes_and_cadences_in_a_tree_of_four_tiers() -> None:
    owned = ownership(
        {
            "cadence": {"device": 1, "fog": 2, "region": 4},
            "modules": [{"match": "head/*", "scope": "region"}],
        },
        tiers=("region", "fog"),
    )
    assert going_up(owned, "adapter/fusion", "fog") == [2, 4, 6, 8]
    assert going_up(owned, "adapter/fusion", "region") == [4, 8]
    assert going_up(owned, "head/vqa", "fog") == [2, 4, 6, 8]
    assert going_up(owned, "head/vqa", "region") == []


@pytest.mark.parametrize("tiers", [(), ("fog",), ("region", "fog")])
def test_what_is_told_of_a_node_by_groups_is_what_its_devices_say_one_by_one(tiers: tuple[str, ...]) -> None:
    owned = ownership(tiers=tiers)
    tree = owned.tree
    for node in tree.aggregators:
        below = tree.leaves(node)
        groups = [str(tree[device].group) for device in below]
        assert tree.groups_below[node] == {group: groups.count(group) for group in groups}
        for module in owned.modules:
            begins = [owned.begins_of[device][module] for device in below if module in owned.begins_of[device]]
            assert owned.begins_below[node].get(module) == min(begins, default=None)
            assert owned.owners_below(node, module, 1) == sum(begin <= 1 for begin in begins)
        for task in ("vqa", "topic", "side"):
            inputs = {m for device in below if task in owned.tasks_of(device) for m in owned.inputs_of(device, task)}
            assert owned.inputs_below(node, task) == inputs
    assert owned.inputs_below("reader-0", "vqa") == {"text"}
    assert owned.inputs_below("watch-0", "vqa") == set()
