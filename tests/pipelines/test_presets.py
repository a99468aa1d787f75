"""Presets: baselines differ from the default in how devices learn together, not in how much they see."""

from __future__ import annotations

import pytest

from fogtune.pipelines.federations import default
from fogtune.pipelines.hf_fm import METHODS
from fogtune.pipelines.presets import PRESETS, preset
from fogtune.platform.config import Config, ImageEncoder, Task
from fogtune.platform.config.check import check
from fogtune.platform.errors import InputError
from fogtune.platform.learning.batches import epochs


@pytest.mark.parametrize("name", PRESETS)
def test_it_can_be_run_and_is_called_as_it_is_asked_for(name: str) -> None:
    config = preset(name)
    check(config)
    assert config.name == name


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ("smoke", "pareto")])
def test_baselines_see_as_much_as_the_default(name: str) -> None:
    config = preset(name)
    assert passes(config) == pytest.approx(passes(default()))
    assert without_epochs(config) == without_epochs(default())
    assert config.model == default().model
    assert [s.held_out for s in config.sources.values()] == [s.held_out for s in default().sources.values()]


def passes(config: Config) -> dict[str, float]:
    """Task -> passes over its data in all rounds."""
    return {task: config.rounds * epochs(config, task) for task in config.tasks}


def without_epochs(config: Config) -> list[Task]:
    return [task.model_copy(update={"epochs": None}) for task in config.tasks.values()]


def test_what_is_learned_soon_gets_fewer_passes() -> None:
    assert passes(default()) == pytest.approx({"vqa": 9, "exercise": 9, "side": 1.8, "topic": 5.4})


@pytest.mark.parametrize("method", METHODS)
def test_the_papers_methods_give_every_task_as_many(method: str) -> None:
    config = METHODS[method]()
    assert passes(config) == pytest.approx(dict.fromkeys(default().tasks, 10.8))
    assert config.model.encoders["image"] == ImageEncoder(size_px=128)


@pytest.mark.parametrize("name", ["hierarchical-e2", "hierarchical-e8"])
def test_the_last_round_reaches_the_cloud(name: str) -> None:
    config = preset(name)
    assert config.rounds % config.federation.cadence["fog"] == 0


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"^preset: 'defualt'; allowed: default, star, "):
        preset("defualt")
