"""Where a run executes, what it evaluates and what it writes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Name, Section


class Evaluation(Section):
    """What is measured, and when; the last round is always evaluated."""

    every: int = Field(default=1, ge=1)
    """Every how many rounds."""
    personal: bool = True
    """Also evaluate each participating device's own model, after its local training, on its own test part."""
    batch_size: int = Field(default=64, ge=1)
    """Samples a forward pass."""


class Execution(Section):
    """How the work is done; but for `fused_devices`, `precision`, `matmul`, whether on GPUs, and where devices are with
    `placement: labels`, nothing of it changes the result."""

    runner: Literal["ray", "local"] = "ray"
    """`ray`: actors; `local`: this process."""
    devices_per_actor: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Devices that share one host process and its backbone; `auto`: as many hosts as the cluster has processors, or as
    its GPUs have room for."""
    gpus_per_actor: float = Field(default=0.0, ge=0, le=1)
    """Share of a GPU that each host process takes, and computes on (0.25: four hosts a GPU). 0: on processors."""
    nodes_per_actor: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Nodes of a tier between cloud and devices that share one process; `auto`: one each while they are at most twice
    as many as the cluster has processors, else about as many processes as processors."""
    host_retries: int = Field(default=1, ge=0)
    """How often a round asks a host again that has died, with the same result; after that its updates are lost."""
    host_timeout_s: float | None = Field(default=None, gt=0)
    """Wall seconds in which a host must have answered, with all that it was asked before; one that takes longer is
    ended, and treated as one that has died. Null for waiting for ever."""
    restarts: int = Field(default=3, ge=0)
    """How often the run starts its processes again, from its newest checkpoint, if one that no round can do without has
    died; counted anew from every checkpoint. After that it fails, and can be resumed."""
    fused_devices: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Devices of a group that train together, in one pass through what they share; results differ by rounding. 1: one
    after the other. `auto`: 8, or 32 where there is no backbone, fewer of a large model; 256 where none trains."""
    address: str | None = None
    """Ray cluster to join (`auto`, `host:6379`, `ray://host:10001`); null starts one here and stops it after."""
    placement: Literal["simulate", "labels"] = "simulate"
    """`simulate`: processes are spread over the machines of a cluster; `labels`: each node's run on the machine that is
    labelled `fogtune.io/node=<its id>` (`ray start --labels`), and devices that train together are of one machine."""
    machines: dict[Name, tuple[str, ...]] = Field(default={})
    """With `labels`, machines that are more than one node: label -> ids of nodes, or patterns (`watch-*`)."""
    prefix_cache_bytes: int = Field(default=2**31, ge=0)
    """Memory a host may keep frozen prefixes in; what does not fit is read from disk, or computed, each time."""
    prefix_disk_bytes: int = Field(default=2**32, ge=0)
    """Disk that prefixes of all runs may take in the user's cache (`$FOGTUNE_CACHE`, `$XDG_CACHE_HOME/fogtune` or
    `~/.cache/fogtune`), from which later runs read them; those used longest ago make room. 0 keeps none there."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of products in the fusion blocks; with bf16, what is trained, what is summed and norms stay fp32. On processors
    without bf16 it takes longer than fp32, and a warning in the log says so."""
    matmul: Literal["auto", "default", "onednn"] = "auto"
    """Library of fp32 products; `auto` is oneDNN on AMD processors with AVX-512 (up to 2.2 times as fast there).
    They round differently: for the same bits on machines of different kinds, name one."""


class Output(Section):
    """What a run leaves on disk."""

    directory: str = "runs"
    """Runs are written to `<directory>/<run-id>`."""
    checkpoint_every: int = Field(default=1, ge=1)
    """Every how many rounds all state is written, from which a run is resumed; the last round always is. Until then
    rounds and ledger rows may be lost with the machine: they are made again, to the same bits."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """The newest so many are kept."""
    keep_every: int | None = Field(default=None, ge=1)
    """Checkpoints of every so many rounds are kept for good; a multiple of `checkpoint_every`."""
    keep_best: bool = False
    """Also keep the checkpoint of the best evaluated round: by the mean over tasks of accuracy, F1 or R2."""
    publish_every: int = Field(default=1, ge=1)
    """Every how many rounds the modules are published as `modules/v<N>`; the last round always is."""
    sinks: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    """Tools that each round's numbers are also written to, besides the run's directory: `pip install
    'fogtune[tensorboard]'`, or `'fogtune[mlflow]'`. One that fails while the run goes on is left out."""
