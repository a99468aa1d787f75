"""The commands about serving: `serve`, `predict`, `versions`, `promote`, `rollback`, `key`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fogtune.platform.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from fogtune.serve.catalogue import Catalogue
    from fogtune.serve.rollout import Rollout

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
    from .progress import watching

    if detach and address is None:
        problem = "given without --address; start a cluster with `ray start --head` and give --address auto"
        raise InputError("--detach", problem)
    settings = serving.settings_of(_path(run, runs_dir), keys, overrides or ())
    with watching(json=False) as view:
        if detach:
            url = serving.deploy(settings, host, port, address or "auto", view.stage)
            typer.echo(f"serving {run} at {url}; `serve shutdown` ends it")
            return
        with serving.serving(settings, host, port, address, view.stage) as url:
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
    said = prediction.get("label", prediction.get("value"))
    typer.echo(f"{', '.join(prediction['labels']) or 'none' if 'labels' in prediction else said}")
    ranked = sorted(prediction.get("scores", {}).items(), key=lambda item: -item[1])
    for label, score in ranked[:10]:
        typer.echo(f"  {score:.3f}  {label}")
    typer.echo(f"v{found['version']}, {found['variant']}")


@app.command()
def versions(
    run: RunId, runs_dir: RunsDir = "runs", json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the published versions of a run, and which of them are served."""
    catalogue = _catalogue(run, runs_dir)
    if json:
        found = [vars(info) for info in catalogue.versions()]
        _print_json({"versions": found, "rollout": catalogue.rollout.model_dump()})
        return
    from rich.console import Console

    Console(highlight=False).print(_table(catalogue))
    typer.echo(_told(catalogue.rollout))


@app.command()
def promote(
    run: RunId,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A number, or latest.")],
    percent: Annotated[float, typer.Option(help="Of the requests; below 100 it is a canary.")] = 100,
    runs_dir: RunsDir = "runs",
) -> None:
    """Serve a version, or a canary of it, wherever the run is served."""
    from fogtune.serve.rollout import promoted, write_rollout

    number = version.removeprefix("v")
    if number != "latest" and not (number.isascii() and number.isdigit()):
        raise InputError("VERSION", f"{version!r}; allowed: a number, or latest")
    catalogue = _catalogue(run, runs_dir)
    chosen = None if number == "latest" else int(number)
    rollout = promoted(catalogue.rollout, chosen, percent, catalogue.usable())
    write_rollout(catalogue.registry.run, rollout)
    typer.echo(_told(rollout))


@app.command()
def rollback(run: RunId, runs_dir: RunsDir = "runs") -> None:
    """Take back a canary, or serve the version before the one served now."""
    from fogtune.serve.rollout import rolled_back, write_rollout

    catalogue = _catalogue(run, runs_dir)
    rollout = rolled_back(catalogue.rollout, catalogue.usable())
    write_rollout(catalogue.registry.run, rollout)
    typer.echo(_told(rollout))


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
    from fogtune.serve.catalogue import Catalogue
    from fogtune.serve.registry import Registry

    catalogue = Catalogue(Registry(_path(run, runs_dir)))
    catalogue.refresh()
    return catalogue


def _table(catalogue: Catalogue) -> Table:
    from rich.table import Table

    from .readable import value

    table = Table(box=None)
    found = catalogue.versions()
    tasks = list(dict.fromkeys(task for info in found for task in info.metrics))
    for title in ("version", "state", *tasks, "why"):
        table.add_column(title)
    for info in found:
        firsts = [next(iter(info.metrics.get(task, {}).values()), None) for task in tasks]
        table.add_row(f"v{info.version}", info.state, *map(value, firsts), info.reason or "")
    return table


def _told(rollout: Rollout) -> str:
    stable = "the newest version" if rollout.pinned is None else f"v{rollout.pinned}"
    canary = rollout.canary
    return f"serving {stable}" + (f", and v{canary.version} for {canary.percent:g} % of the requests" if canary else "")


def _print_json(value: Any) -> None:
    from fogtune.platform.run.record import dump_json

    typer.echo(dump_json(value, indent=2))
