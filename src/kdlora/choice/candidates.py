"""Selection scores of all candidates of a task, and of the best teacher, drawn again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from kdlora.choice.formats import (
    ESTIMATED,
    FORMS,
    Cost,
    MeasuredForm,
    form_size,
    latency_of,
    nearest_length,
    speed_ratios,
)
from kdlora.errors import InputError
from kdlora.evidence.result import Result
from kdlora.evidence.score_draws import ScoreDraws, draw_scores
from kdlora.evidence.scores import numbers
from kdlora.evidence.students import FLAGGED_THEN, RankedStudent, rank_students, with_error
from kdlora.evidence.teacher import teacher_of
from kdlora.records.frame import positive_place
from kdlora.records.predictions import SplitOutputs
from kdlora.records.tidy import StudyFrame, metric_of
from kdlora.spec.encoders import UNKNOWN_LICENCE
from kdlora.vocabulary.arm import Arm
from kdlora.vocabulary.metric import metric as facts_of


@dataclass(frozen=True)
class ModelForm(Result):
    """One model in one form.

    score: mean over seeds on the selection split, in the metric's unit. report_score: the same on
    the report split, shown but never used. `ship` is the run with the best selection score.
    `artefact_score` is the report split's score of this very form where it was exported.
    """

    name: str
    arm: str
    encoder: str
    taught_by: str
    form: str
    runtime: str
    quantization: str
    run_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    ship: str
    score: float
    report_score: float | None
    size_mb: Cost
    latency_p50_ms: Cost
    latency_p95_ms: Cost
    ship_folder: str = ""
    gate: str = "not measured"
    artefact_score: float | None = None
    folder: str | None = None
    flags: tuple[str, ...] = ()
    licence: str = UNKNOWN_LICENCE  # of the encoder
    data_licence: str = UNKNOWN_LICENCE

    @property
    def title(self) -> str:
        return f"{self.name} as {FORMS[self.form].title}"

    @property
    def role(self) -> str:
        return Arm.read(self.arm).role

    @property
    def estimated(self) -> bool:
        return ESTIMATED in (self.size_mb.basis, self.latency_p95_ms.basis)

    def latency_ms(self, percentile: str) -> Cost:
        """Of one text; `percentile` is p50 or p95."""
        return self.latency_p50_ms if percentile == "p50" else self.latency_p95_ms

    @property
    def model(self) -> tuple[str, ...]:
        """What tells models apart, whatever their form."""
        return self.run_ids


@dataclass(frozen=True)
class Baseline(Result):
    """What costs next to nothing: the best of the task's baselines, by the selection split."""

    arm: str
    score: float


@dataclass(frozen=True)
class Candidates(Result):
    """All candidates of a task and what they are measured by."""

    task: str
    metric: str
    direction: int
    candidates: tuple[ModelForm, ...]
    reference: ModelForm | None
    length: int | None
    notes: tuple[str, ...] = ()
    baseline: Baseline | None = None
    student: RankedStudent | None = None
    can_export: bool = True

    @property
    def default(self) -> int | None:
        """The candidate that is the study's student as it is saved."""
        if self.student is None:
            return None
        wanted = (set(self.student.run_ids), "torch")
        places = (i for i, c in enumerate(self.candidates) if (set(c.run_ids), c.form) == wanted)
        return next(places, None)


NOT_SELECTED = (
    "these results know no selection split: the reported scores choose, which flatters what comes "
    "out first"
)
NOT_TRAINED_HERE = (
    "trained elsewhere: nothing is exported here, and what the source does not state is unknown"
)


