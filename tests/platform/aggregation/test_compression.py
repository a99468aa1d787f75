"""Smaller updates: by hand, unbiased, nothing lost, and of the size that is booked."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load, save

from fogtune.platform.aggregation import Tensors, UpdateRejected
from fogtune.platform.aggregation.compression import compress, decompress, message_size
from fogtune.platform.config.compression import Compression, Quantise, Skip, TopK
from fogtune.platform.rng import key

Bits = Literal[8, 4]
Chain = list[Quantise | TopK | Skip]

SENT = Skip(kind="skip", threshold=1e-30)
THIRD = TopK(kind="top-k", share=1 / 3)
FINE, COARSE = Quantise(kind="quantise", bits=8), Quantise(kind="quantise", bits=4)
CHAINS: list[Chain] = [
    [], [SENT], [THIRD], [FINE], [COARSE], [SENT, THIRD], [SENT, FINE], [SENT, COARSE], [THIRD, FINE],
    [THIRD, COARSE], [SENT, THIRD, FINE], [SENT, THIRD, COARSE],
]  # fmt: skip
WITH_MEMORY = [chain for chain in CHAINS if any(isinstance(it, Skip | TopK) for it in chain)]

names = st.sampled_from(["weight", "bias", "levels", "scales", "values", "indices", "control/weight", "quantise/a"])
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
layouts = st.dictionaries(names, shapes, min_size=1, max_size=5)
chains = st.sampled_from(CHAINS)


def keyed(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(key(1, "compression", *parts))


def drawn(layout: dict[str, tuple[int, ...]], seed: int) -> Tensors:
    generator = keyed("values", seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in layout.items()}


def zeros(tensors: Tensors) -> Tensors:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_is_right_on_average(bits: Bits) -> None:
    x = torch.tensor([1.0, -0.983, 0.777, -0.31, 0.05, 0.0123, -1e-3, 0.0])
    chain: Chain = [Quantise(kind="quantise", bits=bits)]
    count = 2000
    messages = [compress({"w": x}, {"w": x}, {}, chain, keyed(bits, i)).message or {} for i in range(count)]
    decoded = torch.stack([decompress(message, chain)["w"] for message in messages]).double()
    step = messages[0]["scales"].double()
    up = (x.double() / step) % 1  # The probability of the upper level, so the variance is up (1 - up) step**2.
    five_errors = 5 * step * (up * (1 - up) / count).sqrt()
    assert bool(((decoded.mean(0) - x).abs() <= five_errors).all())
    assert bool(((decoded - x).abs() <= step).all())
    nearest = (x.double() / step).round() * step
    assert not bool(((nearest - x).abs() <= five_errors).all())


def test_levels_by_hand() -> None:
    # The steps are 7 / 7 = 1 and 21 / 7 = 3: every value is a level, so nothing is left to chance.
    change = {"b": torch.tensor([[7.0, -3.0, 1.0]]), "a": torch.tensor([-21.0, 3.0])}
    sent = compress(change, change, {}, [COARSE], keyed())
    assert sent.residual == {}
    assert sent.message is not None
    assert sent.message["scales"].tolist() == [3.0, 1.0]
    # Nibbles are level + 8, the earlier in the lower half: -7, 1 | 7, -3 | 1, nothing.
    assert sent.message["levels"].tolist() == [1 | 9 << 4, 15 | 5 << 4, 9]
    decoded = decompress(sent.message, [COARSE])
    assert {name: tensor.tolist() for name, tensor in decoded.items()} == {"a": [-21, 3], "b": [[7, -3, 1]]}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("magnitude", [1e-45, 1e-38, 1e-30, 3e-7, 1.0, 2.0**20])
def test_magnitudes_from_the_smallest_to_the_largest(bits: Bits, magnitude: float) -> None:
    change = {"w": torch.tensor([1.0, -1.0, 0.3, 0.0]) * magnitude}
    chain: Chain = [Quantise(kind="quantise", bits=bits)]
    message = compress(change, change, {}, chain, keyed()).message or {}
    step = float(message["scales"])
    finest = float(change["w"][0]) / (2 ** (bits - 1) - 1)
    assert finest <= step <= max(finest * 1.0001, 2.0**-126)
    decoded = decompress(message, chain)["w"]
    assert bool(((decoded - change["w"]).abs() <= step).all())
    assert decoded[3] == 0


def test_top_k_sends_the_largest_of_the_module_and_keeps_the_rest() -> None:
    change = {"b": torch.tensor([[1.0, -6.0], [4.0, 0.0]]), "a": torch.tensor(5.0), "c": torch.tensor([-4.0])}
    chain: Chain = [TopK(kind="top-k", share=0.5)]
    sent = compress(change, zeros(change), {}, chain, keyed())
    # a, then b by rows, then c: 5 1 -6 4 0 -4. Three of six; of the two of magnitude 4 the first.
    assert sent.message is not None
    assert sent.message["indices"].tolist() == [0, 2, 3]
    assert sent.message["indices"].dtype == torch.int32
    assert sent.message["values"].tolist() == [5, -6, 4]
    decoded = decompress(sent.message, chain)
    assert list(decoded) == ["a", "b", "c"]
    assert {name: tensor.tolist() for name, tensor in decoded.items()} == {"a": 5, "b": [[0, -6], [4, 0]], "c": [0]}
    assert {name: tensor.tolist() for name, tensor in sent.residual.items()} == {"b": [[1, 0], [0, 0]], "c": [-4]}
    # -4 - 4 = -8 and 1 + 6 = 7 now are the largest, with the 3 of a.
    change = {"a": torch.tensor(3.0), "b": torch.tensor([[6.0, 0.0], [0.0, 2.0]]), "c": torch.tensor([-4.0])}
    sent = compress(change, zeros(change), sent.residual, chain, keyed())
    assert sent.message is not None
    assert sent.message["values"].tolist() == [3, 7, -8]
    assert {name: tensor.tolist() for name, tensor in sent.residual.items()} == {"b": [[0, 0], [0, 2]]}


def test_top_k_sends_one_value_at_least() -> None:
    change = {"w": torch.tensor([1.0, 2.0, -3.0])}
    sent = compress(change, change, {}, [TopK(kind="top-k", share=1e-6)], keyed())
    assert sent.message is not None
    assert sent.message["values"].tolist() == [-3]


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(-1000, 1000), min_size=7, max_size=7), min_size=1, max_size=6))
def test_top_k_loses_nothing_over_the_rounds(rounds: list[list[int]]) -> None:
    total, arrived, residual = torch.zeros(7), torch.zeros(7), dict[str, torch.Tensor]()
    for values in rounds:
        change = {"w": torch.tensor(values, dtype=torch.float32)}
        sent = compress(change, zeros(change), residual, [THIRD], keyed())
        total, residual = total + change["w"], sent.residual
        arrived = arrived + decompress(sent.message or {}, [THIRD])["w"]
    assert torch.equal(arrived + residual.get("w", torch.zeros(7)), total)


@pytest.mark.parametrize("chain", WITH_MEMORY)
def test_memory_loses_nothing_over_the_rounds(chain: Chain) -> None:
    layout: dict[str, tuple[int, ...]] = {"a": (3, 5), "b": (), "c": (4,)}
    start, residual = drawn(layout, 0), dict[str, torch.Tensor]()
    total, arrived = zeros(start), zeros(start)
    for i in range(1, 30):
        change = drawn(layout, i)
        sent = compress(change, start, residual, chain, keyed(i))
        decoded = decompress(sent.message or {}, chain)
        total = {name: tensor + change[name] for name, tensor in total.items()}
        arrived = {name: tensor + decoded[name] for name, tensor in arrived.items()}
        residual = sent.residual
    for name, tensor in total.items():
        rest = residual.get(name, torch.zeros(()))
        torch.testing.assert_close(arrived[name] + rest, tensor, rtol=0, atol=1e-4)
        assert float(rest.abs().max()) < 20


def test_a_small_change_waits_until_it_is_large_enough() -> None:
    # ||start|| = 5, so what is smaller than 1 waits.
    start, chain = {"w": torch.tensor([3.0, 4.0])}, [Skip(kind="skip", threshold=0.2)]
    step = {"w": torch.tensor([0.5, 0.0])}
    first = compress(step, start, {}, chain, keyed())
    assert first.message is None
    assert first.residual["w"].tolist() == [0.5, 0]
    second = compress(step, start, first.residual, chain, keyed())
    assert second.message is not None
    assert decompress(second.message, chain)["w"].tolist() == [1, 0]
    assert second.residual == {}
    untouched = {"w": torch.zeros(2)}
    assert compress(step, untouched, {}, chain, keyed()).message is not None


def test_skip_before_top_k_before_quantise() -> None:
    chain: Chain = [Skip(kind="skip", threshold=0.5), TopK(kind="top-k", share=0.4), COARSE]
    start, change = {"w": torch.tensor([0.0, 0, 0, 0, 10.0])}, {"w": torch.tensor([1.0, -7.0, 2.0, 3.0, 0.0])}
    sent = compress(change, start, {}, chain, keyed())
    assert sent.message is not None
    # Two of five values, the step is 7 / 7 = 1; indices are as they were.
    assert sent.message["indices"].tolist() == [1, 3]
    assert sent.message["levels"].tolist() == [(-7 + 8) | (3 + 8) << 4]
    assert decompress(sent.message, chain)["w"].tolist() == [0, -7, 0, 3, 0]
    assert sent.residual["w"].tolist() == [1, 0, 2, 0, 0]
    waiting = compress({"w": torch.zeros(5)}, start, sent.residual, chain, keyed())
    assert waiting.message is None
    assert waiting.residual["w"].tolist() == [1, 0, 2, 0, 0]


@settings(max_examples=100, deadline=None)
@given(layouts, chains, st.integers(0, 9))
def test_any_layout_travels_in_the_bytes_that_are_booked(
    layout: dict[str, tuple[int, ...]], chain: Chain, seed: int
) -> None:
    change = drawn(layout, seed)
    sent = compress(change, change, {}, chain, keyed(seed))
    assert sent.message is not None
    data = save(sent.message)
    assert len(data) == message_size(zeros(change), chain)
    decoded = decompress(load(data), chain)
    assert save(decompress(sent.message, chain)) == save(decoded)
    assert list(decoded) == sorted(layout)
    assert {name: tuple(tensor.shape) for name, tensor in decoded.items()} == layout
    assert {tensor.dtype for tensor in decoded.values()} == {torch.float32}
    if any(isinstance(it, Skip | TopK) for it in chain):
        for name, tensor in decoded.items():
            torch.testing.assert_close(tensor + sent.residual.get(name, 0.0), change[name])


@pytest.mark.parametrize(
    ("chain", "payload"),
    [([THIRD], 333 * (4 + 4)), ([FINE], 1000 + 4), ([COARSE], 500 + 4), ([THIRD, COARSE], 333 * 4 + 167 + 4)],
)
def test_bytes_by_hand(chain: Chain, payload: int) -> None:
    change = {"w": torch.ones(10, 100)}
    header = int.from_bytes(save(compress(change, change, {}, chain, keyed()).message or {})[:8], "little")
    assert message_size(change, chain) == 8 + header + payload


@pytest.mark.parametrize("chain", CHAINS)
def test_zeros_stay_zeros(chain: Chain) -> None:
    change = {"w": torch.zeros(5), "b": torch.zeros(())}
    sent = compress(change, zeros(change), {}, chain, keyed())
    assert sent.message is not None
    assert all(not bool(tensor.any()) for tensor in decompress(sent.message, chain).values())
    assert sent.residual == {}


@pytest.mark.parametrize("chain", [[FINE], [THIRD, COARSE]])
def test_same_key_same_bits_and_no_global_draw(chain: Chain) -> None:
    change = drawn({"w": (40,)}, 3)
    before = torch.random.get_rng_state()
    first, again, other = (save(compress(change, change, {}, chain, keyed(k)).message or {}) for k in (1, 1, 2))
    assert first == again
    assert first != other
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("chain", CHAINS)
def test_inputs_are_neither_changed_nor_shared(chain: Chain) -> None:
    change = {"w": torch.arange(6.0).view(2, 3).t().requires_grad_()}
    residual = {"w": torch.ones(3, 2)}
    sent = compress(change, {"w": torch.ones(3, 2)}, residual, chain, keyed())
    assert sent.message is not None
    before = save(sent.message)
    with torch.no_grad():
        change["w"].zero_()
    assert residual["w"].tolist() == [[1, 1]] * 3
    residual["w"].zero_()
    assert save(sent.message) == before
    assert not any(tensor.requires_grad for tensor in sent.residual.values())


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(chain: Chain, value: float) -> None:
    change = {"w": torch.tensor([1.0, value])}
    with pytest.raises(UpdateRejected, match="not finite in tensor 'w'"):
        compress(change, zeros(change), {}, chain, keyed())
    with pytest.raises(UpdateRejected, match="not finite"):
        compress(zeros(change), zeros(change), change, chain, keyed())


def test_layouts_that_differ_are_refused() -> None:
    change = {"w": torch.ones(2)}
    for other in ({"w": torch.ones(1)}, {"v": torch.ones(2)}):
        with pytest.raises(UpdateRejected, match="layout differs"):
            compress(change, other, {}, [THIRD], keyed())
        with pytest.raises(UpdateRejected, match="layout differs"):
            compress(change, change, other, [THIRD], keyed())


@pytest.mark.parametrize("chain", [[FINE, THIRD], [THIRD, SENT], [THIRD, THIRD], [FINE, COARSE]])
def test_transforms_that_cannot_follow_each_other_are_refused(chain: Chain) -> None:
    change = {"w": torch.ones(2)}
    with pytest.raises(ValueError, match="in the order skip, top-k, quantise"):
        compress(change, change, {}, chain, keyed())
    with pytest.raises(ValueError, match="in the order skip, top-k, quantise"):
        message_size(change, chain)


def test_configuration() -> None:
    sections: TypeAdapter[Compression] = TypeAdapter(Compression)
    assert sections.validate_python({"kind": "quantise"}) == FINE
    assert sections.validate_python({"kind": "top-k", "share": 1}) == TopK(kind="top-k", share=1.0)
    for wrong in (
        {"kind": "quantise", "bits": 2},
        {"kind": "top-k", "share": 0},
        {"kind": "top-k", "share": 1.1},
        {"kind": "skip", "threshold": 0},
    ):
        with pytest.raises(ValidationError):
            sections.validate_python(wrong)
