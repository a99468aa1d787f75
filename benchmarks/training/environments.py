"""The peers' environments, each with pinned packages in a virtual environment of its own below .cache/bench.

    python benchmarks/training/environments.py            all of them; the second time that takes no time

The plain loop and Ray's floor need nothing that FogTune does not: they run in FogTune's own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache/bench"
PEERS = ("flower", "pfl")
TORCH = ROOT / "constraints/torch-cpu.txt"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
NEEDS_BYTES = 3e9
"""Of disk, for one environment while it is made."""


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there.

    Raises:
        SystemExit: too little disk, or pip could not install.
    """
    requirements = Path(__file__).parent / "requirements" / f"{peer}.txt"
    home = CACHE / peer
    python, stamp = home / "bin/python", home / "requirements.txt"
    wanted = TORCH.read_text() + requirements.read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    CACHE.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(CACHE).free < NEEDS_BYTES:
        raise SystemExit(f"{CACHE}: less than {NEEDS_BYTES / 1e9:g} GB free; the environment of {peer} needs it")
    print(f"setting up {home} (a few minutes)", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
    install = [python, "-m", "pip", "-qq", "--disable-pip-version-check", "install", "--no-compile"]
    # The CPU build: from pip's own sources if they have it, else from PyTorch's index; as in the Makefile.
    torch = [*install, "--no-deps", "-r", TORCH]
    if subprocess.run(torch, stderr=subprocess.DEVNULL).returncode:
        subprocess.run([*torch, "--index-url", TORCH_INDEX], check=True)
    subprocess.run([*install, "-r", requirements], check=True)
    stamp.write_text(wanted)
    return python


if __name__ == "__main__":
    for name in sys.argv[1:] or PEERS:
        print(python_of(name))
