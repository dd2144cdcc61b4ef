"""`kdlora plan` and `kdlora status`: what a study means, where it stands, what is left."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from kdlora.cli import completion
from kdlora.cli.study import AsJson, DataDir, Out, StudyFile, StudyFolder
from kdlora.cli.terminal import say, say_json, terminal
from kdlora.errors import InputError
from kdlora.records.study_folder import find_study, folder_of
from kdlora.spec.sections import HEAD_LR
from kdlora.vocabulary.arm import labelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from kdlora.planning.status import ArmCoverage, Change, StudyStatus, Totals
    from kdlora.records.store import Store
    from kdlora.spec.plan import Plan
    from kdlora.spec.study import Study

_MOST_ROWS = 60  # of the coverage matrix on a terminal
_MOST_HELD = 12  # running ones that are named
_MOST_SEEDS = 4  # that are named one by one in a place of it


def plan(
    context: typer.Context,
    study: StudyFile,
    out: Out = None,
    data_dir: DataDir = None,
    workers: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 1,
    add_seed: Annotated[
        list[int] | None,
        typer.Option(help="Say what changes with this seed too; may be given many times."),
    ] = None,
    add_arm: Annotated[
        list[str] | None,
        typer.Option(
            help="Say what changes with this arm too, such as student/kd-dora.",
            autocompletion=completion.arm_names,
        ),
    ] = None,
    learn_from: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of another study whose records teach the cost estimates."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which runs a study means, which are done, and what the rest costs; trains nothing."""
    from kdlora.api import check
    from kdlora.cli.look import say_findings
    from kdlora.cli.study import _read
    from kdlora.planning.data_looks import look_at_plan
    from kdlora.planning.inputs import check_inputs
    from kdlora.planning.status import as_json as status_as_json
    from kdlora.planning.status import change, study_status
    from kdlora.records.store import Store

    gc.disable()  # 100,000 runs hold no cycles; looking for some takes a third of the time
    context.call_on_close(gc.enable)
    resolved = _read(study, data_dir)
    planned = check(resolved)
    looks = look_at_plan(planned, check_inputs(planned))
    store = Store(folder_of(resolved.name, out))
    others = [Store(folder) for folder in learn_from or ()]
    if lost := [str(s.root) for s in others if not (s.root / "runs").is_dir()]:
        raise InputError(
            [f"--learn-from {name}: no study's folder, it has no runs" for name in lost]
        )
    seen = study_status(planned, store, workers=workers, others=others)
    changes = [
        change(seen, check(larger), name, store, others=others)
        for name, larger in _larger(resolved, add_seed or [], add_arm or [])
    ]
    if as_json:
        status = status_as_json(seen, changes)
        data = [one.as_dict() for one in looks]
        say_json({"study": resolved.name, **status, "data": data})
        return
    console = terminal()
    _show(seen, changes, resolved, store, console)
    if arms := _without_a_heads_rate(planned):
        console.print(
            f"training.lr: the head of {', '.join(arms)} learns at the rate that is named for the "
            f"rest; where none is named it has {HEAD_LR:g}, which training.lr.head sets",
            soft_wrap=True,
        )  # fmt: skip
    for name, chosen in planned.lengths.items():
        console.print(f"max_length: {name}: {chosen.because}", soft_wrap=True)
    for one in looks:
        say_findings(one.of("error", "warning"), console, prefix=f"{one.task}: ")


def _larger(study: Study, seeds: list[int], arms: list[str]) -> Iterator[tuple[str, Study]]:
    """The study with what is added, one kind at a time, then with both."""
    from kdlora.api import as_study

    new_seeds = [seed for seed in dict.fromkeys(seeds) if seed not in study.seeds]
    new_arms = [arm for arm in dict.fromkeys(arms) if arm not in study.arms]
    known = [f"--add-seed {s}" for s in seeds if s in study.seeds]
    known += [f"--add-arm {a}" for a in arms if a in study.arms]
    if known:
        raise InputError([f"{what}: the study has it already" for what in known])
    by_seed = {"seeds": [*study.seeds, *new_seeds]}
    by_arm = {"arms": [*study.arms, *new_arms]}
    named_seeds = f"seed {', '.join(map(str, new_seeds))}"
    if new_seeds:
        yield named_seeds, as_study(study, **by_seed)
    if new_arms:
        yield ", ".join(new_arms), as_study(study, **by_arm)
    if new_seeds and new_arms:
        yield f"{named_seeds} and {', '.join(new_arms)}", as_study(study, **by_seed, **by_arm)


