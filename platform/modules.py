"""Module names: `kind/name`, the unit of federation. Knows nothing of tensors."""

from __future__ import annotations

from collections.abc import Iterable

from .config import Config, FeaturesEncoder

KINDS = ("encoder", "statistics", "prompt", "adapter", "expert", "router", "head")

ADAPTER = "adapter/fusion"
ROUTER = "router/fusion"


def module_names(config: Config) -> tuple[str, ...]:
    """All modules that a configuration defines, in the order that everything which lists modules keeps.

    Encoders, statistics, prompts, the adapter, the router, the experts by number, the heads; modalities and tasks in
    the configuration's order.
    """
    model = config.model
    return (
        *(f"encoder/{modality}" for modality in model.encoders),
        *(statistics_of(modality) for modality in model.encoders if is_standardised(config, modality)),
        *(f"prompt/{task}" for task in config.tasks if model.prompts is not None),
        *([ADAPTER] if model.adapter is not None else []),
        *([ROUTER, *(f"expert/{i}" for i in range(model.experts.count))] if model.experts is not None else []),
        *(f"head/{task}" for task in config.tasks),
    )


def modules_of_task(config: Config, task: str, inputs: Iterable[str]) -> tuple[str, ...]:
    """The modules that a forward pass of a task may touch when its samples have these inputs, in order."""
    used = {f"prompt/{task}", f"head/{task}"}
    for modality in inputs:
        used |= {f"encoder/{modality}", statistics_of(modality)}
    shared = ("adapter/", "router/", "expert/")
    return tuple(m for m in module_names(config) if m in used or m.startswith(shared))


def is_standardised(config: Config, modality: str) -> bool:
    """Whether inputs of a modality are standardised by the federation's statistics; text is not."""
    match config.model.encoders.get(modality):
        case None:
            return False
        case FeaturesEncoder(standardise=standardise):
            return standardise
        case _:
            return True


def statistics_of(modality: str) -> str:
    """The module that holds a modality's statistics; what it holds is measured, not trained."""
    return f"statistics/{modality}"


def is_statistics(module: str) -> bool:
    """Whether a module is measured, not trained: server rules that step towards a mean take it as it is instead."""
    return module.startswith("statistics/")


def kind_and_name(module: str) -> tuple[str, str]:
    """`encoder/image` -> (`encoder`, `image`)."""
    kind, _, name = module.partition("/")
    return kind, name
