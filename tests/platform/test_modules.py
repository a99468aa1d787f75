"""The names of a configuration's modules, in order."""

from __future__ import annotations

from typing import Any

from fogtune.platform.config import Config
from fogtune.platform.modules import KINDS, is_standardised, kind_and_name, module_names, modules_of_task


def config(**model: Any) -> Config:
    return Config.model_validate(
        {
            "devices": [{"name": "house", "count": 1, "modalities": ["text"], "tasks": ["vqa", "topic"]}],
            "sources": {"pictures": {"kind": "embedded", "asset": "easy-vqa"}},
            "tasks": {
                "vqa": {"source": "pictures", "inputs": ["text", "image"], "label": "answer"},
                "topic": {"source": "pictures", "inputs": ["text"], "label": "answer"},
            },
            "model": model,
        }
    )


def test_all_kinds_in_order() -> None:
    encoders = {"imu": {"kind": "series", "channels": 6}, "image": {"kind": "image"}}
    names = module_names(config(encoders=encoders, experts={"count": 3}))
    assert names == (
        "encoder/imu",
        "encoder/image",
        "statistics/imu",
        "statistics/image",
        "prompt/vqa",
        "prompt/topic",
        "adapter/fusion",
        "router/fusion",
        "expert/0",
        "expert/1",
        "expert/2",
        "head/vqa",
        "head/topic",
    )
    assert {kind_and_name(name)[0] for name in names} == set(KINDS)


def test_what_is_null_has_no_modules() -> None:
    assert module_names(config(adapter=None, prompts=None)) == ("head/vqa", "head/topic")


def test_what_is_not_standardised_has_no_statistics() -> None:
    encoders = {
        "imu": {"kind": "features", "channels": 6},
        "image": {"kind": "features", "channels": 6, "standardise": False},
    }
    without = config(encoders=encoders, adapter=None, prompts=None)
    assert module_names(without)[:3] == ("encoder/imu", "encoder/image", "statistics/imu")
    assert modules_of_task(without, "vqa", ["text", "image"]) == ("encoder/image", "head/vqa")
    assert [is_standardised(without, modality) for modality in ("text", "imu", "image")] == [False, True, False]


def test_kind_and_name() -> None:
    assert kind_and_name("expert/12") == ("expert", "12")
