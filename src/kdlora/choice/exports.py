"""`kdlora recommend`: a study and what was exported of it, read and handed to the analysis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from kdlora.choice.candidates import gather_candidates, imported_candidates, task_names
from kdlora.choice.constraints import Constraints
from kdlora.choice.formats import FORMS, MeasuredForm, TextLatency
from kdlora.choice.recommend import DRAWS, SEED, recommend_each
from kdlora.choice.recommendation import Choices, Recommendation
from kdlora.errors import InputError, ModelError, did_you_mean
from kdlora.records.artefact import ARTEFACT, Artefact, read_artefact
from kdlora.records.frame import load_frame
from kdlora.records.imported import is_imported
from kdlora.records.predictions import read_outputs
from kdlora.records.study_folder import find_study
from kdlora.records.subset import StudyPart, subset


@dataclass(frozen=True)
class Exports:
    """What the exports of a study measured, and which of them could not be read."""

    forms: tuple[MeasuredForm, ...]
    problems: tuple[str, ...]


def read_exports(
    root: Path, frame: pd.DataFrame, folders: Iterable[Path] = ()
) -> Exports:  # fmt: skip
    """Measured forms of the artefacts in `<study>/exports/*` and in `folders`.

    A folder that was named must be an export of one of the study's runs (else InputError or
    ModelError, all at once); one that lies in the study is passed over with a word why.
    """
    encoders = frame.drop_duplicates("run_id").set_index("run_id")["encoder"]
    named = [Path(f) for f in folders]
    found = sorted(p.parent for p in (root / "exports").glob(f"*/{ARTEFACT}"))
    forms: list[MeasuredForm] = []
    wrong: list[str] = []
    passed: list[str] = []
    for folder in dict.fromkeys([*named, *found]):
        problems = wrong if folder in named else passed
        try:
            artefact = read_artefact(folder)
        except ModelError as error:
            problems += error.problems
            continue
        if artefact.run_id not in encoders.index:
            problems.append(f"{folder} was exported from {artefact.run_id}, no run of this study")
            continue
        forms += measured_forms(artefact, folder, str(encoders[artefact.run_id]))
    if wrong:
        raise InputError(wrong, where="--export")
    return Exports(tuple(forms), tuple(passed))


def measured_forms(artefact: Artefact, folder: Path, encoder: str) -> list[MeasuredForm]:
    """What an export measured, form by form; latencies are those of one text at a time."""
    return [
        MeasuredForm(
            run_id=artefact.run_id,
            encoder=encoder,
            form=variant.name,
            folder=str(folder),
            size_mb=variant.size_mb,
            gate=variant.gate,
            score=variant.score,
            timings=tuple(
                TextLatency(t.length, t.latency_p50_ms, t.latency_p95_ms)
                for t in variant.timings
                if t.batch == 1
            ),
        )
        for variant in artefact.variants
        if variant.name in FORMS
    ]


def recommend_study(
    study: str | Path,
    asked: Sequence[tuple[str | None, Constraints]],
    *,
    part: StudyPart | None = None,
    exports: Iterable[Path] = (),
    length: int | None = None,
    measured_only: bool = False,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Choices:
    """One recommendation for each task and each of `asked` (a profile's name and constraints).

    A task of which nothing can be chosen keeps no other from its recommendations. Raises
    InputError where there is none at all, with the reason of every task.

    Args:
        part: what to choose from; default every task that has a finished model.
        exports: folders of artefacts beside those in `<study>/exports`.
        length: tokens at which latencies are compared.
        measured_only: consider only forms that were measured, no estimates.
        draws, seed: of the bootstrap.
    """
    root = find_study(study)
    part = part or StudyPart()
    frame, told = subset(load_frame(root), part.where, part.without)
    imported = is_imported(root)
    notes: tuple[str, ...] = ()
    if imported:
        frame, notes = imported_candidates(frame)
    known = task_names(frame)
    if not known:
        lacks = "no run with a score" if imported else (
            "no finished model with a score on a selection split"
        )  # fmt: skip
        then = "" if imported else ". Finish the study with `kdlora run`"
        raise InputError(f"{root} holds {lacks}, so there is nothing to choose from{then}")
    unknown = [t for t in part.tasks if t not in known]
    if unknown:
        raise InputError([f"no task '{t}' here.{did_you_mean(t, known)}" for t in unknown])
    shipped = read_exports(root, frame, exports)
    found: list[Recommendation] = []
    lacking: dict[str, str] = {}
    for task in dict.fromkeys(part.tasks or known):
        try:
            field = gather_candidates(
                frame, task, exports=shipped.forms, forms=("torch",) if imported else FORMS,
                length=length, measured_only=measured_only, can_export=not imported,
            )  # fmt: skip
            field = replace(field, notes=(*notes, *field.notes))
            runs = [r for c in field.candidates for r in c.run_ids]
            runs += field.reference.run_ids if field.reference else ()
            outputs = read_outputs(root, runs, "selection")
            found += recommend_each(field, frame, outputs, asked, draws=draws, seed=seed)
        except InputError as error:
            lacking[task] = str(error)
    if not found:
        raise InputError(lacking.values())
    return Choices(tuple(found), lacking, told)
