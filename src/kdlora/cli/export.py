"""`kdlora export`: a finished run as a folder to deploy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdlora.cli.terminal import say, say_json, terminal

if TYPE_CHECKING:
    from kdlora.records.artefact import Artefact


def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run's folder, STUDY:RUN_ID (a unique part of the id will do), a saved "
            "student's folder inside its study, or a study, which means its student.",
        ),
    ],
    to: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder to write; an earlier export is replaced.")
    ],
    format: Annotated[
        str,
        typer.Option(metavar="LIST", help="torch (plain transformers folder), onnx, or both."),
    ] = "torch,onnx",
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Forms of the ONNX model: none (fp32), int8, int4. Default none,int8.",
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="What a quantised form may lose on the report split against the fp32 student: "
            "points (hundredths) of the primary metric; of an error such as the RMSE, per cent of "
            "the student's own. Default 0.5 points, or 1 %.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Ship a form that loses more, marked as forced.")
    ] = False,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="First calibrate the run on its selection split: temperature, and/or the metric "
            "of thresholds (f1, macro-f1, accuracy, matthews, balanced-accuracy), and/or "
            "abstain=0.95. See `kdlora calibrate`.",
        ),
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Upload the folder to the model hub as NAME."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="A new repository on the hub is private otherwise.")
    ] = False,
    timing: Annotated[
        bool, typer.Option("--timing/--no-timing", help="Time every form beside the teacher.")
    ] = True,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of each model while it is timed.")
    ] = 1,
    dockerfile: Annotated[
        bool, typer.Option("--dockerfile", help="Write a Dockerfile that serves the ONNX form.")
    ] = False,
    language: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE",
            help="Language of its texts, for the model card: en, de, ...; may be given again. "
            "Default: what the study's file says; it is not guessed.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print export.json.")] = False,
) -> None:
    """Merge, translate to ONNX, quantise, check the accuracy, measure, and write one folder."""
    from kdlora.machine import choose_waiting

    choose_waiting()
    from kdlora.models.checkpoints import silence_libraries
    from kdlora.ship.export import export_model

    silence_libraries()
    console = terminal(stderr=True)
    if calibrate is not None:
        from kdlora.ship.calibration import calibrate_run

        calibrate_run(run, _names(calibrate))
    artefact = export_model(
        run,
        to,
        formats=_names(format),
        quantize=None if quantize is None else _names(quantize),
        max_drop_points=max_drop,
        force=force,
        timing=timing,
        threads=threads,
        hub_name=push_to_hub,
        dockerfile=dockerfile,
        languages=language or (),
        on_note=lambda text: console.print(text, style="dim", soft_wrap=True),
    )
    if as_json:
        say_json(artefact.model_dump(mode="json", by_alias=True))
    else:
        _show(artefact, to)
    if push_to_hub is not None:
        from kdlora.ship.push import push

        console.print(f"pushed: {push(to, push_to_hub, private=not public)}")


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _show(artefact: Artefact, folder: Path) -> None:
    """The table of what was written, and what to do with it."""
    from rich.table import Table

    from kdlora.records.artefact import written_drop

    table = Table(box=None, pad_edge=False, header_style="bold")
    singles = sorted({t.length for v in artefact.variants for t in v.timings if t.batch == 1})
    drop = f"drop, {artefact.drop_unit}"
    for title in ("form", "MB", artefact.variants[0].metric, drop, "gate"):
        table.add_column(title, justify="left" if title in ("form", "gate") else "right")
    for length in singles:
        table.add_column(f"ms at {length}", justify="right")
        table.add_column("faster", justify="right")
    for variant in artefact.variants:
        drop = written_drop(variant.drop_points, artefact.drop_unit)
        score = "" if variant.score is None else f"{variant.score:.4f}"
        cells = [variant.name, f"{variant.size_mb:.1f}", score, drop, variant.gate]
        for length in singles:
            timing = variant.timing(length=length)
            cells.append(f"{timing.latency_p50_ms:.2f}" if timing else "")
            cells.append(f"{timing.ratio:.1f}x" if timing and timing.ratio else "")
        table.add_row(*cells)
    console = terminal()
    console.print(table)
    if (teacher := artefact.teacher) is not None:
        times = ""
        if singles:
            first = artefact.variants[0]
            found = [(n, first.timing(length=n)) for n in singles]
            shown = [
                f"{t.teacher_latency_p50_ms:.1f} ms at {n}"
                for n, t in found
                if t and t.teacher_latency_p50_ms
            ]
            times = f", {', '.join(shown)} tokens" if shown else ""
        console.print(f"teacher {teacher.name} in PyTorch fp32: {teacher.size_mb:.1f} MB{times}")
    say(f'\nwritten: {folder}\ntry it:  kdlora predict {folder} --text "..."')
