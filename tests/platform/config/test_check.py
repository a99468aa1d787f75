"""Every impossible combination is refused in one line that names the field, the value and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from fogtune.platform.config.check import check
from fogtune.platform.config.load import load_config
from fogtune.platform.errors import InputError

HOUSE: dict[str, Any] = {
    "topology": {"kind": "counted", "tiers": [{"name": "region", "count": 1}, {"name": "fog", "count": 2}]},
    "devices": [
        {"name": "camera", "count": 2, "modalities": ["image", "text"], "tasks": ["vqa"]},
        {"name": "watch", "count": 2, "modalities": ["imu"], "tasks": ["exercise", "side"]},
        {"name": "reader", "count": 2, "modalities": ["text"], "tasks": ["topic", "vqa"]},
    ],
    "sources": {
        "pictures": {"kind": "embedded", "asset": "easy-vqa", "partition": {"kind": "iid"}},
        "gym": {"kind": "embedded", "asset": "seglearn"},
        "news": {"kind": "embedded", "asset": "bbc-news", "partition": {"kind": "dirichlet", "label": "topic"}},
    },
    "tasks": {
        "vqa": {"source": "pictures", "inputs": ["text", "image"], "label": "answer"},
        "exercise": {"source": "gym", "inputs": ["imu"], "label": "exercise"},
        "side": {"source": "gym", "inputs": ["imu"], "label": "side"},
        "topic": {"source": "news", "inputs": ["text"], "label": "topic"},
    },
    "model": {"encoders": {"image": {"kind": "image"}, "imu": {"kind": "series", "channels": 6}}},
}

BARE = [
    "devices=[{name: watch, count: 2, modalities: [imu], tasks: [exercise]}]",
    "sources={gym: {kind: embedded, asset: seglearn}}",
    "tasks={exercise: {source: gym, inputs: [imu], label: exercise}}",
    "model={backbone: null, width: 8, adapter: null, encoders: {imu: {kind: features, channels: 6}}}",
]
"""A federation without a backbone."""

OWN_NEWS = "sources.news={kind: folder, path: x, columns: {text: body}, labels: {topic: section}%s}"


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["topology={kind: counted, tiers: []}"],
        ["topology={kind: placed}", "topology.tiers.0.count=1"],
        ["federation.cadence={device: 2, fog: 2, region: 4}"],
        ["federation.modules=[{match: 'head/*', scope: fog, cadence: {fog: 3}}]"],
        ["federation.modules=[{match: '*', cadence: {fog: 2, region: 4}}, {match: head/vqa, scope: device}]"],
        ["federation.rule.kind=scaffold", "local.optimizer=sgd", "federation.cadence.fog=1"],
        ["federation.rule={kind: median, max_held: 3}"],
        ["model.experts={count: 2, top_k: 2}", "federation.modules=[{match: 'expert/*'}]"],
        ["model.prompts=null", "model.adapter=null"],
        ["sources.gym.held_out={groups: ['8']}"],
        ["local.warmup_rounds=8"],
        [OWN_NEWS % ", group: paper, held_out: {groups: [a]}"],
        [OWN_NEWS % ", held_out: {path: x}", "sources.news.path='a/{device}'"],
        ["execution={placement: labels, runner: local, machines: {hall: ['camera-*', fog-0], hq: [cloud]}}"],
        BARE,
        [*BARE, "local.optimizer=none", "federation.modules=[{match: statistics/imu}]"],
    ],
)
def test_what_can_work_passes(overrides: list[str]) -> None:
    check(load_config(HOUSE, overrides))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        # names
        (["devices.1.name=camera"], "devices.1.name: 'camera' is given twice; allowed: a name of its own a group"),
        (
            ["devices.0.modalities=[text, text]"],
            "devices.0.modalities.1: 'text' is given twice; allowed: each name once",
        ),
        (["devices.1.joins=11"], "devices.1.joins: 11 given; allowed: 1 to 8, the number of rounds"),
        (["tasks.topic.begins=9"], "tasks.topic.begins: 9 given; allowed: 1 to 8, the number of rounds"),
        (
            ["devices.0.joins=2", "devices.1.joins=8", "tasks.topic.begins=3", "tasks.vqa.begins=2"],
            "devices: no device executes a task in round 1: devices.N.joins or tasks.NAME.begins of all are above 1; "
            "allowed: 1, for one group and a task of it",
        ),
        (
            ["network.d2d={share: true, relay: false}"],
            "network.d2d.share: true given, but network.d2d.relay is false; allowed: false, or both true",
        ),
        (["devices.1.tasks=[side, side]"], "devices.1.tasks.1: 'side' is given twice; allowed: each name once"),
        (["tasks.vqa.inputs=[text, text]"], "tasks.vqa.inputs.1: 'text' is given twice; allowed: each name once"),
        (["devices.1.tasks.1=sides"], "devices.1.tasks.1: 'sides' is no task; allowed: vqa, exercise, side, topic"),
        (["tasks.side.source=gim"], "tasks.side.source: 'gim' is no source; allowed: pictures, gym, news"),
        (["devices.1.tasks=[exercise]"], "tasks.side: no device group executes 'side'; name it in devices.N.tasks"),
        (
            ["sources.more={kind: embedded, asset: bbc-news}"],
            "sources.more: no task uses 'more'; allowed: sources of tasks, pictures, gym, news",
        ),
        # sources
        (["tasks.vqa.inputs.1=imu"], "tasks.vqa.inputs.1: source 'pictures' has no 'imu'; allowed: text, image"),
        (["tasks.side.inputs=[text]"], "tasks.side.inputs.0: source 'gym' has no 'text'; allowed: imu"),
        (["tasks.topic.inputs=[image]"], "tasks.topic.inputs.0: source 'news' has no 'image'; allowed: text"),
        (["tasks.vqa.label=topic"], "tasks.vqa.label: source 'pictures' has no label 'topic'; allowed: answer"),
        (["tasks.side.label=hand"], "tasks.side.label: source 'gym' has no label 'hand'; allowed: exercise, side"),
        (["tasks.topic.label=x"], "tasks.topic.label: source 'news' has no label 'x'; allowed: topic"),
        (
            [OWN_NEWS % ", partition: {kind: iid}", "tasks.topic.label=section"],
            "tasks.topic.label: source 'news' has no label 'section'; allowed: topic",
        ),
        (
            ["sources.gym.partition={kind: shards, label: topic}"],
            "sources.gym.partition.label: source 'gym' has no label 'topic'; allowed: exercise, side",
        ),
        (
            ["sources.news.partition={kind: natural}"],
            "sources.news.partition.kind: natural given, but bbc-news has no natural groups; "
            "allowed: dirichlet | shards | iid",
        ),
        (
            ["sources.pictures.partition={kind: natural}"],
            "sources.pictures.partition.kind: natural given, but easy-vqa has no natural groups; "
            "allowed: dirichlet | shards | iid",
        ),
        (
            [OWN_NEWS % ""],
            "sources.news.partition.kind: natural given, but sources.news.group names no column of natural groups; "
            "allowed: dirichlet | shards | iid",
        ),
        (
            ["sources.news.held_out={groups: [a, b]}"],
            "sources.news.held_out.groups: a, b given, but bbc-news has no natural groups; "
            "allowed: split or fraction instead",
        ),
        # who collects what
        (
            ["devices.1.tasks=[exercise, side, topic]"],
            "devices.1.tasks.2: 'topic' reads text, but 'watch' collects only imu; "
            "allowed: tasks with an input that the group collects",
        ),
        (
            ["devices.0.modalities=[text]"],
            "tasks.vqa.inputs.1: no device that executes 'vqa' collects 'image'; allowed: text",
        ),
        # model
        (
            ["model.encoders.text={kind: image}"],
            "model.encoders.text: kind image given; allowed: no encoder for text, the backbone's embedding and lower "
            "blocks are it",
        ),
        (
            ["model.encoders={imu: {kind: series, channels: 6}}"],
            "tasks.vqa.inputs.1: 'image' has no encoder; allowed: text, imu, or add model.encoders.image",
        ),
        (
            ["model.encoders.audio={kind: series, channels: 1}"],
            "model.encoders.audio: no device collects 'audio' for a task that reads it; allowed: image, imu, text",
        ),
        (["model.encoders.imu.kernel=6"], "model.encoders.imu.kernel: 6 given; allowed: odd numbers, 5 or 7"),
        (
            ["model.experts={count: 2, top_k: 3}"],
            "model.experts.top_k: 3 given; allowed: 1 to 2, model.experts.count",
        ),
        (
            ["model.experts={top_k: 3, per_device: 2}"],
            "model.experts.per_device: 2 given; allowed: at least 3, model.experts.top_k",
        ),
        ([*BARE, "model.width=null"], "model.width: null given without a backbone; allowed: 1 or more"),
        (["model.width=8"], "model.width: 8 given; allowed with a backbone: null, the width is its own"),
        ([*BARE, "model.adapter={}"], "model.adapter: rank 8 given; allowed without a backbone: null"),
        ([*BARE, "model.experts={}"], "model.experts: count 8 given; allowed without a backbone: null"),
        (
            [
                *BARE,
                "devices.0.modalities=[imu, text]",
                "sources.gym={kind: folder, path: x, columns: {imu: x, text: t}, labels: {exercise: e}, "
                "partition: {kind: iid}}",
                "tasks.exercise.inputs=[imu, text]",
            ],
            "tasks.exercise.inputs.1: 'text' given, which a backbone encodes; allowed without one: imu",
        ),
        (
            [*BARE, "model.encoders={}"],
            "tasks.exercise.inputs.0: 'imu' has no encoder; allowed: none, or add model.encoders.imu",
        ),
        # averaging
        (
            ["rounds=2", "local.warmup_rounds=2.5"],
            "local.warmup_rounds: 2.5 given; allowed: 0 to 2, the run's rounds",
        ),
        (
            ["model.experts={count: 8}", "federation.modules=[{match: '*'}, {match: heads/*}]"],
            "federation.modules.1.match: 'heads/*' matches no module; allowed: encoder/image, encoder/imu, "
            "statistics/image, statistics/imu, prompt/vqa, prompt/exercise, prompt/side, prompt/topic, adapter/fusion, "
            "router/fusion, head/vqa, head/exercise, head/side, head/topic, expert/0 to expert/7",
        ),
        (
            ["federation.modules=[{match: '*', scope: fogs}]"],
            "federation.modules.0.scope: 'fogs' is no tier; allowed: cloud, region, fog, device",
        ),
        (["federation.cadence.edge=2"], "federation.cadence.edge: 'edge' is no tier; allowed: region, fog, device"),
        (
            ["federation.modules=[{match: '*', cadence: {cloud: 2}}]"],
            "federation.modules.0.cadence.cloud: the cloud sends nothing upward; allowed: region, fog, device",
        ),
        (
            ["federation.cadence={fog: 2, region: 3}"],
            "federation.cadence.region: 3 for encoder/image; allowed: multiples of 2, the cadence of fog below",
        ),
        (
            ["federation.cadence={fog: 2}"],
            "federation.cadence.region: 1 for encoder/image; allowed: multiples of 2, the cadence of fog below",
        ),
        (
            ["federation.modules=[{match: head/side, cadence: {device: 2, fog: 1}}]"],
            "federation.modules.0.cadence.fog: 1 for head/side; allowed: multiples of 2, the cadence of device below",
        ),
        (
            ["federation.compress_down=true"],
            "federation.compress_down: true given, but no module is quantised; allowed: false, or quantise in "
            "federation.compression",
        ),
        (
            ["federation.compression=[{kind: quantise}, {kind: skip, threshold: 0.1}]"],
            "federation.compression: quantise, skip: each kind may stand once, in the order skip, top-k, quantise",
        ),
        (
            ["federation.compression=[{kind: quantise}]", "federation.cadence={device: 2, fog: 2, region: 2}"],
            "federation.cadence.device: 2 for encoder/image, which is compressed; allowed: 1",
        ),
        (
            ["federation.compression=[{kind: quantise}]", "federation.rule.kind=scaffold", "local.optimizer=sgd"],
            "federation.compression: not with rule scaffold; allowed: none, or another rule",
        ),
        (
            ["federation.adaptive.tier=device"],
            "federation.adaptive.tier: 'device' given; allowed: region, fog",
        ),
        (
            ["network={}", "devices.0.device_class=tv"],
            "devices.0.device_class: 'tv' is no class; allowed: phone, watch, camera, gateway",
        ),
        (
            ["network={placement: {separation_m: 9000}}"],
            "network.placement.separation_m: 2 nodes do not fit 9000 m apart into a square of 3000 m "
            "(1 did in 10000 tries); allowed: fewer nodes, less separation_m, more side_m",
        ),
        (
            ["network={channel: {kind: paper}}"],
            "network.channel.kind: 'paper' has 10 cells of 4 devices, this federation cells of 3, 3; allowed: "
            "log-distance, tr38901",
        ),
        (
            ["federation.rule.kind=scaffold"],
            "local.optimizer: 'adamw' given; allowed with rule scaffold: sgd",
        ),
        (
            ["federation.rule.kind=scaffold", "local.optimizer=none"],
            "local.optimizer: 'none' given; allowed with rule scaffold: sgd",
        ),
        (
            [*BARE, "model.encoders.imu.standardise=false", "federation.modules=[{match: 'statistics/*'}]"],
            "federation.modules.0.match: 'statistics/*' matches no module; allowed: encoder/imu, prompt/exercise, "
            "head/exercise",
        ),
        (
            ["federation.rule.kind=scaffold", "local.optimizer=sgd", "federation.cadence.region=2"],
            "federation.cadence.region: 2 given; allowed with rule scaffold: 1",
        ),
        (
            [
                "federation.rule.kind=scaffold",
                "local.optimizer=sgd",
                "federation.modules=[{match: '*', cadence: {region: 2}}]",
            ],
            "federation.modules.0.cadence.region: 2 given; allowed with rule scaffold: 1",
        ),
        (
            ["federation.rule={kind: median, max_held: 2}"],
            "federation.rule.max_held: 2 given, but fog-0 has 3 devices; allowed: at least 3",
        ),
        (
            ["federation.rule={kind: trimmed-mean, max_held: 5}", "topology={kind: counted, tiers: []}"],
            "federation.rule.max_held: 5 given, but cloud has 6 devices; allowed: at least 6",
        ),
        # machines and their folders
        (
            ["execution.placement=labels"],
            "execution.placement: labels given without execution.address; allowed: simulate, or the address of a "
            "cluster with labels",
        ),
        (
            ["execution={placement: labels, runner: local}", "network={}"],
            "execution.placement: labels given with a network to be modelled; allowed: simulate, or network: null",
        ),
        (
            ["execution.machines={hall: [camera-*, cam-1]}"],
            "execution.machines.hall.1: 'cam-1' is no node; allowed: ids of nodes, or patterns (watch-*)",
        ),
        (
            ["execution.machines={hall: [camera-*, fog-0], yard: ['*-1']}"],
            "execution.machines.yard.0: 'camera-1' is on machine 'hall' already; allowed: each node on one machine",
        ),
        (
            ["sources.gym.held_out={path: x}"],
            "sources.gym.held_out.path: given, but no folder of each device's own ({device} in its path); allowed: "
            "split or fraction",
        ),
        (
            [OWN_NEWS % "", "sources.news.path='a/{device}'"],
            "sources.news.held_out: each device has a folder of its own; allowed: path, a folder with what no device "
            "trains on",
        ),
        (
            [OWN_NEWS % ", held_out: {path: x}, partition: {kind: iid}", "sources.news.path='a/{device}'"],
            "sources.news.partition.kind: given, but a device has what lies in its own folder; allowed: nothing",
        ),
        # the tree
        (
            ["topology.tiers.1.count=7"],
            "topology.tiers.1.count: 7 given, but the device tier below has only 6; allowed: 1 to 6",
        ),
        (
            ["topology.tiers.0.count=3"],
            "topology.tiers.0.count: 3 given, but the fog tier below has only 2; allowed: 1 to 2",
        ),
        (
            [
                "topology={kind: listed, tree: {}}",
                "topology.tree={a: [camera-0, camera-1, watch-0, watch-1, reader-0, reader-1], b: []}",
            ],
            "topology.tree: 'b' has nothing below it; allowed: nodes with children",
        ),
        (
            ["topology={kind: placed, radius_m: 1}", "topology.tiers=[{name: fog, count: 7}]"],
            "topology.tiers.0.count: 7 given, but nothing is near 'fog-6'; allowed: fewer nodes, more devices, "
            "less topology.radius_m or another seed",
        ),
        (
            ["topology.tiers.1.name=camera"],
            "topology: node id 'camera-0' is used twice; allowed: other names of tiers and groups",
        ),
    ],
)
def test_what_cannot_work_is_refused(overrides: list[str], line: str) -> None:
    config = load_config(HOUSE, overrides)
    with pytest.raises(InputError) as caught:
        check(config)
    assert str(caught.value) == line
    assert "\n" not in line


def test_a_scope_below_a_tier_frees_it_from_the_cadence_below() -> None:
    overrides = ["federation.modules=[{match: '*', cadence: {fog: 2}, scope: region}]"]
    check(load_config(HOUSE, overrides))
