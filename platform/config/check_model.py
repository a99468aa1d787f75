"""Checks of the model: every modality that is used has an encoder, every encoder somebody who trains it."""

from __future__ import annotations

from ..errors import InputError
from .describe import listed
from .model import SeriesEncoder
from .root import Config

TEXT = "text"


def width_is_of_one_thing(config: Config) -> None:
    """The width of tokens is the backbone's, or what the configuration says where there is none."""
    model = config.model
    if model.backbone is None and model.width is None:
        raise InputError("model.width", "null given without a backbone; allowed: 1 or more")
    if model.backbone is not None and model.width is not None:
        raise InputError("model.width", f"{model.width} given; allowed with a backbone: null, the width is its own")


def nothing_rides_on_no_backbone(config: Config) -> None:
    """Adapters are in the backbone's blocks, experts behind them, and it is what encodes text."""
    model = config.model
    if model.backbone is not None:
        return
    if model.adapter is not None:
        raise InputError("model.adapter", f"rank {model.adapter.rank} given; allowed without a backbone: null")
    if model.experts is not None:
        raise InputError("model.experts", f"count {model.experts.count} given; allowed without a backbone: null")
    for name, task in config.tasks.items():
        if TEXT in task.inputs:
            problem = f"{TEXT!r} given, which a backbone encodes; allowed without one: {listed(model.encoders)}"
            raise InputError(f"tasks.{name}.inputs.{task.inputs.index(TEXT)}", problem)


def text_has_no_encoder(config: Config) -> None:
    """The backbone encodes text itself."""
    if TEXT in config.model.encoders:
        allowed = "no encoder for text, the backbone's embedding and lower blocks are it"
        raise InputError(f"model.encoders.{TEXT}", f"kind {config.model.encoders[TEXT].kind} given; allowed: {allowed}")


def inputs_have_encoders(config: Config) -> None:
    """Any modality but text needs an encoder to become tokens."""
    for name, task in config.tasks.items():
        for i, modality in enumerate(task.inputs):
            if modality != TEXT and modality not in config.model.encoders:
                have = listed([*([TEXT] if config.model.backbone else []), *config.model.encoders])
                problem = f"{modality!r} has no encoder; allowed: {have}, or add model.encoders.{modality}"
                raise InputError(f"tasks.{name}.inputs.{i}", problem)


def encoders_have_owners(config: Config) -> None:
    """Some device collects the encoder's modality and executes a task that reads it."""
    read = {
        modality
        for group in config.devices
        for task in group.tasks
        for modality in config.tasks[task].inputs
        if modality in group.modalities
    }
    for modality in config.model.encoders:
        if modality not in read:
            problem = f"no device collects {modality!r} for a task that reads it; allowed: {listed(sorted(read))}"
            raise InputError(f"model.encoders.{modality}", problem)


def kernels_are_odd(config: Config) -> None:
    """Only an odd kernel has a middle, which the padding relies on."""
    for modality, encoder in config.model.encoders.items():
        if isinstance(encoder, SeriesEncoder) and encoder.kernel % 2 == 0:
            problem = f"{encoder.kernel} given; allowed: odd numbers, {encoder.kernel - 1} or {encoder.kernel + 1}"
            raise InputError(f"model.encoders.{modality}.kernel", problem)


def experts_suffice(config: Config) -> None:
    """A sample cannot use more experts than there are, nor more than its device keeps."""
    experts = config.model.experts
    if experts is not None and experts.top_k > experts.count:
        problem = f"{experts.top_k} given; allowed: 1 to {experts.count}, model.experts.count"
        raise InputError("model.experts.top_k", problem)
    if experts is not None and experts.per_device < experts.top_k:
        problem = f"{experts.per_device} given; allowed: at least {experts.top_k}, model.experts.top_k"
        raise InputError("model.experts.per_device", problem)
