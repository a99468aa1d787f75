"""The configuration: one pydantic tree. `load` reads it, `check` refuses combinations that cannot work."""

from .availability import Availability, Churn, Diurnal, Trace
from .compression import Compression, Quantise, Skip, TopK
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
    Adaptive,
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
from .model import Adapter, Backbone, Encoder, Experts, FeaturesEncoder, ImageEncoder, Model, Prompts, SeriesEncoder
from .network import (
    D2D,
    Backhaul,
    DeviceClass,
    FrequencyScaled,
    LogDistance,
    Network,
    PaperChannel,
    Placement,
    Power,
    Radio,
    ThreeGpp,
)
from .root import Config
from .synchrony import Asynchronous, SemiSynchronous, Synchronous, Synchrony
from .topology import CountedTopology, DeviceGroup, ListedTopology, PlacedTopology, Tier, Topology

__all__ = [
    "D2D", "Adapter", "Adaptive", "Asynchronous", "Availability", "Backbone", "Backhaul", "Churn", "Compression",
    "Config", "CountedTopology", "DeviceClass", "DeviceGroup", "DirichletPartition", "Diurnal", "EmbeddedSource",
    "Encoder", "Evaluation", "Execution", "Experts", "FeaturesEncoder", "FedAdam", "FedAvg", "FedAvgM", "FedProx",
    "FedYogi", "Federation", "FolderSource", "FrequencyScaled", "HeldOut", "HuggingFaceSource", "IidPartition",
    "ImageEncoder", "ListedTopology", "Local", "LogDistance", "Median", "Model", "ModulePolicy", "NaturalPartition",
    "Network", "Output", "PaperChannel", "Partition", "PlacedTopology", "Placement", "Power", "Prompts", "Quantise",
    "Radio", "Rule", "Scaffold", "SemiSynchronous", "SeriesEncoder", "ShardPartition", "Skip", "Source", "Synchronous",
    "Synchrony", "Task", "ThreeGpp", "Tier", "TopK", "Topology", "Trace", "TrimmedMean",
]  # fmt: skip
