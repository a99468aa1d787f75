"""A device host: trains and evaluates the devices that share its process, one after the other.

It holds the frozen backbone once, the devices' data, and of a device's modules only those that no other node has:
personal ones, and those trained but not yet due upward. Everything else comes with the order and leaves with the reply.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from fogtune.platform.aggregation import (
    HeldUpdates,
    ModuleSum,
    Tensors,
    Update,
    control_name,
    fixed,
    is_control,
)
from fogtune.platform.aggregation.requantise import requantised
from fogtune.platform.config import Config, Scaffold
from fogtune.platform.errors import FogTuneError, InputError
from fogtune.platform.learning.batches import epochs
from fogtune.platform.learning.evaluation import add_tallies, evaluate
from fogtune.platform.learning.flops import SampleFlops, sample_flops
from fogtune.platform.learning.local import train
from fogtune.platform.learning.workbench import Workbench
from fogtune.platform.modules import is_statistics

from .cooperation import Cooperation, Disagreement, Values, average
from .handing_on import NOTHING, HandedOn, holders_of, received
from .messages import DeviceOrder, DeviceReport, EvaluationJob, HostReply, RoundPlan, Setup, Workload
from .sending import prepare

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceState:
    """What a device remembers from round to round."""

    kept: Mapping[str, Tensors] = field(default_factory=dict)
    """Module -> its own version: personal modules, and those trained but not yet sent."""
    controls: Mapping[str, Tensors] = field(default_factory=dict)
    """Module -> SCAFFOLD's control variates."""
    experts: tuple[int, ...] = ()
    """Experts held when it last trained."""
    residuals: Mapping[str, Tensors] = field(default_factory=dict)
    """Module -> what compression has left out so far."""


