"""Whence devices get a module, on cells drawn by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fogtune.platform.network.downloads import Source, handed_on, over_relays
from fogtune.platform.network.routing import Cell

Draw = Callable[..., Cell]


def whence(cell: Cell, wanting: str, having: str = "") -> dict[str, Source]:
    return handed_on(cell, wanting.split(), having.split())


FAR_C = ("ap>a 2", "ap>b 3", "ap>c 9")


class TestBroadcast:
    def test_all_listen_where_other_devices_are_no_nearer(self, draw: Draw) -> None:
        # The access node sends for 2, then 1 more, then 6 more; any device takes 8.
        assert whence(draw(*FAR_C, "a=b 8", "b=c 8"), "a b c") == {"a": (), "b": (), "c": ()}

    def test_who_would_make_it_slow_for_all_gets_it_from_another(self, draw: Draw) -> None:
        cell = draw(*FAR_C, "a=b 2", "b=c 1", "a=c 2")
        assert whence(cell, "a b c") == {"a": (), "b": (), "c": ("b",)}

    def test_who_sends_already_is_heard_by_those_farther_for_what_that_adds(self, draw: Draw) -> None:
        # The access node would send to b for 1 more, a does for 0.9; then to c for 0.5 more, b would for 0.8.
        cell = draw(*FAR_C, "a=b 0.9", "a=c 1.4", "b=c 0.8")
        assert whence(cell, "a b c") == {"a": (), "b": ("a",), "c": ("a",)}

    def test_all_listen_where_serving_the_next_best_each_time_comes_dearer(self, draw: Draw) -> None:
        # After a the next is c, from a for 8; and then b still takes 9: 1 + 8 + 9.
        cell = draw("ap>a 1", "ap>b 10", "ap>c 10.5", "a=c 8")
        assert whence(cell, "a b c") == {"a": (), "b": (), "c": ()}

    def test_one_listens_where_all_are_near_to_it(self, draw: Draw) -> None:
        cell = draw(*FAR_C, "a=b 0.1", "a=c 0.2")
        assert whence(cell, "a b c") == {"a": (), "b": ("a",), "c": ("a",)}

    def test_it_goes_from_hand_to_hand(self, draw: Draw) -> None:
        cell = draw(*FAR_C, "a=b 0.1", "a=c 3", "b=c 0.1")
        assert whence(cell, "a b c") == {"a": (), "b": ("a",), "c": ("b",)}


class TestHolders:
    def test_the_cheapest_of_those_who_have_it_gives_it(self, draw: Draw) -> None:
        assert whence(draw(*FAR_C, "a=c 3", "b=c 2"), "c", having="a b") == {"c": ("b",)}

    def test_the_access_node_gives_it_where_they_are_dearer(self, draw: Draw) -> None:
        assert whence(draw(*FAR_C, "a=c 10"), "c", having="a") == {"c": ()}

    def test_who_is_gone_gives_nothing(self, draw: Draw) -> None:
        assert whence(draw(*FAR_C), "c", having="gone") == {"c": ()}


class TestOutOfReach:
    def test_a_device_that_hears_only_others_gets_it_over_them(self, draw: Draw) -> None:
        chain = draw("ap>a 2", "a=b 5", "b=c 5")
        assert over_relays(chain, ["a", "c"]) == {"a": (), "c": ("b", "a", "ap")}
        assert whence(chain, "a c") == {"a": (), "c": ("b", "a", "ap")}  # b does not want it
        assert whence(chain, "a b c") == {"a": (), "b": ("a",), "c": ("b",)}

    def test_one_that_hears_nobody_is_left_out(self, draw: Draw) -> None:
        deaf = draw("ap>a 2", "c>a 1")
        assert whence(deaf, "a c") == over_relays(deaf, ["a", "c"]) == {"a": ()}


NODES = ("ap", "a", "b", "c", "d", "e")


@given(
    links=st.dictionaries(
        st.tuples(st.sampled_from(NODES), st.sampled_from(NODES[1:])).filter(lambda ends: ends[0] != ends[1]),
        st.integers(1, 50),
        max_size=20,
    ),
    wanting=st.sets(st.sampled_from(NODES[1:]), min_size=1),
    having=st.sets(st.sampled_from(NODES[1:])),
)
def test_every_source_has_the_module_and_costs_no_more_than_broadcasting(
    draw: Draw, links: dict[tuple[str, str], int], wanting: set[str], having: set[str]
) -> None:
    cell = draw("ap>a 20", *(f"{one}>{other} {cost}" for (one, other), cost in links.items()))
    plain, found = over_relays(cell, wanting), handed_on(cell, wanting, having - wanting)
    assert plain.keys() <= found.keys()  # who has it may be nearer than the access node
    has = {"ap"} | (having - wanting) | found.keys()
    for device, source in found.items():
        assert not source or source[-1] in has
        assert all(cell.links.has_edge(*link) for link in pairwise((*source[::-1], device)) if source)
        reached, step = {device}, source
        while step and step[-1] in found:  # from hand to hand one comes to who had it
            assert step[-1] not in reached
            reached.add(step[-1])
            step = found[step[-1]]

    def cost(ways: dict[str, Source]) -> float:
        """Of the broadcasts of all who send; nothing goes over relays here."""
        spends = dict.fromkeys(NODES, 0.0)
        for device, source in ways.items():
            sender = source[-1] if source else "ap"
            spends[sender] = max(spends[sender], cell.links[sender][device]["cost"])
        return sum(spends.values())

    if not any(plain.values()):
        heard = {device: source for device, source in found.items() if device in plain}
        assert cost(heard) <= cost(plain) + 1e-9
