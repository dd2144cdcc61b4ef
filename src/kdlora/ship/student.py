"""Keep the best student of a study as a plain model folder that transformers can load."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdlora.engines.local import call_in_worker
from kdlora.errors import StoreError
from kdlora.evidence.students import RankedStudent, rank_students, why_no_student
from kdlora.files import set_aside, whole_folder
from kdlora.records.artefact import checksums_of
from kdlora.records.contents import CHECKSUMS, read_sealed, require_whole_model, sealed
from kdlora.records.record import Record
from kdlora.records.store import Store, write_json
from kdlora.records.study_folder import STUDENT
from kdlora.ship.card import (
    CALIBRATION,
    CARD,
    ModelCard,
    make_card,
    read_calibration,
    read_card,
    write_card,
)
from kdlora.ship.named_model import BEFORE, students_below
from kdlora.spec.run import encoder_of

if TYPE_CHECKING:
    import pandas as pd


def save_students(
    frame: pd.DataFrame, store: Store, on_note: Callable[[str], None] = lambda note: None
) -> list[tuple[Path, ModelCard]]:
    """Save the students of `students_to_save`, merged, below `<study>/student`.

    A study of one task and one pair saves it at `<study>/student` itself. Nothing is written
    where the same run is saved already. Where another model takes the place of one whose folder
    holds what somebody put there, that folder stays beside it, and `on_note` is told. So it is
    with a student of a run that is none of the study any more, where none takes its place.
    """
    wanted = students_to_save(frame)
    _set_aside_stale(store.root / STUDENT, set(frame["run_id"]), wanted, on_note)
    return [
        (folder, _save_student(ranked, folder, store, on_note))
        for name, ranked in wanted.items()
        for folder in [store.root / STUDENT / name]
    ]


def students_to_save(frame: pd.DataFrame) -> dict[str, list[RankedStudent]]:
    """The students of every task and pair, first choice first; the first is the one to save.

    By the folder's name below `<study>/student`, "" where there is one task and one pair. Of a
    task's pairs, the one whose student ranks first of all comes first.
    """
    students = frame[frame["role"] == "student"]
    groups = students[["task", "pair"]].drop_duplicates()
    found = {}
    for task in dict.fromkeys(groups["task"]):
        ranking = rank_students(frame, task)
        pairs = list(groups.loc[groups["task"] == task, "pair"])
        first = ranking.first.pairs if ranking.first else ()
        pairs.sort(key=first.__contains__, reverse=True)
        for pair in pairs:
            ranked = ranking.of_pair(pair)
            if not ranked or ranking.split != "selection":
                continue
            found[_name(task, pair, len(groups))] = ranked
    return found


def unsaved_students(frame: pd.DataFrame) -> dict[str, str]:
    """Why a task and pair has no student to save, by the folder's name as in `students_to_save`."""
    saved, students = students_to_save(frame), frame[frame["role"] == "student"]
    groups = students.groupby(["task", "pair"], sort=False)
    named = {_name(str(task), str(pair), len(groups)): rows for (task, pair), rows in groups}
    return {name: why_no_student(rows) for name, rows in named.items() if name not in saved}


def _name(task: str, pair: str, groups: int) -> str:
    """The name of a student's folder below `<study>/student`, of so many tasks and pairs."""
    return f"{task}--{pair}" if groups > 1 else ""


def _set_aside_stale(
    root: Path, runs: Collection[str], wanted: Collection[str], on_note: Callable[[str], None]
) -> None:
    """Set aside the saved students of runs that are none of these, unless they are replaced."""
    if "" in wanted:  # what lies below is a user's, or goes aside with the folder itself
        return

    def is_stale(folder: Path) -> bool:
        try:
            card = read_card(folder)
        except StoreError:  # whose it is cannot be told
            return False
        return card is not None and card.run_id not in runs

    def put_aside(folder: Path) -> Path:
        aside = set_aside(folder, BEFORE)
        on_note(
            f"{folder} held the student of a run that is no longer in the study, which has none "
            f"to save in its place: it is now in {aside}"
        )
        return aside

    if is_stale(root):
        aside = put_aside(root)
        for folder in _of_tasks(aside):
            if not is_stale(folder):
                root.mkdir(exist_ok=True)
                os.replace(folder, root / folder.name)
        return
    for folder in _of_tasks(root):
        if folder.name not in wanted and is_stale(folder):
            put_aside(folder)


def _of_tasks(root: Path) -> list[Path]:
    """Folders of students of a task and a pair; others below a student are a user's."""
    return [folder for folder in students_below(root) if "--" in folder.name]


def _save_student(
    ranked: Sequence[RankedStudent], folder: Path, store: Store, on_note: Callable[[str], None]
) -> ModelCard:
    """Save the first of these in `folder`, unless it is there."""
    first = ranked[0]
    record = store.read(first.ship)
    assert record is not None
    assert record.quality is not None
    why = (
        f"first of {len(ranked)} students by the mean {record.quality.primary} on the selection "
        f"split; the best of its runs ({len(first.run_ids)}) there"
    )
    own = store.folder(record.run_id)
    try:
        before = read_card(folder)
    except StoreError:  # damaged: saved again
        before = None
    try:
        calibration = read_calibration(own)
    except StoreError:
        set_aside(own / CALIBRATION)
        calibration = None
    if calibration is None and before is not None and before.run_id == record.run_id:
        calibration = before.calibration  # of this very model
    card = make_card(record, own, why, arm=first.arm, calibration=calibration)
    if before != card or not _is_whole(folder):
        merge = Merge(record, own / "model", folder, card)
        call_in_worker(save_merged, merge, on_note)  # so that none loads torch to look
    return card


def _files_of_others(folder: Path) -> list[str]:
    """Files of a saved student's folder that were not written with it, and are no calibration."""
    if not folder.is_dir():
        return []
    try:
        own = set(read_sealed(folder / CHECKSUMS).get("files", {}))
    except (OSError, ValueError):  # what is whose cannot be told
        own = set()
    own |= {CHECKSUMS, CARD, CALIBRATION}
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(set(found) - own)


@dataclass(frozen=True)
class Merge:
    """A trained model, and the folder and card that it gets."""

    record: Record
    source: Path
    folder: Path
    card: ModelCard


def save_merged(merge: Merge, on_note: Callable[[str], None]) -> None:
    """Merge onto fresh fp32 weights and write the whole folder, then put it in place."""
    from kdlora.models.checkpoints import quiet
    from kdlora.models.saved import load_trained, save_tokenizer

    folder = merge.folder
    model, tokenizer = load_trained(merge.source, encoder=encoder_of(merge.record.run))
    with whole_folder(folder) as temporary:
        with quiet():
            model.save_pretrained(temporary)
        save_tokenizer(tokenizer, temporary, max_length=merge.card.max_length)
        write_json(temporary / CHECKSUMS, sealed({"files": checksums_of(temporary)}))
        write_card(temporary, merge.card)
        if others := _files_of_others(folder):  # last: until then the earlier student stays
            aside = set_aside(folder, BEFORE)
            on_note(
                f"{folder} held files that were not written with its student "
                f"({', '.join(others[:3])}{', ...' if len(others) > 3 else ''}): with the student "
                f"of before they are now in {aside}"
            )


def _is_whole(folder: Path) -> bool:
    try:
        require_whole_model(folder)
    except StoreError:
        return False
    return True
