"""Whatever a user may call a modality or a task, a model has its parts by that name."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fogtune.platform.model.by_name import ByName

TAKEN = ["values", "keys", "items", "pop", "type", "to", "training", "forward", "a.b", "a.values", "T"]
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True) | st.sampled_from(TAKEN)


@given(names=st.lists(NAMES, min_size=1, unique=True))
def test_any_name_serves(names: list[str]) -> None:
    parts = [nn.Linear(1, 1) for _ in names]
    found = ByName()
    for name, part in zip(names[:-1], parts, strict=False):
        found[name] = part
    assert names[-1] not in found
    found[names[-1]] = parts[-1]
    assert all(name in found and found[name] is part for name, part in zip(names, parts, strict=True))
    assert len(found) == len(list(found.parameters())) / 2 == len(names)
    again = ByName()
    for name in names:
        again[name] = nn.Linear(1, 1)
    again.load_state_dict(found.state_dict())
    assert all(torch.equal(again[name].weight, found[name].weight) for name in names)  # type: ignore[arg-type]


def test_other_names_stay_as_they_are() -> None:
    found = ByName()
    found["image"] = nn.Linear(1, 1)
    assert [name for name, _ in found.named_parameters()] == ["image.weight", "image.bias"]