def imported_candidates(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Imported results with a score that chooses and an encoder for every run; what to say of it.

    There is no selection split where none was imported, and sizes and latencies are known only
    where the source states them.
    """
    table = StudyFrame.of(frame).table.copy()
    notes = [NOT_TRAINED_HERE]
    if not np.isfinite(numbers(table["selection_score"])).any():
        table["selection_score"] = table["score"]
        notes.insert(0, NOT_SELECTED)
    unnamed = [f"{role}'s encoder of {pair}" for role, pair in
               zip(table["role"], table["pair"], strict=True)]  # fmt: skip
    table["encoder"] = table["encoder"].where(table["encoder"].notna(), pd.Series(unnamed))
    return table, tuple(notes)


def task_names(frame: pd.DataFrame) -> list[str]:
    """Tasks that have a finished model to choose."""
    return [str(t) for t in dict.fromkeys(_models(frame)["task"])]


def _models(frame: pd.DataFrame) -> pd.DataFrame:
    """Finished, scored runs of encoders."""
    if "selection_score" not in frame:
        return frame.iloc[:0]
    known = frame[(frame["status"] == "done") & frame["role"].isin(["teacher", "student"])]
    return known[np.isfinite(numbers(known["selection_score"]))]


def gather_candidates(
    frame: pd.DataFrame,
    task: str,
    *,
    exports: Sequence[MeasuredForm] = (),
    forms: Iterable[str] = tuple(FORMS),
    length: int | None = None,
    measured_only: bool = False,
    can_export: bool = True,
) -> Candidates:
    """Every model of a task in every form.

    Args:
        frame: the tidy frame of a study.
        exports: what was measured on exported artefacts.
        length: tokens at which latencies are compared; default that of the exports nearest to the
            records' protocol, or the records' own.
        measured_only: leave out forms whose size or latency would be an estimate.
        can_export: the models were trained here; else every run is a candidate as it is.

    Runs that a health check calls unusable are left out and named in a note, and so are teachers
    that are no trained model here (they still serve as the reference). Raises InputError where
    nothing is left.
    """
    planned = frame[frame["task"] == task]
    rows = _models(planned)
    if rows.empty:
        raise InputError(
            f"no finished model with a selection score on '{task}': nothing to recommend. Finish "
            "the study with `kdlora run`, or see `kdlora status`"
        )
    notes = []
    broken = with_error(rows)
    if broken.any():
        names = ", ".join(dict.fromkeys(rows.loc[broken, "run_id"]))
        notes.append(f"left out for an error flag: {names}")
        rows = rows[~broken]
    if rows.empty:
        raise InputError(
            f"nothing to choose from on '{task}': every trained model carries an error flag; "
            f"{FLAGGED_THEN}"
        )
    metric, direction = metric_of(rows, task)
    ranking, reference = rank_students(frame, task), _reference(planned, rows, direction)
    unsound = [arm for arm in ranking.left_out if arm not in {s.arm for s in ranking.students}]
    if unsound:
        notes.append(
            f"every run carries an error flag, so it is no candidate: {', '.join(unsound)}"
        )
    length = length or nearest_length(rows, exports)
    ratios = speed_ratios(exports)
    found: list[ModelForm] = []
    for models in _by_model(rows):
        if models["encoder"].isna().all() or (can_export and not _is_here(models)):
            continue
        base = _candidate(models, rows, direction)
        for form in forms:
            costed = _with_costs(base, models, rows, form, exports, ratios, length)
            if not (measured_only and costed.estimated):
                found.append(costed)
    if not found:
        why = "nothing was measured; allow estimates or export" if measured_only else (
            "every run carries an error flag, or is no model that was trained here"
        )  # fmt: skip
        raise InputError(f"nothing to choose from on '{task}': {why}")
    return Candidates(
        task, metric, direction, tuple(found), reference, length, tuple(notes),
        _baseline(planned, direction), ranking.first, can_export,
    )  # fmt: skip


def _baseline(rows: pd.DataFrame, direction: int) -> Baseline | None:
    rows = rows[(rows["role"] == "baseline") & (rows["status"] == "done")]
    scores = rows.assign(found=numbers(rows["selection_score"])).groupby("arm")["found"].mean()
    scores = scores[np.isfinite(scores)]
    if scores.empty:
        return None
    best = str((direction * scores).idxmax())
    return Baseline(best, float(scores[best]))


def _is_here(models: pd.DataFrame) -> bool:
    """Whether the model was trained in this study, so that it can be exported."""
    return str(models["adaptation"].iloc[0]) != "given" and _outputs_free(models)


def _outputs_free(models: pd.DataFrame) -> bool:
    sizes = numbers(models["size_mb"]) if "size_mb" in models else np.array([np.nan])
    return bool(np.isfinite(sizes).any())


def _by_model(rows: pd.DataFrame) -> Iterable[pd.DataFrame]:
    """Rows of each arm and pair; what pairs share (a teacher, a control) comes once."""
    seen = set()
    for _, models in rows.groupby(["arm", "pair"], sort=False):
        key = tuple(sorted(models["run_id"]))
        if key not in seen:
            seen.add(key)
            yield models.drop_duplicates("run_id").sort_values("seed", kind="stable")


def _candidate(models: pd.DataFrame, rows: pd.DataFrame, direction: int) -> ModelForm:
    first = models.iloc[0]
    score = numbers(models["selection_score"])
    reported = numbers(models["score"])
    several = rows["pair"].nunique() > 1
    known = str(first["distillation"]) == "kd" and isinstance(first["teacher"], str)
    taught = str(first["teacher"]) if known else ""
    models = models.sort_values(["seed", "run_id"], kind="stable")
    ship = models.iloc[int(np.argmax(direction * numbers(models["selection_score"])))]
    name = str(first["arm"])
    if several:
        name += f" {first['encoder']}" + (f" from {taught}" if taught else "")
    nothing = Cost(None, ESTIMATED, "")
    return ModelForm(
        name=name,
        arm=str(first["arm"]),
        encoder=str(first["encoder"]),
        taught_by=taught,
        form="torch",
        runtime="torch",
        quantization="none",
        run_ids=tuple(models["run_id"]),
        seeds=tuple(int(s) for s in models["seed"]),
        ship=str(ship["run_id"]),
        ship_folder=_place(ship["source"]) if "source" in models else "",
        score=float(score.mean()),
        report_score=float(reported.mean()) if np.isfinite(reported).all() else None,
        size_mb=nothing,
        latency_p50_ms=nothing,
        latency_p95_ms=nothing,
        flags=tuple(dict.fromkeys(flag for found in models["flags"] for flag in tuple(found))),
        licence=_licence(first, "licence"),
        data_licence=_licence(first, "data_licence"),
    )


def _licence(row: pd.Series, column: str) -> str:
    """Imported results say nothing of it."""
    found = row.get(column)
    return found if isinstance(found, str) else UNKNOWN_LICENCE


def _place(source: object) -> str:
    """The folder of a run's record; of an imported run where it stands in its source."""
    path = Path(str(source))
    return str(path.parent) if path.name == "record.json" else str(source)


def _with_costs(
    base: ModelForm,
    models: pd.DataFrame,
    rows: pd.DataFrame,
    form: str,
    exports: Sequence[MeasuredForm],
    ratios: dict[str, Cost],
    length: int | None,
) -> ModelForm:
    alike = rows[rows["encoder"] == base.encoder]
    own = [e for e in exports if e.run_id in base.run_ids and e.form == form]
    own.sort(key=lambda e: (e.run_id != base.ship, e.gate == "failed"))
    kin = [e for e in exports if e.encoder == base.encoder and e.form == form]
    same = replace(
        base,
        form=form,
        runtime=FORMS[form].runtime,
        quantization=FORMS[form].quantization,
        size_mb=form_size(form, models, own, kin),
        latency_p50_ms=latency_of("p50", form, alike, own, kin, ratios, length),
        latency_p95_ms=latency_of("p95", form, alike, own, kin, ratios, length),
    )
    if not own or (form == "torch" and own[0].run_id != base.ship):
        return same  # PyTorch needs no export, so another seed's is no reason to ship that one
    first = own[0]
    place = models.loc[models["run_id"] == first.run_id, "source"] if "source" in models else ()
    return replace(
        same, gate=first.gate, artefact_score=first.score, folder=first.folder, ship=first.run_id,
        ship_folder=_place(next(iter(place))) if len(place) else "",
    )  # fmt: skip


def _reference(planned: pd.DataFrame, rows: pd.DataFrame, direction: int) -> ModelForm | None:
    """The model that taught; of several pairs' teachers the best on the selection split."""
    taught = {run for _, own in planned.groupby("pair") for run in teacher_of(own).run_ids}
    teachers = [
        _candidate(models, rows, direction)
        for models in _by_model(rows[rows["run_id"].isin(taught) & (rows["role"] == "teacher")])
    ]
    return max(teachers, key=lambda c: direction * c.score, default=None)


def draw_candidates(
    field: Candidates,
    frame: pd.DataFrame,
    outputs: Mapping[str, SplitOutputs],
    *,
    rng: np.random.Generator,
    draws: int,
) -> ScoreDraws:
    """Scores of all candidates and, as the last column, of the reference, drawn again.

    `outputs` are those of the *selection* split by run id, as many as were stored.
    """
    rows = [(c.run_ids, c.seeds) for c in field.candidates]
    if field.reference is not None:
        rows.append((field.reference.run_ids, field.reference.seeds))
    scores = run_scores(frame)
    positive = None
    if facts_of(field.metric).needs_positive:
        positive = positive_place(frame[frame["task"] == field.task])
        outputs = {} if positive is None else outputs
    return draw_scores(
        [r for r, _ in rows], [s for _, s in rows], scores, outputs, field.metric,
        rng=rng, draws=draws, positive=positive,
    )  # fmt: skip


def run_scores(frame: pd.DataFrame) -> dict[str, float]:
    """The recorded selection score of every finished run."""
    runs = frame[frame["selection_score"].notna()].drop_duplicates("run_id")
    return dict(zip(runs["run_id"].astype(str), runs["selection_score"].astype(float), strict=True))
