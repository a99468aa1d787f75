"""Consensus among neighbours: by hand on small graphs, then for any connected one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random

import networkx as nx  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fogtune.platform.aggregation.sums import Tensors, UpdateRejected, same_tensors
from fogtune.platform.network.gossip import contraction, metropolis_weights, mix, neighbourhoods

ROUNDING = 2.0**-24
"""Largest relative error of a value rounded to float32."""

NUMBERS = st.floats(-100, 100, width=32, allow_subnormal=False)
STEPS = st.integers(0, 6)


@st.composite
def connected_graphs(draw: st.DrawFn) -> nx.Graph:
    """A tree of one to seven members and any links besides; names in no order."""
    names = draw(st.permutations("abcdefg"))[: draw(st.integers(1, 7))]
    graph = nx.Graph()
    graph.add_nodes_from(names)
    for place in range(1, len(names)):
        graph.add_edge(names[place], names[draw(st.integers(0, place - 1))])
    pairs = [(one, other) for one in names for other in names if one < other]
    graph.add_edges_from(draw(st.lists(st.sampled_from(pairs))) if pairs else [])
    return graph


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[nx.Graph, dict[str, Tensors]]:
    """A connected graph and what its members hold."""
    graph = draw(connected_graphs())
    return graph, {
        member: {"w": torch.tensor(draw(st.tuples(NUMBERS, NUMBERS))), "b": torch.tensor(draw(NUMBERS))}
        for member in graph
    }


def scalars(**values: float) -> dict[str, Tensors]:
    """A module of a single number at each member."""
    return {member: {"w": torch.tensor(value)} for member, value in values.items()}


def read(values: Mapping[str, Tensors]) -> dict[str, float]:
    """What `scalars` was given."""
    return {member: tensors["w"].item() for member, tensors in values.items()}


def norm(values: Mapping[str, Tensors]) -> float:
    """Of all that the members hold, as one vector."""
    return math.sqrt(sum(float(x.double().square().sum()) for tensors in values.values() for x in tensors.values()))


def mean(values: Mapping[str, Tensors], name: str) -> torch.Tensor:
    """Of the members' tensors of this name, float64."""
    return torch.stack([tensors[name].double() for tensors in values.values()]).mean(dim=0)


class TestByHand:
    def test_two_meet_in_the_middle(self) -> None:
        # Degrees of 1: weights of 1/2. Disagreement (1 - 3)^2 + (5 - 3)^2.
        weights = metropolis_weights(nx.Graph(["ab"]), ["a", "b"])
        assert weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]
        assert contraction(weights) == 0
        mixed = mix(scalars(b=5, a=1), nx.Graph(["ab"]), steps=1)
        assert read(mixed.values) == {"a": 3, "b": 3}
        assert (mixed.before, mixed.after, mixed.bound) == (8, 0, 0)

    def test_a_path_of_three(self) -> None:
        # Both links have b of degree 2 at an end: weights of 1/3, so a keeps 2/3 and b 1/3. Eigenvalues 1, 2/3, 0.
        path = nx.Graph(["ab", "bc"])
        weights = metropolis_weights(path, ["a", "b", "c"])
        assert 3 * weights == pytest.approx(np.array([[2, 1, 0], [1, 1, 1], [0, 1, 2]]))
        assert contraction(weights) == pytest.approx(2 / 3)
        # a: (2*9 + 0) / 3, b: (9 + 0 + 18) / 3, c: (0 + 2*18) / 3; mean 9 before and after.
        once = mix(scalars(a=9, b=0, c=18), path, steps=1)
        assert read(once.values) == {"a": 6, "b": 9, "c": 12}
        assert (once.before, once.after) == (0 + 81 + 81, 9 + 0 + 9)
        assert once.bound == pytest.approx(4 / 9 * 162)
        # a: (2*6 + 9) / 3, b: (6 + 9 + 12) / 3, c: (9 + 2*12) / 3.
        twice = mix(scalars(a=9, b=0, c=18), path, steps=2)
        assert read(twice.values) == {"a": 7, "b": 9, "c": 11}
        assert (twice.before, twice.after) == (162, 8)

    def test_the_bound_is_reached_where_the_slowest_is_all_there_is(self) -> None:
        # (1, 0, -1) belongs to the eigenvalue 2/3.
        mixed = mix(scalars(a=9, b=0, c=-9), nx.Graph(["ab", "bc"]), steps=2)
        assert read(mixed.values) == {"a": 4, "b": 0, "c": -4}
        assert mixed.bound == pytest.approx(mixed.after) == 32

    def test_rows_follow_the_members_given(self) -> None:
        weights = metropolis_weights(nx.Graph(["ab", "bc"]), ["b", "c", "a"])
        assert 3 * weights == pytest.approx(np.array([[1, 1, 1], [1, 2, 0], [1, 0, 2]]))

    def test_only_links_among_the_members_count(self) -> None:
        star = nx.Graph(["xa", "xb", "xc", "ab", "aa"])  # neither the x that holds nothing nor a link to oneself
        assert metropolis_weights(star, ["a", "b"]).tolist() == [[0.5, 0.5], [0.5, 0.5]]
        assert read(mix(scalars(a=1, b=5), star, steps=1).values) == {"a": 3, "b": 3}

    @pytest.mark.parametrize("count", range(2, 8))
    def test_where_all_are_neighbours_one_step_is_the_mean(self, count: int) -> None:
        members = "abcdefg"[:count]
        values = scalars(**{member: float(place**2 * count) for place, member in enumerate(members)})
        mixed = mix(values, nx.complete_graph(members), steps=1)
        assert set(read(mixed.values).values()) == {float(sum(place**2 for place in range(count)))}
        assert mixed.after == 0
        assert mixed.bound == pytest.approx(0, abs=1e-20)


