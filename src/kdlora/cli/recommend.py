"""`kdlora recommend`: which model of a study to ship, under constraints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdlora.cli.options import too_small
from kdlora.cli.part import Where, Without
from kdlora.cli.study import StudyFolder
from kdlora.cli.terminal import say, say_json, terminal
from kdlora.errors import Problems

if TYPE_CHECKING:
    from kdlora.choice.recommendation import BrokenLimit, EasedLimit, JudgedForm, Recommendation


def recommend(
    study: StudyFolder,
    profile: Annotated[
        str | None,
        typer.Option(
            help="student, server, mobile, edge or max-quality; default all, or none where limits "
            "are given. Options below replace a profile's own limits."
        ),
    ] = None,
    max_size_mb: Annotated[float | None, typer.Option(help="MB on disk (10^6 bytes).")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Milliseconds for one text, at --latency.")
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(
            help="Of the task's metric on the selection split, such as 0.82; of an error, the "
            "most that is allowed."
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Lost at most against the teacher: points (hundredths) of the task's metric; of "
            "an error such as the RMSE, per cent of the teacher's own."
        ),
    ] = None,
    min_coverage: Annotated[
        float | None,
        typer.Option(
            help="Share of texts that must be answered, such as 0.8, where unsure answers are "
            "withheld for those given to have --accuracy."
        ),
    ] = None,
    accuracy: Annotated[
        float | None, typer.Option(help="Of the answers given, with --min-coverage. Default 0.95.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="any, torch or onnx. Default any, or the profile's.")
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="Allowed, of none,int8,int4. Default all, or the profile's.")
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            help="Allowed for the encoder, such as apache-2.0,mit; what nobody states is "
            "'unknown'. Default all."
        ),
    ] = None,
    prefer: Annotated[
        str | None,
        typer.Option(
            help="Among what keeps the limits: score, latency or size. Default score, or the "
            "profile's."
        ),
    ] = None,
    latency: Annotated[
        str | None, typer.Option(help="Percentile that counts: p50 or p95 (default).")
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(help="Tokens at which latencies are compared; default as measured."),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task; many times. Default all.")
    ] = None,
    where: Where = None,
    without: Without = None,
    export: Annotated[
        list[Path] | None,
        typer.Option(help="An exported folder that is not in STUDY/exports; many times."),
    ] = None,
    measured_only: Annotated[
        bool, typer.Option("--measured-only", help="No estimates: only forms that were measured.")
    ] = False,
    draws: Annotated[int, typer.Option(help="Bootstrap draws.")] = 2_000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Choose what to ship: the best model and form under limits, and how sure that is.

    The selection split chooses; the report split's score is only shown. Sizes and latencies are
    those of exports where there are any, else of the runs, else estimates that say so. The
    exit code is 1 where a task has no model to choose from (the others are shown), and 2 where
    none has.
    """
    from kdlora.choice.constraints import asked_for
    from kdlora.choice.exports import recommend_study
    from kdlora.cli.progress import waiting
    from kdlora.records.subset import StudyPart

    given: dict[str, Any] = {
        "max_size_mb": max_size_mb, "max_latency_ms": max_latency_ms, "min_score": min_score,
        "max_drop": max_drop, "runtime": runtime, "prefer": prefer, "latency": latency,
        "min_coverage": min_coverage, "accuracy": accuracy,
        "quantize": tuple(q.strip() for q in quantize.split(",")) if quantize else None,
        "licence": tuple(n.strip().lower() for n in licence.split(",")) if licence else None,
    }  # fmt: skip
    problems = Problems()
    problems.add(*too_small(("draws", draws, 100), ("length", length, 1), ("seed", seed, 0)))
    if accuracy is not None and min_coverage is None:
        problems.add("--accuracy is that of the answers given: it needs --min-coverage")
    with problems.caught():
        asked = asked_for(profile, **given)
    problems.raise_any()
    with waiting("choosing", hidden=as_json):
        made = recommend_study(
            study, asked, part=StudyPart(task or (), where or (), without or ()),
            exports=export or (), length=length, measured_only=measured_only, draws=draws,
            seed=seed,
        )  # fmt: skip
    if as_json:
        rows = [one.to_dict() for one in made.found]
        told = {"study": str(study), "seed": seed, "recommendations": rows}
        say_json(told | {"part": made.part, "lacking": made.lacking})
    else:
        if made.part:
            say(f"{made.part}\n")
        several = len({one.task for one in made.found}) + len(made.lacking) > 1
        for i, one in enumerate(made.found):
            if i:
                say()
            _show(one, several=several, brief=len(asked) > 1)
    for why in made.lacking.values():
        say(why, stderr=True)
    if made.lacking:
        raise typer.Exit(1)