def _show(
    seen: StudyStatus, changes: list[Change], study: Study, store: Store, console: Console
) -> None:
    """The matrix, the counts, the costs and the changes, in this order."""
    from kdlora.planning.status import DONE

    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    console.print(_matrix(seen, study.name))
    left_out = len(_table_rows(seen)) - _MOST_ROWS
    if left_out > 0:
        say(f"... and {left_out} more rows; --json has them all")
    for budget, arms in _budgets(seen.plan).items():
        say(
            f"adapter budget: {budget:,} trainable parameters, which set the rank: "
            f"{', '.join(arms)}"
        )
    if shared := _shared(seen.plan):
        say(f"the same run as another arm's: {', '.join(shared)}")
    students = sum(bool(run.teachers) for run in seen.plan.runs)
    done = sum(state in DONE for state in seen.states.values())
    states = ", ".join(f"{n} {state}" for state, n in seen.counts.items() if state != "done")
    say(
        f"{len(seen.plan.runs)} runs, {done} done, {seen.left.runs} to do"
        + (f" ({states})" if states else "")
        + f"; {len(seen.taught)} teacher runs serve {students} distilled students. "
        f"Results: {store.root}"
    )
    _say_held(seen.holders, say)
    say(
        f"blocks (one pair, task and seed) complete: {seen.complete_blocks} of {seen.blocks}; runs "
        "are done block by block, so a stop leaves whole ones"
    )
    say(f"all of it:  {_written(seen.all, seen.workers)}")
    say(f"to do:      {_written(seen.left, seen.workers)}")
    say(f"estimates:  {_basis(seen)}")
    for change in changes:
        say(_change(change, seen.workers))


def _say_held(held: dict[str, str], say: Callable[[str], None]) -> None:
    """Which runs are at work, and whose they are."""
    for run_id, holder in list(held.items())[:_MOST_HELD]:
        say(f"running:    {run_id}: {holder}")
    if len(held) > _MOST_HELD:
        say(f"... and {len(held) - _MOST_HELD} more; kdlora plan --json has them all")


def _change(change: Change, workers: int) -> str:
    dropped = f"; {change.dropped} runs of the present plan would not be part of it" * bool(
        change.dropped
    )
    return (
        f"with {change.name}: {change.extra.runs} more runs, "
        f"{_written(change.extra, workers, runs=False)}; {change.shared} runs are those of the "
        f"present plan, and {change.reused} records are reused{dropped}"
    )


def _written(totals: Totals, workers: int, *, runs: bool = True) -> str:
    """Costs in a line: ``102 runs, 1.4 h (0.7 h by 2 workers), ...``."""
    if totals.runs == 0:
        return "nothing"
    shared = f" ({_time(totals.wall_s)} by {workers} workers)" if workers > 1 else ""
    return (
        (f"{totals.runs:,} runs, " if runs else "")
        + f"{_time(totals.seconds)}{shared}, {totals.flops:.2g} training FLOPs, "
        f"{_size(totals.disk_mb)} on disk, {_size(totals.peak_memory_mb)} of memory at most"
    )


