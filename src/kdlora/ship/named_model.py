"""Which model a name means, wherever one is asked for: a folder, a study, a run, one of the hub."""

from __future__ import annotations

import re
from pathlib import Path

from kdlora.errors import InputError, ModelError, did_you_mean
from kdlora.files import nearest_folder
from kdlora.models.hub import fetch_model
from kdlora.records.store import Store
from kdlora.records.study_folder import PLAN_FILE, RESULTS, STUDENT, find_study
from kdlora.ship.card import CARD

BEFORE = "before"  # the word in the name of a student's folder that was set aside
# owner/name as the hub allows it; with a dot or tilde before it a path is meant
_NAME = re.compile(r"[A-Za-z0-9][\w-]*(\.[\w-]+)*/[A-Za-z0-9][\w-]*(\.[\w-]+)*")


def model_folder(model: str | Path) -> Path:
    """The folder of the model that a name means.

    A folder is itself, and that of a study its saved student's; a study may be named as below
    `results`. STUDY:RUN_ID, or a part of the id that is unique, is a run's folder; and any other
    name is asked of the hub. What is none of these stays as it is.

    Raises ModelError where a study saved no student or several, and where the hub does not give
    the model; InputError where a study has no such run.
    """
    folder, name = Path(model).expanduser(), str(model)
    if not folder.exists() and _is_study(RESULTS / name):
        folder = RESULTS / name
    if folder.exists():
        return _student_of(folder) if _is_study(folder) else folder
    study, colon, run_id = name.rpartition(":")
    if colon and study:
        return _run_folder(study, run_id)
    if not _NAME.fullmatch(name):
        return folder
    if near := nearest_folder(folder):
        raise ModelError(
            f"there is no folder {name}. Did you mean '{near}'? A model of the hub whose name is "
            "so near is given by its folder: hf download prints it"
        )
    return fetch_model(name)


def saved_students(study: Path) -> list[Path]:
    """The folders of the students that a study saved: one, or one a task and pair."""
    folder = study / STUDENT
    if (folder / CARD).is_file():
        return [folder]
    return students_below(folder)


def students_below(folder: Path) -> list[Path]:
    """The folders of students below `<study>/student`, without those that were set aside."""
    found = sorted(card.parent for card in folder.glob(f"*/{CARD}"))
    return [one for one in found if f".{BEFORE}-" not in one.name]


def _is_study(folder: Path) -> bool:
    return (folder / PLAN_FILE).is_file() and not (folder / "config.json").exists()


def _student_of(study: Path) -> Path:
    """The one student that a study saved."""
    saved = saved_students(study)
    if len(saved) == 1:
        return saved[0]
    if saved:
        raise ModelError(
            f"{study} is a study that saved {len(saved)} students; name one of them: "
            f"{', '.join(map(str, saved))}"
        )
    raise ModelError(
        f"{study} is a study that saved no student (a run ends with that, and its report says why "
        f"there is none). Finish it, or name a run: {study}:RUN_ID"
    )


def _run_folder(study: str, run_id: str) -> Path:
    """The folder of the one run of a study whose id is this, or has this in it."""
    store = Store(find_study(study))
    runs = store.root / "runs"
    known = sorted(p.name for p in runs.iterdir() if p.is_dir()) if runs.is_dir() else []
    if not known:
        raise InputError(f"{store.root} holds no runs, so none is called '{run_id}'")
    exact = [name for name in known if name == run_id]
    fitting = exact or [name for name in known if run_id and run_id in name]
    if len(fitting) != 1:
        if fitting:
            raise InputError(f"'{run_id}' fits {len(fitting)} runs: {', '.join(fitting)}")
        raise InputError(f"{store.root} has no run '{run_id}'.{did_you_mean(run_id, known)}")
    return store.folder(fitting[0])
