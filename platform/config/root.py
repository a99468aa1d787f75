"""The root of the configuration tree."""

from __future__ import annotations

from pydantic import Field

from .base import Name, Section
from .data import Source, Task
from .execution import Evaluation, Execution, Output
from .federation import Federation, Local
from .model import Model
from .network import Network
from .topology import CountedTopology, DeviceGroup, Topology


class Config(Section):
    """One training job, whole: who takes part, on what data, with which model, averaged how, executed where."""

    name: Name = "run"
    """Start of the run's id."""
    seed: int = Field(default=0, ge=0)
    """Seed of every random draw of the run."""
    rounds: int = Field(default=8, ge=1)
    """Number of rounds."""
    topology: Topology = CountedTopology()
    """The tree of nodes above the devices."""
    devices: tuple[DeviceGroup, ...] = Field(min_length=1)
    """The devices, a group a kind."""
    sources: dict[Name, Source] = Field(min_length=1)
    """Name -> data source."""
    tasks: dict[Name, Task] = Field(min_length=1)
    """Name -> task."""
    model: Model = Model()
    """The M3T model."""
    local: Local = Local()
    """Local learning."""
    federation: Federation = Federation()
    """Aggregation."""
    network: Network | None = None
    """What transfers and computations take; null for no costs at all."""
    evaluation: Evaluation = Evaluation()
    """Evaluation."""
    execution: Execution = Execution()
    """Execution; has no influence on results."""
    output: Output = Output()
    """Files."""
