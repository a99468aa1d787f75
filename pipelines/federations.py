"""The default federation and its baselines: complete configurations, written as functions.

The default federation has 34 devices of five kinds under four fog nodes, three modalities and four tasks, on real data
that ships in packages. The baselines change how the same devices learn together, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

from fogtune.platform.config import (
    Adapter,
    Backbone,
    Config,
    CountedTopology,
    DeviceGroup,
    DirichletPartition,
    EmbeddedSource,
    Evaluation,
    Experts,
    FedAvgM,
    Federation,
    HeldOut,
    IidPartition,
    ImageEncoder,
    Local,
    Model,
    ModulePolicy,
    NaturalPartition,
    SeriesEncoder,
    Task,
    Tier,
)

_VQA = Task(source="easy-vqa", inputs=("text", "image"), label="answer")
_EXERCISE = Task(source="watch", inputs=("imu",), label="exercise")
_SIDE = Task(source="watch", inputs=("imu",), label="side")
_TOPIC = Task(source="news", inputs=("text",), label="topic")
_TARGETS = ("query", "value", "intermediate.dense", "output.dense")
_IMU = SeriesEncoder(kind="series", channels=6)


def default() -> Config:
    """34 devices, 4 fog nodes and a cloud; visual questions, shoulder exercises and news on embedded data."""
    return Config(
        name="default",
        rounds=18,
        topology=CountedTopology(tiers=(Tier(name="fog", count=4),)),
        devices=(
            DeviceGroup(name="camera", device_class="camera", count=18, modalities=("text", "image"), tasks=("vqa",)),
            DeviceGroup(name="watch", device_class="watch", count=5, modalities=("imu",), tasks=("exercise", "side")),
            DeviceGroup(name="reader", count=6, modalities=("text",), tasks=("topic",)),
            DeviceGroup(name="phone", count=3, modalities=("text", "image"), tasks=("vqa", "topic")),
            DeviceGroup(
                name="coach",
                device_class="gateway",
                count=2,
                modalities=("imu", "text"),
                tasks=("exercise", "side", "topic"),
            ),
        ),
        sources={
            # Concentrations are of Dirichlet(alpha * p) with the pool's proportions p: 13 is 1 an answer, 1.5 is 0.3 a
            # topic in the convention that gives every class the same concentration.
            "easy-vqa": EmbeddedSource(
                asset="easy-vqa",
                held_out=HeldOut(split="test", limit=1000),
                partition=DirichletPartition(kind="dirichlet", label="answer", alpha=13.0),
                samples_per_device=250,
            ),
            "watch": EmbeddedSource(
                asset="seglearn",
                held_out=HeldOut(groups=("8", "9", "10")),
                partition=NaturalPartition(),
                samples_per_device=250,
            ),
            "news": EmbeddedSource(
                asset="bbc-news",
                held_out=HeldOut(fraction=0.2),
                partition=DirichletPartition(kind="dirichlet", label="topic", alpha=1.5),
            ),
        },
        tasks={
            "vqa": _VQA,
            "exercise": _EXERCISE,
            # With as many passes as the others get, these two are learned in a third of the rounds.
            "side": _SIDE.model_copy(update={"epochs": 0.1}),
            "topic": _TOPIC.model_copy(update={"epochs": 0.3}),
        },
        model=Model(
            backbone=Backbone(max_text_tokens=48, fusion_blocks=1),
            encoders={"image": ImageEncoder(size_px=96), "imu": _IMU},
            adapter=Adapter(targets=_TARGETS),
            experts=Experts(),
        ),
        local=Local(
            epochs=0.5, batch_size=8, learning_rate=2.5e-3, schedule="cosine", warmup_rounds=1, logit_adjustment=1.0
        ),
        federation=Federation(rule=FedAvgM(kind="fedavgm", momentum=0.6)),
        evaluation=Evaluation(every=6),
    )


def star() -> Config:
    """Baseline: the default devices directly under the cloud, no fog nodes."""
    return _variant("star", topology=CountedTopology(tiers=()))


def hierarchical_e2() -> Config:
    """Baseline: the default with fog nodes that send to the cloud every 2 rounds (E_agg = 2)."""
    return _variant("hierarchical-e2", federation=_federation(cadence={"fog": 2}))


def hierarchical_e8() -> Config:
    """Baseline: fog nodes that send to the cloud every 8 rounds (E_agg = 8); 16 longer rounds, so that the last one is
    one of these."""
    config = default()
    longer = _with_passes(config, lambda epochs: config.rounds * epochs / 16)
    changes = {"name": "hierarchical-e8", "rounds": 16, "federation": _federation(cadence={"fog": 8})}
    return longer.model_copy(update=changes)


def edge_only() -> Config:
    """Baseline: the default with nothing averaged above the fog nodes; held-out metrics are means over regions."""
    return _variant("edge-only", federation=_federation(modules=(ModulePolicy(match="*", scope="fog"),)))


def local_only() -> Config:
    """Baseline: every default device learns alone; held-out metrics are means over devices, once at the end."""
    return _variant(
        "local-only",
        federation=_federation(modules=(ModulePolicy(match="*", scope="device"),)),
        evaluation=Evaluation(every=default().rounds),
    )


def centralized() -> Config:
    """Baseline: as much of the default's training data on one node that executes all tasks, as many passes over it."""
    config = default()
    pool = DeviceGroup(name="pool", count=1, modalities=("text", "image", "imu"), tasks=tuple(config.tasks))
    users = {
        source: sum(g.count for g in config.devices if any(config.tasks[t].source == source for t in g.tasks))
        for source in config.sources
    }
    at_once = _with_passes(config, lambda epochs: config.rounds * epochs)
    return _variant(
        "centralized",
        rounds=1,
        topology=CountedTopology(tiers=()),
        devices=(pool,),
        sources={
            name: source.model_copy(
                update={
                    "partition": IidPartition(kind="iid"),
                    "samples_per_device": source.samples_per_device and users[name] * source.samples_per_device,
                }
            )
            for name, source in config.sources.items()
        },
        tasks=at_once.tasks,
        local=at_once.local.model_copy(update={"learning_rate": 1e-3, "warmup_rounds": 0.05}),
    )


