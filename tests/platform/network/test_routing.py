"""Ways up, on cells drawn by hand: who goes directly, who over whom, and who adds up for others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import pytest

from fogtune import preset
from fogtune.platform.config import Network
from fogtune.platform.network.model import NetworkModel
from fogtune.platform.network.routing import Cell, Way, Ways, elect_heads, ways_up
from fogtune.platform.topology_build import build_tree

Draw = Callable[..., Cell]


class TestWaysUp:
    def test_a_device_goes_directly_where_that_costs_least(self, draw: Draw) -> None:
        cell = draw("a>ap 4", "b>ap 3", "a=b 2")
        assert ways_up(cell, relay=True) == {"a": Way((), None, 4), "b": Way((), None, 3)}

    def test_another_device_relays_where_that_costs_less(self, draw: Draw) -> None:
        cell = draw("a>ap 9", "b>ap 3", "a=b 2")
        assert ways_up(cell, relay=True) == {"a": Way(("b",), None, 5), "b": Way((), None, 3)}

    def test_without_relays_all_go_directly_however_dear(self, draw: Draw) -> None:
        cell = draw("a>ap 9", "b>ap 3", "a=b 2")
        assert ways_up(cell, relay=False) == {"a": Way((), None, 9), "b": Way((), None, 3)}

    def test_relays_are_named_from_the_devices_side(self, draw: Draw) -> None:
        cell = draw("a=b 1", "b=c 2", "c=d 3", "d>ap 4")
        assert ways_up(cell, relay=True)["a"] == Way(("b", "c", "d"), None, 10)

    def test_a_link_carries_in_its_own_direction_alone(self, draw: Draw) -> None:
        cell = draw("a>ap 9", "b>ap 3", "a>b 8", "b>a 1")
        assert ways_up(cell, relay=True)["a"] == Way((), None, 9)  # over b it would be 8 + 3; b>a is no use

    def test_who_cannot_get_anything_up_is_left_out(self, draw: Draw) -> None:
        cell = draw("a>ap 4", "b=a 1", "a>c 1", "d=e 1")
        assert set(ways_up(cell, relay=True)) == {"a", "b"}  # c only listens, d and e reach each other
        assert set(ways_up(cell, relay=False)) == {"a"}


ALL_AT_10_8_12 = ("a>ap 10", "b>ap 8", "c>ap 12", "a=b 1", "a=c 1", "b=c 1")
"""Alone 10 + 8 + 12 = 30 for updates of a bit; with a sum of 2 bits a as head costs 1 + 1 + 2*10 = 22, b 18, c 26."""


def elect(
    cell: Cell,
    sum_bits: int | Callable[[Collection[str]], float],
    bits: Mapping[str, float] | None = None,
    worn: Mapping[str, float] | None = None,
    relay: bool = False,
    hops: bool = True,
) -> Ways:
    """Ways with heads; updates are of one bit if nothing else is said, of all devices; `hops` is for ways to heads."""
    devices = bits or dict.fromkeys(sorted(set(cell.links) - {"ap"}), 1)
    summed = (lambda _: sum_bits) if isinstance(sum_bits, int) else sum_bits
    return elect_heads(cell, ways_up(cell, relay), devices, summed, worn or {}, hops)


def heads(ways: Ways) -> set[str]:
    return {way.head for way in ways.values() if way.head}


class TestHeads:
    def test_the_head_is_who_makes_it_cheapest(self, draw: Draw) -> None:
        ways = elect(draw(*ALL_AT_10_8_12), 2)
        assert ways == {"a": Way((), "b", 1), "b": Way((), None, 8), "c": Way((), "b", 1)}

    @pytest.mark.parametrize(("sum_bits", "elected"), [(3, {"b"}), (4, set())])
    def test_none_is_elected_where_each_alone_costs_less(self, draw: Draw, sum_bits: int, elected: set[str]) -> None:
        # b: 1 + 1 + 3*8 = 26 or 1 + 1 + 4*8 = 34, alone 30.
        ways = elect(draw(*ALL_AT_10_8_12), sum_bits)
        assert heads(ways) == elected
        assert elected or ways == ways_up(draw(*ALL_AT_10_8_12), relay=False)

    def test_nor_where_it_costs_as_much(self, draw: Draw) -> None:
        # b: 1 + 2*8 = 17; alone 9 + 8 = 17. Of one bit less the device beside it is a head.
        assert heads(elect(draw("a>ap 9", "b>ap 8", "a=b 1"), 2)) == set()
        assert heads(elect(draw("a>ap 10", "b>ap 8", "a=b 1"), 2)) == {"b"}

    def test_updates_pay_their_way_to_the_head_not_back(self, draw: Draw) -> None:
        # Head b: 1 + 7 = 8, head a: 5 + 4 = 9; the other way round it would be 12 and 5. Alone 11.
        assert heads(elect(draw("a>ap 4", "b>ap 7", "a>b 1", "b>a 5"), 1)) == {"b"}

    def test_who_has_most_to_send_need_not_send_it_twice(self, draw: Draw) -> None:
        # Head a: 1*1 + 10*5 = 51, head b: 10*1 + 10*5 = 60; alone 10*5 + 1*5 = 55.
        cell = draw("a>ap 5", "b>ap 5", "a=b 1")
        assert heads(elect(cell, 10, {"a": 10, "b": 1})) == {"a"}
        assert heads(elect(cell, 10, {"a": 1, "b": 10})) == {"b"}

    def test_the_sum_is_that_of_the_whole_cluster(self, draw: Draw) -> None:
        # Of a, b and c 4 bits, of any fewer none: they would have a head if the sum left one of them out.
        def sum_bits(devices: Collection[str]) -> float:
            return 4 if set(devices) == {"a", "b", "c"} else 0

        assert heads(elect(draw(*ALL_AT_10_8_12), sum_bits)) == set()  # 1 + 1 + 4*8 = 34, alone 30

    def test_who_has_served_often_is_spared(self, draw: Draw) -> None:
        # Costs of 22 (a), 18 (b), 26 (c) count times 1 + the rounds served: b; then 22 before 36; then 26 before 36;
        # then 36, 44, 52 as in the beginning, and with it the same turns.
        worn = {"a": 0.0, "b": 0.0, "c": 0.0}
        served = []
        for _ in range(6):
            (head,) = heads(elect(draw(*ALL_AT_10_8_12), 2, worn=worn))
            worn[head] += 1
            served.append(head)
        assert served == ["b", "a", "c", "b", "a", "c"]

    def test_wear_chooses_among_heads_but_does_not_abolish_them(self, draw: Draw) -> None:
        worn = dict.fromkeys("abc", 9.0)  # ten times 18 is more than 30, but nothing that anybody pays
        assert heads(elect(draw(*ALL_AT_10_8_12), 2, worn=worn)) == {"b"}

    def test_a_head_is_reached_over_several_hops(self, draw: Draw) -> None:
        # Head d: 3 + 2 + 1 + 1*4 = 10, any other at least 20; alone 64.
        ways = elect(draw("a=b 1", "b=c 1", "c=d 1", "a>ap 20", "b>ap 20", "c>ap 20", "d>ap 4"), 1)
        assert ways == {
            "a": Way(("b", "c"), "d", 3),
            "b": Way(("c",), "d", 2),
            "c": Way((), "d", 1),
            "d": Way((), None, 4),
        }

    def test_a_device_without_a_direct_way_gets_a_head_whatever_it_costs(self, draw: Draw) -> None:
        cell = draw("b>ap 100", "a=b 50")
        assert set(ways_up(cell, relay=False)) == {"b"}
        assert elect(cell, 9) == {"a": Way((), "b", 50), "b": Way((), None, 100)}

    def test_a_head_goes_up_by_itself(self, draw: Draw) -> None:
        # a goes up over b. As head it would cost 1 + 6 = 7, b with its wear ten times 1 + 5; alone 6 + 5 = 11.
        cell = draw("a>ap 20", "b>ap 5", "a=b 1")
        assert ways_up(cell, relay=True)["a"] == Way(("b",), None, 6)
        assert heads(elect(cell, 1, worn={"b": 9}, relay=True)) == {"b"}

    def test_a_cluster_is_of_devices_that_reach_each_other(self, draw: Draw) -> None:
        one_way = draw("a>ap 10", "b>ap 10", "a>b 1")
        assert heads(elect(one_way, 1)) == set()
        assert heads(elect(draw("a>ap 10", "b>ap 10", "a=b 1"), 1)) == {"a"}

    def test_clusters_have_a_head_each(self, draw: Draw) -> None:
        cell = draw("a>ap 5", "b>ap 9", "a=b 1", "c>ap 9", "d>ap 5", "c=d 1")
        ways = elect(cell, 1)
        assert (ways["b"].head, ways["c"].head) == ("a", "d")
        assert ways["a"].head is ways["d"].head is None

    def test_who_has_nothing_to_send_relays_but_does_not_head(self, draw: Draw) -> None:
        # x would be the cheapest: 1 + 1 + 1. Of the others a: 2 + 6 = 8 and b: 2 + 9 = 11 bits' cost, alone 15.
        cell = draw("a>ap 6", "b>ap 9", "x>ap 1", "a=x 1", "b=x 1")
        ways = elect(cell, 1, {"a": 1, "b": 1})
        assert ways == {"a": Way((), None, 6), "b": Way(("x",), "a", 2), "x": Way((), None, 1)}

    def test_without_relaying_members_reach_their_head_themselves(self, draw: Draw) -> None:
        # a, b and c in a row; b in the middle hears both, so it is the head whom all reach, though a would cost less.
        cell = draw("a>ap 1", "b>ap 2", "c>ap 30", "a=b 1", "b=c 1")
        assert heads(elect(cell, 1)) == {"a"}
        assert heads(elect(cell, 1, hops=False)) == {"b"}

    def test_who_has_nothing_to_send_has_no_head(self, draw: Draw) -> None:
        cell = draw("a>ap 1", "b>ap 9", "a=b 1")
        assert heads(elect(cell, 1, {"a": 1, "b": 1})) == {"a"}
        assert heads(elect(cell, 1, {"a": 1, "b": 0})) == set()

    def test_the_ways_that_it_was_given_stay_as_they_are(self, draw: Draw) -> None:
        cell = draw(*ALL_AT_10_8_12)
        direct = ways_up(cell, relay=False)
        elect_heads(cell, direct, dict.fromkeys("abc", 1), lambda _: 2, {}, relay=True)
        assert direct == {"a": Way((), None, 10), "b": Way((), None, 8), "c": Way((), None, 12)}


ROUND = (
    "network.placement.radius_m=0.1",
    "network.placement.spread_m=0.1",
    'network.channel={"kind": "log-distance", "reference_loss_db": 104, "shadowing_db": 0}',
    'network.radio={"uplink_hz": 1e6, "downlink_hz": 1e6, "transmit_w": 7e-4, "noise_figure_db": 0, "fading": "none"}',
    'network.classes.phone={"processor": {"kind": "power", "flops_per_s": 1, "power_w": 1}, "transmit_w": 3e-4, '
    '"receive_w": 0.5}',
    'network.classes.watch={"processor": {"kind": "power", "flops_per_s": 1, "power_w": 1}, "transmit_w": 15e-4, '
    '"receive_w": 0.25}',
    "devices.2.device_class=phone",
)
"""The round numbers of test_network_model.py: in 1 MHz phones send 2 Mbit/s at 4.8 dB, watches 4 Mbit/s at 11.8 dB,
fog nodes at 8.5 dB. The cell of `fog-1` has watch-1, reader-0 and coach-0; the last two are phones."""


def survey(
    *overrides: str, awake: tuple[str, ...] = ("watch-1", "reader-0")
) -> tuple[dict[tuple[str, str], float], set[str]]:
    """Links from devices of the cell of `fog-1`, with microseconds (or microjoules) a bit, and who hears it."""
    config = preset("smoke", *ROUND, *overrides)
    model = NetworkModel(config, config.network or Network(), build_tree(config))
    cell = Cell.of(model, 1, "fog-1", awake)
    assert set(cell.links) == {"fog-1", *awake}
    links = {(one, other): cost * 1e6 for one, other, cost in cell.links.edges(data="cost") if one != "fog-1"}
    return links, set(cell.hears)


class TestCell:
    D2D = 'network.d2d={"band_hz": 1e6}'

    def test_a_link_costs_the_airtime_of_a_bit(self) -> None:
        links, hears = survey(self.D2D)
        assert links == pytest.approx(
            {
                ("watch-1", "fog-1"): 0.25,
                ("reader-0", "fog-1"): 0.5,
                ("watch-1", "reader-0"): 0.25,
                ("reader-0", "watch-1"): 0.5,
            }
        )
        assert hears == {"watch-1", "reader-0"}

    def test_or_the_joules_that_both_ends_spend_on_it(self) -> None:
        links, _ = survey(self.D2D, "network.energy_weight=1")
        assert links["reader-0", "fog-1"] == pytest.approx(0.5 * 3e-4)
        assert links["reader-0", "watch-1"] == pytest.approx(0.5 * (3e-4 + 0.25))
        assert links["watch-1", "reader-0"] == pytest.approx(0.25 * (15e-4 + 0.5))
        both, _ = survey(self.D2D, "network.energy_weight=0.5")
        assert both["reader-0", "watch-1"] == pytest.approx(0.5 * (0.5 + 0.5 * (3e-4 + 0.25)))

    def test_devices_have_links_of_their_own_only_with_d2d_and_within_its_range(self) -> None:
        up = {("watch-1", "fog-1"), ("reader-0", "fog-1")}
        assert survey()[0].keys() == up
        assert survey('network.d2d={"band_hz": 1e6, "range_m": 1e-9}')[0].keys() == up

    def test_a_link_that_cannot_be_used_is_none(self) -> None:
        links, hears = survey(self.D2D, "network.radio.least_snr_db=8")
        assert links.keys() == {("watch-1", "fog-1"), ("watch-1", "reader-0")}
        assert hears == {"watch-1", "reader-0"}

    def test_who_does_not_hear_its_access_node_does_not_send_to_it(self) -> None:
        links, hears = survey(self.D2D, "network.radio.least_snr_db=10")  # the watch alone would be heard
        assert links.keys() == {("watch-1", "reader-0")}
        assert hears == set()

    def test_who_sleeps_has_no_links(self) -> None:
        assert survey(self.D2D, awake=("reader-0",))[0].keys() == {("reader-0", "fog-1")}
