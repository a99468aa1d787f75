"""A round before it: who trains what, what each device fetches first and sends afterwards, over whom, and who waits.

Everything follows from the coordinator's state and the round's number: a plan can be made again.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from fogtune.platform.config import Config
from fogtune.platform.errors import RunFailed
from fogtune.platform.ownership import Ownership
from fogtune.platform.rng import numpy_generator
from fogtune.platform.topology import DEVICE, Tree
from fogtune.platform.wording import some

from .cooperation import Cooperation, cooperation
from .costs import RoundCosts
from .holdings import Fetching, Holdings
from .messages import Decision, DeviceOrder, DeviceReport, RoundPlan, Setup
from .sampling import Sampling
from .state import CoordinatorState
from .waiting import Arrival, late_children, waits_for_all, without_late


class Planner:
    """Makes plans; keeps nothing from one to the next."""

    def __init__(
        self, config: Config, tree: Tree, ownership: Ownership, setup: Setup, costs: RoundCosts, holdings: Holdings
    ) -> None:
        self._config = config
        self._tree = tree
        self._ownership = ownership
        self._costs = costs
        self._holdings = holdings
        self._all_experts = tuple(range(config.model.experts.count)) if config.model.experts else ()
        self._sampling = Sampling(config, tree, setup, costs, holdings)
        self._all_are_waited_for = waits_for_all(config)

    def plan(self, state: CoordinatorState, round_number: int) -> RoundPlan:
        """Who trains what in a round, what each device fetches first and sends afterwards, and over whom.

        Raises:
            RunFailed: the network allows no device to take part.
        """
        config = self._config
        due = round_number % config.evaluation.every == 0 or round_number == config.rounds
        first = self._holdings.lacking(state, round_number)
        drawn, under_way = self._orders(state, round_number, first), self._under_way(state, round_number)
        orders = self._in_order((*drawn, *under_way)) if under_way else drawn
        personal = due and config.evaluation.personal
        held_back, chosen = self._held_back(state, round_number)
        plan = RoundPlan(round_number, orders, personal, due, first, held_back, chosen)
        network = self._costs.network
        if network is None:
            return plan
        from .decisions import Devices, decide  # and with it what knows graphs

        d2d = network.network.d2d
        # Devices that do not take part matter only where they may help those that do.
        awake = [order.device for order in orders] if d2d is None else self._sampling.present(round_number)
        having = self._holdings.having(state, awake, first) if d2d is not None and d2d.share else {}
        devices = Devices(frozenset(awake), having, state.headed, state.spent_j, state.trained)
        cooperating = partial(self._largest_cooperation, round_number)
        decided = decide(self._costs, network, plan, state.ready_s, devices, cooperating)
        links = cooperating(decided.orders).links
        if not decided.orders:
            why = some([f"{d.about}: {d.why}" for d in decided.decisions], "; ")
            raise RunFailed(round_number, f"no device can take part; {why}")
        plan = replace(plan, orders=decided.orders, decisions=(*chosen, *decided.decisions), links=links)
        return plan if self._all_are_waited_for else self._without_late(state, plan, decided.arrivals)

    def _held_back(
        self, state: CoordinatorState, round_number: int
    ) -> tuple[dict[str, tuple[str, ...]], tuple[Decision, ...]]:
        """By adaptive cadences: tier -> modules that are not sent on this round, and why."""
        adaptive = self._config.federation.adaptive
        if adaptive is None or round_number == self._config.rounds:
            return {}, ()
        periods = {m: self._period(m, adaptive.tier, cadence) for m, cadence in state.cadences.items()}
        held = tuple(module for module, period in periods.items() if round_number % period)
        decisions = tuple(
            Decision(
                module,
                "is held back",
                f"sent on every {periods[module]} rounds: it moves by {state.moved[module]:.2g} a round "
                f"and takes {self._costs.round_trip_bytes(module)} bytes",
            )
            for module in held
        )
        return {adaptive.tier: held}, decisions

    def _period(self, module: str, tier: str, chosen: int) -> int:
        """The multiple of the module's own cadence that comes nearest to the chosen one from below."""
        own = self._ownership.cadence(module, tier)
        return own * max(1, chosen // own)

    def _orders(
        self, state: CoordinatorState, round_number: int, first: Mapping[str, Sequence[str]]
    ) -> tuple[DeviceOrder, ...]:
        """Of all participants; devices that are alike share what their orders say."""
        fetching = Fetching(self._holdings, state, first)
        kinds: dict[Hashable, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        alike: dict[Hashable, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        orders = []
        for device in self._sampling.draw(round_number, state):
            experts = self._experts(state, device, round_number)
            kind = self._tree[device].group, experts
            if kind not in kinds:
                kinds[kind] = self._modules(device, experts, round_number)
            modules, upward = kinds[kind]
            likeness = kind, fetching.likeness(device)
            if likeness not in alike:
                fetched, known = fetching.of(device, modules)
                alike[likeness] = fetched, tuple(module for module in known if self._costs.as_changes(module))
            fetched, changes = alike[likeness]
            orders.append(DeviceOrder(device, modules, experts, fetched, upward, changes))
        return tuple(orders)

    def _under_way(self, state: CoordinatorState, round_number: int) -> list[DeviceOrder]:
        """Of devices that have begun in an earlier round, and are there: what they were told then."""
        orders = []
        present = frozenset(self._sampling.present(round_number)) if state.under_way else frozenset()
        for device, since in state.under_way.items():
            if device not in present:
                continue
            experts = self._experts(state, device, since)
            modules, upward = self._modules(device, experts, since)
            order = DeviceOrder(device, modules, experts, (), upward, begun=since)
            orders.append(order._replace(behind=self._holdings.behind(state, order)))
        return orders

    def _without_late(self, state: CoordinatorState, plan: RoundPlan, arrivals: Mapping[str, float]) -> RoundPlan:
        """The plan in which nodes wait as configured."""
        sent = {order.device: frozenset(order.upward) for order in plan.orders}
        coming = {device: Arrival(at_s, sent[device]) for device, at_s in arrivals.items()}

        def sends(node: str, modules: frozenset[str]) -> tuple[frozenset[str], float]:
            tier = self._tree[node].tier
            goes_up = (m for m in modules if self._ownership.goes_up(m, tier, plan.round))
            upward = frozenset(m for m in goes_up if not plan.stays(m, node, tier))
            return upward, self._costs.rise_s(upward)

        late = late_children(self._config, self._tree, coming, sends, state.ready_s)
        plan = without_late(self._config, self._tree, plan, late)
        return replace(plan, behind=self._holdings.nodes_behind(state, plan.away))

    def _in_order(self, orders: Sequence[DeviceOrder]) -> tuple[DeviceOrder, ...]:
        """In the order of the tree's devices."""
        found = {order.device: order for order in orders}
        return tuple(found[device] for device in self._tree.devices if device in found)

    def _modules(
        self, device: str, experts: tuple[int, ...], round_number: int
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What a device with these experts trains, and what of it goes up."""
        idle = {f"expert/{k}" for k in self._all_experts if k not in experts}
        modules = tuple(m for m in self._holdings.trained(device, round_number) if m not in idle)
        return modules, tuple(m for m in modules if self._ownership.goes_up(m, DEVICE, round_number))

    def _experts(self, state: CoordinatorState, device: str, round_number: int) -> tuple[int, ...]:
        """Those used last, and some others to try; all of them the first time, and if none was used enough."""
        every = self._all_experts
        used = state.experts.get(device)
        if not used or self._config.model.experts is None:
            return every
        others = [k for k in every if k not in used]
        generator = numpy_generator(self._config.seed, "explore", round_number, device)
        explored = generator.permutation(others)[: self._config.model.experts.explore]
        return tuple(sorted({*used, *(int(k) for k in explored)}))

    def _largest_cooperation(self, round_number: int, orders: Sequence[DeviceOrder]) -> Cooperation:
        """What neighbours average if each of them trains all that it does not send up."""
        d2d = self._config.network.d2d if self._config.network else None
        if d2d is None or not d2d.gossip_steps or self._costs.network is None:
            return Cooperation()
        training = [order for order in orders if not order.lost]
        links = self._costs.network.pairs(round_number, {order.device for order in training})
        kept = [DeviceReport(o.device, None, kept=tuple(m for m in o.modules if m not in o.upward)) for o in training]
        return cooperation(self._ownership, links, d2d.gossip_steps, kept)
