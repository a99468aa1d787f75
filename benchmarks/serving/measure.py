"""The tables of docs/benchmarks.md about serving: FogTune and a plain Ray Serve deployment, side by side in one run.

    python benchmarks/serving/measure.py --out docs/benchmarks.md

Windows of load on the different servers and kinds of traffic take turns, several times; figures are medians, and what
is asked for are ratios, for the machine's speed is its own. Takes about twenty minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from statistics import harmonic_mean, median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from load import Result, load, write_samples
from servers import fogtune, plain, resident_bytes
from tables import write_between_marks
from variants import GROUP, Published

from fogtune.serve.decoding import Decoder
from fogtune.serve.predictor import Predictor
from fogtune.serve.registry import Registry
from fogtune.serve.rows import Row
from fogtune.serve.settings import Settings

MANY = 1000
SWAPPED = 100
"""Variants of the run whose versions are swapped."""
EVERY_S = 2.0
MEMORY_REQUESTS = 50_000


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, help="windows of each kind")
    parser.add_argument("--seconds", type=int, default=6, help="of a window")
    parser.add_argument("--out", type=Path, help="Markdown file to write; by default the table is only printed")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        table = measured(Path(folder), options.turns, options.seconds)
    print(table)
    if options.out:
        write_between_marks(options.out, "benchmarks/serving/measure.py", table)


def measured(folder: Path, turns: int, seconds: int) -> str:
    """The table."""
    run = Published(folder / "many", MANY)
    run.write(1)
    samples = folder / "samples"
    write_samples(run.config, samples)
    rows = [("", "measured", "asked")]
    with fogtune(run.path) as url:
        rows += throughput(run, url, samples, turns, seconds)
        rows += one_client(run, url)
        rows += memory(url, samples, seconds)
    swapped = Published(folder / "swapped", SWAPPED)
    swapped.write(1)
    with fogtune(swapped.path) as url:
        rows += swapping(swapped, url, samples, turns, seconds)
    head, *body = rows
    return "\n".join(["| " + " | ".join(row) + " |" for row in (head, ("---",) * 3, *body)]) + "\n"


def throughput(run: Published, url: str, samples: Path, turns: int, seconds: int) -> list[tuple[str, str, str]]:
    """Mixed traffic against single tasks, against the peer, and with few and many variants."""
    with plain(run.path) as peer, fogtune(run.path, "prefix_memory_bytes=0") as forgetful:
        windows: dict[str, Callable[[], Result]] = {
            f"{task} alone": lambda task=task: load(url, samples, seconds, task=task) for task in run.config.tasks
        }
        windows |= {
            f"{count} variants": lambda count=count: load(url, samples, seconds, count) for count in (10, 100, MANY)
        }
        windows["nothing remembered"] = lambda: load(forgetful, samples, seconds, 100)
        windows["plain"] = lambda: load(peer, samples, seconds, 100)
        for server in (url, forgetful, peer):  # every variant, sample and adapter is loaded once before
            load(server, samples, 2 * seconds, 100)
        load(url, samples, 4 * seconds, MANY)
        found: dict[str, list[Result]] = {name: [] for name in windows}
        for turn in range(turns):
            for name, window in windows.items():
                found[name].append(window())
                print(f"turn {turn + 1}: {name}: {found[name][-1]}", flush=True)
    per_s = {name: median(result.per_s for result in results) for name, results in found.items()}
    failed = sum(result.failed for results in found.values() for result in results)
    alone = harmonic_mean([per_s[f"{task} alone"] for task in run.config.tasks])
    tails = median(result.p99_ms / result.p50_ms for result in found["100 variants"])
    rates = ", ".join(f"{task} {per_s[f'{task} alone']:.0f}" for task in run.config.tasks)
    return [
        ("Mixed traffic, 4 tasks and 100 variants, requests a second", f"{per_s['100 variants']:.0f}", ""),
        (f"The same share of each task alone, without variants ({rates})", f"{alone:.0f}", ""),
        ("Mixed / alone", f"{per_s['100 variants'] / alone:.2f}", "at least 0.85"),
        ("Plain Ray Serve, `set_adapter` for each request, same traffic", f"{per_s['plain']:.0f}", ""),
        ("FogTune / plain", f"{per_s['100 variants'] / per_s['plain']:.1f}", "at least 3"),
        (
            "FogTune / plain, FogTune remembering no frozen prefix",
            f"{per_s['nothing remembered'] / per_s['plain']:.1f}",
            "",
        ),
        (
            f"Requests a second, {MANY:,} variants / 10 variants",
            f"{per_s[f'{MANY} variants'] / per_s['10 variants']:.2f}",
            "above 0.90",
        ),
        ("p99 / p50 under that load, 32 clients, 100 variants", f"{tails:.1f}", "at most 3"),
        ("Failed requests", str(failed), "0"),
    ]


def one_client(run: Published, url: str) -> list[tuple[str, str, str]]:
    """What the way through proxy, gateway and model server costs one client beside the bare forward pass."""
    settings = Settings(run=str(run.path))
    registry = Registry(run.path)
    predictor = Predictor(registry, settings)
    import torch

    from fogtune.serve.samples import Samples

    torch.set_num_threads(1)
    connection = HTTPConnection(url.removeprefix("http://"))
    served, bare = [], []
    variant = f"device:{GROUP}-1"
    for task, info in registry.read(1).tasks.items():
        for sample in Samples(run.config).of(task):
            body = json.dumps({"inputs": [sample.inputs]})
            row = Row(task, variant, 1, Decoder(settings).sample(info, sample.inputs, "sample"))
            for turn in range(15):
                began_s = time.perf_counter()
                connection.request("POST", f"/v1/tasks/{task}:predict?variant={variant}", body, _JSON)
                connection.getresponse().read()
                between_s = time.perf_counter()
                predictor.predict([row])
                if turn:  # the first time, modules and prefixes are loaded
                    served.append(between_s - began_s)
                    bare.append(time.perf_counter() - between_s)
    p50_ms, bare_ms = 1e3 * median(served), 1e3 * median(bare)
    return [
        ("p50 of one client, ms", f"{p50_ms:.1f}", ""),
        ("p50 of the bare forward pass, ms", f"{bare_ms:.1f}", ""),
        ("Added by proxy, gateway and batching, ms", f"{p50_ms - bare_ms:.1f}", "under 8"),
    ]


def memory(url: str, samples: Path, seconds: int) -> list[tuple[str, str, str]]:
    """Memory of gateway and model server over many requests."""
    asked, first = 0, None
    while asked < MEMORY_REQUESTS:
        asked += load(url, samples, 2 * seconds, MANY).requests
        now = {name: resident_bytes(name) / 1e6 for name in ("Gateway", "ModelServer")}
        first = first or now
        print(f"{asked} requests: {now}", flush=True)
    told = ", ".join(f"{name} {first[name]:.0f} to {now[name]:.0f} MB" for name in now) if first else ""
    return [(f"Memory over {asked:,} requests", told, "flat")]


def swapping(run: Published, url: str, samples: Path, turns: int, seconds: int) -> list[tuple[str, str, str]]:
    """A new version every two seconds, each with other modules for every variant."""
    count = turns * int(seconds / EVERY_S)
    staged = [run.write(number, staged=True) for number in range(2, 2 + count)]
    load(url, samples, 2 * seconds, SWAPPED)
    quiet, swapped = [], []
    for turn in range(turns):
        quiet.append(load(url, samples, seconds, SWAPPED))
        mine = staged[turn * count // turns : (turn + 1) * count // turns]

        def publish(mine: list[Path] = mine) -> None:
            for path in mine:
                path.rename(run.path / "modules" / path.name)
                time.sleep(EVERY_S)

        publisher = threading.Thread(target=publish)
        publisher.start()
        swapped.append(load(url, samples, seconds, SWAPPED))
        publisher.join()
        print(f"turn {turn + 1}: quiet {quiet[-1]}, swapped {swapped[-1]}", flush=True)
    failed = sum(result.failed for result in swapped)
    before, while_s = (median(result.p99_ms for result in results) for results in (quiet, swapped))
    return [
        (f"A swap every {EVERY_S:g} s under load: failed requests", str(failed), "0"),
        ("p99 while versions are swapped / before", f"{while_s / before:.2f}", "at most 2"),
    ]


_JSON = {"Content-Type": "application/json"}

if __name__ == "__main__":
    main()
