"""What is served as versions come, go, are damaged, pinned and tried."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from fogtune.platform.errors import InputError
from fogtune.serve.catalogue import Catalogue
from fogtune.serve.registry import Registry
from fogtune.serve.rollout import Canary, Rollout, change_rollout, promoted, rolled_back


def opened(run: Path) -> Catalogue:
    catalogue = Catalogue(Registry(run))
    catalogue.refresh()
    return catalogue


def write_rollout(run: Path, rollout: Rollout) -> None:
    change_rollout(run, lambda _: rollout)


def stable(catalogue: Catalogue) -> int | None:
    catalogue.refresh()
    return catalogue.served.stable.number if catalogue.served else None


def publish_again(run: Path, number: int, like: int = 2) -> Path:
    """A version as another round would publish it."""
    path = run / f"modules/v{number}"
    shutil.copytree(run / f"modules/v{like}", path)
    return path


def damage(version: Path) -> None:
    file = version / "cloud/head/vqa.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")


def test_the_newest_version_is_served_as_it_comes(copied: Path) -> None:
    catalogue = opened(copied)
    assert stable(catalogue) == 2
    publish_again(copied, 10)  # not before 2, as names would have it
    assert stable(catalogue) == 10
    shutil.rmtree(copied / "modules/v10")
    assert stable(catalogue) == 2


def test_before_the_first_version_nothing_is(copied: Path) -> None:
    shutil.move(copied / "modules", copied / "later")
    catalogue = opened(copied)
    assert stable(catalogue) is None
    assert catalogue.choose() is None
    assert catalogue.versions() == ()
    shutil.move(copied / "later", copied / "modules")
    assert stable(catalogue) == 2


def test_a_damaged_version_is_refused_and_the_one_before_goes_on(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue = opened(copied)
    damage(publish_again(copied, 3))
    for _ in range(3):
        assert stable(catalogue) == 2
    assert sum("v3 is refused" in line for line in caplog.messages) == 1
    third = catalogue.versions()[-1]
    assert (third.version, third.state, third.metrics) == (3, "refused", {})
    assert "does not match the sha256" in (third.reason or "")
    with pytest.raises(InputError, match=r"v3 cannot be served .*sha256"):
        catalogue.version(3)


def test_a_version_published_anew_is_looked_at_anew(copied: Path) -> None:
    catalogue = opened(copied)
    damage(publish_again(copied, 3))
    assert stable(catalogue) == 2
    shutil.rmtree(copied / "modules/v3")
    os.utime(publish_again(copied, 3) / "manifest.json", (1e9, 1e9))  # another time than the damaged one's
    assert stable(catalogue) == 3


def test_a_pinned_version_stays(copied: Path) -> None:
    catalogue = opened(copied)
    write_rollout(copied, Rollout(pinned=1))
    assert stable(catalogue) == 1
    publish_again(copied, 3)
    assert stable(catalogue) == 1
    write_rollout(copied, Rollout())
    assert stable(catalogue) == 3


def test_a_pin_that_cannot_be_followed_changes_nothing(copied: Path) -> None:
    catalogue = opened(copied)
    write_rollout(copied, Rollout(pinned=1))
    assert stable(catalogue) == 1
    damage(publish_again(copied, 3))
    write_rollout(copied, Rollout(pinned=3))
    assert stable(catalogue) == 1
    assert stable(opened(copied)) == 2  # a gateway that starts now serves the newest that can be


def test_a_damaged_decision_changes_nothing(copied: Path) -> None:
    catalogue = opened(copied)
    write_rollout(copied, Rollout(pinned=1))
    assert stable(catalogue) == 1
    (copied / "serving.json").write_text("{")
    assert stable(catalogue) == 1


@pytest.mark.parametrize(("percent", "turns"), [(10, 20), (50, 100), (0.5, 1), (99, 198)])
def test_a_canary_gets_its_share_evenly(copied: Path, percent: float, turns: int) -> None:
    write_rollout(copied, Rollout(pinned=1, canary=Canary(version=2, percent=percent)))
    catalogue = opened(copied)
    chosen = [catalogue.choose() for _ in range(200)]
    assert Counter(version.number for version in chosen if version) == {2: turns, 1: 200 - turns}
    halves = [
        sum(version is not None and version.number == 2 for version in half) for half in (chosen[:100], chosen[100:])
    ]
    assert abs(halves[0] - halves[1]) <= 1
    assert {info.version: info.state for info in catalogue.versions()} == {1: "stable", 2: "canary"}


def test_a_canary_that_cannot_be_served_gets_nothing(copied: Path) -> None:
    damage(copied / "modules/v2")
    write_rollout(copied, Rollout(pinned=1, canary=Canary(version=2, percent=50)))
    catalogue = opened(copied)
    assert {version.number for _ in range(10) if (version := catalogue.choose())} == {1}


def test_versions_tell_their_metrics(served: Path) -> None:
    first, second = opened(served).versions()
    assert (first.state, second.state) == ("ready", "stable")
    manifest = json.loads((served / "modules/v2/manifest.json").read_text())
    assert second.metrics["topic"] == manifest["tasks"]["topic"]["metrics"]


def test_a_decision_names_only_what_can_be_served(copied: Path) -> None:
    catalogue = opened(copied)
    damage(publish_again(copied, 3))  # nobody has looked at it yet
    with pytest.raises(InputError, match="3 cannot be served; allowed: v1, v2"):
        catalogue.decide(lambda held, usable: promoted(held, 3, 100, usable))
    publish_again(copied, 4)
    assert stable(catalogue) == 4
    assert catalogue.decide(rolled_back) == Rollout(pinned=2)
    assert stable(catalogue) == 2


def test_a_decision_is_made_of_what_holds_now(copied: Path) -> None:
    """Not of what this process saw last."""
    catalogue = opened(copied)
    write_rollout(copied, Rollout(pinned=1, canary=Canary(version=2, percent=5)))
    assert catalogue.decide(rolled_back) == Rollout(pinned=1)


def test_a_file_that_cannot_be_read_for_a_moment(copied: Path) -> None:
    head = copied / "modules/v2/cloud/head/vqa.safetensors"
    content = head.read_bytes()
    head.unlink()
    head.mkdir()  # reading it fails, but not for want of it
    catalogue = opened(copied)
    assert stable(catalogue) == 1
    head.rmdir()
    head.write_bytes(content)
    assert stable(catalogue) == 2


@pytest.mark.parametrize("manifest", ["{", "[" * 100_000, '{"modules": [], "tasks": {"topic": {"metrics": [1]}}}'])
def test_a_manifest_of_any_kind_only_refuses_its_version(copied: Path, manifest: str) -> None:
    path = publish_again(copied, 3) / "manifest.json"
    path.write_text(manifest)
    catalogue = opened(copied)
    assert stable(catalogue) == 2
    assert catalogue.versions()[-1].state == "refused"


def test_a_manifest_is_read_once_for_the_list(copied: Path) -> None:
    """However many versions there are."""
    for number in range(3, 15):
        publish_again(copied, number)
    catalogue = opened(copied)
    assert len(catalogue.versions()) == 14
    for number in range(1, 14):  # all but the one served
        (copied / f"modules/v{number}/manifest.json").write_text("{")
    assert [info.state for info in catalogue.versions()] == ["ready"] * 13 + ["stable"]
