"""The folder of a study: by which names it is found, and what lies where in it."""

from __future__ import annotations

from pathlib import Path

from kdlora.errors import StoreError

RESULTS = Path("results")  # where studies lie unless told otherwise
PLAN_FILE = "plan.json"
STUDY_FILE = "study.yaml"
RUNS = "runs"  # the folder of the runs, one folder each
STUDENT = "student"  # the folder of the saved student, or of the students of tasks and pairs


def folder_of(name: str, out: str | Path | None = None) -> Path:
    """Where a study of this name is made: `out` where it is given, else below `RESULTS`."""
    return RESULTS / name if out is None else Path(out)


def find_study(study: str | Path, results: Path = RESULTS) -> Path:
    """The folder of a study, given as a folder or by the name it has below `results`.

    Raises StoreError that lists the studies there are.
    """
    for folder in (Path(study), results / study):
        if folder.is_dir():
            return folder
    known = sorted(p.name for p in results.iterdir() if p.is_dir()) if results.is_dir() else []
    names = f" Studies in {results}: {', '.join(known)}." if known else ""
    raise StoreError(f"no study '{study}': expected a study's folder or name.{names}")
