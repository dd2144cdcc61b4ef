"""Results of other people's studies in the tidy frame that our own records make.

    kdlora import runs.csv --as published     ->  results/published/imported.parquet
                                                  results/published/imported.json

One row is one cell; scores keep their native unit (0.83), units are those of the column names,
columns that the mapping does not name are kept, rows are never dropped (only what the mapping
calls an aggregate is set apart), and every row says where it stood in the source.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdlora.errors import InputError, StoreError
from kdlora.files import whole_file
from kdlora.importing import read as foreign
from kdlora.importing.convert import Imported, tidy
from kdlora.importing.mapping import Mapping, built_in, find_mapping
from kdlora.records.store import write_json

TABLE, PROVENANCE = "imported.parquet", "imported.json"


class Provenance(BaseModel):
    """`imported.json`: what was read, how, when, and what was noticed."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_version: Literal[1] = Field(1, alias="schema")
    study: str
    source: str = Field(description="name of the file or folder; not its place on a machine")
    sha256: str = Field(description="of the file, or over a folder's files")
    table_sha256: str
    mapping: dict[str, Any]
    rows: int
    aggregates: int
    kept_columns: list[str]
    problems: list[str]
    imported_at: str


def read_results(source: str | Path, mapping: str | Path | Mapping | None = None) -> Imported:
    """Read a foreign table or folder into the tidy frame, without writing anything.

    `mapping` is a mapping, the name of one that comes with kdlora, or a file; without it the
    format is recognised by its columns. Raises InputError when the source cannot be understood;
    single impossible values are named in `problems` and flagged in their rows instead.
    """
    path = Path(source)
    if path.is_dir():
        chosen = built_in("hf-trainer") if mapping is None else find_mapping(mapping, ())
        table = foreign.read_folder(path, chosen)
    else:
        table = foreign.read_table(path)
        chosen = find_mapping(mapping, table.columns)
    return tidy(table, chosen, path)


def import_results(
    source: str | Path,
    *,
    study: str,
    results: str | Path = "results",
    mapping: str | Path | Mapping | None = None,
    replace: bool = False,
) -> tuple[Path, Imported]:
    """Import into `results/<study>/`. Returns that folder and what was imported.

    Raises InputError for a source that cannot be understood or a study that exists already.
    """
    if not study or study != Path(study).name or study.startswith("."):
        raise InputError(f"'{study}' is no name for a study: one folder name is expected")
    folder = Path(results) / study
    if (folder / "runs").exists():
        raise InputError(
            f"{folder} holds trainings of kdlora's own; import under another name with --as"
        )
    if (folder / TABLE).exists() and not replace:
        raise InputError(f"{folder} was imported already; replace it with --replace")
    imported = read_results(source, mapping)
    frame = imported.frame.assign(study=study)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / TABLE) as temporary:
            _for_parquet(frame).to_parquet(temporary, index=False)
            (folder / PROVENANCE).unlink(missing_ok=True)  # a table without it is not yet whole
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from None
    provenance = Provenance.model_validate(
        {
            "study": study,
            "source": imported.source,
            "sha256": imported.sha256,
            "table_sha256": foreign.fingerprint(folder / TABLE),
            "mapping": imported.mapping.model_dump(
                mode="json", by_alias=True, exclude_defaults=True
            ),
            "rows": len(frame),
            "aggregates": len(imported.aggregates),
            "kept_columns": list(imported.kept),
            "problems": list(imported.problems),
            "imported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    write_json(folder / PROVENANCE, provenance.model_dump(mode="json", by_alias=True))
    return folder, imported


def is_imported(folder: str | Path) -> bool:
    """Whether a study's folder holds imported results."""
    return (Path(folder) / PROVENANCE).is_file()


def read_provenance(folder: str | Path) -> Provenance:
    """Where a study's imported results come from. Raises InputError if that is not known."""
    path = Path(folder) / PROVENANCE
    try:
        return Provenance.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} holds no imported results ({PROVENANCE} is missing)") from None
    except (OSError, ValidationError, ValueError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}); import again") from None


def load_imported(folder: str | Path) -> pd.DataFrame:
    """The tidy frame of an imported study. Raises InputError when absent or changed since."""
    provenance = read_provenance(folder)
    path = Path(folder) / TABLE
    if not path.is_file() or foreign.fingerprint(path) != provenance.table_sha256:
        raise InputError(f"{path} is missing or was changed after the import; import again")
    frame = pd.read_parquet(path)
    frame["flags"] = pd.Series([tuple(f) for f in frame["flags"]], frame.index, dtype=object)
    for column in ("epoch_scores", "epoch_losses"):
        if column in frame:
            cells = [None if c is None else tuple(map(float, c)) for c in frame[column]]
            frame[column] = pd.Series(cells, frame.index, dtype=object)
    return frame


def _for_parquet(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of mixed types as text, tuples as lists: Parquet knows one type a column."""
    out = frame.copy()
    for column in out.columns:
        if out[column].dtype != object:
            continue
        cells = out[column].tolist()
        if any(isinstance(c, list | tuple) for c in cells):
            out[column] = pd.Series(
                [list(c) if isinstance(c, list | tuple) else None for c in cells],
                index=out.index,
                dtype=object,
            )
        else:
            out[column] = pd.Series(
                [None if c is None or c is pd.NA or c != c else str(c) for c in cells],
                index=out.index,
                dtype=object,
            )
    return out
