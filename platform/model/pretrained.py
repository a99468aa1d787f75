"""Pretrained Hugging Face models, frozen, with errors of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fogtune.platform.errors import InputError


def load_model(where: str) -> Any:
    """The model of a hub name or a local directory: fp32, from safetensors, frozen, without dropout.

    Raises whatever `loading` turns into an InputError.
    """
    import torch
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = AutoModel.from_pretrained(where, dtype=torch.float32, use_safetensors=True)
    return model.requires_grad_(False).eval()


@contextmanager
def loading(field: str, name: str, allowed: str) -> Iterator[None]:
    """Within the block, what goes wrong when the model `name` is loaded becomes an InputError about `field`."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, ImportError, SafetensorError) as error:  # ImportError: a tokenizer's own package
        problem = f"{name!r} cannot be loaded ({first_line(error)})"
        raise InputError(field, f"{problem}; allowed: {allowed}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