def smoke() -> Config:
    """Six devices, two fog nodes, sensor series and news, two rounds: done in seconds."""
    return Config(
        name="smoke",
        rounds=2,
        topology=CountedTopology(tiers=(Tier(name="fog", count=2),)),
        devices=(
            DeviceGroup(name="watch", device_class="watch", count=3, modalities=("imu",), tasks=("exercise",)),
            DeviceGroup(name="reader", count=2, modalities=("text",), tasks=("topic",)),
            DeviceGroup(
                name="coach", device_class="gateway", count=1, modalities=("imu", "text"), tasks=("exercise", "topic")
            ),
        ),
        sources={
            "watch": EmbeddedSource(
                asset="seglearn", held_out=HeldOut(groups=("8", "9", "10"), limit=100), samples_per_device=60
            ),
            "news": EmbeddedSource(
                asset="bbc-news",
                held_out=HeldOut(fraction=0.2, limit=100),
                partition=IidPartition(kind="iid"),
                samples_per_device=40,
            ),
        },
        tasks={"exercise": _EXERCISE, "topic": _TOPIC},
        model=Model(
            backbone=Backbone(max_text_tokens=16),
            encoders={"imu": _IMU},
            adapter=Adapter(rank=4, targets=("query", "value")),
            experts=Experts(count=4, width=16),
        ),
        local=Local(learning_rate=3e-3),
    )


def _variant(name: str, **changes: object) -> Config:
    """The default with some sections replaced."""
    return default().model_copy(update={"name": name, **changes})


def _federation(**changes: object) -> Federation:
    """The default's federation with some fields replaced."""
    return default().federation.model_copy(update=changes)


def _with_passes(config: Config, passes: Callable[[float], float]) -> Config:
    """The same with what `passes` makes of the passes of a round, for every task."""
    tasks = {
        name: task.model_copy(update={"epochs": task.epochs and passes(task.epochs)})
        for name, task in config.tasks.items()
    }
    local = config.local.model_copy(update={"epochs": passes(config.local.epochs)})
    return config.model_copy(update={"tasks": tasks, "local": local})