class DeviceHost:
    """Serves any number of devices; results do not depend on which devices share a host."""

    def __init__(self, config: Config, devices: Sequence[str]) -> None:
        self.bench = Workbench(config)
        self.states = {device: DeviceState() for device in devices}
        self._before: dict[str, DeviceState] = {}
        self._initial = {module: self.bench.model.tensors(module) for module in self.bench.model.tensors_of}

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

    def hand_on(self, plan: RoundPlan, versions: Mapping[str, Mapping[str, Tensors]]) -> dict[tuple[str, str], Tensors]:
        """(device here, module) -> its copy, which other devices get in a round."""
        return {
            (device, module): versions[parent][module]
            for parent, holders in holders_of(plan, self.bench.tree).items()
            for module, devices in holders.items()
            for device in devices
            if device in self.states
        }

    def train(
        self,
        plan: RoundPlan,
        versions: Mapping[str, Mapping[str, Tensors]],
        handed: HandedOn = NOTHING,
    ) -> HostReply:
        """Train those of the plan's devices that live here.

        Args:
            plan: the round's plan.
            versions: parent node -> module -> the version that its devices start from.
            handed: what devices anywhere give others.
        """
        updates: dict[str, Update] = {}
        reports = []
        self._before = dict(self.states)
        for order in plan.orders:
            if order.device not in self.states:
                continue
            if order.lost:
                reports.append(DeviceReport(order.device, order.lost))
                continue
            parent = self.bench.tree[order.device].parent or ""
            try:
                found = received(order, self.bench.tree, versions[parent], handed)
                update, state, report = self._train_one(plan, order, found)
            except InputError:
                raise  # the run as configured cannot work
            except Exception as error:  # a failed participant is a value in the reply
                reason = " ".join(str(error).split())[:300]
                if not isinstance(error, FogTuneError):
                    log.exception("round %d: device %s failed", plan.round, order.device)
                    reason = f"{type(error).__name__}: {reason}"
                reports.append(DeviceReport(order.device, reason))
                continue
            receiver = order.receiver(parent)
            updates[receiver] = updates.get(receiver, Update.empty()) + update
            self.states[order.device] = state
            reports.append(report)
        return HostReply(updates, tuple(reports))

    def take_back(self, devices: Iterable[str]) -> None:
        """Let devices be as they were before they trained last: what they sent is lost."""
        self.states |= {device: self._before[device] for device in devices if device in self.states}

    def evaluate(
        self, jobs: Iterable[EvaluationJob], versions: Mapping[str, Mapping[str, Tensors]]
    ) -> dict[tuple[str, str], dict[str, int]]:
        """Exact metric sums by (task, variant) over the jobs' chunks of held-out rows.

        Args:
            jobs: what to evaluate; a variant that is a device must live here.
            versions: node -> module -> version, for the variants' nodes and for the parents of device variants.
        """
        bench, size = self.bench, self.bench.config.evaluation.batch_size
        loaded = None
        result: dict[tuple[str, str], dict[str, int]] = {}
        for job in jobs:
            own = self.states.get(job.variant)
            if loaded != job.variant:
                node = job.variant if own is None else bench.tree[job.variant].parent or ""
                source = {**versions[node], **(own.kept if own else {})}
                # What nobody there has trained yet is as it was at the start, whoever used the model before.
                for module in bench.ownership.subtree_modules(job.variant):
                    bench.model.load(module, source.get(module) or self._initial[module])
                loaded = job.variant
            experts = (own.experts or None) if own else None
            modalities = self._inputs(job.variant, job.task)
            rows = bench.held_out(job.task)
            for chunk in job.chunks:
                part = rows[chunk * size : (chunk + 1) * size]
                tally = evaluate(bench, job.task, modalities, part, experts)
                key = (job.task, job.variant)
                result[key] = add_tallies(result.get(key, {}), tally)
        return result

    def lend(self, found: Cooperation) -> dict[tuple[str, str], Tensors]:
        """(module, device here) -> what the device has of what neighbours average."""
        return {
            (module, device): self.states[device].kept[module]
            for module, members in found.groups
            for device in members
            if device in self.states
        }

    def cooperate(self, found: Cooperation, values: Values) -> dict[tuple[str, str], Disagreement]:
        """Let the devices here average with their neighbours; `values` are those of all who take part.

        Returns:
            (Module, first member) -> disagreement of the groups whose first member lives here.
        """
        mixed, told = average(found, values, self.states.keys())
        for (module, device), tensors in mixed.items():
            state = self.states[device]
            self.states[device] = replace(state, kept={**state.kept, module: tensors})
        return told

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

    def _train_one(
        self, plan: RoundPlan, order: DeviceOrder, versions: Mapping[str, Tensors]
    ) -> tuple[Update, DeviceState, DeviceReport]:
        bench, state = self.bench, self.states[order.device]
        start = {m: state.kept.get(m) or versions.get(m) or self._initial[m] for m in order.modules}
        trained = train(bench, order.device, plan.round, start, order.experts, state.controls)
        sending = prepare(
            bench.config, bench.ownership, order.device, plan.round, trained, start, order.upward, state.residuals
        )
        metrics: dict[str, int] = {}
        for task, (loss, samples) in trained.losses.items():
            metrics |= {f"loss/{task}": fixed(loss), f"samples/{task}": samples}
        gone = {*sending.sums, *sending.skipped}
        kept = {m: t for m, t in state.kept.items() if m not in gone}
        kept |= {m: _parameters(t) for m, t in trained.modules.items() if m not in gone}
        used = tuple(k for k in order.experts if f"expert/{k}" in trained.modules)
        report = DeviceReport(
            order.device,
            error=None,
            sent=tuple(sending.sums),
            kept=tuple(kept),
            experts=used,
            personal=self._personal(order, plan.round) if plan.personal else None,
        )
        controls = {**state.controls, **trained.controls}
        return Update(sending.sums, metrics), DeviceState(kept, controls, order.experts, sending.residuals), report

    def _inputs(self, node: str, task: str) -> tuple[str, ...]:
        """The inputs of a task that devices below a node collect: for any other it has no trained encoder."""
        inputs = self.bench.ownership.inputs
        collected = {m for device in self.bench.tree.leaves(node) for m in inputs.get((device, task), ())}
        return tuple(m for m in self.bench.config.tasks[task].inputs if m in collected)

    def _personal(self, order: DeviceOrder, round_number: int) -> dict[str, dict[str, float]]:
        """Metrics of the device's own model, which the bench's model holds right after training."""
        result = {}
        for task, part in self.bench.parts(order.device, round_number).items():
            sums = evaluate(self.bench, task, part.modalities, part.test, order.experts)
            result[task] = self.bench.head_of(task).metrics(sums)
        return result


def _parameters(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not is_control(name)}
