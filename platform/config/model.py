"""The M3T model: backbone, encoders, adapters, prompts, experts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Name, Section


class Backbone(Section):
    """The frozen pretrained transformer; its upper blocks fuse the modalities."""

    name: str = "embedded:minilm"
    """`embedded:minilm`, a Hugging Face hub name, or a local directory."""
    fusion_blocks: int = Field(default=2, ge=1)
    """Upper blocks that see all modalities and carry adapters and experts; the others encode text and are cached."""
    max_text_tokens: int = Field(default=64, ge=4)
    """Texts are cut to so many tokens."""


class ImageEncoder(Section):
    """Frozen vision trunk (cached), then a trained linear projector from its feature map to tokens."""

    kind: Literal["image"] = "image"
    """Image."""
    trunk: str = "embedded:efficientnet-lite0"
    """`embedded:efficientnet-lite0`, or hub name or local directory of a Hugging Face vision model."""
    size_px: int = Field(default=128, ge=32)
    """Images are resized to a square of this side, pixels."""


class SeriesEncoder(Section):
    """Trained 1-D convolutions over a sensor series (or a log-mel spectrogram): T x C values -> T/8 tokens."""

    kind: Literal["series"] = "series"
    """Series."""
    channels: int = Field(ge=1)
    """Channels of the series."""
    width: int = Field(default=64, ge=4)
    """Channels of the first convolution; the second has twice as many."""
    kernel: int = Field(default=7, ge=3)
    """Samples that a convolution sees (odd)."""


class FeaturesEncoder(Section):
    """Trained linear layers over a vector of numbers, each with a ReLU; of a series, over each step alone: T tokens."""

    kind: Literal["features"] = "features"
    """Features."""
    channels: int = Field(ge=1)
    """Numbers of a vector, or channels of a series."""
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Widths of hidden layers; the last layer's is the model's."""
    standardise: bool = True
    """Inputs are standardised by the federation's statistics; false where they are already."""


Encoder = Annotated[ImageEncoder | SeriesEncoder | FeaturesEncoder, Field(discriminator="kind")]


class Adapter(Section):
    """LoRA (Hu et al., arXiv 2106.09685) on the linear layers of the fusion blocks, by PEFT."""

    rank: int = Field(default=8, ge=1)
    """Rank of the update."""
    alpha: int = Field(default=16, ge=1)
    """Scale of the update is alpha / rank."""
    targets: tuple[str, ...] | None = None
    """Names of linear layers, as PEFT's `target_modules`; by default every linear layer of a fusion block but key."""


class Prompts(Section):
    """Trained tokens in front of the input, a set a task."""

    tokens: int = Field(default=4, ge=1)
    """Tokens a task."""


class Experts(Section):
    """Sparse mixture of experts after each fusion block: bottleneck experts, a top-k router a sample.

    A sample is routed as a whole (Kudugunta et al., arXiv 2110.03742), by the mean of its tokens; load-balancing loss
    of Fedus et al. (arXiv 2101.03961).
    """

    count: int = Field(default=8, ge=2)
    """Number of experts."""
    top_k: int = Field(default=2, ge=1)
    """Experts a sample uses; at most `count`."""
    width: int = Field(default=32, ge=1)
    """Width of an expert's bottleneck."""
    per_device: int = Field(default=4, ge=1)
    """A device keeps so many experts at most, those that its samples used most; only these travel. At least `top_k`."""
    explore: int = Field(default=1, ge=0)
    """Besides those that it kept last, a device is sent so many others, drawn anew each round."""
    balance: float = Field(default=0.001, ge=0)
    """Weight of the load-balancing loss; it acts on a device, where samples of one kind should not use all experts."""


class Model(Section):
    """The multi-modal multi-task model that the federation fine-tunes."""

    backbone: Backbone | None = Backbone()
    """The shared pretrained transformer; null for none: encoders' tokens go straight to pooling and heads."""
    width: int | None = Field(default=None, ge=1)
    """Width of tokens where there is no backbone; with one it is the backbone's."""
    encoders: dict[Name, Encoder] = Field(default_factory=dict)
    """Modality -> encoder; text needs none (the backbone's embedding and lower blocks are its encoder)."""
    adapter: Adapter | None = Adapter()
    """Adapters on the fusion blocks; null for none."""
    prompts: Prompts | None = Prompts()
    """Prompt tokens a task; null for none."""
    interaction_rank: int = Field(default=64, ge=0, le=4096)
    """Heads of tasks with several inputs see each modality pooled for itself, and products of this rank between them
    (low-rank bilinear pooling, Kim et al., arXiv 1610.04325), read again by the task's first input, which asks; 0 pools
    all tokens together."""
    experts: Experts | None = None
    """Mixture of experts; null for none."""
