"""Smaller updates: what of a module's change a device sends, how it is packed, and what it keeps for the next time.

    skip       nothing if ||x|| < threshold ||start||, else x                           after LAG, arXiv 1805.09965
    top-k      the values of largest magnitude in the module, and their indices         1809.07599
    quantise   x -> step * (floor(x / step) or one more), at random, E[Q(x)] = x        QSGD, 1610.02132, section 3.1

with x = change + residual, change = trained - start, and step = max|x| / (2**(bits - 1) - 1) a tensor. Transforms act
in this order, are undone in reverse, and know one module at one device, nothing of links, rounds or sums.

Error feedback (1809.07599, algorithm 1; 1901.09847, algorithm 2): with skip or top-k in the chain, the residual is
x - decoded message, so what was rounded away of the values that were sent comes back too; over the rounds the decoded
messages and the last residual add up to the changes (both together: Qsparse-local-SGD, 1906.02367). Quantisation alone
is unbiased, keeps no residual and leaves devices without a memory.

A message is a flat dict that safetensors can store, its size a function of names, shapes and transforms alone. An
empty tensor of shape (0, *shape) under `<kind>/<name>` carries a tensor's name and shape in safetensors' header:

    values   float32 (k,)                   top-k/<name>       uint8 (0, *shape)
    indices  int32 (k,), ascending          into all tensors of the module, flattened, in the order of their names
    levels   int8 (n,) or uint8 (n/2,)      quantise/<name>    uint8 (0, *shape)
    scales   float32 (tensors,)             the step of each, in the order of their names

Quantisation takes the place of the float tensors before it: those of the module, or `values`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import torch
from safetensors.torch import save

from ..config.compression import Compression, Quantise, Skip, TopK, require_chain
from .sums import Tensors, require_same_layout, require_usable

Message = dict[str, torch.Tensor]
"""What is serialised and sent, as the module's docstring lays it out; without transforms the change itself."""

_STEP_BITS = 16
"""Significant bits of a step: times a level, of 7 bits, it is exact in float32, so decoding adds no bias."""
_SMALLEST_STEP = 2.0**-126
"""The smallest normal float32, the step of a tensor of zeros too."""


@dataclass(frozen=True, slots=True, eq=False)
class Compressed:
    """One module of one device, ready to be sent."""

    message: Message | None
    """None where the module is skipped this time."""
    residual: Tensors
    """What was not sent, to be added to the next change; tensors of zeros are left out."""


def compress(
    change: Tensors, start: Tensors, residual: Tensors, transforms: Sequence[Compression], generator: torch.Generator
) -> Compressed:
    """What to send of `change` (trained - start), after the `residual` of last time is added to it.

    `start` is the module's version before training; the three have the same names and shapes, but `residual` may lack
    some. Draws come from `generator`, of the CPU, which is to be keyed by `fogtune.platform.rng.key`. Nothing given is
    changed, nothing returned shares memory with it.

    Raises UpdateRejected: a value is NaN, infinite or too large, or layouts differ. ValueError: `transforms` is no
    chain.
    """
    require_chain(transforms)
    require_same_layout(start, change)
    require_same_layout({name: change[name] for name in residual if name in change}, residual)
    x = {name: (change[name].detach() + residual.get(name, 0.0)).contiguous() for name in sorted(change)}
    require_usable(x, weight=1)
    if any(isinstance(it, Skip) and _norm(x) < it.threshold * _norm(start) for it in transforms):
        return Compressed(None, x)
    message = _encode(x, transforms, generator)
    if not any(isinstance(it, Skip | TopK) for it in transforms):
        return Compressed(message, {})
    decoded = decompress(message, transforms)
    rest = {name: tensor - decoded[name] for name, tensor in x.items()}
    return Compressed(message, {name: tensor for name, tensor in rest.items() if bool(tensor.any())})


def decompress(message: Message, transforms: Sequence[Compression]) -> Tensors:
    """The change that a message stands for: float32, the module's names, in sorted order, and shapes."""
    require_chain(transforms)
    for transform in reversed(transforms):
        match transform:
            case Skip():
                pass
            case TopK():
                message = _densify(message)
            case Quantise():
                message = _dequantise(message, transform)
            case _:
                assert_never(transform)
    return {name: message[name] for name in sorted(message)}


def message_size(layout: Mapping[str, torch.Tensor], transforms: Sequence[Compression]) -> int:
    """Bytes of a module's message as safetensors, if it is sent; only names and shapes of `layout` are looked at."""
    require_chain(transforms)
    # A change of zeros takes as many bytes as any other, and no second account of the format can go wrong.
    zeros = {name: torch.zeros(tensor.shape) for name, tensor in layout.items()}
    return len(save(_encode(zeros, transforms, torch.Generator())))


