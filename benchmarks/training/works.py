"""The works: what every side trains, said in FogTune's configuration, from which all the rest follows.

A work is a data set on disk and a configuration that reads it. What the other sides are given (initial weights, shards,
who takes part in which round, the order of the batches) is asked of FogTune: see exchange.py and prepare.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rows import Rows, digits, news, noise

from fogtune.platform.config import Config

FOG = 4
"""Fog nodes, one tier of them; as in the default preset."""

LABEL, ROWS = "label", "rows"
"""Names of the task and of its source."""


@dataclass(frozen=True)
class Work:
    """One work."""

    rows: Callable[[], Rows]
    """Makes the data: splits `train` and `test`, columns `input` and `label`."""
    config: Mapping[str, Any]
    """FogTune's configuration, but for the path of the data."""
    sides: tuple[str, ...]
    """Who does it (sides.py)."""
    risky: tuple[str, ...] = ()
    """Who does it only if asked: it may take all of the machine's memory."""
    slow: tuple[str, ...] = ()
    """Who does 4 rounds of it, as each takes so long."""

    @property
    def is_shared(self) -> bool:
        """Whether anybody but FogTune does it."""
        return any(not side.startswith("fogtune") for side in (*self.sides, *self.risky))

    def configure(self, data: str, **changes: Any) -> Config:
        """FogTune's configuration, with the data in a folder; `changes` replace whole fields of the root."""
        content = {**self.config, **changes}
        content["sources"] = {ROWS: {**content["sources"][ROWS], "kind": "huggingface", "path": data}}
        return Config.model_validate(content)


def _federation(
    clients: int, rounds: int, *, cohort: int, fog: int = FOG, modality: str, partition: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """What all works have in common: one task, one group of devices, the held-out rows evaluated once, at the end."""
    return {
        "name": "bench",
        "rounds": rounds,
        "topology": {"kind": "counted", "tiers": [{"name": "fog", "count": fog}]},
        "devices": [{"name": "client", "count": clients, "modalities": [modality], "tasks": [LABEL]}],
        "sources": {
            ROWS: {
                "columns": {modality: "input"},
                "labels": {LABEL: "label"},
                "held_out": {"split": "test"},
                "partition": partition,
                "test_fraction": 0.01,  # a row a device: the least there is
            }
        },
        "tasks": {LABEL: {"source": ROWS, "inputs": [modality], "label": LABEL}},
        "federation": {"participation": cohort / clients},
        "evaluation": {"every": rounds, "personal": False},
        **more,
    }


def _mlp(channels: int, width: int) -> dict[str, Any]:
    """Linear, ReLU, layer norm without parameters, linear."""
    return {
        "backbone": None,
        "width": width,
        "encoders": {"vector": {"kind": "features", "channels": channels, "standardise": False}},
        "adapter": None,
        "prompts": None,
        "interaction_rank": 0,
    }


def _lora(blocks: int) -> dict[str, Any]:
    """MiniLM with LoRA on query and value of upper blocks, mean of tokens, layer norm without parameters, linear."""
    return {
        "backbone": {"fusion_blocks": blocks, "max_text_tokens": 32},
        "adapter": {"rank": 8, "alpha": 16, "targets": ["query", "value"]},
        "prompts": None,
        "interaction_rank": 0,
    }


def _sgd(rate: float, batch: int) -> dict[str, Any]:
    return {"optimizer": "sgd", "learning_rate": rate, "batch_size": batch, "clip_norm": None}


_ADAMW = {"optimizer": "adamw", "learning_rate": 5e-3, "batch_size": 8, "clip_norm": None}
_IID = {"kind": "iid"}


def _small() -> dict[str, Any]:
    """Digits with Dirichlet(0.1) label skew: 13 or 14 rows a client."""
    partition = {"kind": "dirichlet", "label": LABEL, "alpha": 1.0}  # times a digit's share of 0.1
    model, local = _mlp(64, 128), _sgd(0.1, 8)
    return _federation(100, 30, cohort=20, modality="vector", partition=partition, model=model, local=local)


def _minilm(blocks: int, rounds: int) -> dict[str, Any]:
    """News with Dirichlet(0.3) label skew: 64 rows a client, and one to test on."""
    partition = {"kind": "dirichlet", "label": LABEL, "alpha": 1.5}  # times a topic's share of about 0.2
    model, local = _lora(blocks), _ADAMW
    content = _federation(40, rounds, cohort=40, modality="text", partition=partition, model=model, local=local)
    content["sources"][ROWS]["samples_per_device"] = 65
    return content


def _no_op(clients: int, rounds: int, channels: int, width: int) -> dict[str, Any]:
    """All clients return what they got."""
    model, local = _mlp(channels, width), {"optimizer": "none"}
    return _federation(clients, rounds, cohort=clients, modality="vector", partition=_IID, model=model, local=local)


def _scale(clients: int, cohort: int) -> dict[str, Any]:
    """Digits for any number of clients: 100 to a fog node, 7 rows each."""
    model, local, fog = _mlp(64, 128), _sgd(0.1, 8), clients // 100
    return _federation(clients, 6, cohort=cohort, fog=fog, modality="vector", partition=_IID, model=model, local=local)


_TRAINERS = ("fogtune", "fogtune-local", "plain-1", "plain-2", "pfl-1", "pfl-2", "flower")
_TEXTS = ("fogtune", "fogtune-bf16", "plain-2", "pfl-2", "flower")

WORKS: dict[str, Work] = {
    "W1": Work(digits, _small(), _TRAINERS),
    "W2": Work(news, _minilm(6, rounds=3), _TEXTS),
    "W2k2": Work(news, _minilm(2, rounds=4), _TEXTS),
    "no-op-small": Work(
        lambda: noise(2_000, 64), _no_op(1_000, 30, 64, 1_333), ("fogtune", "floor", "flower"), slow=("flower",)
    ),
    "no-op-large": Work(
        lambda: noise(200, 5_000),
        _no_op(100, 6, 5_000, 4_980),
        ("fogtune", "floor"),
        risky=("flower",),
        slow=("flower",),
    ),
    **{
        f"scale-{clients}-{cohort}": Work(lambda n=clients: digits(8 * n), _scale(clients, cohort), ("fogtune",))
        for clients, cohort in ((100, 100), (1_000, 100), (10_000, 100), (10_000, 1_000))
    },
}
"""Name -> work. Without an optimizer there are 0.1 and 25 million parameters."""