def _time(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _size(mb: float) -> str:
    return f"{mb / 1000:.1f} GB" if mb >= 1000 else f"{mb:.0f} MB"


def _basis(seen: StudyStatus) -> str:
    costs = seen.costs
    if not costs.learnt_from:
        return (
            f"from FLOPs at a stated {costs.rate_flops_per_s / 1e9:.0f} GFLOP/s a worker: there is "
            "no record to learn from yet, so they may be off by a factor of 3"
        )
    text = f"learnt from {costs.learnt_from} runs"
    if costs.off_by is None:
        return f"{text}: too few to say how far off they are"
    return (
        f"{text}; each of those, estimated from the others, was off by "
        f"{100 * (costs.off_by - 1):.0f} % or less in half of the cases"
    )


def _table_rows(seen: StudyStatus) -> list[tuple[str, str]]:
    """Pair and arm of every row of the matrix."""
    return list(dict.fromkeys((place.pair, place.arm) for place in seen.coverage))


def _matrix(seen: StudyStatus, name: str) -> Any:
    from rich.table import Table

    places = {(c.pair, c.task, c.arm): c for c in seen.coverage}
    tasks = list(dict.fromkeys(c.task for c in seen.coverage))
    several = len({c.pair for c in seen.coverage}) > 1
    heads = (["pair"] if several else []) + ["arm", *tasks]
    table = Table(*heads, title=f"{name}: seeds done / planned")
    before = ""
    for pair, arm in _table_rows(seen)[:_MOST_ROWS]:
        cells = [_place(places.get((pair, task, arm))) for task in tasks]
        first = ["" if pair == before else pair] if several else []
        table.add_row(*first, arm, *cells)
        before = pair
    return table


def _place(place: ArmCoverage | None) -> Text:
    """``2/3 -s3``: two of three seeds are done, 3 is missing."""
    if place is None:
        return Text("-")
    text = f"{len(place.done)}/{len(place.planned)}"
    missing = [seed for seed in place.planned if seed not in set(place.done)]
    if not missing:
        return Text(text, style="green")
    if not place.done:
        return Text(text)
    named = " ".join(f"-s{seed}" for seed in missing[:_MOST_SEEDS])
    more = " ..." * (len(missing) > _MOST_SEEDS)
    return Text.assemble((text, "yellow"), f" {named}{more}")


def _budgets(planned: Plan) -> dict[int, list[str]]:
    """Budgets of trainable parameters -> the arms that have them."""
    from kdlora.spec.run import adapter_of

    found: dict[int, dict[str, None]] = {}
    for run in planned.runs:
        adapter = adapter_of(run)
        if adapter is not None and adapter.budget is not None:
            found.setdefault(adapter.budget, {})[run.title] = None
    return {budget: list(arms) for budget, arms in found.items()}


def _without_a_heads_rate(planned: Plan) -> list[str]:
    """Arms whose heads, and other new modules, have no rate of their own: another was named."""
    from kdlora.spec.run import TrainedRun

    return list(
        dict.fromkeys(
            run.title
            for run in planned.runs
            if isinstance(run, TrainedRun) and run.adaptation != "frozen"
            if run.training.lr.head is None and run.lr != HEAD_LR
        )
    )


def _shared(planned: Plan) -> list[str]:
    """Labelled arms whose settings are those of an arm that is planned anyway."""
    titles = {run.title for run in planned.runs}
    names = dict.fromkeys(labelled(cell.arm, cell.label) for cell in planned.cells)
    return [name for name in names if name not in titles]


def status(folder: StudyFolder, as_json: AsJson = False) -> None:
    """Show the results of a study's folder so far, what is running, and what was set aside."""
    from kdlora.records.frame import load_frame

    root = find_study(folder)
    frame = load_frame(root)
    if as_json:
        say(frame.to_json(orient="records", indent=1))
        return
    from kdlora.cli.progress import say_set_aside
    from kdlora.planning.status import holders
    from kdlora.records.store import Store
    from kdlora.report.render.terminal import flags_panel, results_table, status_table

    console = terminal()
    left = frame[frame["status"] != "done"]
    if len(left):
        console.print(status_table(frame))
        _say_held(
            holders(Store(root), dict.fromkeys(left["run_id"])),
            lambda text: console.print(text, soft_wrap=True),
        )
    say_set_aside(root, console)
    console.print(results_table(frame))
    panel = flags_panel(frame)
    if panel is not None:
        console.print(panel)
