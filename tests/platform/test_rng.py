"""Keyed randomness: a key is all that a draw depends on."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch

from fogtune.platform.rng import key, numpy_generator, torch_seed

KEYS: list[tuple[int, str, tuple[str | int, ...]]] = [
    (0, "batches", ()),
    (1, "batches", ()),
    (0, "init", ()),
    (0, "batches", (1, "camera-0")),
    (0, "batches", (2, "camera-0")),
    (0, "batches", (1, "camera-1")),
    (0, "batches", ("camera-0", 1)),
    (0, "batches", (1,)),
    (0, "batches", (1, "camera-0", 0)),
    (0, "batches", (12,)),
    (0, "batches", (1, 2)),
]


def test_every_part_counts() -> None:
    assert len({key(seed, purpose, *parts) for seed, purpose, parts in KEYS}) == len(KEYS)
    drawn = {tuple(numpy_generator(seed, purpose, *parts).integers(0, 2**32, 4)) for seed, purpose, parts in KEYS}
    assert len(drawn) == len(KEYS)


def test_keys_are_pinned() -> None:
    # Python's own hash differs between processes, and a checkpoint outlives them.
    assert key(0, "init", "head/vqa") == 8464548666639453984
    assert key(7, "batches", 3, "camera-17", 0) == 2589996117769881325
    assert all(0 <= key(seed, "x") < 2**63 for seed in range(200))


def test_generators_of_a_key_are_alike_and_apart() -> None:
    first, second = numpy_generator(0, "x"), numpy_generator(0, "x")
    first.random(100)  # draws from one do not move the other
    assert second.random() == numpy_generator(0, "x").random()


def test_torch_seed_makes_draws_a_function_of_the_key() -> None:
    draws = []
    for advance in (0, 5):
        torch.rand(advance)
        with torch_seed(0, "init", "head/vqa"):
            draws.append(torch.rand(3))
    with torch_seed(0, "init", "head/topic"):
        other = torch.rand(3)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], other)


@pytest.mark.parametrize("fails", [False, True])
def test_torch_seed_gives_the_global_state_back(fails: bool) -> None:
    before = torch.get_rng_state()
    with suppress(RuntimeError), torch_seed(0, "init"):
        torch.rand(3)
        if fails:
            raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_nest() -> None:
    with torch_seed(0, "outer"):
        expected = torch.rand(2)
    with torch_seed(0, "outer"):
        first = torch.rand(1)
        with torch_seed(0, "inner"):
            torch.rand(10)
        second = torch.rand(1)
    assert torch.equal(torch.cat([first, second]), expected)
