"""Modules that devices give each other: what is asked of whom, and the check of what arrives."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

import pytest
import torch

from fogtune.platform.federation.handing_on import CopyRefused, HandedOn, digest, digests, holders_of, received
from fogtune.platform.federation.messages import DeviceOrder, RoundPlan
from fogtune.platform.topology import Node, Tree

TREE = Tree(
    {
        node.id: node
        for node in (
            Node("cloud", "cloud", None),
            Node("fog-0", "fog", "cloud"),
            Node("fog-1", "fog", "cloud"),
            *(Node(device, "device", "fog-0") for device in "abc"),
            Node("d", "device", "fog-1"),
        )
    },
    ("cloud", "fog", "device"),
)
VERSIONS = {"head": {"weight": torch.arange(6.0).reshape(2, 3)}, "adapter": {"weight": torch.ones(2)}}


def order(device: str, **sources: tuple[str, ...]) -> DeviceOrder:
    return DeviceOrder(device, tuple(VERSIONS), (), tuple(VERSIONS), (), sources=sources)


def take(asked: DeviceOrder, copies: Mapping[tuple[str, str], dict[str, torch.Tensor]]) -> dict[str, object]:
    handed = HandedOn(copies, digests("fog-0", VERSIONS, ["head"]))
    return dict(received(asked, TREE, VERSIONS, handed))


def test_devices_are_asked_for_what_others_get_from_them() -> None:
    orders = (
        order("a", head=("b",), adapter=("b", "c")),
        order("c", head=("a", "b")),
        order("b", adapter=("fog-0",)),
        order("d", head=("fog-1",), adapter=("b", "ap-0")),  # an access point is no node of the tree
    )
    assert holders_of(RoundPlan(1, orders, False, False), TREE) == {"fog-0": {"head": ("b",), "adapter": ("c",)}}


def test_a_copy_of_the_version_is_what_a_device_starts_from() -> None:
    copy = {"weight": VERSIONS["head"]["weight"].clone()}
    found = take(order("a", head=("b",), adapter=("c", "ap-0")), {("b", "head"): copy})
    assert found["head"] is copy
    assert found["adapter"] is VERSIONS["adapter"]


@pytest.mark.parametrize(
    "copy",
    [
        {"weight": torch.arange(6.0).reshape(2, 3) + 1e-6},
        {"weight": torch.arange(6.0).reshape(3, 2)},
        {"weight": torch.arange(6.0, dtype=torch.float64).reshape(2, 3)},
        {"bias": torch.arange(6.0).reshape(2, 3)},
        {},
    ],
)
def test_anything_else_is_refused(copy: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CopyRefused, match="head as b has it is not the version of fog-0: its sha256 differs"):
        take(order("a", head=("b",)), {("b", "head"): copy})


def test_so_is_nothing_at_all() -> None:
    with pytest.raises(CopyRefused, match="head has not come from b"):
        take(order("a", head=("c", "b")), {("c", "head"): VERSIONS["head"]})


def test_a_copy_is_hashed_once_for_all_who_get_it_here_and_anew_elsewhere() -> None:
    tensors = {"weight": VERSIONS["head"]["weight"].clone()}
    handed = HandedOn({("c", "head"): tensors}, digests("fog-0", VERSIONS, ["head"]))
    for device in "ab":
        received(order(device, head=("c",)), TREE, VERSIONS, handed)
    tensors["weight"] += 1  # so that it shows who looks at the copy
    received(order("b", head=("c",)), TREE, VERSIONS, handed)
    with pytest.raises(CopyRefused, match="its sha256 differs"):
        received(order("a", head=("c",)), TREE, VERSIONS, pickle.loads(pickle.dumps(handed)))


def test_the_digest_is_of_names_shapes_and_values_whatever_their_order_in_memory() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    assert digest({"a": weight, "b": torch.tensor(1.0)}) == digest(
        {"b": torch.tensor(1.0), "a": weight.t().clone().t()}
    )
    assert digest({"a": weight}) != digest({"a": weight.t()})
    assert digest({}) != digest({"a": torch.zeros(0)})