class TestAnyConnectedGraph:
    @given(graph=connected_graphs())
    def test_weights_are_symmetric_and_doubly_stochastic(self, graph: nx.Graph) -> None:
        members = sorted(graph)
        weights = metropolis_weights(graph, members)
        assert np.array_equal(weights, weights.T)
        assert weights.sum(axis=0) == pytest.approx(np.ones(len(members)))
        assert weights.min() >= 0
        assert weights.diagonal().min() > 0
        linked = nx.to_numpy_array(graph, nodelist=members) > 0
        assert np.array_equal(weights > 0, linked | np.eye(len(members), dtype=bool))

    @given(graph=connected_graphs())
    def test_the_contraction_is_the_second_largest_eigenvalue(self, graph: nx.Graph) -> None:
        weights = metropolis_weights(graph, sorted(graph))
        magnitudes = sorted(np.abs(np.linalg.eigvalsh(weights)), reverse=True)
        assert magnitudes[0] == pytest.approx(1)
        assert contraction(weights) == pytest.approx(magnitudes[1] if len(magnitudes) > 1 else 0, abs=1e-12)
        assert contraction(weights) < 1

    @given(held=neighbours(), steps=STEPS)
    def test_the_average_stays(self, held: tuple[nx.Graph, dict[str, Tensors]], steps: int) -> None:
        graph, values = held
        mixed = mix(values, graph, steps).values
        for name in ("w", "b"):
            rounding = ROUNDING * float(torch.stack([tensors[name].abs().max() for tensors in values.values()]).max())
            assert (mean(mixed, name) - mean(values, name)).abs().max() <= 1.001 * rounding

    @given(held=neighbours(), steps=STEPS)
    def test_members_come_closer_as_fast_as_promised(
        self, held: tuple[nx.Graph, dict[str, Tensors]], steps: int
    ) -> None:
        graph, values = held
        mixed = mix(values, graph, steps)
        # The distance from the mean grows by no more than the rounding's own norm; and no step makes norms grow.
        assert math.sqrt(mixed.after) <= math.sqrt(mixed.bound) + 1.001 * ROUNDING * norm(values) + 1e-12
        assert mixed.bound <= mixed.before
        apart = sum(float((x[name] - mean(values, name)).square().sum()) for x in values.values() for name in x)
        assert mixed.before == pytest.approx(apart)

    @given(held=neighbours(), first=STEPS, then=STEPS)
    def test_steps_add_up(self, held: tuple[nx.Graph, dict[str, Tensors]], first: int, then: int) -> None:
        graph, values = held
        in_two = mix(mix(values, graph, first).values, graph, then).values
        at_once = mix(values, graph, first + then).values
        for member, tensors in at_once.items():
            for name, tensor in tensors.items():
                assert torch.allclose(in_two[member][name], tensor, rtol=0, atol=3 * 100 * ROUNDING)

    @given(held=neighbours(), steps=STEPS, shuffle=st.randoms(use_true_random=False))
    def test_no_order_matters(self, held: tuple[nx.Graph, dict[str, Tensors]], steps: int, shuffle: Random) -> None:
        graph, values = held
        members, links = list(values), [tuple(shuffle.sample(link, 2)) for link in graph.edges]
        shuffle.shuffle(members)
        shuffle.shuffle(links)
        other = nx.Graph(links)
        other.add_nodes_from(members)
        ours = mix(values, graph, steps)
        theirs = mix({member: dict(reversed(values[member].items())) for member in members}, other, steps)
        assert list(ours.values) == list(theirs.values) == sorted(graph)
        assert {tuple(tensors) for tensors in (*ours.values.values(), *theirs.values.values())} == {("b", "w")}
        assert all(same_tensors(ours.values[member], theirs.values[member]) for member in members)
        assert (ours.before, ours.after, ours.bound) == (theirs.before, theirs.after, theirs.bound)

    @given(graph=connected_graphs(), number=NUMBERS, steps=STEPS)
    def test_who_agrees_stays_bit_for_bit(self, graph: nx.Graph, number: float, steps: int) -> None:
        assert set(read(mix(scalars(**dict.fromkeys(graph, number)), graph, steps).values).values()) == {number}


