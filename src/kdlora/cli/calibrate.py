"""`kdlora calibrate`: honest probabilities and a decision threshold for a finished model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kdlora.ship.card import Calibration


def calibrate(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="A run's folder, a saved student's, or an exported one."
        ),
    ],
    temperature: Annotated[
        bool, typer.Option("--temperature", help="Scale the logits so that probabilities fit.")
    ] = False,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC",
            help="Choose a decision threshold that maximises f1 (of the positive class), "
            "macro-f1, accuracy or matthews. Two classes only.",
        ),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option(help="The class of the threshold; default the task's own, else the second."),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(help="Where the model's run is; default the study that MODEL lies in."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was stored.")] = False,
) -> None:
    """Fit a temperature or a threshold on the selection split, and store it with the model.

    `kdlora predict`, `kdlora serve` and later exports of the same run apply it. The report split
    only shows what it changed.
    """
    from kdlora.ship.calibration import calibrate_folder

    target, made = calibrate_folder(
        model, temperature=temperature, threshold=threshold, positive=positive, study=study
    )
    if as_json:
        print(json.dumps(made.model_dump(mode="json"), indent=1))
        return
    _show(made)
    print(f"stored in {target}")


def _show(made: Calibration) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if made.temperature is not None:
        console.print(f"temperature {made.temperature:.3f}", markup=False)
    if made.threshold is not None:
        console.print(
            f"'{made.positive}' from a probability of {made.threshold:.3f}, which is best by "
            f"{made.metric}",
            markup=False,
        )
    table = Table("split", "rows", "cross-entropy", "calibration error", "accuracy")
    if made.metric is not None:
        table.add_column(made.metric)
    for split, after in made.after.items():
        before = made.before[split]
        pairs = [(before.nll, after.nll), (before.ece, after.ece),
                 (before.accuracy, after.accuracy)]  # fmt: skip
        cells = [f"{a:.4f} \N{RIGHTWARDS ARROW} {b:.4f}" for a, b in pairs]
        if before.score is not None and after.score is not None:
            cells.append(f"{before.score:.4f} \N{RIGHTWARDS ARROW} {after.score:.4f}")
        table.add_row(split, str(after.n), *cells)
    console.print(table)
    console.print(
        "Chosen on the selection split; the report split shows what to expect.", markup=False
    )
