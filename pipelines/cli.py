"""The command line: `fogtune`. Reads arguments, calls the pipelines, prints; knows nothing of how they work.

Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted. Errors are one line on standard error, without a
traceback. What is heavy (torch, Ray, tables) is imported by the command that needs it, so that help comes at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from fogtune.platform.errors import FogTuneError, InputError

from .cli_config import Overrides, chosen_config
from .cli_config import app as config_app
from .cli_serve import app as serve_app

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fogtune.platform.run.directory import RunDirectory

    from .fine_tune import Run

INTERRUPTED = 130


class _Root(TyperGroup):
    """Turns every way in which a command can end into an exit code and, if it is an error, one line."""

    def main(self, *args: Any, **extra: Any) -> Any:
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except InputError as error:
            code = _error(error, 2)
        except FogTuneError as error:
            code = _error(error, 1)
        except typer.Abort:
            code = INTERRUPTED
        except Exception as error:
            # Usage errors: typer carries click with it or imports it, depending on its version.
            if not (message := getattr(error, "format_message", None)):
                raise
            context = getattr(error, "ctx", None)
            where = context.command_path if context else "fogtune"
            code = _error(f"{where}: {message().rstrip('.')}; try '{where} --help'", 2)
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=_Root,
    help="Fine-tune a multi-modal multi-task foundation model across devices, fog nodes and a cloud.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(config_app, name="config")
app.add_typer(serve_app)

Config = Annotated[str, typer.Argument(metavar="CONFIG|PRESET", help="A YAML file, or a name from `config presets`.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or the path of its directory.")]
RunIds = Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids of runs, or paths of their directories.")]
RunsDir = Annotated[str, typer.Option("--runs-dir", metavar="DIR", help="Where runs are looked up by id.")]
Address = Annotated[str | None, typer.Option(metavar="ADDR", help="Ray cluster: auto, host:6379, ray://host:10001.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.callback(invoke_without_command=True)
def _no_command(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"fogtune {version_of('fogtune')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def run(
    config: Config = "default",
    overrides: Overrides = None,
    address: Address = None,
    local: Annotated[bool, typer.Option("--local", help="Run in this process, without Ray.")] = False,
    json: Json = False,
) -> None:
    """Fine-tune as a configuration says; prints a line a round."""
    if local and address is not None:
        raise InputError("--address", f"{address!r} given with --local; allowed: one of the two")
    extra = [*(overrides or ())]
    if local:
        extra.append("execution.runner=local")
    if address is not None:
        extra += ["execution.runner=ray", f"execution.address={address}"]
    resolved = chosen_config(config, extra)

    from .progress import watching

    with watching(json=json) as view:
        view.stage("loading libraries")
        from .early import ray_beside_libraries

        with ray_beside_libraries(resolved, view.stage):
            from . import fine_tune

            done = fine_tune.run(resolved, on_event=view.round, on_stage=view.stage)
    _end(done, json=json)


@app.command()
def resume(
    run: RunId,
    runs_dir: RunsDir = "runs",
    address: Address = None,
    from_round: Annotated[
        int | None, typer.Option("--from", metavar="ROUND", help="Go back to the checkpoint of this round.")
    ] = None,
    json: Json = False,
) -> None:
    """Go on with a run from its newest checkpoint."""
    path = _open(run, runs_dir).path

    from .progress import watching

    with watching(json=json) as view:
        view.stage("loading libraries")
        from . import fine_tune

        done = fine_tune.resume(path, on_event=view.round, on_stage=view.stage, address=address, from_round=from_round)
    _end(done, json=json)


@app.command()
def top(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run's id; without it, all that run.")] = None,
    address: Annotated[str, typer.Option(metavar="ADDR", help="Ray cluster: auto, host:6379.")] = "auto",
    once: Annotated[bool, typer.Option("--once", help="Show it once, not until Ctrl-C.")] = False,
    json: Json = False,
) -> None:
    """Watch the federations that run on a Ray cluster: rounds, metrics, costs, actors."""
    from .top import NOTHING, looking, view, view_json, watch

    with looking(address, run) as look:
        if json:
            _print_json(view_json(look()))
        elif once or not sys.stdout.isatty():
            found = look()
            _print(view(found)) if found else typer.echo(NOTHING)
        else:
            from rich.console import Console

            watch(look, Console(highlight=False))
            typer.echo(NOTHING)


@app.command("list")
def list_(runs_dir: RunsDir = "runs", json: Json = False) -> None:
    """List the runs, oldest first."""
    from fogtune.platform.run.directory import list_runs

    from .show import list_json, list_table

    runs = list_runs(runs_dir)
    if json:
        _print_json(list_json(runs))
    elif runs:
        _print(list_table(runs))
    else:
        typer.echo(f"no runs in {runs_dir!r}; `fogtune run` makes one")


@app.command()
def show(run: RunId, runs_dir: RunsDir = "runs", json: Json = False) -> None:
    """Show a run: status, metrics, costs."""
    from .show import show as shown
    from .show import show_json

    directory = _open(run, runs_dir)
    _print_json(show_json(directory)) if json else _print(shown(directory))


@app.command()
def report(
    run: RunId,
    runs_dir: RunsDir = "runs",
    open: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = False,
) -> None:
    """Write report.html: curves, costs, topology. It needs no network to be read."""
    from .report import write_report

    path = write_report(_open(run, runs_dir))
    typer.echo(path)
    if open:
        typer.launch(path.resolve().as_uri())


@app.command()
def compare(
    runs: RunIds,
    runs_dir: RunsDir = "runs",
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write their curves, overlaid.")] = None,
    json: Json = False,
) -> None:
    """Compare runs: metrics, bytes, time."""
    from .compare import compare_json, compare_table, read

    contenders = read([_open(run, runs_dir) for run in dict.fromkeys(runs)])
    if html is not None:
        from .report import write_comparison

        write_comparison(contenders, html)
    _print_json(compare_json(contenders)) if json else _print(compare_table(contenders))


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(metavar="PAPER", help="hf-fm: arXiv 2509.03695.")],
    costs_only: Annotated[bool, typer.Option("--costs-only", help="Latency and energy alone; trains nothing.")] = False,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Put a paper's published figures beside FogTune's; without --costs-only its methods are run, half an hour."""
    if paper != "hf-fm":
        raise InputError("PAPER", f"{paper!r} is no paper that can be reproduced; allowed: hf-fm")
    if costs_only and overrides:
        raise InputError("--set", f"{overrides[0]!r} given with --costs-only; allowed: one of the two, it runs nothing")
    from .reproduce import costs_table, measure, measured_table, rows_json

    if costs_only:
        _print_json(rows_json({})) if json else _print(costs_table())
        return
    from .progress import watching, watching_aside

    with watching_aside() if json else watching(json=False) as view:
        runs = measure(overrides or (), view.round, view.stage)
    if json:
        _print_json(rows_json(runs))
        return
    _print(costs_table())
    _print(measured_table(runs))


