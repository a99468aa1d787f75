"""Data: sources, how each is split among devices and held-out data, and the tasks defined on them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .base import Name, Section

OWN = "{device}"
"""In the path of a folder: the id of the device that it belongs to."""


class NaturalPartition(Section):
    """One device a natural group (subject, outlet, vendor): groups in sorted order go to the devices in order."""

    kind: Literal["natural"] = "natural"
    """By natural group."""


class DirichletPartition(Section):
    """Label skew: each device draws its label proportions from Dirichlet(alpha) (Hsu et al., arXiv 1909.06335)."""

    kind: Literal["dirichlet"]
    """Dirichlet label skew."""
    label: Name
    """Label column whose values are skewed."""
    alpha: float = Field(default=0.3, gt=0)
    """Concentration: small is skewed (0.1), large is IID (100)."""


class ShardPartition(Section):
    """Samples sorted by label are cut into equal shards, dealt to devices at random (McMahan et al., 2017)."""

    kind: Literal["shards"]
    """Shards."""
    label: Name
    """Label column to sort by."""
    per_device: int = Field(default=2, ge=1)
    """Shards a device gets."""


class IidPartition(Section):
    """Samples are shuffled and dealt evenly."""

    kind: Literal["iid"]
    """IID."""


Partition = Annotated[
    NaturalPartition | DirichletPartition | ShardPartition | IidPartition, Field(discriminator="kind")
]


class HeldOut(Section):
    """Data that no device trains on, for the evaluation of the global model: exactly one way to choose it."""

    split: Name | None = None
    """Name of the source's own split (`test`)."""
    groups: tuple[str, ...] | None = None
    """Natural groups kept back whole (`["8", "9", "10"]`: unseen subjects)."""
    fraction: float | None = Field(default=None, gt=0, lt=1)
    """Share of the samples, drawn at random."""
    path: str | None = None
    """A folder of its own, where devices have theirs; it lies with the cloud."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many samples, drawn at random from the held-out ones."""

    @model_validator(mode="after")
    def _one_way(self) -> HeldOut:
        if sum(value is not None for value in (self.split, self.groups, self.fraction, self.path)) != 1:
            raise ValueError("give exactly one of split, groups, fraction, path")
        return self


class _Source(Section):
    held_out: HeldOut = HeldOut(fraction=0.2)
    """What no device trains on."""
    partition: Partition = NaturalPartition()
    """How the rest is split among the devices that execute a task of this source."""
    samples_per_device: int | None = Field(default=None, ge=2)
    """At most so many samples a device, its test part included; drawn at random."""
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of a device's samples that it never trains on, for its personalised model; at least one sample."""


class EmbeddedSource(_Source):
    """Real data that ships in a package, installed by hash by `make demo`."""

    kind: Literal["embedded"] = "embedded"
    """Embedded."""
    asset: Literal["easy-vqa", "seglearn", "bbc-news"]
    """Which: easy-vqa (text, image; label `answer`), seglearn (imu; labels `exercise`, `side`; group: subject),
    bbc-news (text; label `topic`)."""


class HuggingFaceSource(_Source):
    """A Hugging Face dataset, by hub name or as a directory written by `save_to_disk`."""

    kind: Literal["huggingface"]
    """Hugging Face."""
    path: str
    """Hub name (`owner/name`) or local directory."""
    configuration: str | None = None
    """Hub configuration ("subset") of the dataset."""
    train_split: str = "train"
    """Split that devices share; a split named in `held_out.split` is read besides."""
    columns: dict[Name, str] = Field(min_length=1)
    """Modality -> column: `{text: question, image: image}`."""
    labels: dict[Name, str] = Field(min_length=1)
    """Label -> column: `{answer: label}`."""
    group: str | None = None
    """Column of the natural group, for natural partitions and held-out groups."""


class FolderSource(_Source):
    """A folder of the user's own with a `metadata.jsonl` or `metadata.csv`, one sample a row.

    Values of modality columns are text, or paths below the folder: images (png, jpg), series (npy or csv, T x C) or
    vectors (npy, C).
    """

    kind: Literal["folder"]
    """Folder."""
    path: str
    """The folder. With `{device}` in it, each device has its own, by its id, which only its machine reads."""
    columns: dict[Name, str] = Field(min_length=1)
    """Modality -> column."""
    labels: dict[Name, str] = Field(min_length=1)
    """Label -> column; a multi-label value is a list (jsonl) or separated by `|` (csv)."""
    group: str | None = None
    """Column of the natural group."""


Source = Annotated[EmbeddedSource | HuggingFaceSource | FolderSource, Field(discriminator="kind")]


class Task(Section):
    """What a device can be asked: inputs, a label, a head."""

    source: Name
    """Source whose samples it is learned from."""
    inputs: tuple[Name, ...] = Field(min_length=1)
    """Modalities that it reads, first the one that asks, if any does; a device may lack some of them."""
    label: Name
    """Label column of the source."""
    head: Literal["classification", "multilabel", "regression"] = "classification"
    """Kind of head, with its loss and its metric."""
    epochs: float | None = Field(default=None, gt=0, le=10_000)
    """Passes of a round over a device's samples for it; null for `local.epochs`. Fewer for what is learned soon."""
    begins: int = Field(default=1, ge=1)
    """Round from which devices execute it; they then fetch the modules that they lack."""
