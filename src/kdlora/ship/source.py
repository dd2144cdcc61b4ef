"""Which trained run the user means: a run's folder, STUDY:RUN_ID, or a saved student."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdlora.errors import DataError, InputError, ModelError
from kdlora.evidence.teacher import teacher_of
from kdlora.files import real_path
from kdlora.records.frame import load_frame
from kdlora.records.record import Record
from kdlora.records.store import Store
from kdlora.records.study_folder import PLAN_FILE
from kdlora.ship.card import ModelCard, make_card, read_calibration, read_card, renewed
from kdlora.ship.named_model import model_folder
from kdlora.spec.run import EncoderRef, EncoderRun, TrainedRun

_EXPECTED = (
    "give a run's folder (below `runs`), STUDY:RUN_ID, a saved student's folder, or a study's, "
    "which means its student"
)


@dataclass(frozen=True)
class SourceRun:
    """A finished run with a trained encoder, where it lies, and the card it will ship with."""

    store: Store
    record: Record
    card: ModelCard

    @property
    def run(self) -> TrainedRun:
        assert isinstance(self.record.run, TrainedRun)  # `_source` takes no other
        return self.record.run

    @property
    def model_folder(self) -> Path:
        return self.store.folder(self.record.run_id) / "model"


@dataclass(frozen=True)
class Teacher:
    """What the speed-ups are relative to: a stored run, or only an architecture."""

    encoder: EncoderRef
    record: Record | None
    folder: Path | None


def find_source(given: str | Path) -> SourceRun:
    """The run that the user named. Raises InputError or ModelError."""
    folder = model_folder(given)
    if not folder.is_dir():
        raise InputError(f"no run at {given}; {_EXPECTED}")
    return _source_of_folder(folder)


def find_teacher(source: SourceRun) -> Teacher | None:
    """The teacher of a run, or of its pair in the study; a teacher is its own.

    A student that was trained alone is compared with the model that taught the distilled students
    of its pair, of its own seed where that is done; else with the teacher's architecture. None
    where nothing is known.
    """
    run, store = source.run, source.store
    if run.role == "teacher":
        return Teacher(run.encoder, source.record, source.model_folder)
    for run_id in run.teachers or _teachers_of_pair(source):
        record = store.read(run_id)
        if record is None or record.status != "done" or not isinstance(record.run, EncoderRun):
            continue
        folder = store.folder(run_id) / "model"
        if folder.is_dir():
            return Teacher(record.run.encoder, record, folder)
    return Teacher(run.reference, None, None) if run.reference is not None else None


def _teachers_of_pair(source: SourceRun) -> list[str]:
    """Runs of the arm that taught on the task of a run's pair, those of the run's seed first."""
    run, root = source.record.run, source.store.root
    if not (root / PLAN_FILE).is_file():
        return []
    frame = load_frame(root)
    rows = frame[(frame["pair"] == run.pair) & (frame["task"] == run.task.name)]
    beside = rows[rows["seed"] == run.seed]
    of_pair, of_seed = teacher_of(rows), teacher_of(beside)
    first = of_seed.run_ids if of_seed.taught else ()
    alike = beside.loc[beside["arm"] == of_pair.arm, "run_id"]
    return list(dict.fromkeys([*first, *alike, *of_pair.run_ids]))


def check_data(record: Record, fingerprint: str) -> None:
    """See that the rows read now are those the run was scored on. Raises DataError."""
    then = record.environment.get("data_fingerprint")
    if then and then != fingerprint:
        raise DataError(
            f"the rows of task '{record.run.task.name}' are not those that run {record.run_id} "
            f"was trained and scored on (fingerprint {fingerprint}, then {then}): a gate on other "
            "rows would say nothing. Restore the data, or run the study again"
        )


def _source_of_folder(folder: Path) -> SourceRun:
    if (folder / "record.json").is_file():
        return _source(Store(real_path(folder).parent.parent), real_path(folder).name)
    card = read_card(folder)
    if card is None or not card.run_id:
        raise InputError(f"{folder} is no run and no saved student; {_EXPECTED}")
    above = real_path(folder).parents
    for root in above[:2]:
        if (root / "runs" / card.run_id).is_dir():
            return _source(Store(root), card.run_id, card)
    raise InputError(
        f"{folder} was made from run {card.run_id}, which is not beside it. An export is gated on "
        "the run's own report split: name the run as STUDY:RUN_ID, or keep the student in its study"
    )


def _source(store: Store, run_id: str, card: ModelCard | None = None) -> SourceRun:
    record = store.read(run_id)
    where = store.folder(run_id)
    if record is None or record.quality is None:
        raise ModelError(f"run {run_id} is not done; finish the study first ({where})")
    run = record.run
    if not isinstance(run, TrainedRun):
        raise ModelError(
            f"run {run_id} ({run.title}) trained no encoder; export a student or a trained teacher"
        )
    if not (where / "model").is_dir():
        raise ModelError(f"{where} holds no model any more; run the study again without it")
    if card is None:
        stored = read_calibration(where)
        card = make_card(record, where, "named by the user", arm=run.title, calibration=stored)
    else:
        card = renewed(card, store)
    return SourceRun(store, record, card)