@app.command()
def doctor(address: Address = None) -> None:
    """Check whether this machine, and with --address a cluster, can run FogTune, and say what to do if not."""
    from .doctor import checks

    marks = {
        "ok": ("ok", typer.colors.GREEN),
        "warning": ("warn", typer.colors.YELLOW),
        "failure": ("FAIL", typer.colors.RED),
    }
    failed = False
    for check in checks(address):
        text, colour = marks[check.state]
        typer.echo(f"{typer.style(f'{text:<5}', fg=colour)} {check.what:<13} {check.found}")
        if check.remedy:
            typer.echo(f"{'':19} -> {check.remedy}")
        failed |= check.state == "failure"
    raise typer.Exit(1 if failed else 0)


def _open(run: str, runs_dir: str) -> RunDirectory:
    from fogtune.platform.run.directory import RunDirectory

    return RunDirectory.open(run, runs_dir)


def _end(done: Run, *, json: bool) -> None:
    """The last words on a run, and its exit code."""
    from .show import results, show_json

    directory = done.directory
    info = directory.info
    if json:
        from fogtune.platform.run.record import dump_json

        typer.echo(dump_json(show_json(directory)))
    else:
        found = results(info.summary)
        typer.echo(f"{info.status} after round {info.summary.rounds}{': ' if found else ''}{found}")
        typer.echo(f"run directory: {directory.path}")
        if (directory.path / "report.html").exists():
            typer.echo(f"report: {directory.path / 'report.html'}")
        if info.status == "stopped":
            typer.echo(f"go on with: fogtune resume {directory.path}")
    if info.status == "failed":
        raise typer.Exit(_error(info.error or "the run failed", 1))
    raise typer.Exit(INTERRUPTED if info.status == "stopped" else 0)


def _error(problem: object, code: int) -> int:
    typer.echo(f"error: {' '.join(str(problem).split())}", err=True)
    return code


def _print_json(value: Any) -> None:
    from fogtune.platform.run.record import dump_json

    typer.echo(dump_json(value, indent=2))


def _print(table: RenderableType) -> None:
    from rich.console import Console

    # A pipe has no width; rich would cut ids and metrics to 80 columns.
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


def main() -> None:
    """Entry of the console script."""
    app()
