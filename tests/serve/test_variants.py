"""Which modules answer for a variant."""

from __future__ import annotations

from pathlib import Path

import pytest

from fogtune.platform.errors import InputError
from fogtune.serve.registry import Entry, Registry, Version
from fogtune.serve.variants import resolve, variants_of


@pytest.fixture(scope="module")
def registry(served: Path) -> Registry:
    return Registry(served)


def nodes(registry: Registry, task: str, variant: str, *inputs: str) -> dict[str, str | None]:
    """Module -> the node whose file answers."""
    version = registry.read(2)
    found = resolve(registry.config, registry.tree, version, task, variant, inputs)
    holder = {entry.path: node for (node, _), entry in version.entries.items()}
    return {module: holder[entry.path] if entry else None for module, entry in found.items()}


def test_a_device_has_its_own_then_its_regions_then_global_modules(registry: Registry) -> None:
    found = nodes(registry, "topic", "device:coach-0", "text")
    assert found["prompt/topic"] == "coach-0"
    assert found["adapter/fusion"] == found["head/topic"] == "fog-0"
    assert found["router/fusion"] == found["expert/0"] == "cloud"
    assert not found.keys() & {"encoder/imu", "encoder/image", "head/vqa", "prompt/vqa"}


def test_a_region_has_no_modules_of_its_devices(registry: Registry) -> None:
    found = nodes(registry, "topic", "fog:fog-1", "text")
    assert found["prompt/topic"] is None  # as it was at the start
    assert found["adapter/fusion"] == found["head/topic"] == "fog-1"


def test_global_falls_back_to_the_start_but_not_for_a_head(registry: Registry) -> None:
    found = nodes(registry, "vqa", "global", "text", "image")
    assert found["head/vqa"] == found["encoder/image"] == found["statistics/image"] == "cloud"
    assert found["adapter/fusion"] is None
    with pytest.raises(InputError, match=r"'global' has no head/topic in v2; .* fog:fog-0, fog:fog-1"):
        nodes(registry, "topic", "global", "text")


def test_an_input_that_is_not_given_needs_no_encoder(registry: Registry) -> None:
    assert "encoder/image" not in nodes(registry, "vqa", "global", "text")


def test_an_encoder_that_nobody_trained_is_not_served(registry: Registry) -> None:
    version = registry.read(2)
    without = {key: entry for key, entry in version.entries.items() if key[1] != "encoder/image"}
    with pytest.raises(InputError, match="'global' has no encoder/image in v2; variants that have: nothing"):
        resolve(
            registry.config, registry.tree, Version(2, without, version.tasks, 0), "vqa", "global", ["text", "image"]
        )


@pytest.mark.parametrize(
    "variant", ["", "fog", "fog:", "fog:fog-9", "device:fog-0", "fog:watch-0", "cloud:cloud", "x:y:z"]
)
def test_what_names_no_node(registry: Registry, variant: str) -> None:
    with pytest.raises(InputError, match="allowed: global, fog:ID of a fog node, device:ID of a device node"):
        nodes(registry, "topic", variant, "text")


def test_the_variants_of_a_task(registry: Registry) -> None:
    version = registry.read(2)
    of_topic = variants_of(registry.tree, version, "topic")
    assert of_topic[:2] == ("fog:fog-0", "fog:fog-1")  # no global head
    assert {"device:coach-0", "device:reader-1", "device:watch-0"} < set(of_topic)
    assert variants_of(registry.tree, version, "vqa")[0] == "global"


def test_a_variant_with_few_modules_of_its_own(registry: Registry) -> None:
    """As after a federation whose devices have personal heads beside the global one."""
    version = registry.read(2)
    own = Entry("head/vqa", Path("nowhere"), "0" * 64, "v2/nowhere")
    entries = {**version.entries, ("watch-1", "head/vqa"): own}
    found = resolve(
        registry.config, registry.tree, Version(2, entries, version.tasks, 0), "vqa", "device:watch-1", ["text"]
    )
    assert found["head/vqa"] is own
    assert found["router/fusion"] is version.entries["cloud", "router/fusion"]
