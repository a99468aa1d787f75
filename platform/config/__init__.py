"""The configuration: one pydantic tree. `load` reads it, `check` refuses combinations that cannot work."""

from .data import (
    DirichletPartition,
    EmbeddedSource,
    FolderSource,
    HeldOut,
    HuggingFaceSource,
    IidPartition,
    NaturalPartition,
    Partition,
    ShardPartition,
    Source,
    Task,
)
from .execution import Evaluation, Execution, Output
from .federation import (
    FedAdam,
    FedAvg,
    FedAvgM,
    Federation,
    FedProx,
    FedYogi,
    Local,
    Median,
    ModulePolicy,
    Rule,
    Scaffold,
    TrimmedMean,
)
from .model import Adapter, Backbone, Encoder, Experts, ImageEncoder, Model, Prompts, SeriesEncoder
from .root import Config
from .topology import CountedTopology, DeviceGroup, ListedTopology, PlacedTopology, Tier, Topology

__all__ = [
    "Adapter", "Backbone", "Config", "CountedTopology", "DeviceGroup", "DirichletPartition", "EmbeddedSource",
    "Encoder", "Evaluation", "Execution", "Experts", "FedAdam", "FedAvg", "FedAvgM", "FedProx", "FedYogi",
    "Federation", "FolderSource", "HeldOut", "HuggingFaceSource", "IidPartition", "ImageEncoder", "ListedTopology",
    "Local", "Median", "Model", "ModulePolicy", "NaturalPartition", "Output", "Partition", "PlacedTopology",
    "Prompts", "Rule", "Scaffold", "SeriesEncoder", "ShardPartition", "Source", "Task", "Tier", "Topology",
    "TrimmedMean",
]  # fmt: skip
