"""Presets: baselines differ from the default in how devices learn together, not in how much they see."""

from __future__ import annotations

import pytest

from fogtune.pipelines.federations import default
from fogtune.pipelines.presets import PRESETS, preset
from fogtune.platform.config.check import check
from fogtune.platform.errors import InputError


@pytest.mark.parametrize("name", PRESETS)
def test_it_can_be_run_and_is_called_as_it_is_asked_for(name: str) -> None:
    config = preset(name)
    check(config)
    assert config.name == name


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ("smoke", "pareto")])
def test_baselines_see_as_much_as_the_default(name: str) -> None:
    config = preset(name)
    passes = default().rounds * default().local.epochs
    assert config.rounds * config.local.epochs == pytest.approx(passes)
    assert config.tasks == default().tasks
    assert config.model == default().model
    assert [s.held_out for s in config.sources.values()] == [s.held_out for s in default().sources.values()]


@pytest.mark.parametrize("name", ["hierarchical-e2", "hierarchical-e8"])
def test_the_last_round_reaches_the_cloud(name: str) -> None:
    config = preset(name)
    assert config.rounds % config.federation.cadence["fog"] == 0


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"^preset: 'defualt'; allowed: default, star, "):
        preset("defualt")
