"""The dashboard in examples/ asks for what a federation really tells, and is what Grafana imports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ray.util.metrics import Counter, Metric

from fogtune.actors.metrics import RoundMetrics

DASHBOARD = json.loads((Path(__file__).resolve().parents[1] / "examples/grafana.json").read_text())
PANELS = DASHBOARD["panels"]


@pytest.fixture(scope="module")
def told() -> dict[str, set[str]]:
    """Name as Prometheus has it -> labels."""
    metrics = [metric for metric in vars(RoundMetrics("any")).values() if isinstance(metric, Metric)]
    return {
        f"ray_{metric.info['name']}{'_total' if isinstance(metric, Counter) else ''}": set(metric.info["tag_keys"])
        for metric in metrics
    }


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_queries_name_only_metrics_and_labels_that_there_are(panel: dict[str, Any], told: dict[str, set[str]]) -> None:
    for target in panel["targets"]:
        asked = re.findall(r"(\w+)\{([^}]*)\}", target["expr"])
        assert asked
        for name, selectors in asked:
            assert set(re.findall(r"(\w+)=~", selectors)) <= told[name], name
        shared = set.intersection(*(told[name] for name, _ in asked))
        for labels in re.findall(r"by \(([^)]*)\)", target["expr"]):
            assert set(labels.split(", ")) <= shared
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= set(labels.split(", "))
        # Nothing else is in it but functions and variables.
        rest = re.sub(r"by \([^)]*\)|\w+\{[^}]*\}|\[\$__rate_interval\]", "", target["expr"])
        assert set(re.findall(r"\w+", rest)) <= {"max", "sum", "rate"}
        assert rest.count("(") == rest.count(")")


def test_all_that_is_told_of_rounds_is_shown(told: dict[str, set[str]]) -> None:
    shown = set(re.findall(r"ray_fogtune_\w+", json.dumps(PANELS)))
    # Where a panel has seconds a round, wall time adds nothing; and which process told it is for programs.
    assert shown == told.keys() - {"ray_fogtune_round_seconds_total", "ray_fogtune_start_time_seconds"}


def test_it_has_what_the_importer_needs(told: dict[str, set[str]]) -> None:
    assert DASHBOARD["id"] is None  # Grafana gives one
    assert DASHBOARD["uid"]
    assert DASHBOARD["title"]
    assert DASHBOARD["schemaVersion"] == 27  # as Ray's own
    ids = [panel["id"] for panel in PANELS]
    assert len({*ids}) == len(ids)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in PANELS}
    assert len(places) == len(PANELS)
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables["run"]["query"]["query"])
    assert found
    assert found[2] in told[found[1]]
    for panel in PANELS:
        assert panel["datasource"] == "${datasource}"
        assert {"type", "title", "fieldConfig", "options"} <= panel.keys()
        refs = [target["refId"] for target in panel["targets"]]
        assert len({*refs}) == len(refs)
        for target in panel["targets"]:
            assert {*re.findall(r"\$(\w+)", target["expr"])} <= {*variables, "__rate_interval"}
