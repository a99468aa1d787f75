"""Where a process computes: on its processor, or on a GPU.

On a GPU, kernels that add up in no fixed order are not used, so that there too a run is repeated bit for bit; and fp32
is fp32, where torch's convolutions would round to the 10 bits of TF32.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from fogtune.platform.errors import InputError


def choose(gpus: float) -> torch.device:
    """The device for a process that is given so many GPUs, 0 to 1; which one, `CUDA_VISIBLE_DEVICES` says.

    Raises:
        InputError: this torch sees no GPU.
    """
    if not gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        build = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built for processors alone"
        problem = f"{gpus:g} given, but torch {torch.__version__}, which {build}, sees no GPU here; allowed: 0"
        raise InputError("execution.gpus_per_actor", problem)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, products on several streams may differ
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nobody reads it
    return torch.device("cuda")


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. Onto a GPU it goes through pinned memory: a plain `to` would wait until the GPU has
    computed all that it was asked for before."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # What is expanded has no memory of its own to be pinned.
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
