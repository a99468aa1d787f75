"""The coordinator's judgement and book-keeping: what came of a round, and the state after it. No Ray, no tensors.

A runner asks `plan`, carries orders and updates about, and tells the coordinator what came of it:

    plan -> (hosts train) -> admit(reports) -> (nodes step, adopt) -> evaluation jobs -> (hosts evaluate) -> conclude

`admit` raises before any node has stepped, so a failed round leaves no trace in the state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from fogtune.platform.config import Config
from fogtune.platform.errors import RunFailed
from fogtune.platform.ownership import Ownership, own
from fogtune.platform.topology import Tree
from fogtune.platform.topology_build import build_tree
from fogtune.platform.wording import some

from .adaptive import choose_cadences
from .cooperation import Cooperation, cooperation
from .costs import RoundCosts
from .holdings import Holdings
from .messages import DeviceReport, RoundPlan, Setup
from .planning import Planner
from .state import CoordinatorState
from .waiting import latest_s


class Coordinator:
    """Decides; holds no module."""

    def __init__(self, config: Config, setup: Setup, state: CoordinatorState | None = None) -> None:
        self.config = config
        self.tree: Tree = build_tree(config)
        self.ownership: Ownership = own(config, self.tree)
        self.setup = setup
        self.costs = RoundCosts(config, self.tree, self.ownership, setup)
        self._holdings = Holdings(self.tree, self.ownership)
        self._planner = Planner(config, self.tree, self.ownership, setup, self.costs, self._holdings)
        self.state = state or self._holdings.at_the_start()

    def plan(self, round_number: int) -> RoundPlan:
        """Who trains what in a round. Raises RunFailed: nobody can take part."""
        return self._planner.plan(self.state, round_number)

    def heard(self, plan: RoundPlan, reports: Sequence[DeviceReport]) -> list[DeviceReport]:
        """The reports, but for those whose cluster head failed: with it, what it was to add up is lost."""
        failed = {report.device for report in reports if report.error is not None}
        if not failed:
            return list(reports)
        heads = {o.device: o.head for o in plan.orders if o.head in failed and o.head != o.device}
        return [
            DeviceReport(report.device, f"its head {heads[report.device]} failed", failure="head")
            if report.device in heads and report.error is None
            else report
            for report in reports
        ]

    def cooperation(self, plan: RoundPlan, reports: Sequence[DeviceReport]) -> Cooperation:
        """Who averages which kept modules with whom before anything goes up."""
        d2d = self.config.network.d2d if self.config.network else None
        return cooperation(self.ownership, plan.links, d2d.gossip_steps if d2d else 0, reports)

    def admit(self, plan: RoundPlan, reports: Sequence[DeviceReport]) -> None:
        """Count what arrived.

        Raises:
            RunFailed: less than the quorum.
        """
        short = self._short_of_quorum({order.device for order in plan.orders}, arrived_of(reports))
        if short is not None:
            raise RunFailed(plan.round, f"{short}; {self.lost(plan, reports)}")

    def _short_of_quorum(self, planned: set[str], arrived: set[str]) -> str | None:
        """Where less has come than must, in one line."""
        quorum = self.config.federation.quorum
        if not isinstance(quorum, Mapping):
            # A product would round 0.07 * 100 up to more than 7.
            if len(arrived) / len(planned) < quorum:
                return f"{len(arrived)} of {len(planned)} updates arrived, below federation.quorum {quorum:g}"
            return None
        for node in self.tree.aggregators:
            children = self.tree.children[node]
            due, came = (sum(child in some for child in children) for some in (planned, arrived))
            least = quorum.get(self.tree[node].tier, 1.0)
            if due and came / due < least:
                where = f"federation.quorum.{self.tree[node].tier} {least:g}"
                return f"{came} of {due} updates arrived at {node}, below {where}"
            planned, arrived = planned | ({node} if due else set()), arrived | ({node} if came else set())
        return None

    def lost(self, plan: RoundPlan, reports: Sequence[DeviceReport]) -> str | None:
        """Which planned updates did not arrive and why, in one line; None if all arrived."""
        answers = {report.device: report.error for report in reports}
        devices_of: dict[str, list[str]] = {}
        for order in plan.orders:
            error = answers.get(order.device, "no answer")
            if error is not None:
                devices_of.setdefault(error, []).append(order.device)
        return some([f"{some(who)}: {why}" for why, who in devices_of.items()], "; ") or None

    def note_devices(self, plan: RoundPlan, reports: Sequence[DeviceReport]) -> None:
        """Remember what the devices now hold and used."""
        self._holdings.note(self.state, plan, reports)
        self._holdings.note_fetched(self.state, (*plan.late, *plan.beginning))
        self.state.updates_lost += len(plan.orders) - sum(report.error is None for report in reports)
        if self.config.federation.sampling == "loss":
            self.state.losses |= {r.device: r.loss for r in reports if r.error is None and r.loss is not None}
        self.state.experts |= {report.device: list(report.experts) for report in reports if report.error is None}

    def descend(
        self, round_number: int, changed: Mapping[str, Sequence[str]], away: Collection[str] = frozenset()
    ) -> dict[str, tuple[str, ...]]:
        """Which new versions go down the tree after a round: aggregating node, from the top down -> modules.

        Args:
            round_number: the round.
            changed: aggregating node -> modules that it made a new version of.
            away: aggregating nodes that get none.
        """
        return self._holdings.descend(self.state, round_number, changed, away)

    def conclude(
        self, plan: RoundPlan, ready_s: Mapping[str, float], spent_j: Mapping[str, float], moved: Mapping[str, float]
    ) -> None:
        """The round is over.

        Args:
            plan: the round's plan.
            ready_s: node that took part -> virtual time at which it can begin the next one.
            spent_j: device -> energy that it has spent in this one.
            moved: module -> relative change that this one has made to the cloud's version.
        """
        state = self.state
        state.round = plan.round
        state.ready_s |= ready_s
        state.latest_s = latest_s(plan, ready_s, state.latest_s)
        for order in plan.orders:
            state.under_way.pop(order.device, None)
        state.under_way |= {order.device: plan.round for order in plan.beginning}
        for device, joules in spent_j.items():
            state.spent_j[device] = state.spent_j.get(device, 0.0) + joules
        if adaptive := self.config.federation.adaptive:
            for module, change in moved.items():
                before = state.sent.get(module, self._holdings.begins(module) - 1)
                state.moved[module] = change / (plan.round - before)
                state.sent[module] = plan.round
            size = {module: float(self.costs.round_trip_bytes(module)) for module in state.moved}
            state.cadences = choose_cadences(state.moved, size, adaptive.budget, adaptive.longest)
        if self.costs.network:
            for order in (*plan.orders, *plan.late):
                trained = state.trained.get(order.device, {})
                loads = self.setup.workloads[order.device]
                more = {load.task: trained.get(load.task, 0) + (load.begins <= plan.round) for load in loads}
                state.trained[order.device] = trained | more
        for head in {order.head for order in plan.orders if order.head}:
            state.headed[head] = state.headed.get(head, 0) + 1


def arrived_of(reports: Sequence[DeviceReport]) -> set[str]:
    """Devices whose updates have arrived."""
    return {report.device for report in reports if report.error is None}
