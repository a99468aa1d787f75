"""Samples together: only where that changes no bit, which one trial a shape tells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from fogtune.platform.config import Backbone as BackboneConfig
from fogtune.platform.config import ImageEncoder as ImageConfig
from fogtune.platform.model.backbone import Backbone
from fogtune.platform.model.image import ImageEncoder
from fogtune.platform.model.same_bits import SIZES, SameBits


class Network:
    """Doubles numbers; a pass of `odd` of them is a little off, and each pass is noted."""

    def __init__(self, odd: int = 0) -> None:
        self.odd = odd
        self.passes: list[int] = []

    def __call__(self, some: list[float]) -> list[Tensor]:
        self.passes.append(len(some))
        off = 1e-7 if len(some) == self.odd else 0.0
        return [torch.tensor([2 * number + off]) for number in some]


def numbers(found: list[Tensor]) -> list[float]:
    return [float(one) for one in found]


def test_passes_are_as_large_as_they_can_be() -> None:
    network, same = Network(), SameBits()
    samples = [float(i) for i in range(15)]
    assert numbers(same(samples, lambda _: 0, network)) == [2 * one for one in samples]
    assert network.passes == [*[1] * 8, 8, *[1] * 4, 4, *[1] * 2, 2, 1]  # each number is tried once
    network.passes.clear()
    assert numbers(same(samples, lambda _: 0, network)) == [2 * one for one in samples]
    assert network.passes == [8, 4, 2, 1]


def test_a_pass_that_changes_a_bit_is_not_taken_again() -> None:
    network, same = Network(odd=4), SameBits()
    samples = [0.25, 0.5, 0.75, 1.0]
    for _ in range(2):
        assert numbers(same(samples, lambda _: 0, network)) == [0.5, 1.0, 1.5, 2.0]
    assert network.passes == [*[1] * 4, 4, *[1] * 2, 2, 2]


def test_shapes_do_not_mix_and_order_is_kept() -> None:
    network, same = Network(), SameBits()
    samples = [1.0, -1.0, 2.0, -2.0, 3.0]
    assert numbers(same(samples, lambda one: one > 0, network)) == [2.0, -2.0, 4.0, -4.0, 6.0]
    assert network.passes == [1, 1, 2, 1, 1, 1, 2]
    assert same([], lambda _: 0, network) == []


def test_a_trial_is_of_a_number_of_threads() -> None:
    network, same = Network(), SameBits()
    threads = torch.get_num_threads()
    same([1.0, 2.0], lambda _: 0, network)
    try:
        torch.set_num_threads(threads + 1)
        same([1.0, 2.0], lambda _: 0, network)
    finally:
        torch.set_num_threads(threads)
    assert network.passes == [1, 1, 2] * 2


# Real networks: bits of `prefix`, whatever the number of samples and whoever shares the pass


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(BackboneConfig(max_text_tokens=12, fusion_blocks=2))


@pytest.fixture(scope="module")
def trunk() -> ImageEncoder:
    return ImageEncoder(ImageConfig(size_px=96), 8, "model.encoders.image")


def check(
    samples: list[object],
    alone: Callable[[object], Tensor],
    together: Callable[[list[object]], list[Tensor]],
) -> None:
    expected = [alone(sample) for sample in samples]
    generator = np.random.default_rng(0)
    for count in (1, 2, 3, *SIZES, 15, len(samples)):
        for order in (np.arange(count), generator.permutation(len(samples))[:count]):
            found = together([samples[i] for i in order])
            assert all(torch.equal(one, expected[i]) for one, i in zip(found, order, strict=True)), (count, order)


def test_texts_have_the_bits_that_they_have_alone(backbone: Backbone) -> None:
    words = ("a", "red", "shape", "is", "on", "the", "left", "of", "some", "other")
    texts = [" ".join(words[i % 3 : 3 + i % 5] * (1 + i % 2)) for i in range(20)]
    check(list(texts), backbone.text_tokens, backbone.texts_tokens_exactly)  # type: ignore[arg-type]


def test_images_have_the_bits_that_they_have_alone(trunk: ImageEncoder) -> None:
    generator = np.random.default_rng(0)
    shapes = [(64, 64), (20, 50), (96, 96)]
    pictures = [generator.integers(0, 256, (*shapes[i % 3], 3)).astype(np.uint8) for i in range(20)]
    check(list(pictures), trunk.prefix, trunk.prefixes_exactly)  # type: ignore[arg-type]
