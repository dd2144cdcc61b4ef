"""Results of other people's studies in the tidy frame that our own records make.

    kdlora import runs.csv --as published     ->  results/published/imported.parquet
                                                  results/published/imported.json

One row is one cell; scores keep their native unit (0.83), units are those of the column names,
columns that the mapping does not name are kept, rows are never dropped (only what the mapping
calls an aggregate is set apart), and every row says where it stood in the source.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from kdlora.errors import InputError
from kdlora.files import real_path
from kdlora.importing.convert import Imported, tidy
from kdlora.importing.folders import lm_eval_files, read_folder, read_lm_eval
from kdlora.importing.mapping import Mapping, built_in, find_mapping, known_by_columns
from kdlora.importing.read import read_table
from kdlora.importing.recognise import recognise
from kdlora.records.imported import is_imported, write_imported
from kdlora.records.study_folder import RESULTS, RUNS


def read_results(source: str | Path, mapping: str | Path | Mapping | None = None) -> Imported:
    """Read a foreign table or folder into the tidy frame, without writing anything.

    `mapping` is a mapping, the name of one that comes with kdlora, or a file; without it the
    format is recognised by its columns. `source` may be a pattern of files in a folder, such as
    ``out/results_*.json``. Raises InputError when the source cannot be understood;
    single impossible values are named in `problems` and flagged in their rows instead.
    """
    path, pattern = _pattern_in(Path(source))
    chosen = None if mapping is None else find_mapping(mapping)
    assumed: list[str] = []
    if path.is_dir():
        files = lm_eval_files(path) if chosen is None else []
        files = [file for file in files if pattern is None or file.match(pattern)]
        if files:
            table = read_lm_eval(path, files)
        else:
            chosen = chosen or built_in("hf-trainer")
            chosen = chosen.model_copy(update={"files": (pattern,)}) if pattern else chosen
            table, assumed = read_folder(path, chosen)
    else:
        table = read_table(path)
    if chosen is None:
        chosen = known_by_columns(table.columns)
    if chosen is None:
        chosen, assumed = recognise(table, path.name)
    if chosen.name == "lm-eval":
        assumed = [
            "arm: a model is taken as given (teacher/given) unless its arguments or its name say "
            "more; a mapping says otherwise"
        ]
    found = tidy(table, chosen, path)
    return replace(found, problems=(*assumed, *found.problems))


def _pattern_in(path: Path) -> tuple[Path, str | None]:
    """The folder of a pattern such as results_*.json, and the pattern; else the path alone."""
    if path.exists() or not any(sign in path.name for sign in "*?["):
        return path, None
    return path.parent, path.name


def _called_as(source: Path) -> str:
    """A study's name from that of a file or folder."""
    name = re.sub(r"[^\w.-]+", "-", real_path(_pattern_in(source)[0]).stem).strip("-.")
    return name or "imported"


def import_results(
    source: str | Path,
    *,
    study: str | None = None,
    results: str | Path = RESULTS,
    mapping: str | Path | Mapping | None = None,
    replace: bool = False,
) -> tuple[Path, Imported]:
    """Import into `results/<study>/`. Returns that folder and what was imported.

    Without `study` it is called as the file or folder. Raises InputError for a source that cannot
    be understood or a study that exists already.
    """
    study = _called_as(Path(source)) if study is None else study
    if not study or study != Path(study).name or study.startswith("."):
        raise InputError(f"'{study}' is no name for a study: one folder name is expected")
    folder = Path(results) / study
    if (folder / RUNS).exists():
        raise InputError(
            f"{folder} holds trainings of kdlora's own; import under another name with --as"
        )
    if is_imported(folder) and not replace:
        raise InputError(f"{folder} was imported already; replace it with --replace")
    imported = read_results(source, mapping)
    facts = {
        "study": study,
        "source": imported.source,
        "sha256": imported.sha256,
        "mapping": imported.mapping.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "aggregates": len(imported.aggregates),
        "kept_columns": list(imported.kept),
        "problems": list(imported.problems),
        "imported_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_imported(folder, imported.frame.assign(study=study), facts)
    return folder, imported
