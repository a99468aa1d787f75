"""The commands about serving: `serve`, `predict`, `versions`, `promote`, `rollback`, `key`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fogtune.platform.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from fogtune.serve.catalogue import Catalogue

SHOWN = 10
"""Labels, with their scores, that a person sees of a prediction."""

app = typer.Typer()

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or the path of its directory.")]
RunsDir = Annotated[str, typer.Option("--runs-dir", metavar="DIR", help="Where runs are looked up by id.")]
Variant = Annotated[str, typer.Option(help="global, fog:ID or device:ID.")]
Version = Annotated[int | None, typer.Option(help="A published version; by default the one that is served.")]


@app.command()
def serve(
    run: RunId,
    runs_dir: RunsDir = "runs",
    address: Annotated[str | None, typer.Option(metavar="ADDR", help="Ray cluster: auto, host:6379.")] = None,
    host: Annotated[
        str, typer.Option(help="Interface to listen on; other than loopback only with --keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    keys: Annotated[str | None, typer.Option(metavar="FILE", help="API keys, as `fogtune key` writes them.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A=B", help="Override a setting of serve/settings.py.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it on the cluster of --address and return.")] = False,
) -> None:
    """Serve the task heads of a run, finished or going on: HTTP, Open Inference Protocol, and a page to try them."""
    from . import serving
    from .progress import PlainView

    if detach and address is None:
        problem = "given without --address; start a cluster with `ray start --head` and give --address auto"
        raise InputError("--detach", problem)
    settings = serving.settings_of(_path(run, runs_dir), keys, overrides or ())
    on_stage = PlainView(sys.stdout).stage
    if detach:
        url = serving.deploy(settings, host, port, address or "auto", on_stage)
        typer.echo(f"serving {run} at {url}; `serve shutdown` ends it")
        return
    with serving.serving(settings, host, port, address, on_stage) as url:
        typer.echo(f"serving {run} at {url} (a page to try it; {url}/docs for programs); Ctrl-C ends it")
        serving.wait_for_signal()


@app.command()
def predict(
    source: Annotated[str, typer.Argument(metavar="RUN|URL", help="A run on this machine, or a service.")],
    task: Annotated[str, typer.Option(help="Whose head.")],
    inputs: Annotated[
        list[str], typer.Option("--input", metavar="NAME=VALUE", help="text=WORDS, image=FILE, imu=FILE.csv, ...")
    ],
    variant: Variant = "global",
    version: Version = None,
    key: Annotated[str | None, typer.Option(envvar="FOGTUNE_KEY", help="API key of the service.")] = None,
    runs_dir: RunsDir = "runs",
    json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Predict one sample, by a run on this machine without Ray, or by a service."""
    from .predicting import predict_by_url, predict_offline

    if source.startswith(("http://", "https://")):
        found = predict_by_url(source, task, inputs, variant, version, key)
    else:
        found = predict_offline(_path(source, runs_dir), task, inputs, variant, version)
    if json:
        _print_json(found)
        return
    (prediction,) = found["predictions"]
    scores = sorted(prediction.get("scores", {}).items(), key=lambda item: -item[1])
    typer.echo(_answer(prediction))
    for label, score in scores[:SHOWN]:
        typer.echo(f"  {score:.3f}  {label}")
    if len(scores) > SHOWN:
        typer.echo(f"  ... and {len(scores) - SHOWN} more, which --json shows")
    typer.echo(f"(v{found['version']}, {found['variant']})")


