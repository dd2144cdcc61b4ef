"""The table of commands. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from kdlora import __version__
from kdlora.cli import (
    calibrate,
    export,
    init,
    look,
    mistakes,
    plan,
    predict,
    recommend,
    serve,
    study,
    track,
    trim,
)
from kdlora.cli import compare as evidence_compare
from kdlora.cli import imported as evidence_reports
from kdlora.cli.options import SingleValued
from kdlora.cli.terminal import say

app = typer.Typer(
    name="kdlora",
    help="Distil a large fine-tuned encoder into a small one, and prove that it was worth it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:
    if value:
        say(f"kdlora {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


COMMANDS: dict[str, Callable[..., None]] = {
    "init": init.init,
    "look": look.look,
    "demo": study.demo,
    "distil": study.distil,
    "run": study.run,
    "plan": plan.plan,
    "status": plan.status,
    "track": track.track,
    "report": study.report,
    "mistakes": mistakes.mistakes,
    "recommend": recommend.recommend,
    "trim": trim.trim,
    "calibrate": calibrate.calibrate,
    "export": export.export,
    "predict": predict.predict,
    "serve": serve.serve,
    "import": evidence_reports.import_results,
    "doctor": evidence_reports.doctor,
    "compare": evidence_compare.compare,
    "reproduce": evidence_reports.reproduce,
}
# What brings all that a command takes; of the others the extra of the module that is missing.
EXTRAS = {
    **dict.fromkeys(("look", "demo", "distil", "run", "plan", "trim", "calibrate"), "train"),
    "export": "onnx",
    "predict": "serve",
    "serve": "serve",
}
for _name, _command in COMMANDS.items():
    app.command(_name, cls=SingleValued)(_command)
