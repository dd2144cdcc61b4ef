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

from kdlora.errors import InputError
from kdlora.importing import read as foreign
from kdlora.importing.convert import Imported, tidy
from kdlora.importing.mapping import Mapping, built_in, find_mapping
from kdlora.records.imported import TABLE, write_imported


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
