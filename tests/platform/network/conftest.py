"""What tests of the network share: cells drawn by hand."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx  # type: ignore[import-untyped]
import pytest

from fogtune.platform.network.routing import Cell


@pytest.fixture(scope="session")
def draw() -> Callable[..., Cell]:
    """Draws a cell around `ap`. `a>b 3`: a bit from a to b costs 3; `a=b 3`: and as much from b to a."""

    def drawn(*links: str) -> Cell:
        graph = nx.DiGraph()
        graph.add_node("ap")
        for link in links:
            ends, cost = link.split()
            one, other = ends.replace("=", ">").split(">")
            graph.add_edge(one, other, cost=float(cost))
            if "=" in ends:
                graph.add_edge(other, one, cost=float(cost))
        return Cell("ap", graph, frozenset(graph["ap"]))

    return drawn
