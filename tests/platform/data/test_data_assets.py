"""Asset packages: found without import, compared with their pinned hash."""

from __future__ import annotations

import hashlib
import pickle
import sys
from pathlib import Path

import pytest

from fogtune.platform.data import assets
from fogtune.platform.errors import AssetMissing

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package whose import fails, with one file."""
    directory = tmp_path / "fogtune_fake_asset"
    directory.mkdir()
    (directory / "__init__.py").write_text("raise RuntimeError('imported')")
    (directory / "file.bin").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path)
    return directory


def test_a_package_is_found_without_importing_it(package: Path) -> None:
    assert assets.asset_directory("fogtune_fake_asset") == package
    assert "fogtune_fake_asset" not in sys.modules


def test_a_missing_package_says_how_to_install_it() -> None:
    with pytest.raises(AssetMissing, match=r"asset no_such_package: .*--require-hashes -r constraints/assets.txt"):
        assets.asset_directory("no_such_package")


def test_the_remains_of_an_uninstall_are_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fogtune_empty_asset").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AssetMissing):
        assets.asset_directory("fogtune_empty_asset")


def test_a_file_is_given_out_only_if_its_hash_is_the_pinned_one(package: Path) -> None:
    assert assets.asset_file("fogtune_fake_asset", "file.bin", SHA256) == package / "file.bin"
    assert assets.asset_bytes("fogtune_fake_asset", "file.bin", SHA256) == CONTENT
    for read in (assets.asset_file, assets.asset_bytes):
        with pytest.raises(AssetMissing, match=r"file.bin has SHA-256"):
            read("fogtune_fake_asset", "file.bin", "0" * 64)
        with pytest.raises(AssetMissing, match=r"other.bin is missing"):
            read("fogtune_fake_asset", "other.bin", SHA256)


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(AssetMissing("asset x", "is missing")))
    assert isinstance(error, AssetMissing)
    assert str(error) == "asset x: is missing"


def test_the_embedded_weights_are_the_pinned_ones() -> None:
    assert (assets.minilm_directory() / "vocab.txt").is_file()
    assert assets.efficientnet_weights().stat().st_size > 10_000_000


def test_every_asset_is_pinned_by_hash() -> None:
    text = (Path(__file__).parents[3] / "constraints" / "assets.txt").read_text()
    requirements = [line for line in text.replace("\\\n", "").splitlines() if not line.startswith("#")]
    assert len(requirements) == 6
    assert all("==" in line and "--hash=sha256:" in line for line in requirements)
