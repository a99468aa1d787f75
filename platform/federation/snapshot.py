"""All of a federation's state between two rounds, as plain tensors and JSON: what a checkpoint holds. No pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fogtune.platform.aggregation import ModuleSum, Tensors
from fogtune.platform.aggregation.tier import TierState

from .device_state import DeviceState, States
from .handing_on import digest
from .state import CoordinatorState

SEPARATOR = "|"
"""Between the parts of a flat key; node, module and tensor names do not contain it."""


@dataclass(frozen=True)
class Snapshot:
    """The federation after a round."""

    coordinator: CoordinatorState
    nodes: Mapping[str, TierState]
    """Aggregating node -> its state. Nodes that have the same version of a module share one value."""
    devices: States
    """Device -> its state."""

    def flatten(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors by flat key, each shared version once, and the rest as JSON values."""
        tensors: dict[str, torch.Tensor] = {}

        def put(values: Mapping[str, Mapping[str, torch.Tensor]], *where: str) -> None:
            for module, named in values.items():
                tensors.update({SEPARATOR.join([*where, module, name]): tensor for name, tensor in named.items()})

        sums: dict[str, dict[str, list[int]]] = {}
        shared = self._shared()
        for node, state in self.nodes.items():
            put({m: version for m, version in state.versions.items() if m not in shared[node]}, "node", node, "version")
            put(state.rules, "node", node, "rule")
            put(state.references, "node", node, "reference")
            put({module: total.total for module, total in state.pending.items()}, "node", node, "pending")
            sums[node] = {m: [t.weight, t.contributors, t.bound] for m, t in state.pending.items()}
        for device, own in self.devices.items():
            put(own.kept, "device", device, "kept")
            put(own.controls, "device", device, "control")
            put(own.residuals, "device", device, "residual")
        begun, distinct = self._begun()
        for number, (module, version) in enumerate(distinct):
            put({module: version}, "begun", str(number), "version")
        rest = {
            "coordinator": self.coordinator.to_json(),
            "sums": sums,
            "nodes": {node: {"rules": list(state.rules), "shared": shared[node]} for node, state in self.nodes.items()},
            "begun": begun,
            "experts": {device: list(own.experts) for device, own in self.devices.items()},
        }
        return tensors, rest

    def _begun(self) -> tuple[dict[str, list[int]], list[tuple[str, Tensors]]]:
        """Device -> which of the distinct versions it has begun with, and these; many have begun with the same."""
        number_of: dict[tuple[str, str], int] = {}
        known: dict[tuple[str, int], int] = {}
        distinct: list[tuple[str, Tensors]] = []
        begun: dict[str, list[int]] = {}
        for device, own in self.devices.items():
            for module, version in own.started.items():
                if (module, id(version)) not in known:
                    key = module, digest(version)
                    if key not in number_of:
                        number_of[key] = len(distinct)
                        distinct.append((module, version))
                    known[module, id(version)] = number_of[key]
                begun.setdefault(device, []).append(known[module, id(version)])
        return begun, distinct

    def _shared(self) -> dict[str, dict[str, str]]:
        """Node -> module -> other node with the same version, first by name; whoever shares the memory."""
        alike: dict[str, dict[int, list[str]]] = {}
        for node in sorted(self.nodes):
            for module, version in self.nodes[node].versions.items():
                alike.setdefault(module, {}).setdefault(id(version), []).append(node)
        shared: dict[str, dict[str, str]] = {node: {} for node in self.nodes}
        for module, groups in alike.items():
            first: dict[str, str] = {}
            for nodes in groups.values():
                owner = nodes[0]
                if len(groups) > 1:
                    owner = first.setdefault(digest(self.nodes[owner].versions[module]), owner)
                for node in nodes:
                    if node != owner:
                        shared[node][module] = owner
        return shared

    @classmethod
    def unflatten(cls, tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Any]) -> Snapshot:
        """The snapshot that `flatten` took apart."""
        found: dict[tuple[str, str, str], dict[str, Tensors]] = {}
        for key, tensor in tensors.items():
            what, owner, part, module, name = key.split(SEPARATOR)
            found.setdefault((what, owner, part), {}).setdefault(module, {})[name] = tensor
        nodes = {}
        for node, sums in rest["sums"].items():
            shared = rest["nodes"][node]["shared"].items()
            versions = {m: found["node", owner, "version"][m] for m, owner in shared}
            totals = found.get(("node", node, "pending"), {})
            # Rules without tensors (FedAvg) have a state too, an empty one.
            rules: dict[str, Tensors] = {module: {} for module in rest["nodes"][node]["rules"]} | found.get(
                ("node", node, "rule"), {}
            )
            pending = {module: ModuleSum(totals[module], *numbers) for module, numbers in sums.items()}
            references = found.get(("node", node, "reference"), {})
            nodes[node] = TierState(found.get(("node", node, "version"), {}) | versions, pending, rules, references)
        devices = {}
        for device, experts in rest["experts"].items():
            kept, controls, residuals = (
                found.get(("device", device, part), {}) for part in ("kept", "control", "residual")
            )
            begun = (found["begun", str(number), "version"] for number in rest["begun"].get(device, ()))
            started = {module: version for one in begun for module, version in one.items()}
            devices[device] = DeviceState(kept, controls, tuple(experts), residuals, started)
        return cls(CoordinatorState.from_json(rest["coordinator"]), nodes, devices)
