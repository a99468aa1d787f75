"""A device host: trains and evaluates devices in a process that holds the frozen backbone, data and prefixes once.

It keeps nothing of a device from round to round: what a device remembers comes with each call and goes back with its
answer, so any host can serve any device, and a host that dies takes nothing with it but the work under way.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby

import torch

from fogtune.platform.aggregation import HeldUpdates, ModuleSum, Tensors, Update, control_name
from fogtune.platform.aggregation.requantise import requantised
from fogtune.platform.config import Config, Scaffold
from fogtune.platform.errors import FogTuneError
from fogtune.platform.learning.batches import epochs
from fogtune.platform.learning.evaluation import add_tallies, evaluate
from fogtune.platform.learning.flops import SampleFlops, sample_flops
from fogtune.platform.learning.workbench import Workbench
from fogtune.platform.modules import is_statistics

from .cohorts import cohort_size
from .cooperation import Cooperation, Disagreement, average
from .device_state import NOTHING, DeviceState, States
from .handing_on import NOTHING as NOTHING_HANDED_ON
from .handing_on import HandedOn, Holders, received
from .messages import DeviceOrder, EvaluationJob, HostPlan, HostReply, Setup, Workload
from .training import Outcome, failed, train_cohort


class DeviceHost:
    """Serves any devices; results do not depend on which of them share a host."""

    def __init__(
        self, config: Config, machine: str | None = None, labels: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        """Load model and data, as `Workbench` does: with a machine, of devices' own folders those that lie there."""
        self.bench = Workbench(config, machine, labels)
        own = self.bench.model.tensors_of
        self._initial = {m: {n: t.detach().cpu() for n, t in tensors.items()} for m, tensors in own.items()}
        """Version 0: the model's own tensors, which stay as they are."""

    def share(self, initial: Mapping[str, Tensors]) -> None:
        """Have version 0 where others have it, too: once a machine instead of once a process."""
        self._initial = {m: {name: initial[m][name] for name in tensors} for m, tensors in self._initial.items()}
        self.bench.model.share(self._initial)

    def setup(self) -> Setup:
        """What the coordinator needs to know before round 1."""
        bench = self.bench
        initial = {module: dict(tensors) for module, tensors in self._initial.items()}
        if isinstance(bench.config.federation.rule, Scaffold):
            for module, tensors in initial.items():
                if not is_statistics(module):
                    tensors |= {control_name(name): torch.zeros_like(tensor) for name, tensor in tensors.items()}
        return Setup(
            initial=initial,
            held_out={task: len(bench.held_out(task)) for task in bench.config.tasks},
            labels=bench.dataset.labels,
            adapter_config=bench.model.adapter_config,
            workloads=self._workloads() if bench.config.network else {},
            samples=self._samples() if bench.config.federation.sampling == "data" else {},
            cohort=cohort_size(bench.config, self._initial),
        )

    def _workloads(self) -> dict[str, tuple[Workload, ...]]:
        """Of all devices; those of one group that execute a task are alike but for the number of their samples."""
        bench = self.bench
        counted: dict[tuple[str | None, str], SampleFlops] = {}
        result = {}
        for device in bench.tree.devices:
            loads = []
            for task, part in bench.parts(device).items():
                if not len(part.train):
                    continue
                kind = (bench.tree[device].group, task)
                if kind not in counted:
                    counted[kind] = sample_flops(bench, device, task)
                flops = counted[kind]
                passes, begins = epochs(bench.config, task), bench.config.tasks[task].begins
                loads.append(Workload(task, len(part.train), flops.training, flops.prefix, passes, begins))
            result[device] = tuple(loads)
        return result

    def _samples(self) -> dict[str, int]:
        return {d: sum(len(part.train) for part in self.bench.parts(d).values()) for d in self.bench.tree.devices}

    def hand_on(
        self, holders: Holders, versions: Mapping[str, Mapping[str, Tensors]], givers: Collection[str]
    ) -> dict[tuple[str, str], Tensors]:
        """(giver, module) -> its copy, which other devices get in a round."""
        return {
            (device, module): versions[parent][module]
            for parent, of_node in holders.items()
            for module, devices in of_node.items()
            for device in devices
            if device in givers
        }

    def train(
        self,
        plan: HostPlan,
        versions: Mapping[str, Mapping[str, Tensors]],
        states: States,
        handed: HandedOn = NOTHING_HANDED_ON,
    ) -> HostReply:
        """Train devices.

        Args:
            plan: what to do.
            versions: parent node -> module -> the version that its devices start from.
            states: of the devices.
            handed: what devices anywhere give others.
        """
        outcome = Outcome()
        seconds: dict[str, tuple[float, int]] = {}
        for orders in plan.cohorts:
            began = time.perf_counter()
            self._train(plan, orders, versions, states, handed, outcome)
            group = self.bench.tree[orders[0].device].group or ""
            spent, devices = seconds.get(group, (0.0, 0))
            seconds[group] = (spent + time.perf_counter() - began, devices + len(orders))
        return HostReply(outcome.updates, tuple(outcome.reports), outcome.states, seconds)

    def _train(
        self,
        plan: HostPlan,
        orders: Sequence[DeviceOrder],
        versions: Mapping[str, Mapping[str, Tensors]],
        states: States,
        handed: HandedOn,
        outcome: Outcome,
    ) -> None:
        """Train a cohort, but for devices that have not got what they are to start from."""
        ready, starts = [], {}
        for order in orders:
            parent = self.bench.tree[order.device].parent or ""
            state = states.get(order.device, NOTHING)
            try:
                begun = order.begun is not None
                found = state.started if begun else received(order, self.bench.tree, versions[parent], handed)
                starts[order.device] = {m: state.kept.get(m) or found.get(m) or self._initial[m] for m in order.modules}
                ready.append(order)
            except FogTuneError as error:
                outcome.reports.append(failed(plan, order, error))
        if ready:
            train_cohort(self.bench, plan, ready, starts, states, versions, outcome)

    def begin(
        self, orders: Iterable[DeviceOrder], versions: Mapping[str, Mapping[str, Tensors]], states: States
    ) -> dict[str, DeviceState]:
        """Give devices what they start from, whose updates come in a later round.

        Args:
            orders: the devices'.
            versions: parent node -> module -> its version.
            states: of the devices.

        Returns:
            Device -> what it remembers now.
        """
        begun = {}
        for order in orders:
            state, found = states.get(order.device, NOTHING), versions[self.bench.tree[order.device].parent or ""]
            started = {m: found.get(m) or self._initial[m] for m in order.modules if m not in state.kept}
            begun[order.device] = state._replace(started=started)
        return begun

    def evaluate(
        self, jobs: Iterable[EvaluationJob], versions: Mapping[str, Mapping[str, Tensors]], states: States
    ) -> dict[tuple[str, str], dict[str, int]]:
        """Exact metric sums by (task, variant) over the jobs' chunks of held-out rows.

        Args:
            jobs: what to evaluate.
            versions: node -> module -> version, for the variants' nodes and for the parents of device variants.
            states: of the variants that are devices.
        """
        bench, size = self.bench, self.bench.config.evaluation.batch_size
        result: dict[tuple[str, str], dict[str, int]] = {}
        for variant, some in groupby(jobs, key=lambda job: job.variant):
            own = states.get(variant, NOTHING) if bench.tree.is_device(variant) else None
            node = variant if own is None else bench.tree[variant].parent or ""
            model = {**versions[node], **(own.kept if own else {})}
            experts = (own.experts or None) if own else None
            with bench.model.holding(model):
                for job in some:
                    modalities = self._inputs(variant, job.task)
                    rows = bench.held_out(job.task)
                    for chunk in job.chunks:
                        part = rows[chunk * size : (chunk + 1) * size]
                        tally = evaluate(bench, job.task, modalities, part, experts)
                        key = (job.task, variant)
                        result[key] = add_tallies(result.get(key, {}), tally)
        return result

    def cooperate(
        self, found: Cooperation, states: States, devices: Collection[str]
    ) -> tuple[dict[tuple[str, str], Disagreement], dict[str, DeviceState]]:
        """Let devices average with their neighbours.

        Args:
            found: who averages what.
            states: of all who take part.
            devices: those to be served here.

        Returns:
            (Module, first member) -> disagreement, of the groups whose first member is served here; device -> what it
            remembers now, of those that have changed.
        """
        values = {(m, d): states[d].kept[m] for m, members in found.groups for d in members}
        mixed, told = average(found, values, devices)
        changed: dict[str, DeviceState] = {}
        for (module, device), tensors in mixed.items():
            state = changed.get(device, states[device])
            changed[device] = state._replace(kept={**state.kept, module: tensors})
        return told, changed

    def head_update(self, round_number: int, head: str, total: Update, versions: Mapping[str, Tensors]) -> Update:
        """What arrives of what a cluster head sends upward: the sum of its cluster's updates.

        Args:
            round_number: the round.
            head: id of the head.
            total: the sum; of a single device it is sent on as it came.
            versions: of the head's parent.
        """
        modules: dict[str, ModuleSum | HeldUpdates] = {}
        for module, summed in total.modules.items():
            modules[module] = summed
            if isinstance(summed, ModuleSum) and summed.contributors > 1:
                known, transforms = versions.get(module), self.bench.ownership.compression(module)
                where = (round_number, head, module)
                modules[module] = requantised(
                    summed, known or self._initial[module], transforms, self.bench.config.seed, *where
                )
        return Update(modules, total.metrics)

    def _inputs(self, node: str, task: str) -> tuple[str, ...]:
        """The inputs of a task that devices below a node collect: for any other it has no trained encoder."""
        collected = self.bench.ownership.inputs_below(node, task)
        return tuple(m for m in self.bench.config.tasks[task].inputs if m in collected)
