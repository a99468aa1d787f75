"""Sizes on a link are those of the real serialisation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from fogtune.platform.aggregation import ModuleSum
from fogtune.platform.federation.sizes import message_bytes

names = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=30)
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@given(st.dictionaries(names.filter(lambda name: name != "__metadata__"), shapes, max_size=8))
def test_of_versions_and_of_sums(found: dict[str, tuple[int, ...]]) -> None:
    versions = {name: torch.zeros(shape) for name, shape in found.items()}
    sums = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in found.items()}
    assert message_bytes(versions) == len(save(versions))
    assert message_bytes(versions, torch.int64) == len(save(sums))


def test_of_a_module_and_its_sum() -> None:
    module = {"base_model.model.layer.4.query.lora_A.weight": torch.randn(8, 384), "blocks.0.down": torch.randn(3)}
    assert message_bytes(module) == len(save(module))
    assert message_bytes(module, torch.int64) == len(save(ModuleSum.of(module, 12).total))


def test_of_a_type_that_does_not_travel() -> None:
    with pytest.raises(KeyError):
        message_bytes({"weight": torch.zeros(1)}, torch.float64)
