"""The page: complete, offline, and safe whatever names a configuration has."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fogtune.pipelines.compare import read
from fogtune.pipelines.report import write_comparison, write_report
from fogtune.pipelines.report.figures import Axes, byte_scale, link_bytes, module_bytes
from fogtune.pipelines.report.tree import MOST_DEVICES, topology
from fogtune.platform.errors import InputError
from fogtune.platform.run import NodeEntry, RoundRecord, RunDirectory

MakeRun = Callable[..., RunDirectory]
Record = Callable[..., RoundRecord]


class Elements(HTMLParser):
    """Start tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data


def figures(html: str) -> list[dict[str, Any]]:
    match = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html)
    assert match
    found: list[dict[str, Any]] = json.loads(match[1])
    return found


def test_the_page_loads_nothing_from_anywhere(make_run: MakeRun) -> None:
    html = write_report(make_run()).read_text()
    elements = Elements(html)
    assert [attributes for _, attributes in elements.found if "src" in attributes] == []
    assert [tag for tag, attributes in elements.found if tag == "link" or "href" in attributes] == []
    assert "default-src 'none'" in html
    scripts = [attributes.get("type") for tag, attributes in elements.found if tag == "script"]
    assert scripts == ["application/json", None, None]


def test_the_page_names_every_task_node_module_and_loss(make_run: MakeRun) -> None:
    run = make_run()
    text = Elements(write_report(run).read_text()).text
    for name in (
        "topic",
        "vqa",
        "cloud",
        "fog-0",
        "reader-0",
        "reader-3",
        "head/topic",
        "head/vqa",
        run.id,
        "completed",
    ):
        assert name in text
    assert re.search(r"updates lost\s*why\s*2401crash 1", text)  # of round 2: participants, dropped, lost, why


def test_curves_are_drawn_against_rounds_and_bytes(make_run: MakeRun) -> None:
    found = {figure["id"]: figure for figure in figures(write_report(make_run()).read_text())}
    assert set(found) == {"task-0", "task-1", "loss", "links", "modules"}
    held_out, mean, worst = found["task-0"]["traces"]
    assert held_out["y"] == [0.5, 0.75]  # round 1 was not evaluated
    assert held_out["along"]["round"] == [2, 3]
    assert held_out["along"]["bytes"] == [7.0, 10.5]
    assert held_out["along"]["virtual"] == [40.0, 60.0]
    assert "energy" not in held_out["along"]
    assert (mean["y"], worst["y"]) == ([0.5, 0.5], [0.125, 0.125])
    assert found["task-0"]["axes"]["bytes"]["title"] == "moved so far (MB)"


def test_text_from_a_configuration_stays_text(make_run: MakeRun) -> None:
    run = make_run(status="failed", error="</script><script>alert(1)</script>")
    evil = "<img src=x onerror=alert(1)>"
    entry = NodeEntry(tier="device", parent=None, group=evil, modalities=[evil], tasks=[evil], modules=[evil])
    run.write_topology({evil: entry})
    (run.path / "config.yaml").write_text(f"name: {evil}</pre>")
    line = run.records()[1].to_json().replace("vqa", evil).replace("head/topic", "</script>" + evil)
    (run.path / "rounds.jsonl").write_text(line + "\n")
    elements = Elements(write_report(run).read_text())
    assert "img" not in [tag for tag, _ in elements.found]
    assert len([tag for tag, _ in elements.found if tag == "script"]) == 3
    assert elements.text.count(evil) >= 4


@pytest.mark.parametrize("status", ["running", "stopped", "failed"])
def test_a_run_without_rounds_has_a_page_too(make_run: MakeRun, status: str) -> None:
    text = Elements(write_report(make_run(rounds=0, status=status)).read_text()).text
    assert "No round was finished." in text
    assert status in text


def test_a_run_without_its_configuration_is_bad_input_and_keeps_its_page(make_run: MakeRun) -> None:
    run = make_run()
    path = write_report(run)
    before = path.read_bytes()
    (run.path / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"config\.yaml"):
        write_report(run)
    assert path.read_bytes() == before


def test_large_populations_are_drawn_by_group_and_listed_by_node() -> None:
    def device(row: int) -> NodeEntry:
        parent = f"fog-{row % 2}"
        return NodeEntry(
            tier="device", parent=parent, group="cam", modalities=["image"], tasks=["vqa"], modules=["head/vqa"]
        )

    nodes = {"cloud": NodeEntry(tier="cloud", parent=None, group=None, modalities=[], tasks=[], modules=[])}
    for row in range(2):
        nodes[f"fog-{row}"] = NodeEntry(tier="fog", parent="cloud", group=None, modalities=[], tasks=[], modules=[])
    nodes |= {f"cam-{row}": device(row) for row in range(MOST_DEVICES)}
    assert topology(nodes).count("<circle") == 3 + MOST_DEVICES
    nodes[f"cam-{MOST_DEVICES}"] = device(MOST_DEVICES)
    html = topology(nodes)
    assert html.count("<circle") == 3 + 2
    assert "cam × 31" in html
    assert all(f"cam-{row}" in html for row in range(MOST_DEVICES + 1))


def test_bytes_are_added_by_link_and_by_module(record: Record) -> None:
    records = [record(1), record(2)]
    links, kinds = link_bytes("links", records)
    assert kinds == ["uplink", "downlink", "backhaul"]  # nothing went over d2d
    assert [trace["y"] for trace in links["traces"]] == [[1.0, 1.0], [2.0, 2.0], [0.5, 0.5]]
    (trace,) = module_bytes("modules", records)["traces"]
    assert dict(zip(trace["y"], trace["x"], strict=True)) == {"adapter/fusion": 4.0, "head/topic": 3.0}
    assert byte_scale([0]) == ("B", 1)
    assert byte_scale([999, 1_000_000]) == ("MB", 1_000_000)


def test_runs_share_the_axes_that_all_of_them_know(record: Record) -> None:
    assert list(Axes([[record(1)], [record(1), record(2)]]).titles) == ["round", "bytes", "wall", "virtual"]


def test_a_comparison_overlays_runs(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("one"), make_run("two", rounds=2)]
    write_comparison(read(runs), tmp_path / "compare.html")
    html = (tmp_path / "compare.html").read_text()
    found = figures(html)
    assert [len(figure["traces"]) for figure in found] == [2, 2]
    assert [trace["y"] for trace in found[0]["traces"]] == [[0.5, 0.75], [0.5]]
    text = Elements(html).text
    assert all(run.id in text for run in runs)
    assert re.search(r"virtual time\s*1 min 00 s\s*40\.0 s", text)
