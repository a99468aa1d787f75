"""The coordinator's decisions and book-keeping: plan a round, judge its reports, count its bytes. No Ray, no tensors.

A runner asks `plan`, carries orders and updates about, and tells the coordinator what came of it:

    plan -> (hosts train) -> admit(reports) -> (nodes step, adopt) -> evaluation jobs -> (hosts evaluate) -> conclude

`admit` raises before any node has stepped, so a failed round leaves no trace in the state.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from fogtune.platform.config import Config
from fogtune.platform.errors import RunFailed
from fogtune.platform.ownership import Ownership, own
from fogtune.platform.rng import numpy_generator
from fogtune.platform.topology import DEVICE, Tree
from fogtune.platform.topology_build import build_tree

from .adaptive import choose_cadences
from .cooperation import Cooperation, cooperation
from .costs import RoundCosts
from .decisions import Devices, decide
from .holdings import Fetching, Holdings
from .messages import Decision, DeviceOrder, DeviceReport, RoundPlan, Setup
from .sampling import Sampling
from .state import CoordinatorState
from .waiting import Arrival, late_children, latest_s, waits_for_all, without_late


class Coordinator:
    """Decides; holds no module."""

    def __init__(self, config: Config, setup: Setup, state: CoordinatorState | None = None) -> None:
        self.config = config
        self.tree: Tree = build_tree(config)
        self.ownership: Ownership = own(config, self.tree)
        self.setup = setup
        self.costs = RoundCosts(config, self.tree, self.ownership, setup)
        self._holdings = Holdings(self.tree, self.ownership)
        self._all_experts = tuple(range(config.model.experts.count)) if config.model.experts else ()
        self._sampling = Sampling(config, self.tree, setup, self.costs, self._holdings)
        self._all_are_waited_for = waits_for_all(config)
        self.state = state or self._holdings.at_the_start()

    def plan(self, round_number: int) -> RoundPlan:
        """Who trains what in a round, what each device fetches first and sends afterwards, and over whom.

        Raises:
            RunFailed: the network allows no device to take part.
        """
        config = self.config
        due = round_number % config.evaluation.every == 0 or round_number == config.rounds
        first = self._holdings.lacking(self.state, round_number)
        orders = self._in_order((*self._orders(round_number, first), *self._under_way(round_number)))
        personal = due and config.evaluation.personal
        held_back, chosen = self._held_back(round_number)
        plan = RoundPlan(round_number, orders, personal, due, first, held_back, chosen)
        network = self.costs.network
        if network is None:
            return plan
        state, d2d = self.state, network.network.d2d
        # Devices that do not take part matter only where they may help those that do.
        awake = [order.device for order in orders] if d2d is None else self._sampling.present(round_number)
        having = self._holdings.having(state, awake, first) if d2d is not None and d2d.share else {}
        devices = Devices(frozenset(awake), having, state.headed, state.spent_j, state.trained)
        cooperating = partial(self._largest_cooperation, round_number)
        decided = decide(self.costs, network, plan, state.ready_s, devices, cooperating)
        links = cooperating(decided.orders).links
        if not decided.orders:
            why = _some([f"{d.about}: {d.why}" for d in decided.decisions], "; ")
            raise RunFailed(round_number, f"no device can take part; {why}")
        plan = replace(plan, orders=decided.orders, decisions=(*chosen, *decided.decisions), links=links)
        return plan if self._all_are_waited_for else self._without_late(plan, decided.arrivals)

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
        return _some([f"{_some(who, ', ')}: {why}" for why, who in devices_of.items()], "; ") or None

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

    def _largest_cooperation(self, round_number: int, orders: Sequence[DeviceOrder]) -> Cooperation:
        """What neighbours average if each of them trains all that it does not send up."""
        d2d = self.config.network.d2d if self.config.network else None
        if d2d is None or not d2d.gossip_steps or self.costs.network is None:
            return Cooperation()
        training = [order for order in orders if not order.lost]
        links = self.costs.network.pairs(round_number, {order.device for order in training})
        kept = [DeviceReport(o.device, None, kept=tuple(m for m in o.modules if m not in o.upward)) for o in training]
        return cooperation(self.ownership, links, d2d.gossip_steps, kept)

    def _held_back(self, round_number: int) -> tuple[dict[str, tuple[str, ...]], tuple[Decision, ...]]:
        """By adaptive cadences: tier -> modules that are not sent on this round, and why."""
        adaptive, state = self.config.federation.adaptive, self.state
        if adaptive is None or round_number == self.config.rounds:
            return {}, ()
        periods = {m: self._period(m, adaptive.tier, cadence) for m, cadence in state.cadences.items()}
        held = tuple(module for module, period in periods.items() if round_number % period)
        decisions = tuple(
            Decision(
                module,
                "is held back",
                f"sent on every {periods[module]} rounds: it moves by {state.moved[module]:.2g} a round "
                f"and takes {self.costs.round_trip_bytes(module)} bytes",
            )
            for module in held
        )
        return {adaptive.tier: held}, decisions

    def _period(self, module: str, tier: str, chosen: int) -> int:
        """The multiple of the module's own cadence that comes nearest to the chosen one from below."""
        own = self.ownership.cadence(module, tier)
        return own * max(1, chosen // own)

    def _orders(self, round_number: int, first: Mapping[str, Sequence[str]]) -> tuple[DeviceOrder, ...]:
        """Of all participants; devices that are alike share what their orders say."""
        fetching = Fetching(self._holdings, self.state, first)
        kinds: dict[Hashable, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        alike: dict[Hashable, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        orders = []
        for device in self._sampling.draw(round_number, self.state):
            experts = self._experts(device, round_number)
            kind = self.tree[device].group, experts
            if kind not in kinds:
                kinds[kind] = self._modules(device, experts, round_number)
            modules, upward = kinds[kind]
            likeness = kind, fetching.likeness(device)
            if likeness not in alike:
                fetched, known = fetching.of(device, modules)
                alike[likeness] = fetched, tuple(module for module in known if self.costs.as_changes(module))
            fetched, changes = alike[likeness]
            orders.append(DeviceOrder(device, modules, experts, fetched, upward, changes))
        return tuple(orders)

    def _under_way(self, round_number: int) -> list[DeviceOrder]:
        """Of devices that have begun in an earlier round, and are there: what they were told then."""
        orders = []
        present = frozenset(self._sampling.present(round_number)) if self.state.under_way else frozenset()
        for device, since in self.state.under_way.items():
            if device not in present:
                continue
            experts = self._experts(device, since)
            modules, upward = self._modules(device, experts, since)
            order = DeviceOrder(device, modules, experts, (), upward, begun=since)
            orders.append(replace(order, behind=self._holdings.behind(self.state, order)))
        return orders

    def _without_late(self, plan: RoundPlan, arrivals: Mapping[str, float]) -> RoundPlan:
        """The plan in which nodes wait as configured."""
        sent = {order.device: frozenset(order.upward) for order in plan.orders}
        coming = {device: Arrival(at_s, sent[device]) for device, at_s in arrivals.items()}

        def sends(node: str, modules: frozenset[str]) -> tuple[frozenset[str], float]:
            tier = self.tree[node].tier
            goes_up = (m for m in modules if self.ownership.goes_up(m, tier, plan.round))
            upward = frozenset(m for m in goes_up if not plan.stays(m, node, tier))
            return upward, self.costs.rise_s(upward)

        late = late_children(self.config, self.tree, coming, sends, self.state.ready_s)
        plan = without_late(self.config, self.tree, plan, late)
        return replace(plan, behind=self._holdings.nodes_behind(self.state, plan.away))

    def _in_order(self, orders: Sequence[DeviceOrder]) -> tuple[DeviceOrder, ...]:
        """In the order of the tree's devices."""
        if not self.state.under_way:
            return tuple(orders)
        found = {order.device: order for order in orders}
        return tuple(found[device] for device in self.tree.devices if device in found)

    def _modules(
        self, device: str, experts: tuple[int, ...], round_number: int
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What a device with these experts trains, and what of it goes up."""
        idle = {f"expert/{k}" for k in self._all_experts if k not in experts}
        modules = tuple(m for m in self._holdings.trained(device, round_number) if m not in idle)
        return modules, tuple(m for m in modules if self.ownership.goes_up(m, DEVICE, round_number))

    def _experts(self, device: str, round_number: int) -> tuple[int, ...]:
        """Those used last, and some others to try; all of them the first time, and if none was used enough."""
        every = self._all_experts
        used = self.state.experts.get(device)
        if not used or self.config.model.experts is None:
            return every
        others = [k for k in every if k not in used]
        generator = numpy_generator(self.config.seed, "explore", round_number, device)
        explored = generator.permutation(others)[: self.config.model.experts.explore]
        return tuple(sorted({*used, *(int(k) for k in explored)}))


def arrived_of(reports: Sequence[DeviceReport]) -> set[str]:
    """Devices whose updates have arrived."""
    return {report.device for report in reports if report.error is None}


def _some(items: Sequence[str], separator: str) -> str:
    """The first three, and how many more there are."""
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return separator.join(items[:3]) + more
