"""Keyed randomness: every draw comes from a generator named by (run seed, purpose, and what else tells draws apart).

No draw depends on how many draws came before it elsewhere, so a rerun, a resumed run and a run on another number of
processes see the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def key(seed: int, purpose: str, *parts: str | int) -> int:
    """A 63-bit integer that depends on every argument and on nothing else."""
    text = "\x1f".join([str(seed), purpose, *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, purpose: str, *parts: str | int) -> np.random.Generator:
    """A NumPy generator of its own for this key."""
    return np.random.Generator(np.random.Philox(key(seed, purpose, *parts)))


@contextmanager
def torch_seed(seed: int, purpose: str, *parts: str | int) -> Iterator[None]:
    """Within the block torch's default CPU generator is seeded by this key; after it, it is as it was before.

    For the initialisers of `torch.nn` and PEFT, which draw from the default generator and take no other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, purpose, *parts))
        yield