@app.command()
def versions(
    run: RunId, runs_dir: RunsDir = "runs", json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the published versions of a run, and which of them are served."""
    catalogue = _catalogue(run, runs_dir)
    if json:
        infos = [vars(info) for info in catalogue.versions()]
        _print_json({"versions": infos, "rollout": catalogue.rollout.model_dump()})
        return
    from rich.console import Console

    # A pipe has no width; rich would break the reasons at 80 columns.
    Console(highlight=False, width=None if sys.stdout.isatty() else 240).print(_table(catalogue))
    typer.echo(_told(catalogue))


@app.command()
def promote(
    run: RunId,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A number, or latest.")],
    percent: Annotated[float, typer.Option(help="Of the requests; below 100 it is a canary.")] = 100,
    runs_dir: RunsDir = "runs",
) -> None:
    """Serve a version, or a canary of it, wherever the run is served."""
    from fogtune.serve.rollout import promoted

    number = version.removeprefix("v")
    if number != "latest" and not (number.isascii() and number.isdigit()):
        raise InputError("VERSION", f"{version!r}; allowed: a number, or latest")
    catalogue = _catalogue(run, runs_dir)
    chosen = None if number == "latest" else int(number)
    catalogue.decide(lambda held, usable: promoted(held, chosen, percent, usable))
    typer.echo(_told(catalogue))


@app.command()
def rollback(run: RunId, runs_dir: RunsDir = "runs") -> None:
    """Take back a canary, or serve the version before the one served now."""
    from fogtune.serve.rollout import rolled_back

    catalogue = _catalogue(run, runs_dir)
    catalogue.decide(rolled_back)
    typer.echo(_told(catalogue))


@app.command()
def key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of whoever gets the key.")],
    file: Annotated[Path, typer.Option(metavar="FILE", help="The file of keys; made if there is none.")] = Path(
        "keys.yaml"
    ),
    requests_per_s: Annotated[float, typer.Option(metavar="N", help="Lasting rate.")] = 50.0,
    admin: Annotated[bool, typer.Option("--admin", help="May promote versions and roll back.")] = False,
) -> None:
    """Make an API key: prints it this once, and keeps its hash in the file."""
    from fogtune.serve.keys import new_key

    typer.echo(new_key(file, name, requests_per_s, admin=admin))


def _path(run: str, runs_dir: str) -> Path:
    from fogtune.platform.run.directory import RunDirectory

    return RunDirectory.open(run, runs_dir).path


def _catalogue(run: str, runs_dir: str) -> Catalogue:
    """What a gateway would serve of the run now. InputError if what was decided for it cannot be read."""
    import logging

    from fogtune.serve.catalogue import Catalogue
    from fogtune.serve.registry import Registry
    from fogtune.serve.rollout import read_rollout

    # Versions that are refused are told in the table.
    logging.getLogger("fogtune.serve").addHandler(logging.NullHandler())
    path = _path(run, runs_dir)
    read_rollout(path)
    catalogue = Catalogue(Registry(path))
    catalogue.refresh()
    return catalogue


def _answer(prediction: dict[str, Any]) -> str:
    if "labels" in prediction:
        return ", ".join(prediction["labels"]) or "none of the labels"
    return str(prediction["label"]) if "label" in prediction else f"{prediction['value']:.6g}"


def _table(catalogue: Catalogue) -> Table:
    from rich.text import Text

    from fogtune.platform.run.record import headline

    from .readable import value
    from .show import plain_table

    infos = catalogue.versions()
    rows = [{task: found for task, of in info.metrics.items() if (found := headline(of))} for info in infos]
    titles = {task: f"{task} {name}" for row in rows for task, (name, _) in row.items()}
    why = ["why"] if any(info.reason for info in infos) else []
    table = plain_table("version", "state", *titles.values(), *why, right=titles.values())
    for info, row in zip(infos, rows, strict=True):
        metrics = [value(row[task][1] if task in row else None) for task in titles]
        table.add_row(f"v{info.version}", info.state, *metrics, *([Text(info.reason or "")] if why else []))
    return table


def _told(catalogue: Catalogue) -> str:
    served, pinned = catalogue.served, catalogue.rollout.pinned
    if served is None:
        return "no version can be served yet"
    stable = served.stable.number
    if pinned is None:
        why = "the newest; later ones follow"
    else:
        why = "pinned" if pinned == stable else f"v{pinned} is pinned, but cannot be served"
    canary = f", and v{served.canary.number} for {served.percent:g} % of the requests" if served.canary else ""
    return f"serving v{stable} ({why}){canary}"


def _print_json(value: Any) -> None:
    from fogtune.platform.run.record import dump_json

    typer.echo(dump_json(value, indent=2))
