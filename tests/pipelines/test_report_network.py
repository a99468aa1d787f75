"""What the page says about a network: costs by kind, a map of links and roles, time to target."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

import pytest

from fogtune.pipelines import spending
from fogtune.pipelines.report import network_map, write_report
from fogtune.pipelines.report.roles import HEAD, RELAY, roles
from fogtune.pipelines.report.targets import targets
from fogtune.platform.run import Ledger, LedgerRow, NodeEntry, RoundRecord, RunDirectory
from fogtune.platform.run.record import Kind

MakeRun = Callable[..., RunDirectory]
Record = Callable[..., RoundRecord]
Served = Callable[..., dict[str, dict[str, int]]]

DEVICES = ("reader-0", "reader-1", "reader-2", "reader-3")
PLACES = {"cloud": (500.0, 500.0), "fog-0": (100.0, 100.0)} | {
    device: (100.0 + 10 * row, 200.0) for row, device in enumerate(DEVICES)
}


def book(run: RunDirectory, rounds: Iterable[Iterable[LedgerRow]]) -> None:
    ledger = Ledger(run.path)
    for rows in rounds:
        ledger.book(rows)
        ledger.seal()
    ledger.merge()
    ledger.discard_parts()


def hop(number: int, kind: str, source: str, target: str, hops: int = 1, *, lost: bool = False) -> LedgerRow:
    """8 Mbit in two seconds."""
    name = cast(Kind, kind)
    return LedgerRow(number, name, source, target, "head/topic", 1_000_000, hops, 0.0, 2.0, 0.5, lost)


def place(run: RunDirectory, **access_points: tuple[float, float]) -> None:
    nodes = run.topology()
    for name, (x_m, y_m) in PLACES.items():
        nodes[name] |= {"x_m": x_m, "y_m": y_m}
    run.write_topology(nodes, access_points)


@pytest.fixture
def run(make_run: MakeRun, record: Record) -> RunDirectory:
    """Two rounds: reader-1 heads reader-0 and, in the second, relays reader-2."""
    made = make_run(rounds=0)
    decision = {"about": "reader-0", "what": "is headed", "why": "reader-1 adds <b>it</b> up"}
    for number in (1, 2):
        made.append(replace(record(number), energy_j=5.0 * number, decisions=[decision]))
    made.finish("completed")
    place(made)
    first = [
        hop(1, "downlink", "fog-0", "reader-0"),
        LedgerRow(1, "compute", "reader-0", "reader-0", "*", 0, 1, 2.0, 3.0, 1.5),
        hop(1, "d2d", "reader-0", "reader-1"),
        hop(1, "uplink", "reader-1", "fog-0"),
        hop(1, "backhaul", "fog-0", "cloud"),
    ]
    second = [hop(2, "d2d", "reader-2", "reader-1", 2), hop(2, "uplink", "reader-1", "fog-0", 2)]
    book(made, [first, second])
    return made


def page(run: RunDirectory) -> tuple[str, dict[str, dict[str, Any]]]:
    html = write_report(run).read_text()
    match = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html)
    assert match
    return html, {figure["id"]: figure for figure in json.loads(match[1])}


def hints(figure: dict[str, Any]) -> list[str]:
    return [text for trace in figure["traces"] for text in trace.get("hovertext", []) if text]


class TestCosts:
    def test_bars_and_table_add_up_the_ledger_by_kind(self, run: RunDirectory) -> None:
        html, found = page(run)
        energy = {trace["name"]: trace["y"] for trace in found["energy"]["traces"]}
        assert energy == {
            "uplink": [0.5, 0.5],
            "downlink": [0.5, 0.0],
            "backhaul": [0.5, 0.0],
            "d2d": [0.5, 0.5],
            "compute": [1.5, 0.0],
        }
        assert {trace["name"]: trace["y"] for trace in found["busy"]["traces"]}["compute"] == [3.0, 0.0]
        cells = "".join(f"<td>{cell}</td>" for cell in ("uplink", "4.00 s", "1.00 J", "22 %", "2.00 MB", "0 B"))
        assert cells in html

    def test_curves_can_be_seen_against_energy(self, run: RunDirectory) -> None:
        _, found = page(run)
        assert found["task-0"]["traces"][0]["along"]["energy"] == [15.0]
        assert found["task-0"]["traces"][0]["along"]["virtual"] == [40.0]

    def test_decisions_are_counted_and_stay_text(self, run: RunDirectory) -> None:
        html, _ = page(run)
        assert "<b>is headed</b>: 2 ×, devices or modules: 1" in html
        assert "reader-1 adds &lt;b&gt;it&lt;/b&gt; up" in html

    def test_decisions_of_older_runs_name_a_device(self, run: RunDirectory) -> None:
        path = run.path / "rounds.jsonl"
        path.write_text(path.read_text().replace('"about"', '"device"'))
        assert "Last in round 2: reader-0: reader-1 adds" in page(run)[0]

    def test_a_run_without_a_network_has_none_of_it(self, make_run: MakeRun) -> None:
        made = make_run()
        book(made, [[LedgerRow(1, "uplink", "reader-0", "fog-0", "head/topic", 10, 1, None, None, None)]])
        html, found = page(made)
        assert "Time and energy" not in html
        assert {"energy", "busy", "map"}.isdisjoint(found)


class TestMap:
    def test_links_tell_what_went_over_them_and_how_fast(self, run: RunDirectory) -> None:
        figure = page(run)[1]["map"]
        told = hints(figure)
        assert "reader-1 → fog-0: 2.00 MB at 4.00 Mbit/s for 1.00 J" in told
        assert "reader-0 → reader-1: 1.00 MB at 4.00 Mbit/s for 0.50 J" in told
        lines = {trace["line"]["color"]: trace for trace in figure["traces"] if trace["mode"] == "lines"}
        assert list(lines) == ["--c2", "--c0", "--c3"]  # backhaul, uplink with downlink, d2d
        assert (lines["--c2"]["x"], lines["--c2"]["y"]) == ([500.0, 100.0, None], [500.0, 100.0, None])
        assert len(lines["--c0"]["x"]) == len(lines["--c3"]["x"]) == 2 * 3

    def test_nodes_tell_what_they_were(self, run: RunDirectory) -> None:
        told = {text.split("</b>")[0].removeprefix("<b>"): text for text in hints(page(run)[1]["map"]) if "<b>" in text}
        assert set(told) == {"cloud", "fog-0", *DEVICES}
        assert "rounds as cluster head: 1<br>rounds as relay: 1<br>at 110 m, 200 m" in told["reader-1"]
        assert told["reader-0"] == "<b>reader-0</b><br>device, group reader<br>at 100 m, 200 m"

    def test_access_points_are_drawn_where_they_are_known_and_else_skipped(self, run: RunDirectory) -> None:
        book(run, [[hop(1, "uplink", "reader-3", "ap-0"), hop(1, "uplink", "reader-2", "ap-1")]])
        place(run, **{"ap-0": (130.0, 300.0)})
        told = hints(page(run)[1]["map"])
        assert "<b>ap-0</b><br>access point<br>at 130 m, 300 m" in told
        assert any("reader-3 → ap-0" in text for text in told)
        assert not any("ap-1" in text for text in told)

    def test_names_are_not_markup(self, run: RunDirectory) -> None:
        evil = "<a href='https://example.org'>x</a>"
        run.write_topology({evil: run.topology()["cloud"]})
        assert not any("<a" in text for text in hints(page(run)[1]["map"]))

    def test_a_placed_topology_without_a_network_tells_bytes(self, run: RunDirectory) -> None:
        book(run, [[LedgerRow(1, "uplink", "reader-0", "fog-0", "head/topic", 10, 1, None, None, None)]])
        assert "reader-0 → fog-0: 10 B" in hints(page(run)[1]["map"])

    def test_without_positions_the_tree_alone_is_drawn(self, run: RunDirectory) -> None:
        nodes = {name: dict(entry) for name, entry in run.topology().items()}
        for entry in nodes.values():
            del entry["x_m"], entry["y_m"]  # as older runs have it
        run.write_topology(cast(dict[str, NodeEntry], nodes))
        html, found = page(run)
        assert "map" not in found
        assert "<h2>Topology</h2>" in html

    def test_a_large_network_is_drawn_in_part(self, run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "markers+text" in [trace["mode"] for trace in page(run)[1]["map"]["traces"]]
        monkeypatch.setattr(network_map, "MOST_DEVICES", 2)
        monkeypatch.setattr(network_map, "MOST_NAMES", 1)
        html, found = page(run)
        assert "markers+text" not in [trace["mode"] for trace in found["map"]["traces"]]
        told = hints(found["map"])
        assert [text for text in told if "reader-2</b>" in text] == []
        assert [text for text in told if "reader-1</b>" in text] != []
        assert "Of 4 devices the first 2 are drawn." in html


class TestRoles:
    @pytest.fixture
    def served(self, make_run: MakeRun, record: Record) -> Served:
        """Roles of a, b, c and d, from rounds of hops and the devices that were headed in each."""

        def of(*rounds: list[LedgerRow], headed: str = "") -> dict[str, dict[str, int]]:
            made = make_run(rounds=0)
            decisions = [{"about": device, "what": "is headed", "why": "so"} for device in headed]
            for number in range(1, len(rounds) + 1):
                made.append(replace(record(number), decisions=decisions))
            book(made, rounds)
            return roles(made, ("a", "b", "c", "d"))

        return of

    def test_a_head_hears_from_those_it_heads(self, served: Served) -> None:
        rows = [hop(1, "d2d", "a", "b"), hop(1, "uplink", "b", "fog"), hop(1, "uplink", "c", "fog")]
        assert served(rows, headed="a") == {"b": {HEAD: 1}}

    def test_a_relay_serves_in_both_directions_and_who_is_served_does_not(self, served: Served) -> None:
        up = [hop(1, "d2d", "a", "b", 2), hop(1, "uplink", "b", "fog", 2), hop(1, "uplink", "b", "fog")]
        down = [hop(1, "downlink", "fog", "b", 2), hop(1, "d2d", "b", "a", 2)]
        assert served(down + up) == {"b": {RELAY: 1}}

    def test_a_relay_on_the_way_to_a_head_that_passes_modules_down(self, served: Served) -> None:
        way = [hop(1, "d2d", "a", "b", 2), hop(1, "d2d", "b", "c", 2)]
        down = [hop(1, "d2d", "c", "b", 3), hop(1, "d2d", "b", "a", 3), hop(1, "d2d", "c", "d", 2)]
        rows = [*down, *way, hop(1, "d2d", "b", "c"), hop(1, "uplink", "c", "fog")]
        assert served(rows, headed="ab") == {"b": {RELAY: 1}, "c": {HEAD: 1}}

    def test_neighbours_that_average_serve_nobody(self, served: Served) -> None:
        pairs = [("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")]
        rows = [hop(1, "d2d", *pair) for pair in pairs] + [hop(1, "uplink", device, "fog") for device in "abc"]
        assert served(rows) == {}

    def test_what_is_lost_serves_nobody(self, served: Served) -> None:
        assert served([hop(1, "d2d", "a", "b", lost=True), hop(1, "uplink", "b", "fog")], headed="a") == {}

    def test_rounds_are_counted_over_batches(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spending, "BATCH_ROWS", 1)
        rounds = [[hop(n, "d2d", "a", "b"), hop(n, "uplink", "b", "fog")] for n in (1, 2, 3)]
        assert served(*rounds, headed="a") == {"b": {HEAD: 3}}


class TestTargets:
    def test_the_first_round_that_reaches_a_share_counts(self, record: Record) -> None:
        values = (0.10, 0.92, 1.00, 0.50)
        records = [
            replace(record(number), energy_j=3.0, tasks={"topic": {"accuracy": value}})
            for number, value in enumerate(values, start=1)
        ]
        rows = re.findall(r"<tr>(.*?)</tr>", targets(records, ["topic", "vqa"]))[1:]
        cells = [re.findall(r"<td>(.*?)</td>", row) for row in rows]
        assert cells == [
            ["topic", "90 %", "0.900", "2", "40.0 s", "6.00 J", "7.00 MB"],
            ["topic", "95 %", "0.950", "3", "1 min 00 s", "9.00 J", "10.5 MB"],
            ["topic", "99 %", "0.990", "3", "1 min 00 s", "9.00 J", "10.5 MB"],
        ]

    def test_rounds_without_values_and_unknown_costs_are_left_out(self, record: Record) -> None:
        html = targets([record(1), replace(record(2), virtual_time_s=None)], ["topic"])
        assert "energy" not in html
        assert "virtual" not in html
        assert html.count("<td>2</td>") == 3  # round 1 was not evaluated

    def test_nothing_evaluated_or_nothing_to_take_a_share_of_is_no_table(self, record: Record) -> None:
        worst = replace(record(2), tasks={"topic": {"r2": -0.5}, "vqa": {"accuracy": float("nan")}})
        assert targets([record(1), worst], ["topic", "vqa"]) == ""
