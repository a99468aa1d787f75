"""Ledger rows without a network: those of the round's script, of whatever is moved."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from fogtune.platform.federation.messages import DeviceOrder
from fogtune.platform.federation.script import Moves, ScriptWriter
from fogtune.platform.federation.transfers import Sizes
from fogtune.platform.federation.unpriced import unpriced_rows
from fogtune.platform.run.record import LedgerRow
from fogtune.platform.topology import Node, Tree

MODULES = ("adapter", "encoder", "head")
SIZES = Sizes(
    version=dict(zip(MODULES, (3, 5, 7), strict=True)),
    update=dict(zip(MODULES, (2, 4, 6), strict=True)),
    total=dict(zip(MODULES, (13, 15, 17), strict=True)),
    change=dict(zip(MODULES, (1, 8, 9), strict=True)),
)
PARENTS = {"fog-0": "cloud", "fog-1": "cloud", "a": "fog-0", "b": "fog-1", "c": "fog-0", "d": "fog-0", "e": "fog-1"}
TIERS = {name: "device" if len(name) == 1 else "fog" for name in PARENTS}
TREE = Tree(
    {"cloud": Node("cloud", "cloud", None)} | {n: Node(n, TIERS[n], PARENTS[n], "group") for n in PARENTS},
    ("cloud", "fog", "device"),
)
some = st.lists(st.sampled_from(MODULES), unique=True).map(tuple)
of_fogs = st.dictionaries(st.sampled_from(["fog-0", "fog-1"]), some)


@st.composite
def orders(draw: st.DrawFn) -> list[DeviceOrder]:
    devices = draw(st.lists(st.sampled_from(TREE.devices), unique=True))
    found = []
    for device in devices:
        fetched = draw(some)
        changes = tuple(module for module in fetched if draw(st.booleans()))
        found.append(DeviceOrder(device, MODULES, (), fetched, MODULES, changes))
    return found


@given(
    orders=orders(),
    sent=st.dictionaries(st.sampled_from(TREE.devices), some),
    upward=of_fogs,
    adopted=of_fogs,
    first=of_fogs,
)
def test_rows_are_those_of_the_script(
    orders: list[DeviceOrder],
    sent: Mapping[str, tuple[str, ...]],
    upward: Mapping[str, tuple[str, ...]],
    adopted: Mapping[str, tuple[str, ...]],
    first: Mapping[str, tuple[str, ...]],
) -> None:
    moves = Moves(sent, upward, adopted)
    access = {device: PARENTS[device] for device in TREE.devices}
    script = ScriptWriter(TREE, access, SIZES).write(orders, moves, first, {}, None)
    assert list(unpriced_rows(3, TREE, SIZES, orders, moves, first)) == [
        LedgerRow(3, action.kind, action.source, target, module, size, 1, None, None, None, False)
        for action in script.actions
        for target in action.targets
        for module, size in action.modules.items()
    ]
