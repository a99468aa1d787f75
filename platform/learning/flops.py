"""How much arithmetic a sample costs a device, counted while torch does it: what computing time and energy are made of.

Only products of matrices, convolutions and attention are counted, a multiplication and an addition as two operations;
what is done element by element (activations, norms, softmax, losses, resizing images) is not. The count follows from
shapes alone: it is the same for every library of products, every state of the model and every machine on which torch
takes the same kernel for attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from fogtune.platform.model.matmul import using

from .batches import collate
from .workbench import Workbench

ROWS = 8
"""Training rows to count on, at most: the first ones of the device's part."""


@dataclass(frozen=True)
class SampleFlops:
    """What a sample of a task costs a device, in floating-point operations: the mean over the rows counted."""

    training: float
    """Forward and backward pass through everything above the frozen prefixes: once a sample and epoch."""
    prefix: float
    """Its frozen prefixes, of all modalities: once a sample, and kept; less where samples share a text or an image."""


def sample_flops(bench: Workbench, device: str, task: str) -> SampleFlops:
    """Count what a sample of one of the device's tasks costs it, on the first `ROWS` of its training rows.

    Each row is a batch of its own, so padding is not counted, and routed among all experts, not only those held. The
    optimizer's work, element by element, would not be counted, so no step is taken: the model's tensors stay as they
    are, without gradients.
    """
    part = bench.parts(device)[task]
    rows = part.train[:ROWS]
    columns = bench.dataset.tables[part.source].modalities
    prefix = training = 0
    for i, row in enumerate(rows):
        with using("default"), counter() as counted:
            for modality in part.modalities:
                bench.model.prefix(modality, columns[modality][row])  # not from the cache, which may have it
        prefix += counted.get_total_flops()
        batch = collate(bench.prefixes, task, part.source, part.modalities, rows[i : i + 1], bench.targets[task])
        with using("default"), counter() as counted:  # of which attention depends
            result = bench.model(batch)
            (bench.head_of(task).losses(result.outputs, batch.targets).mean() + result.balance).backward()
        training += counted.get_total_flops()
    bench.model.zero_grad(set_to_none=True)
    return SampleFlops(training / len(rows), prefix / len(rows))


def counter() -> FlopCounterMode:
    """torch's counter, a context manager, taught the products that it lacks."""
    formulas: dict[Any, Callable[..., int]] = {
        torch.ops.aten.addmm_: _addmm,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        formulas[torch.ops.mkldnn._convolution_pointwise] = _convolution
    return FlopCounterMode(display=False, custom_mapping=formulas)


# Formulas are called with an operation's arguments, each tensor replaced by its shape.


def _addmm(_: torch.Size, a: torch.Size, b: torch.Size, **__: Any) -> int:
    """a (N, I), b (I, O)."""
    return 2 * prod(a) * b[1]


def _convolution(_: torch.Size, weight: torch.Size, *__: Any, out_shape: torch.Size, **___: Any) -> int:
    """weight (O, I / groups, ...), out (B, O, ...)."""
    return 2 * prod(out_shape) * prod(weight[1:])


def _attention(query: torch.Size, key: torch.Size, *_: Any, **__: Any) -> int:
    """query (B, H, T, D), key (B, H, S, D): the scores, and the values that they weigh. No mask saves anything."""
    return 2 * (2 * prod(query) * key[2])


def _attention_backward(_: torch.Size, query: torch.Size, key: torch.Size, *__: Any, **___: Any) -> int:
    """The scores once more, then the gradients of them, of queries, of keys and of values."""
    return 5 * (2 * prod(query) * key[2])