class TestWhatGoesInAndComesOut:
    @pytest.mark.parametrize("steps", [0, 1, 5])
    def test_a_single_member_keeps_what_it_has(self, steps: int) -> None:
        value = {"w": torch.tensor([[0.1, -0.0, 1e30]]), "b": torch.tensor(-7.0), "empty": torch.zeros(0, 3)}
        mixed = mix({"a": value}, nx.Graph(["ab"]), steps)
        assert same_tensors(mixed.values["a"], value)
        assert torch.equal(mixed.values["a"]["w"].signbit(), value["w"].signbit())
        assert (mixed.before, mixed.after, mixed.bound) == (0, 0, 0)

    def test_no_steps_change_nothing(self) -> None:
        mixed = mix(scalars(a=-0.0, b=0.1), nx.Graph(["ab"]), steps=0)
        assert read(mixed.values) == read(scalars(a=-0.0, b=0.1))
        assert mixed.values["a"]["w"].signbit()
        assert mixed.before == mixed.after == mixed.bound

    def test_inputs_are_neither_changed_nor_shared(self) -> None:
        values = {"a": {"w": torch.tensor([[1.0, 2.0]], requires_grad=True)}, "b": {"w": torch.tensor([[3.0, 6.0]])}}
        for steps in (0, 1):
            mixed = mix(values, nx.Graph(["ab"]), steps).values
            assert {(x["w"].dtype, x["w"].shape, x["w"].requires_grad) for x in mixed.values()} == {
                (torch.float32, (1, 2), False)
            }
            mixed["a"]["w"].zero_()
            assert mixed["b"]["w"].abs().min() > 0
            assert [x["w"].tolist() for x in values.values()] == [[[1, 2]], [[3, 6]]]

    def test_neighbourhoods_are_of_holders_that_reach_each_other(self) -> None:
        graph = nx.Graph(["ed", "ca", "ax", "xb", "bf"])
        graph.add_node("alone")
        assert neighbourhoods(graph, {"d", "e", "b", "f", "a", "c", "alone", "unknown"}) == [
            ("a", "c"),
            ("b", "f"),  # x, between a and b, holds nothing
            ("d", "e"),
        ]
        assert neighbourhoods(graph, ["a", "b", "x"]) == [("a", "b", "x")]
        assert neighbourhoods(graph, ["a", "b"]) == neighbourhoods(graph, []) == []

    def test_members_that_are_not_connected_are_refused(self) -> None:
        graph = nx.Graph(["ax", "xb"])
        for members in ({"a": 1, "b": 2}, {"a": 1, "unknown": 2}, {"unknown": 1}, {}):
            with pytest.raises(ValueError, match=f"neighbourhood: {', '.join(members) or 'nobody'}$"):
                mix(scalars(**members), graph, steps=1)

    def test_wrong_steps_graphs_and_layouts_are_refused(self) -> None:
        pair = nx.Graph(["ab"])
        with pytest.raises(ValueError, match="steps is -1"):
            mix(scalars(a=1, b=2), pair, steps=-1)
        with pytest.raises(ValueError, match="directed"):
            metropolis_weights(nx.DiGraph(["ab"]), ["a", "b"])
        with pytest.raises(UpdateRejected, match="layout differs in tensor 'w'"):
            mix({"a": {"w": torch.zeros(1)}, "b": {"w": torch.zeros(2)}}, pair, steps=1)
        for members in (["a", "a"], ["a", "unknown"]):
            with pytest.raises(nx.NetworkXError):
                metropolis_weights(pair, members)
