"""The aggregating nodes, as the coordinator has them: in actors, but for the cloud, whose state lies here.

In a round in which all that comes to a tier's nodes passes on upward as it is, sums pass these nodes by: the sums are
exact, so it is the same who adds them up. A round takes a handful of calls an actor, however many nodes it has, and
none where sums pass by; an actor is started when its nodes first have something to add up or to hold. Versions are
asked for by reference, once for all who need them. Knows nothing of hosts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray

from fogtune.platform.aggregation import Tensors, Update
from fogtune.platform.aggregation.tier import TierLogic, TierState
from fogtune.platform.config import Asynchronous, Config, Median, TrimmedMean
from fogtune.platform.federation.handing_on import digest
from fogtune.platform.federation.messages import DeviceReport, RoundPlan
from fogtune.platform.ownership import Ownership
from fogtune.platform.topology import CLOUD, Tree

from .aggregators import Aggregator, Closing
from .machines import get_from, on, processors
from .makers import START, Makers, Modules, laid_out
from .node_packing import pack_nodes
from .parts import Layout, Part

Versions = Mapping[str, Tensors]
"""Module -> version."""

_SMALL = 2**16
"""Bytes up to which it is faster to send versions with each call than to put them where all can read them."""


class Nodes:
    """Carries sums and versions between the nodes of a tree. Methods raise RunFailed where an actor has died."""

    def __init__(
        self, config: Config, namespace: str, tree: Tree, ownership: Ownership, initial: Mapping[str, Tensors]
    ) -> None:
        """Nothing has been added up yet.

        Args:
            config: the run's configuration.
            namespace: Ray's, in which actors have their names.
            tree: of the configuration.
            ownership: of the configuration on its tree.
            initial: module -> version 0.
        """
        self._config = config
        self._namespace = namespace
        self._tree = tree
        self._ownership = ownership
        self._robust = isinstance(config.federation.rule, Median | TrimmedMean)
        some_miss = any(isinstance(config.federation.synchrony.get(t), Asynchronous) for t in tree.tiers[:-2])
        self._makers = Makers(tree, ownership, some_miss)
        self._number = 0
        self._attempt = 0
        self._refs: dict[str, Any] = {}
        """Actor, cloud or start -> the versions that lie there, or a reference to them."""
        self.initial = self._shared(START, initial)
        """Module -> version 0."""
        self._cloud = TierLogic(config, tree, ownership, CLOUD)
        self._cloud_state = self._cloud.initial(self.initial)
        self._arrived = Update.empty()
        self._passed_by: set[str] = set()
        """Tiers whose nodes have nothing to add up in this round."""
        self._changed: Modules = {}
        """Node -> modules of which it has made a new version in this round."""
        self._waiting: dict[str, set[str]] = {}
        """Node -> modules that it has averaged since it sent them last."""
        packed = pack_nodes(tree, config.execution.nodes_per_actor, processors()[None])
        self._nodes_of = {actor.name: actor.nodes for actor in packed}
        """Actor, from the bottom tier upwards -> its nodes."""
        self._place = {CLOUD: CLOUD, START: START} | {node: actor.name for actor in packed for node in actor.nodes}
        """Node -> its actor."""
        self._actors: dict[str, Any] = {}
        """Those that have been started."""
        for name, nodes in self._nodes_of.items():
            if any(self._makers.held(node) for node in nodes):
                self._actor(name)

    @property
    def version_0(self) -> Any:
        """Of all modules: what lies at the start, or a reference to it."""
        return self._refs[START]

    def begin(self, plan: RoundPlan) -> None:
        """Nodes forget what they may have of a round that failed, and are given what they lack."""
        self._number, self._arrived = plan.round, Update.empty()
        self._attempt += 1
        self._passed_by = {tier for tier in self._tree.tiers[1:-1] if self._passes_by(tier, plan)}
        for actor in self._nodes_of:
            if self._tier_of(actor) not in self._passed_by:
                self._actor(actor)  # starts while the devices train
        receipts = []
        for node, modules in plan.first.items():
            if taken := self._makers.receive(node, modules):
                layout, refs = self._laid_out({node: self._makers.of_parent(node, taken)})
                receipts.append(self._actor(self._place[node]).receive.remote({node: taken}, layout, *refs))
                self._refs.pop(self._place[node], None)
        self.get(receipts)

    def addresses(self, receivers: Iterable[str]) -> dict[str, dict[str, str]]:
        """Address -> receiver -> node that adds up in this round what is sent to the receiver.

        A cluster head has an address of its own.
        """
        found: dict[str, dict[str, str]] = {}
        for receiver in receivers:
            node = receiver if self._tree.is_device(receiver) else self._target(receiver)
            found.setdefault(self._place.get(node, node), {})[receiver] = node
        return found

    def deliver(self, address: str, bundle: Any) -> list[Any]:
        """Give a bundle (by reference) to an address. Returns the receipt to wait for; the cloud gives none."""
        if address != CLOUD:
            return [self._actor(address).add.remote(self._attempt, bundle)]
        for update in self.get(bundle).values():
            self._arrived = self._arrived + update
        return []

    def add(self, node: str, update: Any) -> list[Any]:
        """Give one update (by reference) to a node. Returns the receipt to wait for; the cloud gives none."""
        target = self._target(node)
        if target != CLOUD:
            return [self._actor(self._place[target]).add_one.remote(self._attempt, target, update)]
        self._arrived = self._arrived + self.get(update)
        return []

    def close(
        self, plan: RoundPlan, reports: Sequence[DeviceReport]
    ) -> tuple[Mapping[str, int], Mapping[str, float], Modules, Modules]:
        """Close the round tier by tier.

        Returns:
            Metrics of all devices; module -> relative change of the cloud's version; new versions; what went upward.
        """
        tree = self._tree
        came: dict[str, set[str]] = {node: set() for node in tree.aggregators}
        """Node -> modules that came to it."""
        for report in reports:
            if report.error is None:
                came[tree[report.device].parent or ""].update(report.sent)
        changed: dict[str, tuple[str, ...]] = {}
        upward: dict[str, tuple[str, ...]] = dict.fromkeys(tree.aggregators[:-1], ())
        for tier in tree.tiers[-2:0:-1]:
            sent: Modules
            if tier in self._passed_by:
                sent = {n: tuple(m for m in self._makers.of(n) if m in came[n]) for n in tree.of_tier[tier] if came[n]}
            else:
                sent, made = self._close(tier, plan)
                changed |= made
            upward |= sent
            for node, modules in sent.items():
                came[tree[node].parent or ""].update(modules)
        step = self._cloud.step(self._cloud_state, plan.round, self._arrived)
        self._cloud_state, self._arrived, changed[CLOUD] = step.state, Update.empty(), step.changed
        self._changed = changed
        self._makers.make(changed)
        for node in (node for node, modules in changed.items() if modules):
            self._refs.pop(self._place[node], None)
        return step.upward.metrics, step.moved, changed, upward

    def descend(self, adopted: Mapping[str, Sequence[str]]) -> None:
        """New versions go down, from the top; who is to hold none learns nothing."""
        taken, left = self._makers.descend(self._changed, adopted)
        receipts = []
        for actor in reversed(self._nodes_of):  # parents before their children
            takes = {node: taken[node] for node in self._nodes_of[actor] if node in taken}
            leaves = {node: left[node] for node in self._nodes_of[actor] if node in left}
            if takes or leaves:
                layout, refs = self._laid_out({n: self._makers.of_parent(n, modules) for n, modules in takes.items()})
                receipts.append(self._actor(actor).adopt.remote(self._number, takes, leaves, layout, *refs))
                self._refs.pop(actor, None)
        self.get(receipts)

    def parts_of(self, nodes: Iterable[str]) -> tuple[Layout, list[Any]]:
        """The versions of some nodes: their layout, and references to its parts."""
        return self._laid_out({node: self._makers.of(node) for node in nodes})

    def digests(self, asked: Mapping[str, Collection[str]]) -> dict[tuple[str, str], str]:
        """(node, module) -> sha256 of its version, of these modules of these nodes."""
        known: dict[tuple[str, str], str] = {}
        elsewhere: dict[str, dict[str, tuple[str, ...]]] = {}
        for maker, module in sorted({(self._makers.of(n)[m], m) for n, modules in asked.items() for m in modules}):
            if maker in (START, CLOUD):
                versions = self.initial if maker == START else self._cloud_state.versions
                known[maker, module] = digest(versions[module])
            else:
                of_actor = elsewhere.setdefault(self._place[maker], {})
                of_actor[maker] = (*of_actor.get(maker, ()), module)
        for answer in self.get([self._actor(actor).digests.remote(some) for actor, some in elsewhere.items()]):
            known |= answer
        return {(n, m): known[self._makers.of(n)[m], m] for n, modules in asked.items() for m in modules}

    def states(self) -> dict[str, TierState]:
        """All that the nodes know between two rounds; those that have the same version share it."""
        own = dict.fromkeys(self._tree.aggregators, TierState({})) | {CLOUD: self._cloud_state}
        for answer in self.get([actor.states.remote() for actor in self._actors.values()]):
            own |= answer
        return self._makers.whole(own, self.initial)

    def restore(self, states: Mapping[str, TierState]) -> list[Any]:
        """Continue from other states. Returns the receipts to wait for."""
        own = self._makers.restore(states, self.initial)
        self._cloud_state, self._arrived = own.pop(CLOUD), Update.empty()
        self._waiting = {node: set(state.pending) for node, state in own.items()}
        self._refs = {START: self._refs[START]}
        receipts = []
        for actor, nodes in self._nodes_of.items():
            if actor in self._actors or any(own[node] != TierState({}) for node in nodes):
                receipts.append(self._actor(actor).restore.remote({node: own[node] for node in nodes}))
        return receipts

    def _close(self, tier: str, plan: RoundPlan) -> tuple[Modules, Modules]:
        """Close the round of a tier whose nodes add up. Returns node -> what it sent up, and its new versions."""
        told, receipts = [], []
        for actor, nodes in self._nodes_of.items():
            if self._tier_of(actor) != tier:
                continue
            slots: dict[str, list[tuple[str, str]]] = {}
            for node in nodes:
                target = self._target(self._tree[node].parent or "")
                slots.setdefault(self._place[target], []).append((node, target))
            averaged = {
                node: {
                    module: maker
                    for module, maker in self._makers.of(node).items()
                    if maker != node and not self._goes_up(module, node, plan)
                }
                for node in nodes
            }
            behind = {node: plan.behind[node] for node in nodes if node in plan.behind}
            newest = {node: self._makers.of_parent(node, modules) for node, modules in behind.items()}
            (layout, refs), (newest_layout, newest_refs) = self._laid_out(averaged), self._laid_out(newest)
            told_to = Closing(
                self._attempt,
                plan.round,
                {node: self._staying(node, plan) for node in nodes},
                slots,
                layout,
                len(refs),
                behind,
                newest_layout,
            )
            close = self._actor(actor).close.options(num_returns=1 + len(slots))
            answer, *bundles = close.remote(told_to, *refs, *newest_refs)
            told.append(answer)
            for address, bundle in zip(slots, bundles, strict=True):
                receipts += self.deliver(address, bundle)
        self.get(receipts)
        sent: dict[str, tuple[str, ...]] = {}
        made: dict[str, tuple[str, ...]] = {}
        for answer in self.get(told):
            for node, (passed_on, changed) in answer.items():
                sent[node], made[node] = passed_on, changed
                more = {module for module in changed if self._ownership.scope(module) != tier}
                self._waiting[node] = (self._waiting.get(node, set()) | more).difference(passed_on)
        return sent, made

    def _goes_up(self, module: str, node: str, plan: RoundPlan) -> bool:
        tier = self._tree[node].tier
        return self._ownership.goes_up(module, tier, plan.round) and not plan.stays(module, node, tier)

    def _staying(self, node: str, plan: RoundPlan) -> tuple[str, ...]:
        """What a node is not to send upward, though its cadence may have it go up."""
        if node in plan.cut_off:
            return tuple(self._makers.of(node))
        return plan.held_back.get(self._tree[node].tier, ())

    def _passes_by(self, tier: str, plan: RoundPlan) -> bool:
        """Whether all that comes to a tier's nodes in a round is added up just as well above them."""
        if self._robust or any(self._waiting.get(node) for node in self._tree.of_tier[tier]):
            return False
        modules = [m for m in self._ownership.modules if self._ownership.reaches(m, tier)]
        if not plan.cut_off.isdisjoint(self._tree.of_tier[tier]):
            return False
        first, *_ = self._tree.of_tier[tier]
        return all(m not in self._makers.everywhere and self._goes_up(m, first, plan) for m in modules)

    def _target(self, node: str) -> str:
        """Who adds up what is sent to a node in this round."""
        while self._tree[node].tier in self._passed_by:
            node = self._tree[node].parent or ""
        return node

    def _laid_out(self, makers: Mapping[str, Mapping[str, str]]) -> tuple[Layout, list[Any]]:
        layout, places = laid_out(makers, self._place.__getitem__)
        return layout, [self._part(place) for place in places]

    def _part(self, place: str) -> Any:
        """The versions that lie in one place, by reference, or as they are where that is faster."""
        if place not in self._refs:
            if place in self._nodes_of:
                self._refs[place] = self._actor(place).made.remote()
            else:
                versions = self._shared(place, self._cloud_state.versions)
                self._cloud_state = replace(self._cloud_state, versions=versions)
        return self._refs[place]

    def _shared(self, place: str, versions: Versions) -> Versions:
        """Put versions that lie here where all can read them. Returns them as they lie there: they are kept once."""
        nbytes = sum(tensor.nbytes for tensors in versions.values() for tensor in tensors.values())
        if nbytes <= _SMALL:
            self._refs[place] = {place: versions}
            return versions
        self._refs[place] = ray.put({place: versions})
        shared: Part = ray.get(self._refs[place])
        return shared[place]

    def _actor(self, name: str) -> Any:
        """An actor, started if it was not."""
        if name not in self._actors:
            nodes = self._nodes_of[name]
            held = {module: self.initial[module] for node in nodes for module in self._makers.held(node)}
            options = Aggregator.options(name=name, namespace=self._namespace, num_cpus=0, **on(self._machine(name)))
            self._actors[name] = options.remote(name, self._config, nodes, held, self._namespace)
        return self._actors[name]

    def _tier_of(self, actor: str) -> str:
        return self._tree[self._nodes_of[actor][0]].tier

    def get(self, refs: Any) -> Any:
        """What the nodes' actors answer: `machines.get_from` of all of them."""
        return get_from({name: self._machine(name) for name in self._actors}, refs, self._number)

    def _machine(self, actor: str) -> str | None:
        return self._tree[self._nodes_of[actor][0]].machine
