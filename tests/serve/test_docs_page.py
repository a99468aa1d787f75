"""GET /docs works without a network and without a hole in the Content-Security-Policy."""

from __future__ import annotations

import re

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from fogtune.serve import docs_page


def client(*, keyed: bool) -> TestClient:
    app = FastAPI(docs_url=None, redoc_url=None)

    @app.get("/v2/health/live")
    async def live() -> None: ...

    @app.get("/v1/tasks")
    async def tasks() -> None: ...

    docs_page.install(app, keyed=keyed)
    return TestClient(app)


def test_all_that_the_page_needs_comes_from_here() -> None:
    here = client(keyed=False)
    page = here.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    links = re.findall(r'(?:href|src)="([^"]*)"', page.text)
    answers = {link: here.get(f"/{link}") for link in links if link != "data:,"}
    assert {link: answer.status_code for link, answer in answers.items()} == {
        "docs/assets/swagger-ui.css": 200,
        "docs/assets/swagger-ui-bundle.js": 200,
        "docs/start.js": 200,
    }
    # A browser that is told not to sniff runs nothing else. Older Pythons say application/javascript.
    assert all(
        ("css" if ".css" in link else "javascript") in answer.headers["content-type"]
        for link, answer in answers.items()
    )
    # Inline scripts and styles would need a weaker policy.
    assert not re.search(r"<style|style=|<script(?! src=)| on\w+=", page.text)
    assert "SwaggerUIBundle" in answers["docs/assets/swagger-ui-bundle.js"].text
    assert "//" not in page.text + answers["docs/start.js"].text


def test_nothing_else_lies_below_the_assets() -> None:
    here = client(keyed=False)
    for path in ("../__init__.py", "%2e%2e/core.py", "..%2fcore.py", ""):
        assert here.get(f"/docs/assets/{path}").status_code == 404


@pytest.mark.parametrize("keyed", [False, True])
def test_the_description_says_who_needs_a_key(keyed: bool) -> None:
    described = client(keyed=keyed).get("/openapi.json").json()
    assert list(described["paths"]) == ["/v2/health/live", "/v1/tasks"]
    assert described.get("security") == ([{"bearer": []}, {"header": []}] if keyed else None)
    schemes = described.get("components", {}).get("securitySchemes", {})
    assert sorted(schemes) == (["bearer", "header"] if keyed else [])
    assert described["paths"]["/v2/health/live"]["get"].get("security") == ([] if keyed else None)
    assert "security" not in described["paths"]["/v1/tasks"]["get"]
