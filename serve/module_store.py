"""The modules that a model server holds: by content, stacked, within a stated memory.

A module's tensors lie in slabs (S, ...), a slot for each different content, so that the modules of a batch's rows are
gathered by one `index_select` a tensor (platform/model/rows.py), however many variants they belong to (as in S-LoRA,
Sheng et al., arXiv 2311.03285). The key is the sha256 of the file: variants and versions that share a module share its
slot, and a new version costs only what has changed. Slabs grow as needed; when the memory is used up, the content used
longest ago makes room within its slab. While a slab grows it is there twice. Legend: S slots.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from torch import Tensor

from fogtune.platform.aggregation import Tensors
from fogtune.platform.errors import InputError
from fogtune.platform.model.m3t import M3TModel
from fogtune.platform.model.rows import Index, Versions

from .registry import Entry, read_module

_INITIAL = "initial"
"""Key of a module as it was at the start of the run."""


class ModuleStore:
    """Modules of one model; for one thread."""

    def __init__(self, model: M3TModel, max_rows: int, limit_bytes: int) -> None:
        """Hold nothing yet.

        Args:
            model: with the modules as they were at the start of the run.
            max_rows: of a batch: so many different contents of each module fit together.
            limit_bytes: of all slabs.

        Raises:
            InputError: `max_rows` of each module do not fit in the limit.
        """
        self._initial = {module: model.tensors(module) for module in model.tensors_of}
        self._slabs = {module: _Slab(tensors) for module, tensors in self._initial.items()}
        self._max_rows = max_rows
        self._limit_bytes = limit_bytes
        least = max_rows * sum(slab.slot_nbytes for slab in self._slabs.values())
        if least > limit_bytes:
            problem = f"{limit_bytes} given; allowed: {least} or more, for batches of {max_rows} rows"
            raise InputError("module_memory_bytes", problem)
        self.misses = 0

    @property
    def nbytes(self) -> int:
        """What the slabs hold."""
        return sum(slab.nbytes for slab in self._slabs.values())

    def require(self, module: str, entry: Entry | None) -> None:
        """Have a module at hand, for as long as no more than `max_rows` others of its name are required after it.

        Raises:
            InputError: its file is missing, does not match its hash, or is not what the model takes.
        """
        slab = self._slabs[module]
        key = _key(entry)
        if key in slab:
            return
        self.misses += 1
        tensors = read_module(entry) if entry else self._initial[module]
        for name, expected in self._initial[module].items():
            if name not in tensors or tensors[name].shape != expected.shape:
                where = entry.name if entry else module
                raise InputError(where, f"{name} is missing or not of shape {tuple(expected.shape)}")
        slab.put(key, tensors, self._room(slab))

    def versions(self, rows: Sequence[Mapping[str, Entry | None]]) -> dict[str, Versions]:
        """Module -> its slab, and the slot of each row; of a module that a row has nothing to do with, any slot.

        Args:
            rows: module -> content of each row; all were required before.
        """
        used = dict.fromkeys(module for modules in rows for module in modules)
        return {
            module: Versions(
                self._slabs[module].tensors,
                Index(self._slabs[module].slot(_key(modules[module])) if module in modules else 0 for modules in rows),
            )
            for module in used
        }

    def _room(self, slab: _Slab) -> int:
        """Slots that a slab may have in all: what is set aside for the others' batches is not taken from them."""
        others = sum(
            max(other.nbytes, self._max_rows * other.slot_nbytes) for other in self._slabs.values() if other is not slab
        )
        return (self._limit_bytes - others) // max(1, slab.slot_nbytes)


class _Slab:
    """The contents of one module."""

    def __init__(self, like: Mapping[str, Tensor]) -> None:
        self.tensors = {name: tensor.new_zeros(0, *tensor.shape) for name, tensor in like.items()}
        self.slot_nbytes = sum(tensor.nbytes for tensor in like.values())
        self._slots: OrderedDict[str, int] = OrderedDict()
        """Content -> slot, the one used longest ago first."""

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def _capacity(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __contains__(self, key: str) -> bool:
        """Whether it is here; from now on it is the one used last."""
        if key not in self._slots:
            return False
        self._slots.move_to_end(key)
        return True

    def put(self, key: str, tensors: Tensors, room: int) -> None:
        """Hold a content in at most `room` slots."""
        if len(self._slots) < min(room, self._capacity):
            slot = len(self._slots)
        elif self._capacity < room:
            slot = self._capacity
            self._grow(min(room, max(4, 2 * self._capacity)))
        else:
            _, slot = self._slots.popitem(last=False)
        for name, slab in self.tensors.items():
            slab[slot] = tensors[name]
        self._slots[key] = slot

    def slot(self, key: str) -> int:
        """Where a content lies."""
        return self._slots[key]

    def _grow(self, capacity: int) -> None:
        for name, slab in self.tensors.items():
            larger = slab.new_zeros(capacity, *slab.shape[1:])
            larger[: len(slab)] = slab
            self.tensors[name] = larger


def _key(entry: Entry | None) -> str:
    return entry.sha256 if entry else _INITIAL
