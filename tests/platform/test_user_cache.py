"""Where caches lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from fogtune.platform.user_cache import user_cache


@pytest.mark.parametrize(
    ("fogtune", "xdg", "found"),
    [
        ("/a/b", "/c", "/a/b"),
        ("~/b", "", "/home/me/b"),
        ("", "/c", "/c/fogtune"),
        ("", "relative", "/home/me/.cache/fogtune"),
        (None, None, "/home/me/.cache/fogtune"),
    ],
)
def test_which_variable_counts(
    fogtune: str | None, xdg: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FOGTUNE_CACHE", fogtune), ("XDG_CACHE_HOME", xdg), ("HOME", "/home/me")):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert user_cache() == Path(found)


def test_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FOGTUNE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert user_cache() is None
