"""Where a report is written: a folder in which it replaces nothing but an earlier one of its kind.

A folder is a report's own where its page says that kdlora made it, or where a process that wrote
one there was killed: what it held the folder by is still there then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kdlora.errors import InputError, StoreError
from kdlora.files import leftovers, read_text, real_path, scratch_folder
from kdlora.records.study_folder import PLAN_FILE, RUNS, STUDENT

MADE_BY = "Made by kdlora from stored records"  # in the footer of every page
_SHOWN = 3


def check_output_folder(out: Path, study: Path, names: Iterable[str], *, page: str) -> None:
    """See that the report of a study may be written to `out`, as files of these names.

    Raises InputError where other files would be lost, and where what lies there is a study's own.
    """
    place = real_path(out)
    if place == real_path(study):
        return
    for folder in (place, *place.parents):
        if folder.name in (RUNS, STUDENT) and (folder.parent / PLAN_FILE).is_file():
            raise InputError(
                f"{out} lies in the {folder.name} of the study {folder.parent}, which is left as "
                "it is: name another folder for the report"
            )
    if (place / PLAN_FILE).is_file():
        raise InputError(
            f"{out} is the folder of another study, whose own report would be lost: name another "
            "folder for the report"
        )
    check_replaceable(out, names, page=page, mark=MADE_BY)


def check_replaceable(out: Path, names: Iterable[str], *, page: str, mark: str) -> None:
    """See that files of these names may be written below `out`.

    They may where none of them is there, or where `page` is one of ours: it holds the text `mark`.
    Raises InputError that names what would be lost, and for what is no folder.
    """
    for path in (out, *out.parents):
        if os.path.lexists(path):
            if not path.is_dir():
                raise InputError(f"{path} is no folder: name a folder for the report")
            break
    if leftovers(out / page) or _holds(out / page, mark):
        return
    taken = [name for name in names if os.path.lexists(out / name)]
    if taken:
        shown = ", ".join(taken[:_SHOWN]) + (", ..." if len(taken) > _SHOWN else "")
        raise InputError(
            f"{out} holds files that no report made and that would be lost ({shown}): name another "
            "folder for the report"
        )


def _holds(page: Path, mark: str) -> bool:
    try:
        return mark in read_text(page)
    except OSError:
        return False


@contextmanager
def held(out: Path, *, page: str) -> Iterator[None]:
    """Make the folder, and hold it as a report's own while its files are written.

    Raises StoreError where it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with scratch_folder(out / page):
            yield
    except OSError as error:
        raise StoreError(f"cannot write the report to {out}: {error.strerror or error}") from None
