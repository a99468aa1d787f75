"""Scripts of rounds, on small trees by hand: what is moved, over which links, and what each transfer waits for.

Bytes of the head and the adapter: versions 3 and 5, an update of one device 2 and 4, a sum 7 and 11, a new version
for those who have the one before 1 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from fogtune.platform.federation.messages import DeviceOrder
from fogtune.platform.federation.script import Moves, ScriptWriter
from fogtune.platform.federation.transfers import Retries, Sizes
from fogtune.platform.network.actions import Action, Script
from fogtune.platform.topology import Node, Tree

SIZES = Sizes(
    version={"head": 3, "adapter": 5},
    update={"head": 2, "adapter": 4},
    total={"head": 7, "adapter": 11},
    change={"head": 1, "adapter": 6},
)
HEAD, BOTH = ("head",), ("head", "adapter")

FOGS = {"fog-0": "cloud", "fog-1": "cloud", "a": "fog-0", "b": "fog-0", "c": "fog-0", "d": "fog-1"}
STAR = {"a": "cloud", "b": "cloud", "c": "cloud"}
DEEP = {"region-0": "cloud", "region-1": "cloud", "fog-0": "region-0", "fog-1": "region-1", "a": "fog-0", "d": "fog-1"}

Line = tuple[str, tuple[str, ...], str, tuple[int, ...]]
"""(kind, source and targets, modules with their bytes, what it waits for); lost ones have a `!` behind the modules."""


def tree_of(parents: Mapping[str, str]) -> Tree:
    """Devices have names of one letter."""
    nodes = {"cloud": Node("cloud", "cloud", None)}
    for name, parent in parents.items():
        tier = "device" if len(name) == 1 else name.split("-")[0]
        nodes[name] = Node(name, tier, parent, "group" if tier == "device" else None)
    return Tree(nodes, tuple(dict.fromkeys(node.tier for node in nodes.values())))


def order(
    device: str,
    fetched: Sequence[str] = (),
    relays: Sequence[str] = (),
    head: str | None = None,
    down: Sequence[str] = (),
    changes: Sequence[str] = (),
    sources: Mapping[str, Sequence[str]] | None = None,
) -> DeviceOrder:
    """`down`: devices over which all downloads come from fog-0."""
    over, new = tuple(relays), tuple(changes)
    given = sources or (dict.fromkeys(fetched, (*down, "fog-0")) if down else {})
    whence = {module: tuple(source) for module, source in given.items()}
    return DeviceOrder(device, BOTH, (), tuple(fetched), BOTH, changes=new, relays=over, head=head, sources=whence)


def write(
    *orders: DeviceOrder,
    parents: Mapping[str, str] = FOGS,
    access: Mapping[str, str] | None = None,
    sent: Mapping[str, Sequence[str]] | None = None,
    upward: Mapping[str, Sequence[str]] | None = None,
    adopted: Mapping[str, Sequence[str]] | None = None,
    first: Mapping[str, Sequence[str]] | None = None,
    flops: Mapping[str, float] | None = None,
    retries: Retries | None = None,
) -> Script:
    """A round; where nothing is said about it nobody sends, and computations are not booked."""
    tree = tree_of(parents)
    writer = ScriptWriter(tree, {**{d: tree[d].parent or "" for d in tree.devices}, **(access or {})}, SIZES)
    return writer.write(orders, Moves(sent or {}, upward or {}, adopted or {}), first or {}, flops or {}, retries)


def lines(script: Script) -> list[Line]:
    return [line(action) for action in script.actions]


def line(action: Action) -> Line:
    modules = " ".join(f"{module} {size}" for module, size in sorted(action.modules.items()))
    return action.kind, (action.source, *action.targets), modules + "!" * action.lost, action.after


def goes_on(script: Script) -> dict[str, tuple[int, ...]]:
    """What aggregating nodes are reached by."""
    return {node: reached for node, reached in script.reached.items() if len(node) > 1}


def in_vain(**tries: int) -> Retries:
    """Two attempts; `a_b=3`: what goes from a to b (and others) arrives at the third, all else at once."""

    def tried(action: Action) -> int:
        assert action.kind != "backhaul", "wires lose nothing"
        return tries.get(f"{action.source}_{action.targets[0]}".replace("-", ""), 1)

    return Retries(tried, attempts=2)


class TestDownloads:
    def test_a_module_goes_once_to_all_who_fetch_it_one_after_the_other(self) -> None:
        script = write(order("a", BOTH), order("b", ["adapter"]), order("c", BOTH))
        assert lines(script) == [
            ("downlink", ("fog-0", "a", "c"), "head 3", ()),
            ("downlink", ("fog-0", "a", "b", "c"), "adapter 5", (0,)),
        ]

    def test_who_has_the_version_before_gets_its_change_by_itself(self) -> None:
        script = write(order("a", BOTH, changes=HEAD), order("b", BOTH), order("c", HEAD, changes=HEAD))
        assert lines(script) == [
            ("downlink", ("fog-0", "b"), "head 3", ()),
            ("downlink", ("fog-0", "a", "c"), "head 1", (0,)),
            ("downlink", ("fog-0", "a", "b"), "adapter 5", (1,)),
        ]

    def test_a_change_comes_over_other_devices_too(self) -> None:
        script = write(order("a", BOTH, down="b", changes=HEAD))
        assert lines(script) == [
            ("downlink", ("fog-0", "b"), "head 1", ()),
            ("d2d", ("b", "a"), "head 1", (0,)),
            ("downlink", ("fog-0", "b"), "adapter 5", ()),
            ("d2d", ("b", "a"), "adapter 5", (2,)),
        ]

    def test_a_device_hands_on_what_it_has_heard(self) -> None:
        script = write(order("a", BOTH, sources={"head": "b"}), order("b", BOTH), flops={"a": 1.0})
        assert lines(script) == [
            ("downlink", ("fog-0", "b"), "head 3", ()),
            ("downlink", ("fog-0", "a", "b"), "adapter 5", (0,)),
            ("d2d", ("b", "a"), "head 3", (0,)),
            ("compute", ("a", "a"), "", (1, 2)),
        ]

    def test_and_what_it_had_before_over_others_too(self) -> None:
        script = write(order("a", BOTH, sources=dict.fromkeys(BOTH, ("b", "c"))), order("c"))
        assert lines(script) == [
            ("d2d", ("c", "b"), "adapter 5 head 3", ()),
            ("d2d", ("b", "a"), "adapter 5 head 3", (0,)),
        ]
        assert [action.hops for action in script.actions] == [2, 2]

    def test_whole_versions_come_from_those_who_were_given_changes_by_others(self) -> None:
        late = order("a", HEAD, sources={"head": "b"})
        updating = order("b", HEAD, changes=HEAD, sources={"head": "c"}), order("c", HEAD, changes=HEAD)
        assert lines(write(late, *updating)) == [
            ("downlink", ("fog-0", "c"), "head 1", ()),
            ("d2d", ("c", "b"), "head 1", (0,)),
            ("d2d", ("b", "a"), "head 3", (1,)),
        ]

    def test_an_access_point_is_sent_changes_where_nobody_needs_more(self) -> None:
        access = {"a": "ap-0", "b": "ap-0", "c": "ap-1"}
        orders = order("a", BOTH, changes=BOTH), order("b", HEAD), order("c", HEAD, changes=HEAD)
        script = write(*orders, parents=STAR, access=access)
        assert [line for line in lines(script) if line[0] == "backhaul"] == [
            ("backhaul", ("cloud", "ap-0"), "adapter 6 head 3", ()),
            ("backhaul", ("cloud", "ap-1"), "head 1", ()),
        ]

    def test_an_access_point_is_sent_only_what_it_sends_on(self) -> None:
        access = dict.fromkeys("abc", "ap-0")
        late = order("a", BOTH, sources={"head": "b", "adapter": "c"})
        orders = late, order("b"), order("c", ["adapter"], changes=["adapter"])
        script = write(*orders, parents=STAR, access=access)
        size = SIZES.change["adapter"]
        assert lines(script)[:2] == [
            ("backhaul", ("cloud", "ap-0"), f"adapter {size}", ()),
            ("downlink", ("ap-0", "c"), f"adapter {size}", (0,)),
        ]

    def test_what_a_device_sends_to_another_is_lost_each_for_itself(self) -> None:
        script = write(order("a", BOTH, sources=dict.fromkeys(BOTH, "b"), changes=HEAD), order("b"))
        origins = [action.origin for action in script.actions if action.kind == "d2d"]
        assert len(set(origins)) == len(origins) == 2

    def test_training_begins_when_a_devices_own_modules_are_there(self) -> None:
        flops = {"a": 10.0, "b": 20.0, "c": 30.0}
        script = write(order("a", ["head"]), order("b", BOTH), order("c"), flops=flops)
        assert lines(script)[2:] == [
            ("compute", ("a", "a"), "", (0,)),
            ("compute", ("b", "b"), "", (1,)),
            ("compute", ("c", "c"), "", ()),
        ]
        assert [action.flops for action in script.actions[2:]] == [10, 20, 30]

    def test_who_fetches_nothing_does_not_wait_for_what_others_fetch(self) -> None:
        access = {"a": "ap-0", "b": "ap-0"}
        script = write(order("a"), order("b", HEAD), parents=STAR, access=access, flops={"a": 1.0})
        assert lines(script)[-1] == ("compute", ("a", "a"), "", ())

    def test_cells_do_not_wait_for_each_other(self) -> None:
        script = write(order("a", ["head"]), order("d", ["head"]))
        assert lines(script) == [
            ("downlink", ("fog-0", "a"), "head 3", ()),
            ("downlink", ("fog-1", "d"), "head 3", ()),
        ]

    def test_before_anything_else_version_0_comes_down_the_tree(self) -> None:
        first = {"region-0": BOTH, "region-1": ["head"], "fog-0": BOTH, "fog-1": ["head"]}
        script = write(order("a", BOTH), order("d", ["head"]), parents=DEEP, first=first, flops={"d": 1.0})
        assert lines(script) == [
            ("backhaul", ("cloud", "region-0"), "adapter 5 head 3", ()),
            ("backhaul", ("cloud", "region-1"), "head 3", ()),
            ("backhaul", ("region-0", "fog-0"), "adapter 5 head 3", (0,)),
            ("backhaul", ("region-1", "fog-1"), "head 3", (1,)),
            ("downlink", ("fog-0", "a"), "head 3", (2,)),
            ("downlink", ("fog-0", "a"), "adapter 5", (4,)),
            ("downlink", ("fog-1", "d"), "head 3", (3,)),
            ("compute", ("d", "d"), "", (6,)),
        ]
        assert goes_on(script) == {"fog-1": (3,), "fog-0": (2,), "region-1": (1,), "region-0": (0,), "cloud": ()}

    def test_all_of_a_cell_begins_when_its_node_is_ready(self) -> None:
        script = write(
            order("a", ["head"]),
            sent={"a": ["head"]},
            upward={"fog-0": ["head"]},
            adopted={"fog-0": ["head"]},
            flops={"a": 1.0},
        )
        homes = [(action.kind, action.home) for action in script.actions]
        of_cell = [("downlink", "fog-0"), ("compute", "fog-0"), ("uplink", "fog-0"), ("backhaul", "fog-0")]
        assert homes == [*of_cell, ("backhaul", "cloud")]  # new versions come from above


class TestUpdates:
    def test_an_update_follows_training_and_goes_as_one(self) -> None:
        script = write(order("a"), order("b"), sent={"a": BOTH, "b": ["head"]}, flops={"a": 1.0, "b": 1.0})
        assert lines(script)[2:] == [
            ("uplink", ("a", "fog-0"), "adapter 4 head 2", (0,)),
            ("uplink", ("b", "fog-0"), "head 2", (1,)),
        ]
        assert script.delivered == {"a": 2, "b": 3}
        assert script.reached["fog-0"] == (2, 3)
        assert script.lost == {}

    def test_who_failed_is_not_waited_for(self) -> None:
        script = write(order("a", ["head"]), order("b", ["head"]), sent={"b": ["head"]}, flops={"a": 1.0, "b": 1.0})
        assert [action.kind for action in script.actions] == ["downlink", "compute", "compute", "uplink"]
        assert script.delivered == {"b": 3}
        assert script.reached["fog-0"] == (3,)

    def test_who_keeps_all_that_it_trained_delivers_nothing(self) -> None:
        script = write(order("a", HEAD), order("b"), sent={"a": [], "b": []}, flops={"a": 1.0})
        assert [action.kind for action in script.actions] == ["downlink", "compute"]
        assert script.delivered == {}

    def test_a_device_goes_on_when_it_has_trained_and_sent(self) -> None:
        orders = order("a", HEAD), order("b"), order("c"), order("d")
        flops = dict.fromkeys("abc", 1.0)
        script = write(*orders, sent={"a": [], "b": HEAD}, flops=flops, retries=in_vain(b_fog0=9))
        assert [action.kind for action in script.actions] == ["downlink", *["compute"] * 3, *["uplink"] * 2]
        devices = {node: reached for node, reached in script.reached.items() if len(node) == 1}
        # a keeps what it has trained, b tries in vain, c fails, d has nothing to do.
        assert devices == {"a": (1,), "b": (5,), "c": (3,), "d": ()}

    def test_an_access_point_passes_on_what_it_hears_each_by_itself(self) -> None:
        access = {"a": "ap-0", "b": "ap-0", "c": "ap-1"}
        orders = order("a", ["head"]), order("b", BOTH), order("c", ["adapter"])
        script = write(*orders, parents=STAR, access=access, sent={"a": ["head"], "b": ["head"]})
        assert lines(script) == [
            ("backhaul", ("cloud", "ap-0"), "adapter 5 head 3", ()),  # once for all of its cell
            ("downlink", ("ap-0", "a", "b"), "head 3", (0,)),
            ("downlink", ("ap-0", "b"), "adapter 5", (1,)),
            ("uplink", ("a", "ap-0"), "head 2", (1,)),
            ("backhaul", ("ap-0", "cloud"), "head 2", (3,)),
            ("uplink", ("b", "ap-0"), "head 2", (2,)),
            ("backhaul", ("ap-0", "cloud"), "head 2", (5,)),  # nothing is added up there
            ("backhaul", ("cloud", "ap-1"), "adapter 5", ()),
            ("downlink", ("ap-1", "c"), "adapter 5", (7,)),
        ]
        assert script.delivered == {"a": 4, "b": 6}
        assert goes_on(script) == {"cloud": (4, 6)}
        assert {action.home for action in script.actions} == {"cloud"}

    @pytest.mark.parametrize("member_first", [True, False])
    def test_a_head_waits_for_its_members_and_sends_sums_where_several_contributed(self, member_first: bool) -> None:
        orders = [order("a", head="c"), order("b", head="c"), order("c", head="c")]
        script = write(
            *(orders if member_first else orders[::-1]),
            sent={"a": ["head"], "b": ["head"], "c": ["adapter"]},
            flops=dict.fromkeys("abc", 1.0),
        )
        training = {action.source: i for i, action in enumerate(script.actions[:3])}
        there = {action.source: i for i, action in enumerate(script.actions) if action.kind == "d2d"}
        assert lines(script)[3:] == [
            ("d2d", (one, "c"), "head 2", (training[one],)) for one in ("ab" if member_first else "ba")
        ] + [("uplink", ("c", "fog-0"), "adapter 4 head 7", (training["c"], *sorted(there.values())))]
        assert script.delivered == dict.fromkeys("abc", 5)
        assert script.reached["fog-0"] == (5,)

    def test_a_head_that_has_nothing_of_its_own_sends_what_it_was_sent(self) -> None:
        script = write(order("a", head="b"), order("b", head="b"), sent={"a": ["adapter"], "b": []})
        assert lines(script) == [
            ("d2d", ("a", "b"), "adapter 4", ()),
            ("uplink", ("b", "fog-0"), "adapter 4", (0,)),
        ]

    def test_a_head_that_failed_passes_nothing_on(self) -> None:
        script = write(order("a", head="b"), order("b", head="b"), order("c"), sent={"a": HEAD, "c": HEAD})
        assert lines(script) == [("d2d", ("a", "b"), "head 2", ()), ("uplink", ("c", "fog-0"), "head 2", ())]
        assert script.delivered == {"c": 1}

    def test_behind_an_access_point_a_sum_stays_a_sum(self) -> None:
        access = dict.fromkeys("abc", "ap-0")
        script = write(
            order("a", head="b"), order("b", head="b"), parents=STAR, access=access, sent=dict.fromkeys("ab", HEAD)
        )
        assert lines(script) == [
            ("d2d", ("a", "b"), "head 2", ()),
            ("uplink", ("b", "ap-0"), "head 7", (0,)),
            ("backhaul", ("ap-0", "cloud"), "head 7", (1,)),
        ]
        assert script.delivered == {"a": 2, "b": 2}


class TestRelays:
    def test_every_hop_of_an_update_is_booked_and_waits_for_the_one_before(self) -> None:
        script = write(order("a", relays=("b", "c")), order("b"), sent={"a": BOTH, "b": ["head"]})
        assert lines(script) == [
            ("d2d", ("a", "b"), "adapter 4 head 2", ()),
            ("d2d", ("b", "c"), "adapter 4 head 2", (0,)),
            ("uplink", ("c", "fog-0"), "adapter 4 head 2", (1,)),
            ("uplink", ("b", "fog-0"), "head 2", ()),
        ]
        assert [action.hops for action in script.actions] == [3, 3, 3, 1]
        assert script.delivered == {"a": 2, "b": 3}

    def test_so_is_every_hop_of_a_download_after_what_all_others_hear(self) -> None:
        script = write(order("a", BOTH, down=("b", "c")), order("c", ["head"]), flops={"a": 1.0, "c": 1.0})
        assert lines(script) == [
            ("downlink", ("fog-0", "c"), "head 3", ()),
            ("downlink", ("fog-0", "c"), "adapter 5 head 3", (0,)),
            ("d2d", ("c", "b"), "adapter 5 head 3", (1,)),
            ("d2d", ("b", "a"), "adapter 5 head 3", (2,)),
            ("compute", ("a", "a"), "", (3,)),
            ("compute", ("c", "c"), "", (0,)),
        ]
        assert [action.hops for action in script.actions[:4]] == [1, 3, 3, 3]

    def test_a_head_is_reached_over_relays(self) -> None:
        script = write(order("a", relays=("b",), head="c"), order("c", head="c"), sent=dict.fromkeys("ac", HEAD))
        assert lines(script) == [
            ("d2d", ("a", "b"), "head 2", ()),
            ("d2d", ("b", "c"), "head 2", (0,)),
            ("uplink", ("c", "fog-0"), "head 7", (1,)),
        ]
        assert [action.hops for action in script.actions] == [2, 2, 1]


class TestRetries:
    def test_lost_attempts_come_before_the_one_that_arrives(self) -> None:
        script = write(order("a"), sent={"a": ["head"]}, upward={"fog-0": ["head"]}, retries=in_vain(a_fog0=2))
        assert lines(script) == [
            ("uplink", ("a", "fog-0"), "head 2!", ()),
            ("uplink", ("a", "fog-0"), "head 2", (0,)),
            ("backhaul", ("fog-0", "cloud"), "head 7", (1,)),
        ]
        assert (script.delivered, script.lost) == ({"a": 1}, {})

    def test_an_update_is_given_up_and_nothing_comes_after_it(self) -> None:
        access = {"a": "ap-0", "b": "ap-0"}
        sent = {"a": ["head"], "b": ["head"]}
        script = write(order("a"), order("b"), parents=STAR, access=access, sent=sent, retries=in_vain(a_ap0=3))
        assert lines(script) == [
            ("uplink", ("a", "ap-0"), "head 2!", ()),
            ("uplink", ("a", "ap-0"), "head 2!", (0,)),
            ("uplink", ("b", "ap-0"), "head 2", ()),
            ("backhaul", ("ap-0", "cloud"), "head 2", (2,)),
        ]
        assert script.lost == {"a": "a to ap-0"}
        assert script.delivered == {"a": 1, "b": 3}
        assert script.reached["cloud"] == (1, 3)  # until then it may still have come

    def test_a_hop_in_vain_ends_the_way(self) -> None:
        script = write(order("a", relays=("b", "c")), sent={"a": ["head"]}, retries=in_vain(b_c=9))
        assert lines(script) == [
            ("d2d", ("a", "b"), "head 2", ()),
            ("d2d", ("b", "c"), "head 2!", (0,)),
            ("d2d", ("b", "c"), "head 2!", (1,)),
        ]
        assert script.lost == {"a": "b to c"}

    def test_members_are_lost_with_their_head(self) -> None:
        orders = order("a", head="c"), order("b", relays=("a",), head="c"), order("c", head="c"), order("d")
        script = write(*orders, sent=dict.fromkeys("abcd", HEAD), retries=in_vain(c_fog0=3))
        assert script.lost == dict.fromkeys("abc", "c to fog-0")
        assert set(script.delivered) == set("abcd")
        assert script.actions[script.delivered["a"]].lost
        assert not script.actions[script.delivered["d"]].lost

    def test_a_head_sends_what_came_through_after_the_attempts_that_did_not(self) -> None:
        orders = order("a", head="c"), order("b", head="c"), order("c", head="c")
        script = write(*orders, sent={"a": BOTH, "b": ["head"], "c": BOTH}, retries=in_vain(a_c=3))
        assert lines(script) == [
            ("d2d", ("a", "c"), "adapter 4 head 2!", ()),
            ("d2d", ("a", "c"), "adapter 4 head 2!", (0,)),
            ("d2d", ("b", "c"), "head 2", ()),
            ("uplink", ("c", "fog-0"), "adapter 4 head 7", (1, 2)),
        ]
        assert script.lost == {"a": "a to c"}
        assert script.delivered == {"b": 3, "c": 3}

    def test_a_download_is_repeated_until_it_comes_through(self) -> None:
        script = write(order("a", BOTH), order("b", BOTH), flops={"a": 1.0}, retries=in_vain(fog0_a=4))
        head, adapter = ("downlink", ("fog-0", "a", "b")), ("downlink", ("fog-0", "a", "b"))
        assert lines(script) == [
            (*head, "head 3!", ()),
            *((*head, "head 3!", (i,)) for i in (0, 1)),
            (*head, "head 3", (2,)),
            *((*adapter, "adapter 5!", (i,)) for i in (3, 4, 5)),
            (*adapter, "adapter 5", (6,)),
            ("compute", ("a", "a"), "", (7,)),
        ]

    def test_so_is_one_that_comes_over_another_device(self) -> None:
        script = write(order("a", ["head"], down=("b",)), flops={"a": 1.0}, retries=in_vain(b_a=4))
        assert lines(script) == [
            ("downlink", ("fog-0", "b"), "head 3", ()),
            *(("d2d", ("b", "a"), "head 3!", (i,)) for i in (0, 1, 2)),
            ("d2d", ("b", "a"), "head 3", (3,)),
            ("compute", ("a", "a"), "", (4,)),
        ]


class TestAboveTheCells:
    def test_sums_go_up_when_all_children_have_sent(self) -> None:
        orders = order("a"), order("b"), order("d")
        sent = dict.fromkeys("abd", HEAD)
        script = write(*orders, sent=sent, upward={"fog-1": ["head"], "fog-0": BOTH, "cloud": []})
        assert lines(script)[3:] == [
            ("backhaul", ("fog-1", "cloud"), "head 7", (2,)),
            ("backhaul", ("fog-0", "cloud"), "adapter 11 head 7", (0, 1)),  # the adapter of an earlier round
        ]
        assert goes_on(script) == {"fog-1": (2,), "fog-0": (0, 1), "cloud": (3, 4)}

    def test_a_node_that_sends_nothing_is_not_waited_for_above(self) -> None:
        upward: dict[str, Sequence[str]] = {"fog-1": ["head"], "fog-0": [], "cloud": []}
        script = write(
            order("a"), order("d"), sent=dict.fromkeys("ad", HEAD), upward=upward, adopted={"fog-1": ["head"]}
        )
        assert lines(script)[2:] == [
            ("backhaul", ("fog-1", "cloud"), "head 7", (1,)),
            ("backhaul", ("cloud", "fog-1"), "head 1", (2,)),
        ]
        assert goes_on(script) == {"fog-1": (1, 3), "fog-0": (0,), "cloud": (2,)}

    def test_new_versions_wait_for_all_that_goes_into_them(self) -> None:
        moved: dict[str, Sequence[str]] = {"fog-1": ["head"], "fog-0": ["head"], "region-1": BOTH, "region-0": ["head"]}
        adopted: dict[str, Sequence[str]] = {"region-0": ["head"], "region-1": BOTH, "fog-0": ["head"], "fog-1": []}
        script = write(
            order("a"),
            order("d"),
            parents=DEEP,
            sent=dict.fromkeys("ad", HEAD),
            upward=moved,
            adopted=adopted,
        )
        assert lines(script)[2:] == [
            ("backhaul", ("fog-1", "region-1"), "head 7", (1,)),
            ("backhaul", ("fog-0", "region-0"), "head 7", (0,)),
            ("backhaul", ("region-1", "cloud"), "adapter 11 head 7", (2,)),
            ("backhaul", ("region-0", "cloud"), "head 7", (3,)),
            ("backhaul", ("cloud", "region-0"), "head 1", (4, 5)),
            ("backhaul", ("cloud", "region-1"), "adapter 6 head 1", (4, 5)),
            ("backhaul", ("region-0", "fog-0"), "head 1", (3, 6)),  # its own children's sums came before
        ]
        assert goes_on(script) == {
            "fog-1": (1,),  # adopts nothing: it may go on
            "fog-0": (0, 8),
            "region-1": (2, 7),
            "region-0": (3, 6),
            "cloud": (4, 5),
        }

    def test_who_is_reached_by_nothing_goes_on_as_it_was(self) -> None:
        script = write(order("a", ["head"]))
        assert script.reached == {"a": (0,), "fog-0": (), "fog-1": (), "cloud": ()}


def test_a_round_in_order_never_waits_for_what_comes_later() -> None:
    """The order in which actions are booked is one in which they may happen."""
    script = write(
        order("b", BOTH, head="c"),
        order("c", BOTH, head="c"),
        order("a", BOTH, relays=("b",), head="c", down=("b",)),
        order("d", BOTH),
        sent=dict.fromkeys("abcd", BOTH),
        upward={"fog-1": BOTH, "fog-0": BOTH, "cloud": []},
        adopted={"fog-0": BOTH, "fog-1": BOTH},
        first={"fog-0": BOTH, "fog-1": BOTH},
        flops=dict.fromkeys("abcd", 1.0),
        retries=in_vain(a_b=2, fog0_b=2),
    )
    assert all(before < i for i, action in enumerate(script.actions) for before in action.after)
    waited_for = {before for action in script.actions for before in action.after}
    ends = {i for i in range(len(script.actions)) if i not in waited_for}
    assert ends <= {i for reached in script.reached.values() for i in reached}  # nothing goes on after the round