def _encode(tensors: Tensors, transforms: Sequence[Compression], generator: torch.Generator) -> Message:
    message: Message = tensors
    for transform in transforms:
        match transform:
            case Skip():
                pass
            case TopK():
                message = _sparsify(message, transform)
            case Quantise():
                message = _quantise(message, transform, generator)
            case _:
                assert_never(transform)
    return message


def _sparsify(tensors: Tensors, top_k: TopK) -> Message:
    flat, shapes = _flatten(tensors, top_k.kind)
    k = min(max(1, round(top_k.share * len(flat))), len(flat))
    # Stable: of equal magnitudes the first are taken, which torch.topk does not promise.
    indices = flat.abs().sort(descending=True, stable=True).indices[:k].sort().values
    return {"values": flat[indices], "indices": indices.int()} | shapes


def _densify(message: Message) -> Tensors:
    shapes = _shapes(message, "top-k")
    flat = torch.zeros(sum(map(math.prod, shapes.values())))
    flat[message["indices"].long()] = message["values"]
    return _unflatten(flat, shapes)


def _quantise(message: Message, quantise: Quantise, generator: torch.Generator) -> Message:
    top = 2 ** (quantise.bits - 1) - 1
    floats = {name: message[name] for name in sorted(message) if message[name].is_floating_point()}
    steps = {name: _step(tensor, top) for name, tensor in floats.items()}
    levels = {name: _round(tensor.double() / steps[name], generator) for name, tensor in floats.items()}
    flat, shapes = _flatten(levels, quantise.kind)
    packed = {"levels": flat if quantise.bits == 8 else _pack(flat), "scales": torch.tensor(list(steps.values()))}
    return {name: tensor for name, tensor in message.items() if name not in floats} | packed | shapes


def _dequantise(message: Message, quantise: Quantise) -> Message:
    shapes = _shapes(message, quantise.kind)
    levels = _unflatten(message["levels"] if quantise.bits == 8 else _unpack(message["levels"]), shapes)
    floats = {name: levels[name] * step for name, step in zip(shapes, message["scales"], strict=True)}
    ours = {"levels", "scales", *(f"{quantise.kind}/{name}" for name in shapes)}
    return {name: tensor for name, tensor in message.items() if name not in ours} | floats


def _step(tensor: torch.Tensor, top: int) -> float:
    """max|x| / top, rounded up to 16 significant bits: no level is beyond `top`, so none is cut off, a bias."""
    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    mantissa, exponent = math.frexp(largest / top)
    step = math.ldexp(math.ceil(math.ldexp(mantissa, _STEP_BITS)), exponent - _STEP_BITS)
    return max(step, _SMALLEST_STEP)


def _round(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One of the two integers around each x, the upper one with probability x - floor(x); float64 -> int8."""
    below = x.floor()
    above = torch.rand(x.shape, generator=generator, dtype=torch.float64) < x - below
    return (below + above).to(torch.int8)


def _pack(levels: torch.Tensor) -> torch.Tensor:
    """Two levels from -7 to 7 a byte, the earlier one in the lower half; int8 (n,) -> uint8 (ceil(n / 2),)."""
    halves = torch.nn.functional.pad(levels + 8, (0, len(levels) % 2)).to(torch.uint8).view(-1, 2)
    return halves[:, 0] | halves[:, 1] << 4


def _unpack(packed: torch.Tensor) -> torch.Tensor:
    """The levels, and at the end what filled the last byte: uint8 (m,) -> int8 (2 m,)."""
    return torch.stack([packed & 15, packed >> 4], dim=1).flatten().to(torch.int8) - 8


def _flatten(tensors: Tensors, kind: str) -> tuple[torch.Tensor, Message]:
    """All entries in the order of the names, (n,), and the empty tensors that carry names and shapes."""
    shapes = {f"{kind}/{name}": torch.empty(0, *it.shape, dtype=torch.uint8) for name, it in tensors.items()}
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)]), shapes


def _shapes(message: Message, kind: str) -> dict[str, torch.Size]:
    """Name -> shape, in sorted order, from the empty tensors of `_flatten`."""
    prefix = f"{kind}/"
    return {name.removeprefix(prefix): message[name].shape[1:] for name in sorted(message) if name.startswith(prefix)}


def _unflatten(flat: torch.Tensor, shapes: Mapping[str, torch.Size]) -> Tensors:
    sizes = [math.prod(shape) for shape in shapes.values()]
    parts = torch.split(flat[: sum(sizes)], sizes)
    # Copies: safetensors refuses views of one storage, and one tensor kept would keep all.
    return {name: part.reshape(shape).clone() for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _norm(tensors: Tensors) -> float:
    """L2 norm over all entries of a module."""
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors.values()))