def _show(one: Recommendation, *, several: bool, brief: bool) -> None:
    from kdlora.report.content.which_to_ship import limit_text, limits_text, model_name, sentence

    console = terminal()
    title = one.profile or "Recommendation"
    title += f" on {one.task}" if several else ""
    console.print(f"{title}: {limits_text(one)}", style="bold")
    if one.choice is not None:
        console.print(sentence(one))
    else:
        console.print("Nothing fits.")
        for judged in one.nearest:
            name = model_name(judged.candidate)
            lacks = "; ".join(_broken(b, one) for b in judged.broken)
            console.print(f"  nearest: {name}: {lacks}")
        for give in one.eased:
            console.print(f"  {_give(give, one)}")
    _show_table(one, console, brief=brief)
    for exclusion in one.exclusions:
        limit = limit_text(exclusion.constraint, exclusion.limit, one)
        console.print(
            f"  {exclusion.constraint} {limit} excludes "
            f"{len(exclusion.excluded)} of {one.n_candidates}; without it "
            f"{exclusion.fit_without} would fit ({one.n_fitting} do)",
        )
    for step in one.next_steps:
        console.print(f"  next: {step.text}")
        if step.command:
            console.print(f"        {step.command}", soft_wrap=True)
    notes = list(one.notes)
    if not one.beats_baseline:  # its note is the first, and matters however brief one is
        console.print(f"  warning: {notes.pop(0)}", style="yellow")
    if not brief:
        for note in notes:
            console.print(f"  note: {note}", style="dim")


def _show_table(one: Recommendation, console: Any, *, brief: bool) -> None:
    from rich.table import Table

    from kdlora.report import words as w
    from kdlora.report.content.which_to_ship import cost_text, drop_text, short_name

    scale = w.scale_of(one.metric)
    shown = [one.choice, *one.runners_up] if one.choice is not None else list(one.nearest)
    columns = ["", "model", "select", "drop", "report", "MB", f"ms {one.constraints.latency}"]
    table = Table(*columns, "best", "fits", box=None, pad_edge=False)

    def row(name: str, judged: JudgedForm) -> None:
        c = judged.candidate
        costs = (c.size_mb, c.latency_ms(one.constraints.latency))
        cells = [
            name, short_name(c), scale.write(c.score), drop_text(judged.drop, one),
            scale.write(c.report_score), *(cost_text(cost) for cost in costs),
            _percent(judged.p_best), _percent(judged.p_meets),
        ]  # fmt: skip
        table.add_row(*cells)

    for i, judged in enumerate(shown):
        if judged is not None:
            row("*" if judged is one.choice else str(i + (one.choice is None)), judged)
    console.print(table)
    over = {judged.score_over: None for judged in shown if judged is not None and judged.score_over}
    if over:
        console.print(f"  best, fits: over {'; '.join(over)}")
    if not brief and one.choice is not None:
        c = one.choice.candidate
        for what, cost in (("size", c.size_mb), ("latency", c.latency_ms(one.constraints.latency))):
            console.print(f"  {what}: {cost.basis}, {cost.source}")
        where = c.folder or c.ship_folder
        console.print(f"  it is {where}", soft_wrap=True)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _broken(broken: BrokenLimit, one: Recommendation) -> str:
    from kdlora.report.content.which_to_ship import limit_text

    name = broken.constraint
    value, asked = (limit_text(name, x, one) for x in (broken.value, broken.limit))
    return f"{name} is {value}, asked {asked}"


def _give(give: EasedLimit, one: Recommendation) -> str:
    from kdlora.report.content.which_to_ship import limit_text

    name = give.constraint
    if give.candidate is None:
        return f"{name}: no value of it alone is enough"
    needed, limit = (limit_text(name, x, one) for x in (give.needed, give.limit))
    return f"{name} {needed} instead of {limit} would let in {give.candidate}"
