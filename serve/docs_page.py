"""GET /docs: Swagger UI over the service's OpenAPI description, with nothing loaded from outside.

Its files come with the package `fastapi-offline`; only those are used, the page is our own, because its script must not
stand inline (the Content-Security-Policy of guard.py).
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from .guard import HEALTH

# Relative, so that a gateway below a prefix has its page too.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>FogTune: API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# No validator: it would send the description to swagger.io. Without what may stand before the host in the page's
# address, a name and a key: a browser loads no such address from a script.
_START = """SwaggerUIBundle({
  url: location.origin + location.pathname.replace(/docs$/, "openapi.json"),
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""


def install(app: FastAPI, *, keyed: bool) -> None:
    """Adds the page to an app made with `docs_url=None, redoc_url=None`.

    `keyed`: the service needs API keys. The description says so, and the page gets a button to enter one.
    """

    @app.get("/docs", include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(_PAGE)

    @app.get("/docs/start.js", include_in_schema=False)
    def start() -> Response:
        return Response(_START, media_type="text/javascript")

    app.mount("/docs/assets", StaticFiles(packages=[("fastapi_offline", "static")]))
    if keyed:
        _declare_keys(app)


def _declare_keys(app: FastAPI) -> None:
    describe = app.openapi

    def with_keys() -> dict[str, Any]:
        described = describe()
        schemes = described.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["bearer"] = {"type": "http", "scheme": "bearer"}
        schemes["header"] = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
        described["security"] = [{"bearer": []}, {"header": []}]
        for path in HEALTH & described["paths"].keys():
            for operation in described["paths"][path].values():
                operation["security"] = []
        return described

    app.openapi = with_keys  # type: ignore[method-assign]
