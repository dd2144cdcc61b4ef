"""The table of commands. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

from typing import Annotated

import typer

from kdlora import __version__
from kdlora.cli import calibrate, export, init, plan, predict, recommend, serve, study, track
from kdlora.cli import compare as evidence_compare
from kdlora.cli import imported as evidence_reports

app = typer.Typer(
    name="kdlora",
    help="Distil a large fine-tuned encoder into a small one, and prove that it was worth it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:
    if value:
        print(f"kdlora {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("init")(init.init)
app.command("demo")(study.demo)
app.command("distil")(study.distil)
app.command("run")(study.run)
app.command("plan")(plan.plan)
app.command("status")(plan.status)
app.command("track")(track.track)
app.command("report")(study.report)
app.command("recommend")(recommend.recommend)
app.command("calibrate")(calibrate.calibrate)
app.command("export")(export.export)
app.command("predict")(predict.predict)
app.command("serve")(serve.serve)
app.command("import")(evidence_reports.import_results)
app.command("doctor")(evidence_reports.doctor)
app.command("compare")(evidence_compare.compare)
app.command("reproduce")(evidence_reports.reproduce)
