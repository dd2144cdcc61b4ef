"""`kdlora init`: studies to begin with, and the schema by which an editor checks them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kdlora.cli import completion
from kdlora.cli.terminal import say
from kdlora.errors import InputError


def init(
    preset: Annotated[
        str | None,
        typer.Argument(
            metavar="[PRESET]",
            help="Name of a preset; default: list them.",
            autocompletion=completion.presets,
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Write it to this file instead of printing it, and beside it the schema by which "
            "editors complete and check it."
        ),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of the study file.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let --to replace a file that is there already.")
    ] = False,
) -> None:
    """Print a study to begin with, or write it to a file.

    A preset also runs as it is, by its name: kdlora run glue-small.
    """
    from kdlora.spec import presets
    from kdlora.spec.schema import FILE_NAME, MODELINE, study_schema

    if preset is not None and schema:
        raise InputError(f"--schema prints the schema, '{preset}' a study: give one of them")
    if preset is None and not schema:
        if to is not None:
            names = ", ".join(presets.preset_names())
            raise InputError(f"which preset goes to {to}? Known: {names}")
        _show_presets()
        return
    text = presets.read_preset(preset) if preset else _as_text(study_schema())
    if to is None:
        say(text.removesuffix("\n"))
        return
    files = {to: MODELINE + text, to.parent / FILE_NAME: _as_text(study_schema())}
    _write(files if preset else {to: text}, mine=to.parent / FILE_NAME, replace=replace)
    if preset:
        say(f"wrote {to} (and {FILE_NAME} for editors); next: kdlora plan {to}")
    else:
        say(f"wrote {to}")


def _show_presets() -> None:
    from kdlora.spec import presets

    width = max(map(len, presets.preset_names()))
    for name in presets.preset_names():
        say(f"{name:<{width}}  {presets.summary(name)}")
    say("\nkdlora init PRESET prints one, --to FILE writes it; kdlora run PRESET runs it.")


def _as_text(schema: dict) -> str:
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _write(files: dict[Path, str], *, mine: Path, replace: bool) -> None:
    """Write the files; only the schema, which nobody edits, may be there already."""
    from kdlora.records.store import write_text

    for path in files:
        if path.exists() and path != mine and not replace:
            raise InputError(f"{path} is there already: give another name, or --replace")
        if not path.parent.is_dir():
            raise InputError(f"no folder {path.parent} to write {path.name} to")
    for path, text in files.items():
        write_text(path, text)
