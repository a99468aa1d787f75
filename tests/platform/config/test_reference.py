"""The reference and the schema say what the models say."""

from __future__ import annotations

import json
import re

from fogtune.platform.config import Config, SeriesEncoder
from fogtune.platform.config.base import Section
from fogtune.platform.config.reference import reference_markdown, schema_json


def part(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", reference_markdown(), re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found.group(1)


def leaves(section: type[Section]) -> set[type[Section]]:
    children = [child for child in section.__subclasses__() if child.__module__.startswith("fogtune.platform.config")]
    return {leaf for child in children for leaf in leaves(child)} or {section}


def test_every_section_and_every_field_is_in_it_once() -> None:
    sections = leaves(Section)
    text = reference_markdown()
    assert text.count("\n## ") == len(sections)
    assert text.count("\n| `") == sum(len(section.model_fields) for section in sections)


def test_a_row_has_type_default_allowed_and_meaning() -> None:
    assert "| `rounds` | integer | `8` | at least 1 | Number of rounds. |" in part("The root")
    assert "| `schedule` | choice | `constant` | constant \\| cosine | Over the whole run; " in part("local")
    assert (
        "| `cadence` | mapping of name to integer | `{}` | each at least 1 | Tier -> every how many rounds its nodes "
        "send modules upward, 1 where absent. `{fog: 2}` is the paper's E_agg = 2; a tier's cadence is a multiple of "
        "that of the tier below. |"
    ) in part("federation")
    assert "| `fraction` | number or null | `null` | above 0, below 1 |" in part("sources.NAME.held_out")
    assert "| `channels` | integer | required | at least 1 |" in part("model.encoders.NAME (series)")
    assert "| `hidden` | list of integer | `[]` | each at least 1 |" in part("model.encoders.NAME (features)")
    assert "| `kind` | choice | required | `series` |" in part("model.encoders.NAME (series)")
    assert "| `tiers` | list of [mapping](#topologytiersn) | `[{name: fog, count: 4}]` |" in part("topology (counted)")


def test_links_lead_to_headings() -> None:
    text = reference_markdown()
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^## (.*)$", text, re.MULTILINE)
    }
    links = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert links <= headings
    assert headings - links == {"the-root"}


def test_tables_have_five_cells_a_row() -> None:
    rows = [line for line in reference_markdown().splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)


def test_schema_refuses_unknown_fields_and_carries_the_docstrings() -> None:
    schema = json.loads(schema_json())
    assert schema["additionalProperties"] is False
    assert schema["properties"]["rounds"] == {
        "default": 8,
        "description": "Number of rounds.",
        "minimum": 1,
        "title": "Rounds",
        "type": "integer",
    }
    assert set(schema["properties"]) == set(Config.model_fields)
    assert json.loads(schema_json(SeriesEncoder))["required"] == ["channels"]
