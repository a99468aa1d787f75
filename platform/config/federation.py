"""How devices learn and how what they learned is averaged: local learning, server rules, scopes, cadences."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .availability import Availability
from .base import Name, Section
from .compression import Compression
from .synchrony import Synchrony


class Local(Section):
    """What a device does in a round."""

    epochs: float = Field(default=1.0, gt=0, le=10_000)
    """Passes over its training part; with 0.5 a round takes one half of it and the next round the other."""
    batch_size: int = Field(default=16, ge=1)
    """Samples a step."""
    group_by_length: bool = False
    """Whether batches are made of samples of about one length: sorted among those of eight batches at a time, as
    transformers' `TrainingArguments` has it. Texts and series that differ in length are trained sooner so, with less
    padding; which samples meet in a batch is less random."""
    optimizer: Literal["adamw", "sgd", "none"] = "adamw"
    """Made anew each round; nothing of it is kept or sent. With `none` nothing is trained: each device sends back what
    it got, with its weight, to measure what a federation costs beside the training."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Step size after warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Over the whole run; cosine ends at a tenth of `learning_rate`."""
    warmup_rounds: float = Field(default=0.0, ge=0)
    """Rounds over which the step size rises linearly from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of AdamW; L2 penalty of SGD."""
    logit_adjustment: float = Field(default=0.0, ge=0)
    """Weight of the log frequencies of the device's own labels, which are added to its logits in the loss: against
    label skew, as a device then does not learn what its labels are like (Menon et al., arXiv 2007.07314, eq. 10; among
    devices: Zhang et al., FedLC, arXiv 2209.00189). 0 for none; 1 makes the mean model calibrated to even labels. Log
    odds for multi-label tasks; regression is left as it is."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm; null for never."""


class FedAvg(Section):
    """Weighted mean (McMahan et al., arXiv 1602.05629)."""

    kind: Literal["fedavg"] = "fedavg"
    """FedAvg."""


class FedProx(Section):
    """FedAvg, with mu/2 * ||w - w_start||^2 added to each device's loss (Li et al., arXiv 1812.06127)."""

    kind: Literal["fedprox"]
    """FedProx."""
    mu: float = Field(default=0.01, gt=0)
    """Weight of the proximal term."""


class FedAvgM(Section):
    """Server momentum (Hsu et al., arXiv 1909.06335): v <- beta v + delta; w <- w + lr v."""

    kind: Literal["fedavgm"]
    """FedAvgM."""
    learning_rate: float = Field(default=1.0, gt=0)
    """Server step size."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """beta."""


class _Adaptive(Section):
    learning_rate: float = Field(default=0.01, gt=0)
    """Server step size."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the second moment."""
    tau: float = Field(default=1e-3, gt=0)
    """Degree of adaptivity: added to the root of the second moment."""


class FedAdam(_Adaptive):
    """Adam on the mean change (Reddi et al., arXiv 2003.00295, algorithm 2)."""

    kind: Literal["fedadam"]
    """FedAdam."""


class FedYogi(_Adaptive):
    """Yogi on the mean change (Reddi et al., arXiv 2003.00295, algorithm 2)."""

    kind: Literal["fedyogi"]
    """FedYogi."""


class Scaffold(Section):
    """Control variates against client drift (Karimireddy et al., arXiv 1910.06378); needs `local.optimizer: sgd`."""

    kind: Literal["scaffold"]
    """SCAFFOLD."""
    learning_rate: float = Field(default=1.0, gt=0)
    """Server step size."""


class Median(Section):
    """Coordinate-wise median of the device updates where they first meet (Yin et al., arXiv 1803.01498)."""

    kind: Literal["median"]
    """Median."""
    max_held: int = Field(default=64, ge=1)
    """A node with more children than this is refused: the median must hold every update."""


class TrimmedMean(Section):
    """Coordinate-wise mean without the extremes, where device updates first meet (Yin et al., arXiv 1803.01498)."""

    kind: Literal["trimmed-mean"]
    """Trimmed mean."""
    trim: float = Field(default=0.1, ge=0, lt=0.5)
    """Share of the updates left out at either end."""
    max_held: int = Field(default=64, ge=1)
    """A node with more children than this is refused: the trimmed mean must hold every update."""


Rule = Annotated[
    FedAvg | FedProx | FedAvgM | FedAdam | FedYogi | Scaffold | Median | TrimmedMean, Field(discriminator="kind")
]


class ModulePolicy(Section):
    """Scope and cadence of the modules whose name matches; a later match wins over an earlier one."""

    match: str
    """Module name with wildcards: `head/*`, `encoder/image`, `*`."""
    scope: Name | None = None
    """Highest tier at which the module is averaged: `cloud`, a tier's name (`fog`), or `device` (personal)."""
    cadence: dict[Name, Annotated[int, Field(ge=1)]] | None = None
    """Tier -> every how many rounds its nodes send the module upward; in place of `federation.cadence`."""
    compression: tuple[Compression, ...] | None = None
    """What makes the module's updates smaller; in place of `federation.compression`."""


class Adaptive(Section):
    """Cadences chosen a module while the run goes on: seldom for what costs much and hardly moves."""

    tier: Name = "fog"
    """Tier whose nodes send by these cadences, as multiples of the modules' own."""
    budget: float = Field(default=0.5, gt=0, le=1)
    """Share of the bytes of cadence 1 that the modules together may take."""
    longest: int = Field(default=8, ge=1)
    """None is chosen longer; they are powers of two. In the last round nothing is held back."""


Share = Annotated[float, Field(ge=0, le=1)]


class Federation(Section):
    """How modules are averaged."""

    rule: Rule = FedAvg()
    """Server rule; it acts at the module's scope, tiers below it take the mean."""
    cadence: dict[Name, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Tier -> every how many rounds its nodes send modules upward, 1 where absent. `{fog: 2}` is the paper's
    E_agg = 2; a tier's cadence is a multiple of that of the tier below."""
    adaptive: Adaptive | None = None
    """Cadences by how much a module still moves for what it costs; null for fixed ones."""
    compression: tuple[Compression, ...] = ()
    """What makes updates smaller, in the order skip, top-k, quantise; statistics are always sent as they are. Cluster
    heads and nodes only quantise what they send on."""
    compress_down: bool = False
    """Of modules that are quantised, nodes send new versions down as quantised changes too, to children that have the
    version before."""
    modules: tuple[ModulePolicy, ...] = ()
    """Exceptions a module."""
    participation: float = Field(default=1.0, gt=0, le=1)
    """Share of the devices that have joined and are there which trains in a round, drawn at random; at least one."""
    sampling: Literal["uniform", "data", "cost", "loss"] = "uniform"
    """By what they are drawn: all alike; by how many samples they have; the more likely the sooner they would be done
    (needs a network); by the loss of their last training, those that have none first."""
    availability: Availability | None = None
    """When devices are there; null for always."""
    synchrony: dict[Name, Synchrony] = Field(default_factory=dict)
    """Tier -> whom its nodes wait for; for all where absent. By the virtual clock, so it needs a network."""
    quorum: Share | dict[Name, Share] = 1.0
    """Least share of the updates that are waited for in a round that must arrive; below it the run fails. Or tier ->
    least share of what each of its nodes waits for from its children, 1 for tiers that are left out."""
