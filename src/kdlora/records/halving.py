"""Early decisions on disk: what each candidate scored at a rung, and who went on.

A rung's score is that of the selection split alone, written when a run pauses. A decision is
written once, by whoever sees all its scores first; it follows from them and the plan only, so that
every engine, and a study that crashed between a rung and its decision, comes to the same one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from kdlora.files import set_aside
from kdlora.records.contents import read_history, read_sealed, sealed
from kdlora.records.record import RecordPart
from kdlora.records.store import Store, write_json, write_new_json
from kdlora.spec.halving import Race

FOLDER = "decisions"


class Rung(RecordPart):
    """A run at the end of an epoch at which candidates are compared."""

    epoch: int
    step: int
    metric: str
    direction: int
    score: float | None = Field(description="on the selection split; None where it is undefined")


class RankedRun(RecordPart):
    """One run of a race: its score at the rung; `failed` where it never got there."""

    arm: str
    run_id: str
    score: float | None = None
    failed: bool = False


class Decision(RecordPart):
    """Who of a block went on from a rung. Scores are of the selection split."""

    pair: str
    task: str
    seed: int
    epoch: int
    keep: float
    metric: str | None
    direction: int
    candidates: list[RankedRun] = Field(description="best first; ties in the order of the plan")
    kept: list[str] = Field(description="run ids")
    stopped: list[str] = Field(description="run ids; runs that failed are in neither list")


@dataclass(frozen=True)
class Stop:
    """Why a run ended early."""

    epoch: int
    score: float | None
    metric: str | None
    kept: tuple[str, ...]  # arms that went on instead
    failed: bool = False  # it failed before it could be compared

    def __str__(self) -> str:
        return (
            f"stopped after epoch {self.epoch} at {self.metric} "
            f"{'undefined' if self.score is None else format(self.score, '.4g')} on the selection "
            f"split; {', '.join(self.kept) or 'nobody'} went on"
        )


def write_rung(store: Store, run_id: str, rung: Rung) -> None:
    """Keep what a pausing run scored."""
    write_json(_rung_path(store, run_id, rung.epoch), sealed(rung.model_dump(mode="json")))


def rung_of(history: Iterable[Mapping[str, Any]], epoch: int, metric: str, direction: int) -> Rung:
    """The rung that a learning curve reached: its last evaluation up to the end of an epoch."""
    rows = [row for row in history if row["epoch"] <= epoch]
    last: Mapping[str, Any] = rows[-1] if rows else {"step": 0, "selection": {}}
    return Rung(
        epoch=epoch,
        step=last["step"],
        metric=metric,
        direction=direction,
        score=_finite(last["selection"].get(metric)),
    )


def read_rung(store: Store, run_id: str, epoch: int) -> Rung | None:
    """What a run scored at the end of an epoch, or None if it has not got there.

    A run that is done (it may have ended early, or been done before it became a candidate) has
    the score of its last evaluation up to that epoch.
    """
    try:
        return Rung.model_validate(read_sealed(_rung_path(store, run_id, epoch)))
    except (OSError, ValueError):
        pass
    record = store.read(run_id)
    if record is None or record.quality is None:
        return None
    quality = record.quality
    curve = read_history(store.folder(run_id))
    return rung_of(curve, epoch, quality.primary, quality.direction)


def decide(race: Race, epoch: int, rungs: Sequence[tuple[str, str, Rung | None]]) -> Decision:
    """The decision on (title, run id, what it scored or None if it failed), in the plan's order.

    The better share goes on, rounded up; equal scores keep the plan's order, undefined ones come
    last. A run that failed takes a place among the candidates and never goes on.
    """
    known = [rung for *_, rung in rungs if rung is not None]
    direction = known[0].direction if known else 1

    def loss(entry: tuple[str, str, Rung | None]) -> tuple[int, float]:
        rung = entry[2]
        if rung is None:
            return (2, 0.0)
        return (1, 0.0) if rung.score is None else (0, -direction * rung.score)

    ranked = sorted(rungs, key=loss)
    alive = [run_id for _, run_id, rung in ranked if rung is not None]
    n = race.survivors(len(rungs))
    return Decision(
        pair=race.pair,
        task=race.task,
        seed=race.seed,
        epoch=epoch,
        keep=race.keep,
        metric=known[0].metric if known else None,
        direction=direction,
        candidates=[
            RankedRun(
                arm=title, run_id=run_id, score=rung.score if rung else None, failed=rung is None
            )
            for title, run_id, rung in ranked
        ],
        kept=alive[:n],
        stopped=alive[n:],
    )


def record_decision(store: Store, race: Race, decision: Decision) -> Decision:
    """Write a decision unless there is one already; returns the one that holds.

    A damaged one is set aside first.
    """
    path = _decision_path(store.root, race, decision.epoch)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = sealed(decision.model_dump(mode="json"))
    while not write_new_json(path, values):  # another has decided meanwhile, or it is damaged
        known = read_decision(store.root, race, decision.epoch)
        if known is not None:
            return known
        with contextlib.suppress(FileNotFoundError):  # another process was as quick
            set_aside(path)
    return decision


def read_decision(root: Path, race: Race, epoch: int) -> Decision | None:
    """A recorded decision, or None. Nothing is moved: who decides anew sets a damaged one aside."""
    path = _decision_path(root, race, epoch)
    try:
        return Decision.model_validate(read_sealed(path))
    except (FileNotFoundError, ValueError):
        return None


@dataclass(frozen=True)
class RaceState:
    """How far a race is: decisions so far, who is still in it, and the rung that comes next."""

    race: Race
    decisions: tuple[Decision, ...]
    alive: tuple[tuple[str, str], ...]
    epoch: int | None


def race_state(root: Path, race: Race) -> RaceState:
    """The state of a race by its recorded decisions. A rung that would stop nobody is none."""
    made: list[Decision] = []
    alive = race.candidates
    for epoch in race.rungs:
        if race.survivors(len(alive)) >= len(alive):
            continue
        decision = read_decision(root, race, epoch)
        if decision is None:
            return RaceState(race, tuple(made), alive, epoch)
        made.append(decision)
        alive = tuple(c for c in alive if c[1] in decision.kept)
    return RaceState(race, tuple(made), alive, None)


@dataclass(frozen=True)
class HalvingVerdict:
    """What the decisions so far say of a run: stop, or go on to a rung or to its end (None)."""

    pause_epoch: int | None = None
    stop: Stop | None = None


def verdict_of(run_id: str, states: Iterable[RaceState]) -> HalvingVerdict:
    """Sum up the races of a run. One that stands in several blocks goes on while any keeps it."""
    out: list[Decision] = []
    pauses: list[int] = []
    free = False
    for now in states:
        if all(run_id != alive for _, alive in now.alive):
            out.append(next(d for d in now.decisions if run_id not in d.kept))
        elif now.epoch is not None:
            pauses.append(now.epoch)
        else:
            free = True
    if pauses:
        return HalvingVerdict(pause_epoch=min(pauses))
    if free or not out:
        return HalvingVerdict()
    last = max(out, key=lambda decision: decision.epoch)
    (own,) = (c for c in last.candidates if c.run_id == run_id)
    arms = {c.run_id: c.arm for c in last.candidates}
    kept = tuple(arms[other] for other in last.kept)
    return HalvingVerdict(stop=Stop(last.epoch, own.score, last.metric, kept, own.failed))


def stopped_runs(root: Path, found: Iterable[Race]) -> dict[str, Stop]:
    """The runs that recorded decisions of these races have stopped."""
    by_run: dict[str, list[RaceState]] = {}
    for race in found:
        now = race_state(root, race)
        for _, run_id in race.candidates:
            by_run.setdefault(run_id, []).append(now)
    verdicts = {run_id: verdict_of(run_id, entries) for run_id, entries in by_run.items()}
    return {
        run_id: f.stop for run_id, f in verdicts.items() if f.stop is not None and not f.stop.failed
    }


def _rung_path(store: Store, run_id: str, epoch: int) -> Path:
    return store.folder(run_id) / f"rung-{epoch}.json"


def _decision_path(root: Path, race: Race, epoch: int) -> Path:
    return root / FOLDER / f"{race.key}-epoch{epoch}.json"


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
