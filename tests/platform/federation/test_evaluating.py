"""Who evaluates what: the models that stand for a task, and every held-out row once."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from fogtune.platform.config import Config
from fogtune.platform.federation.evaluating import evaluation_jobs, variants
from fogtune.platform.federation.messages import Setup
from fogtune.platform.ownership import Ownership, own
from fogtune.platform.topology import Tree
from fogtune.platform.topology_build import build_tree

MakeConfig = Callable[..., Config]
FOG_HEADS = 'federation.modules=[{"match": "head/*", "scope": "fog"}]'
PERSONAL_HEADS = 'federation.modules=[{"match": "head/*", "scope": "device"}]'


def surroundings(config: Config) -> tuple[Tree, Ownership]:
    tree = build_tree(config)
    return tree, own(config, tree)


def found(config: Config, task: str, round_number: int = 1) -> tuple[str, ...]:
    return variants(config, *surroundings(config), task, round_number)


def test_a_task_is_evaluated_where_its_lowest_module_is_averaged(tiny: MakeConfig) -> None:
    assert found(tiny(), "topic") == ("cloud",)
    fog_heads = tiny(FOG_HEADS)
    assert found(fog_heads, "topic") == ("fog-0", "fog-1")
    one = 'federation.modules=[{"match": "head/topic", "scope": "fog"}]'
    assert found(tiny(one), "exercise") == ("cloud",)
    mixed = 'federation.modules=[{"match": "*", "scope": "fog"}, {"match": "encoder/imu", "scope": "device"}]'
    assert found(tiny(mixed), "exercise") == ("watch-0", "watch-1", "coach-0")
    assert found(tiny(mixed), "topic") == ("fog-0", "fog-1")


def test_a_region_that_does_not_execute_a_task_has_no_model_of_it(tiny: MakeConfig) -> None:
    listed = (
        'topology={"kind": "listed", "tier_names": ["fog"], "tree": '
        '{"a": ["watch-0", "watch-1", "coach-0"], "b": ["reader-0", "reader-1"]}}'
    )
    assert found(tiny(listed, FOG_HEADS), "exercise") == ("a",)


def test_who_does_not_execute_it_yet_has_no_model_of_it_either(tiny: MakeConfig) -> None:
    late = tiny(FOG_HEADS, "devices.1.joins=3", "tasks.exercise.begins=2")
    assert [found(late, "topic", number) for number in (2, 3)] == [("fog-0",), ("fog-0", "fog-1")]
    assert [found(late, "exercise", number) for number in (1, 2)] == [(), ("fog-0", "fog-1")]


def test_who_has_no_devices_evaluates_their_models_too(tiny: MakeConfig) -> None:
    config = tiny("evaluation.batch_size=8", PERSONAL_HEADS)
    setup = Setup({}, dict.fromkeys(config.tasks, 16), {}, None)
    jobs = evaluation_jobs(config, *surroundings(config), setup, {"evaluator/0": (), "evaluator/1": ()}, 1)
    topic = {host: [(job.variant, job.chunks) for job in some if job.task == "topic"] for host, some in jobs.items()}
    variants = found(config, "topic")
    assert topic == {f"evaluator/{k}": [(variant, (k,)) for variant in sorted(variants)] for k in (0, 1)}


@given(hosts=st.integers(1, 5), held_out=st.integers(1, 300), scope=st.sampled_from([None, FOG_HEADS, PERSONAL_HEADS]))
def test_every_chunk_of_every_variant_is_evaluated_once(
    tiny: MakeConfig, hosts: int, held_out: int, scope: str | None
) -> None:
    config = tiny("evaluation.batch_size=32", *([scope] if scope else []))
    tree, ownership = surroundings(config)
    devices = tree.devices
    packed = {f"host-{i}": devices[i::hosts] for i in range(hosts)}
    setup = Setup({}, dict.fromkeys(config.tasks, held_out), {}, None)
    jobs = evaluation_jobs(config, tree, ownership, setup, packed, 1)
    for task in config.tasks:
        for variant in found(config, task):
            chunks = [
                chunk
                for some in jobs.values()
                for job in some
                if (job.task, job.variant) == (task, variant)
                for chunk in job.chunks
            ]
            assert sorted(chunks) == list(range(-(-held_out // 32)))
    for host, some in jobs.items():
        mine = [job.variant for job in some]
        assert mine == sorted(mine)
        assert all(variant in packed[host] for variant in mine if variant in devices)
        assert all(job.chunks for job in some)
