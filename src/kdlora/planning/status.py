"""Where a study stands and what the rest of it will take: all that `kdlora plan` tells."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdlora.planning.costs import CostEstimate, CostModel, cost_model
from kdlora.records.contents import read_history
from kdlora.records.halving import stopped_runs
from kdlora.records.leases import EXPIRY_S, look
from kdlora.records.store import Store
from kdlora.records.study_folder import RUNS
from kdlora.spec.halving import races
from kdlora.spec.plan import Plan
from kdlora.spec.run import Run, adapter_of
from kdlora.vocabulary.arm import labelled

# "flagged" is done with a doubt in its own record, "damaged" has only records that were set aside:
# it is missing. "running" has a lease that nobody has given back, see `holders`.
STATES = ("done", "flagged", "running", "failed", "stopped", "damaged", "missing")
DONE = ("done", "flagged")


@dataclass(frozen=True)
class Totals:
    """What so many runs cost together; `wall_s` with the workers that were asked for.

    `disk_mb` is what they keep, with the logits of their teachers, and what the largest need
    besides while they run, one a worker.
    """

    runs: int
    seconds: float
    wall_s: float
    flops: float
    disk_mb: float
    peak_memory_mb: float  # of the largest run, times the workers


@dataclass(frozen=True)
class ArmCoverage:
    """One place of the table of tasks and arms: seeds planned, and those that are done."""

    pair: str
    task: str
    arm: str
    planned: tuple[int, ...]
    done: tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """What a study becomes with another seed or arm.

    `reused` are runs of the larger study that have a record already, `shared` those that the
    present plan would do anyway; `dropped` are runs of the present plan that it no longer has.
    """

    name: str
    extra: Totals
    reused: int
    shared: int
    dropped: int


@dataclass(frozen=True)
class StudyStatus:
    """A plan beside its records."""

    plan: Plan
    states: dict[str, str]
    costs: CostModel
    workers: int
    all: Totals
    left: Totals
    taught: dict[str, tuple[str, ...]]  # teacher -> its students
    coverage: tuple[ArmCoverage, ...]
    complete_blocks: int
    blocks: int
    holders: dict[str, str]  # of the running ones, see `holders`

    @property
    def counts(self) -> dict[str, int]:
        """How many runs are in each state, the empty ones left out."""
        found = Counter(self.states.values())
        return {state: found[state] for state in STATES if found[state]}


def study_status(
    plan: Plan,
    store: Store,
    *,
    workers: int = 1,
    threads: int | None = None,
    others: Sequence[Store] = (),
) -> StudyStatus:
    """Look at the records and leases of a study's folder, and reckon what is left.

    Args:
        threads: of each worker; default the cores divided by the workers.
        others: further studies whose records teach the cost model.
    """
    # Fewer threads than usual only where there are several workers: records know the usual number.
    if threads is None and workers > 1:
        threads = max(1, (os.cpu_count() or 1) // workers)
    costs = cost_model(plan, store, others=others, threads=threads)
    states = run_states(plan, store)
    todo = [run_id for run_id, state in states.items() if state not in (*DONE, "stopped")]
    taught: dict[str, list[str]] = {}
    for run in plan.runs:
        for teacher in run.teachers:
            taught.setdefault(teacher, []).append(run.run_id)
    coverage, complete, blocks = _arm_coverage(plan, states)
    return StudyStatus(
        plan=plan,
        states=states,
        costs=costs,
        workers=workers,
        all=totals(plan, costs.estimates, workers),
        left=totals(plan, costs.estimates, workers, only=todo),
        taught={teacher: tuple(students) for teacher, students in taught.items()},
        coverage=coverage,
        complete_blocks=complete,
        blocks=blocks,
        holders=holders(store, [i for i, state in states.items() if state == "running"]),
    )


def holders(store: Store, run_ids: Iterable[str]) -> dict[str, str]:
    """Who holds the leases of these runs and how far they are, in words; free ones are left out.

    One look cannot tell whether a holder on another machine lives, for clocks differ: it is named,
    and it is said who finds out.
    """
    found = {}
    for run_id in run_ids:
        lease = look(store.folder(run_id))
        if lease.released or lease.process_gone():
            continue
        found[run_id] = lease.holder + _reached(store.folder(run_id))
        if not lease.of_this_machine:
            expiry_s = float(lease.owner.get("expiry_s", EXPIRY_S))
            found[run_id] += (
                f", as its lease says; whether that one lives is seen from here by `kdlora run`, "
                f"which takes over what stands still for {expiry_s:.0f} s"
            )
    return found


def _reached(folder: Path) -> str:
    """How far a training is, by its last evaluation; no text where there is none, or no number."""
    try:
        last = read_history(folder)[-1]
        step, epoch = int(last["step"]), float(last["epoch"])
    except (LookupError, TypeError, ValueError):
        return ""
    return f", last evaluated after step {step:,} (epoch {epoch:.3g})"


def run_states(plan: Plan, store: Store) -> dict[str, str]:
    """The state of every planned run, one of `STATES`, without changing anything on disk.

    Raises StoreError for a record that only another version of kdlora understands.
    """
    folder = store.root / RUNS
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    stops: Mapping[str, Any] = {}
    if plan.halving and there:
        stops = stopped_runs(store.root, races(plan.halving, [vars(c) for c in plan.cells]))
    states: dict[str, str] = {}
    for run in plan.runs:
        run_id = run.run_id
        if run_id not in there:
            states[run_id] = "stopped" if run_id in stops else "missing"
        elif (record := store.read(run_id)) is not None:
            states[run_id] = "flagged" if record.doubts else "done"
        else:
            states[run_id] = _unfinished(store, run_id, stopped=run_id in stops)
    return states


def _unfinished(store: Store, run_id: str, *, stopped: bool) -> str:
    folder = store.folder(run_id)
    lease = look(folder)
    if not lease.released and not lease.process_gone():
        return "running"
    if stopped:
        return "stopped"
    names = os.listdir(folder)
    if "failed.json" in names:
        return "failed"
    damaged = "record.json" in names or any(n.startswith("record.damaged") for n in names)
    return "damaged" if damaged else "missing"


def totals(
    plan: Plan,
    estimates: Mapping[str, CostEstimate],
    workers: int,
    *,
    only: Collection[str] | None = None,
) -> Totals:
    """Sums over a plan's runs, or over some of them.

    The wall-clock time is that of perfect sharing among the workers, or of the longest chain of a
    teacher and its student where that is more.
    """
    chosen = set(only) if only is not None else None
    seconds = flops = disk = passing = memory = longest = 0.0
    chain: dict[str, float] = {}
    n = 0
    for run in plan.runs:
        if chosen is not None and run.run_id not in chosen:
            continue
        one = estimates[run.run_id]
        n += 1
        seconds, flops = seconds + one.seconds, flops + one.flops
        disk += one.disk_mb + one.labels_mb
        memory, passing = max(memory, one.peak_memory_mb), max(passing, one.passing_mb)
        before = max((chain.get(teacher, 0.0) for teacher in run.teachers), default=0.0)
        chain[run.run_id] = before + one.seconds
        longest = max(longest, chain[run.run_id])
    wall = max(seconds / workers, longest)
    at_once = min(workers, max(n, 1))
    return Totals(n, seconds, wall, flops, disk + passing * at_once, memory * at_once)


def _arm_coverage(
    plan: Plan, states: Mapping[str, str]
) -> tuple[tuple[ArmCoverage, ...], int, int]:
    """The table of tasks and arms, and how many blocks (pair, task and seed) are complete."""
    places: dict[tuple[str, str, str], tuple[list[int], list[int]]] = {}
    open_blocks: dict[tuple[str, str, int], bool] = {}
    for cell in plan.cells:
        key = (cell.pair, cell.task, labelled(cell.arm, cell.label))
        planned, done = places.setdefault(key, ([], []))
        planned.append(cell.seed)
        block = (cell.pair, cell.task, cell.seed)
        missing = states[cell.run_id] not in (*DONE, "stopped")
        open_blocks[block] = open_blocks.get(block, False) or missing
        if states[cell.run_id] in DONE:
            done.append(cell.seed)
    table = tuple(
        ArmCoverage(*key, tuple(planned), tuple(done)) for key, (planned, done) in places.items()
    )
    return table, sum(not still for still in open_blocks.values()), len(open_blocks)


def change(present: StudyStatus, larger: Plan, name: str, store: Store, **options: Any) -> Change:
    """What `larger` asks for beyond the present plan; `options` as in `study_status`."""
    then = study_status(larger, store, workers=present.workers, **options)
    extra = [run_id for run_id in then.states if run_id not in present.states]
    new = [run_id for run_id in extra if then.states[run_id] not in DONE]
    kept = [run_id for run_id in then.states if run_id in present.states]
    return Change(
        name=name,
        extra=totals(larger, then.costs.estimates, present.workers, only=new),
        reused=sum(then.states[run_id] in DONE for run_id in then.states),
        shared=len(kept),
        dropped=len(present.states) - len(kept),
    )


def as_json(seen: StudyStatus, changes: Sequence[Change] = ()) -> dict[str, Any]:
    """All of it as JSON-able values, run by run."""
    return {
        "runs": [_run_as_json(run, seen) for run in seen.plan.runs],
        "states": seen.counts,
        "workers": seen.workers,
        "all": asdict(seen.all),
        "left": asdict(seen.left),
        "learnt_from": seen.costs.learnt_from,
        "estimates_off_by_factor": seen.costs.off_by,
        "stated_rate_flops_per_s": seen.costs.rate_flops_per_s,
        "holders": seen.holders,
        "teachers": {teacher: list(students) for teacher, students in seen.taught.items()},
        "coverage": [asdict(place) for place in seen.coverage],
        "complete_blocks": seen.complete_blocks,
        "blocks": seen.blocks,
        "changes": [asdict(one) for one in changes],
    }


def _run_as_json(run: Run, seen: StudyStatus) -> dict[str, Any]:
    adapter = adapter_of(run)
    return {
        "run_id": run.run_id,
        "task": run.task.name,
        "pair": run.pair,
        "arm": run.title,
        "seed": run.seed,
        "rank": adapter.rank if adapter else None,
        "budget": adapter.budget if adapter else None,
        "teacher_run_id": next(iter(run.teachers), None),
        "done": seen.states[run.run_id] in DONE,
        "state": seen.states[run.run_id],
        "estimate": asdict(seen.costs.estimates[run.run_id]),
    }
