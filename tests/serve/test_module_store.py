"""Modules by content within a stated memory: every row gets its own, whatever had to make room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fogtune.platform.config import Config
from fogtune.platform.errors import InputError
from fogtune.platform.model.m3t import M3TModel
from fogtune.platform.run.checkpoint import file_sha256
from fogtune.serve.module_store import ModuleStore
from fogtune.serve.registry import Entry

HEAD, PROMPT = "head/topic", "prompt/topic"


@pytest.fixture(scope="module")
def model(tiny: Callable[..., Config]) -> M3TModel:
    return M3TModel(tiny("model.prompts={tokens: 2}", "model.experts=null"), {"topic": ("a", "b"), "exercise": ("c",)})


@pytest.fixture(scope="module")
def entries(model: M3TModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Entry]]:
    """Of each of two modules twelve contents; all values of content i are i + 1."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("modules")
    made: dict[str, list[Entry]] = {}
    for module in (HEAD, PROMPT):
        for i in range(12):
            file = folder / f"{module.replace('/', '-')}-{i}.safetensors"
            save_file({name: torch.full_like(value, i + 1.0) for name, value in model.tensors(module).items()}, file)
            made.setdefault(module, []).append(Entry(module, file, file_sha256(file), file.name))
    return made


def slot_bytes(model: M3TModel, *modules: str) -> int:
    return sum(tensor.nbytes for module in modules for tensor in model.tensors(module).values())


def taken(store: ModuleStore, module: str, rows: list[Entry | None]) -> list[float]:
    """The value that each row gets of a module whose values are all the same."""
    for entry in rows:
        store.require(module, entry)
    versions = store.versions([{module: entry} for entry in rows])[module]
    return [float(tensor[row].flatten()[0]) for row in versions.index for tensor in list(versions.tensors.values())[:1]]


def test_a_module_is_read_once_and_shared_by_content(model: M3TModel, entries: dict[str, list[Entry]]) -> None:
    store = ModuleStore(model, 4, 2**30)
    one = entries[HEAD][0]
    same = Entry(HEAD, Path("another/version/of/the/run"), one.sha256, "same")
    assert taken(store, HEAD, [one, same, one]) == [1, 1, 1]
    assert store.misses == 1


def test_a_module_as_it_was_at_the_start(model: M3TModel, entries: dict[str, list[Entry]]) -> None:
    store = ModuleStore(model, 4, 2**30)
    initial = float(model.tensors(PROMPT)["tokens"].flatten()[0])
    assert taken(store, PROMPT, [None, entries[PROMPT][3], None]) == [initial, 4, initial]


def test_rows_without_a_module_are_given_some_slot(model: M3TModel, entries: dict[str, list[Entry]]) -> None:
    store = ModuleStore(model, 4, 2**30)
    rows: list[dict[str, Entry | None]] = [
        {HEAD: entries[HEAD][0]},
        {HEAD: entries[HEAD][1], PROMPT: entries[PROMPT][5]},
    ]
    for row in rows:
        for module, entry in row.items():
            store.require(module, entry)
    versions = store.versions(rows)
    assert float(versions[PROMPT].tensors["tokens"][versions[PROMPT].index[1]].flatten()[0]) == 6
    assert 0 <= versions[PROMPT].index[0] < len(versions[PROMPT].tensors["tokens"])


def test_the_content_used_longest_ago_makes_room(model: M3TModel, entries: dict[str, list[Entry]]) -> None:
    every = slot_bytes(model, *model.tensors_of)
    store = ModuleStore(model, 2, 2 * every + slot_bytes(model, HEAD))  # three heads fit
    heads = entries[HEAD]
    for i in (0, 1, 2, 0):
        assert taken(store, HEAD, [heads[i]]) == [i + 1]
    assert store.misses == 3
    assert taken(store, HEAD, [heads[3]]) == [4]  # in the place of 1
    assert taken(store, HEAD, [heads[0], heads[2]]) == [1, 3]
    assert store.misses == 4
    assert taken(store, HEAD, [heads[1]]) == [2]
    assert store.misses == 5


@given(
    batches=st.lists(
        st.tuples(st.sampled_from([HEAD, PROMPT]), st.lists(st.integers(0, 11), min_size=1, max_size=3)), max_size=30
    ),
    spare=st.integers(0, 6),
)
def test_whatever_is_asked_for_every_row_gets_its_own_within_the_memory(
    model: M3TModel, entries: dict[str, list[Entry]], batches: list[tuple[str, list[int]]], spare: int
) -> None:
    limit = 3 * slot_bytes(model, *model.tensors_of) + spare * slot_bytes(model, PROMPT)
    store = ModuleStore(model, 3, limit)
    for module, contents in batches:
        assert taken(store, module, [entries[module][i] for i in contents]) == [i + 1 for i in contents]
        assert store.nbytes <= limit


def test_memory_for_less_than_a_batch_is_refused(model: M3TModel) -> None:
    least = 8 * slot_bytes(model, *model.tensors_of)
    ModuleStore(model, 8, least)
    with pytest.raises(InputError, match=f"{least - 1} given; allowed: {least} or more, for batches of 8 rows"):
        ModuleStore(model, 8, least - 1)


def test_a_module_of_another_shape_is_refused(model: M3TModel, entries: dict[str, list[Entry]], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "head.safetensors"
    save_file({"weight": torch.zeros(3, 384), "bias": torch.zeros(3)}, file)
    store = ModuleStore(model, 4, 2**30)
    with pytest.raises(InputError, match=r"weight is missing or not of shape \(2, 384\)"):
        store.require(HEAD, Entry(HEAD, file, file_sha256(file), file.name))
    assert taken(store, HEAD, [entries[HEAD][0]]) == [1]
