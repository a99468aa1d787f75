"""`fogtune config`: presets, checking, JSON Schema, reference; and how `run` finds its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fogtune.platform.errors import InputError

if TYPE_CHECKING:
    from fogtune.platform.config import Config

app = typer.Typer(help="Look at configurations and presets.", no_args_is_help=False)

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a field; may be given many times.")
]


def chosen_config(source: str, overrides: Sequence[str]) -> Config:
    """The configuration of a preset or of a YAML file, with overrides, checked. InputError if it cannot work."""
    from fogtune.platform.config.check import check
    from fogtune.platform.config.load import load_config

    from .presets import PRESETS

    if source in PRESETS:
        config = load_config(PRESETS[source]().model_dump(mode="json"), overrides)
    elif Path(source).exists():
        config = load_config(Path(source), overrides)
    else:
        raise InputError(source, f"neither a file nor a preset; presets: {', '.join(PRESETS)}")
    check(config)
    return config


@app.command()
def presets() -> None:
    """List the presets."""
    from .presets import PRESETS

    width = max(map(len, PRESETS))
    for name, preset in PRESETS.items():
        typer.echo(f"{name:<{width}}  {(preset.__doc__ or '').strip().partition(chr(10))[0]}")


@app.command()
def show(
    source: Annotated[str, typer.Argument(metavar="PRESET|CONFIG", help="A preset's name, or a YAML file.")],
    overrides: Overrides = None,
) -> None:
    """Print a whole configuration, defaults included, as YAML to start from."""
    from fogtune.platform.config.load import dump_config

    typer.echo(dump_config(chosen_config(source, overrides or ())), nl=False)


@app.command()
def check(
    source: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or a preset's name.")],
    overrides: Overrides = None,
) -> None:
    """Check a configuration without running it."""
    config = chosen_config(source, overrides or ())
    devices = sum(group.count for group in config.devices)
    typer.echo(f"{source}: ok, {devices} devices, {len(config.tasks)} tasks, {config.rounds} rounds")


@app.command()
def schema() -> None:
    """Print the JSON Schema of configurations."""
    from fogtune.platform.config.reference import schema_json

    typer.echo(schema_json(), nl=False)


@app.command()
def reference() -> None:
    """Print the reference of all fields, in Markdown."""
    from fogtune.platform.config.reference import reference_markdown

    typer.echo(reference_markdown(), nl=False)
