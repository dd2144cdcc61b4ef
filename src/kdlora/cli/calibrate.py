"""`kdlora calibrate`: honest probabilities, thresholds, and when to withhold an answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdlora.cli.terminal import say, say_json, terminal

if TYPE_CHECKING:
    from rich.console import Console

    from kdlora.ship.card import Abstention, Calibration


def calibrate(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A run's folder or STUDY:RUN_ID, a saved student's, an exported one, or a study, "
            "which means its student.",
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
            "macro-f1, accuracy, matthews or balanced-accuracy; one for each class where there are "
            "more than two. Of several labels a text one for each, by macro-f1, micro-f1 or "
            "subset-accuracy.",
        ),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option(help="The class of the threshold; default the task's own, else the second."),
    ] = None,
    abstain: Annotated[
        float | None,
        typer.Option(
            metavar="ACCURACY",
            help="Withhold the answers that are too unsure for so many of those given to be right, "
            "such as 0.95.",
        ),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(help="Where the model's run is; default the study that MODEL lies in."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was stored.")] = False,
) -> None:
    """Fit a temperature, thresholds or an abstention on the selection split; store it there.

    What is asked for together replaces what was stored before. `kdlora predict`, `kdlora serve` and
    later exports of the same run apply it. The report split only shows what it changed.
    """
    from kdlora.ship.calibration import calibrate_folder

    target, made = calibrate_folder(
        model, temperature=temperature, threshold=threshold, positive=positive, abstain=abstain,
        study=study,
    )  # fmt: skip
    if as_json:
        say_json(made.model_dump(mode="json"))
        return
    _show(made)
    say(f"stored in {target}")


def _show(made: Calibration) -> None:
    from rich.table import Table

    console = terminal()
    if made.temperature is not None:
        console.print(f"temperature {made.temperature:.3f}")
    if made.threshold is not None:
        console.print(
            f"'{made.positive}' from a probability of {made.threshold:.3f}, which is best by "
            f"{made.metric}",
        )
    if made.thresholds is not None:
        each = ", ".join(f"{name} {value:.3f}" for name, value in made.thresholds.items())
        console.print(f"thresholds, best by {made.metric}: {each}")
    if made.abstention is not None:
        _show_abstention(made.abstention, console)
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
    console.print("Chosen on the selection split; the report split shows what to expect.")


def _show_abstention(made: Abstention, console: Console) -> None:
    console.print(
        f"answers of a probability above {made.cut:.3f} are given, the others withheld: "
        f"{100 * made.aim:g} % of those given are right, with {100 * made.level:g} % certainty "
        f"(at least {100 * made.lower_bound:.1f} % by the selection split)",
    )
    for split, seen in made.splits.items():
        right = "" if seen.accuracy is None else f", {100 * seen.accuracy:.1f} % of them right"
        console.print(
            f"  {split}: {seen.answered:,} of {seen.n:,} answered "
            f"({100 * seen.answered / seen.n:.1f} %){right}",
        )
