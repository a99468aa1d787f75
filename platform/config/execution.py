"""Where a run executes, what it evaluates and what it writes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Section


class Evaluation(Section):
    """What is measured, and when; the last round is always evaluated."""

    every: int = Field(default=1, ge=1)
    """Every how many rounds."""
    personal: bool = True
    """Also evaluate each participating device's own model, after its local training, on its own test part."""
    batch_size: int = Field(default=64, ge=1)
    """Samples a forward pass."""


class Execution(Section):
    """How the work is spread over processes; but for `matmul`, none of it changes a single bit of the result."""

    runner: Literal["ray", "local"] = "ray"
    """`ray`: actors; `local`: this process, one device after the other."""
    devices_per_actor: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Devices that share one host process and its backbone; `auto`: as many hosts as the cluster has processors."""
    address: str | None = None
    """Ray cluster to join (`auto`, `host:6379`, `ray://host:10001`); null starts one here and stops it after."""
    prefix_cache_bytes: int = Field(default=2**31, ge=0)
    """Memory a host may keep frozen prefixes in; what does not fit is computed again each time."""
    matmul: Literal["auto", "default", "onednn"] = "auto"
    """Library of fp32 products with frozen weights; `auto` is oneDNN on AMD processors (2.2 times as fast there). They
    round differently: for the same bits on machines of different kinds, name one."""


class Output(Section):
    """What a run leaves on disk."""

    directory: str = "runs"
    """Runs are written to `<directory>/<run-id>`."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """The newest so many are kept."""
    publish_every: int = Field(default=1, ge=1)
    """Every how many rounds the modules are published as `modules/v<N>`; the last round always is."""
