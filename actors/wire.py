"""Tensors on their way between processes: as the arrays that they are, read where they lie, without a copy.

Ray shares arrays between the processes of a machine, but would pickle a tensor. What comes out is memory that many
processes read and none may write: whoever changes a tensor in place does so with one of its own.
"""

from __future__ import annotations

import warnings

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.util import register_serializer


def share_tensors() -> None:
    """Let this process send tensors so, if it is connected to Ray. Who receives needs nothing."""
    if ray.is_initialized():
        register_serializer(torch.Tensor, serializer=_to_array, deserializer=_to_tensor)


def _to_array(tensor: torch.Tensor) -> NDArray[np.generic]:
    return tensor.detach().cpu().contiguous().numpy()


def _to_tensor(array: NDArray[np.generic]) -> torch.Tensor:
    with warnings.catch_warnings():  # that nobody may write it is what is wanted
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
