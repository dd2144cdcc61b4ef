"""Before the first run: what is done, what is to be tried again, how long each may take."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from kdlora.engines.halving import HalvingDecisions
from kdlora.engines.schedule import Schedule
from kdlora.errors import InputError, Problems, did_you_mean
from kdlora.files import CHECKPOINT
from kdlora.planning.costs import estimate
from kdlora.records.store import Store
from kdlora.spec.plan import Plan
from kdlora.spec.run import Run
from kdlora.vocabulary.arm import expression, labelled

FIELDS = ("task", "arm", "pair", "seed", "run")


@dataclass(frozen=True)
class RunSelection:
    """Which of a plan's runs to do this time; by default all that have neither result nor failure.

    Attributes:
        only: patterns, see `chosen_runs`.
        max_hours: stop with checkpoints after so many hours; what by its estimate would not end
            until then starts only where nothing else can, or goes on from its checkpoint.
        retry_failed: try those again that failed before.
        retry_flagged: do those again whose record carries a warning or an error among its flags,
            and what learned from them; the old results are kept beside the new ones.
    """

    only: tuple[str, ...] = ()
    max_hours: float | None = None
    retry_failed: bool = False
    retry_flagged: bool = False


@dataclass
class PreparedStudy:
    """A schedule of what is to do.

    `failures` are the checksums of the failures that are there already, by run id; `retired` the
    runs whose flagged results were set aside.
    """

    schedule: Schedule
    halving: HalvingDecisions
    failures: dict[str, str] = field(default_factory=dict)
    retired: list[Run] = field(default_factory=list)


def prepare_schedule(
    plan: Plan, store: Store, selection: RunSelection | None = None
) -> PreparedStudy:
    """Look at the store and make the schedule of a plan. Raises InputError for a bad `only`."""
    selection = selection or RunSelection()
    only = chosen_runs(plan, selection.only) if selection.only else None
    done = {run.run_id for run in plan.runs if store.is_done(run.run_id)}
    retired = _retire_flagged(plan, store, done, only) if selection.retry_flagged else []
    if selection.retry_flagged:  # another process that was told the same may retire some, too
        done = {run_id for run_id in done if store.is_done(run_id)}
    failures = {
        run.run_id: record.checksum
        for run in plan.runs
        if run.run_id not in done and (record := store.read_failure(run.run_id)) is not None
    }
    halving = HalvingDecisions(plan, store)
    schedule = Schedule(
        plan,
        done=done,
        failed=() if selection.retry_failed else failures,
        only=only,
        seconds=estimated_seconds(plan, store),
        decide=halving.decide,
        begun=lambda run: (store.folder(run.run_id) / CHECKPOINT).is_file(),
    )
    halving.lost = lambda run_id: schedule.states.get(run_id) in ("failed", "skipped")
    return PreparedStudy(schedule, halving, failures, retired)


def chosen_runs(plan: Plan, patterns: Sequence[str]) -> set[str]:
    """The ids of the runs that the patterns of ``--only`` name.

    In a pattern ``*`` stands for anything (``student/kd-*``); between slashes it is a regular
    expression that is searched for. It holds for a task, arm, pair, seed or run id, or for one of
    them that is named before it: ``task=rte``, ``arm=/kd/``, ``seed=1``. Patterns for the same
    field are alternatives; patterns for different fields must all hold.

    Raises InputError for an unknown field, a bad expression, or patterns that name no run.
    """
    problems = Problems()
    wanted: dict[str, list[Callable[[str], bool]]] = {}
    for pattern in patterns:
        name, _, rest = pattern.partition("=")
        if rest and name in FIELDS:
            place, text = name, rest
        elif rest and name.isidentifier():
            problems.add(f"--only {pattern}: unknown field '{name}'.{did_you_mean(name, FIELDS)}")
            continue
        else:
            place, text = "", pattern
        try:
            wanted.setdefault(place, []).append(_matcher(text))
        except re.error as error:
            problems.add(f"--only {pattern}: no regular expression: {error}")
    problems.raise_any()
    places = [
        (cell.pair, cell.task, labelled(cell.arm, cell.label), cell.seed, cell.run_id)
        for cell in plan.cells
    ]
    places += [(r.pair, r.task.name, r.title, r.seed, r.run_id) for r in plan.runs]
    chosen = set()
    for pair, task, arm, seed, run_id in dict.fromkeys(places):
        values = {"task": task, "arm": arm, "pair": pair, "seed": str(seed), "run": run_id}
        if all(
            any(fits(v) for fits in some for v in ([values[p]] if p else values.values()))
            for p, some in wanted.items()
        ):
            chosen.add(run_id)
    if not chosen:
        _, tasks, arms, seeds, _ = (_few(values) for values in zip(*places, strict=True))
        raise InputError(
            f"--only {' '.join(patterns)}: no run of the plan fits. "
            f"Tasks: {tasks}. Arms: {arms}. Seeds: {seeds}"
        )
    return chosen


def estimated_seconds(plan: Plan, store: Store) -> dict[str, float]:
    """Seconds that each run will take, by the cost model."""
    return {run_id: found.seconds for run_id, found in estimate(plan, store).items()}


def _matcher(text: str) -> Callable[[str], bool]:
    if len(text) > 2 and text.startswith("/") and text.endswith("/"):
        form = re.compile(text[1:-1])
        return lambda value: form.search(value) is not None
    named = expression(text)
    return lambda value: named.fullmatch(value) is not None


def _few(values: Iterable[object]) -> str:
    names = list(dict.fromkeys(map(str, values)))
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _retire_flagged(plan: Plan, store: Store, done: set[str], only: set[str] | None) -> list[Run]:
    """Set the results of flagged runs, and of what learned from them, aside.

    A student that is half done learned from the old teacher, too, and begins anew.
    """
    retired: dict[str, Run] = {}
    for run in plan.runs:  # teachers come before their students
        taught_by_one = any(teacher in retired for teacher in run.teachers)
        chosen = run.run_id in done and (only is None or run.run_id in only)
        if taught_by_one or (chosen and _is_flagged(store, run.run_id)):
            with store.lease(run.run_id) as lease:
                if lease is not None and store.retire(run.run_id) is not None:
                    retired[run.run_id] = run
    return list(retired.values())


def _is_flagged(store: Store, run_id: str) -> bool:
    record = store.read(run_id)
    return record is not None and bool(record.doubts)
