"""What the five reports are regenerated from: imported records and published tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kdlora.errors import InputError
from kdlora.importing.results import read_results
from kdlora.records.imported import is_imported, load_imported, read_provenance

# input -> (its mapping, names looked for in a reference folder, what it is)
KINDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "runs": ("runs-742", ("runs.csv",), "the trainings"),
    "scores": ("glue-scores", ("paper_table_1.csv",), "the published scores"),
    "costs": ("efficiency-by-rank", ("paper_table_2.csv",), "the published costs"),
    "matrix": ("kd-matrix", ("kd_matrix.csv", "kd_matrix_004.csv"), "the 2x2 matrix"),
}


def snapshot_of(runs: pd.DataFrame) -> str:
    """Which state of the trainings a table is: only the last has the variant mrlora-rs."""
    return "C1103" if runs["adaptation"].astype(str).eq("mrlora-rs").any() else "B742"


@dataclass(frozen=True)
class Inputs:
    """Tidy frames, None where not given; `sources` says what each was read from."""

    runs: pd.DataFrame | None = None
    scores: pd.DataFrame | None = None
    score_row: pd.DataFrame | None = None
    costs: pd.DataFrame | None = None
    matrix: pd.DataFrame | None = None
    sources: tuple[tuple[str, str, str], ...] = ()  # (input, file name, sha256)
    problems: tuple[str, ...] = ()


def read_inputs(
    folder: str | Path | None = None,
    *,
    runs: str | Path | None = None,
    scores: str | Path | None = None,
    costs: str | Path | None = None,
    matrix: str | Path | None = None,
) -> Inputs:
    """Read what is given; a path given by name wins over the one found in `folder`.

    Each may also be a study's folder that `kdlora import` made. Raises InputError when nothing is
    given or found, or when something given cannot be read.
    """
    given = {"runs": runs, "scores": scores, "costs": costs, "matrix": matrix}
    paths = {name: Path(path) for name, path in given.items() if path is not None}
    if folder is not None:
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(f"no folder at {folder}; give the folder of runs.csv and the tables")
        for name, (_, names, _) in KINDS.items():
            found = [folder / n for n in names if (folder / n).is_file()]
            if found and name not in paths:
                paths[name] = found[0]
    if not paths:
        looked = ", ".join(n for _, names, _ in KINDS.values() for n in names)
        where = f"{folder} has none of {looked}" if folder else "nothing given to reproduce from"
        raise InputError(
            f"{where}; give a folder with these files, or --runs, --paper1, --paper2, --matrix"
        )
    values: dict[str, pd.DataFrame] = {}
    sources, problems, notes = [], [], []
    for name, path in paths.items():
        try:
            frame, aggregates, source, sha, noticed = _read(path, KINDS[name][0])
        except InputError as error:
            problems += [f"{KINDS[name][2]}: {problem}" for problem in error.problems]
            continue
        values[name] = frame
        if name == "scores":
            values["score_row"] = aggregates
        sources.append((name, source, sha))
        notes += [f"{source}: {note}" for note in noticed]
    if problems:
        raise InputError(problems, where="reproduce")
    return Inputs(**values, sources=tuple(sources), problems=tuple(notes))


def _read(path: Path, mapping: str) -> tuple[pd.DataFrame, pd.DataFrame, str, str, tuple[str, ...]]:
    if path.is_dir() and is_imported(path):
        provenance = read_provenance(path)
        others = {kind[0] for kind in KINDS.values()} - {mapping}
        name = provenance.mapping.get("name")
        if name in others or (name != mapping and mapping != KINDS["runs"][0]):
            raise InputError(f"{path} was imported as '{name}', expected '{mapping}'")
        frame = load_imported(path)
        return frame, frame.iloc[:0], provenance.source, provenance.sha256, ()
    try:
        read = read_results(path, mapping)
    except InputError as first:
        if mapping != KINDS["runs"][0] or not path.exists():
            raise
        try:
            read = read_results(path)  # trainings of the same study, written by another tool
        except InputError:
            raise first from None
        if not _holds_trainings(read.frame):
            raise first from None
    return read.frame, read.aggregates, read.source, read.sha256, read.problems


def _holds_trainings(frame: pd.DataFrame) -> bool:
    """Whether a table has a row a run: a family, a task, a seed and a score."""
    needed = ("pair", "task", "seed", "score")
    return all(name in frame and frame[name].notna().any() for name in needed)
