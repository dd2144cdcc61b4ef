"""Whether what is read back is still what was written: hashes of files, checksums of JSON.

A record names the hash of every file that its run keeps beside it, a saved student has them in a
file of its own, and a JSON file carries its own checksum. What was written before there were any
has none, and is read as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdlora.errors import StoreError
from kdlora.files import is_inside
from kdlora.json_files import read_json_lines, read_json_object
from kdlora.records.record import checksum
from kdlora.spec.fingerprint import hash_file

PREDICTIONS, HISTORY, MODEL = "predictions.parquet", "history.jsonl", "model"
CHECKSUMS = "checksums.json"  # in a folder that was saved from a run


class DamagedFile(StoreError, ValueError):
    """A file that is no longer what was written."""

    def __init__(self, paths: list[Path]) -> None:
        names = ", ".join(map(str, paths[:3])) + (", ..." if len(paths) > 3 else "")
        super().__init__(
            f"{names} {'is' if len(paths) == 1 else 'are'} damaged: the content is not what was "
            "written. `kdlora run` with the study file sets it aside and makes it again"
        )


def content_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a run that is read back, by its path in the run's folder."""
    kept = [folder / PREDICTIONS, folder / HISTORY, *sorted((folder / MODEL).rglob("*"))]
    return {p.relative_to(folder).as_posix(): hash_file(p, 64) for p in kept if p.is_file()}


def changed_files(files: Mapping[str, str], folder: Path, *, models: bool = True) -> list[Path]:
    """Those of a record's files that are no longer what was written; `folder` is the run's own.

    A file that is gone is not among them: whoever needs it says so. Without `models` the weights
    are not looked at, which may run to gigabytes.
    """
    looked_at = [n for n in files if models or not n.startswith(f"{MODEL}/")]
    return [folder / name for name in looked_at if _is_changed(folder / name, files[name])]


def require_whole(path: Path) -> None:
    """See that a file of a finished run is what its record says. Raises StoreError."""
    changed = _changed(path.parent / "record.json", path.parent, path.name)
    if changed:
        raise DamagedFile(changed)


def require_whole_model(folder: Path) -> None:
    """The same for the folder of a model, whether a run's own or saved from one."""
    changed = _changed(folder / CHECKSUMS, folder, "")
    if folder.name == MODEL:
        changed += _changed(folder.parent / "record.json", folder.parent, f"{MODEL}/")
    if changed:
        raise DamagedFile(changed)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The learning curve of a run: one row an evaluation of the selection split.

    Empty where there is none, or it is damaged.
    """
    try:
        require_whole(folder / HISTORY)
        return read_json_lines(folder / HISTORY)
    except (OSError, ValueError):
        return []


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    """A JSON object as it will be read again, with its checksum."""
    read: dict[str, Any] = json.loads(json.dumps(values))
    return {**read, "checksum": checksum(read)}


def read_sealed(path: Path) -> dict[str, Any]:
    """The object of a file that `sealed` made, without its checksum.

    Raises OSError and ValueError, also where the checksum does not fit.
    """
    values = read_json_object(path)
    found = values.pop("checksum", None)
    if found is not None and found != checksum(values):
        raise ValueError("its checksum does not fit: it is damaged, or was changed by hand")
    return values


def _is_changed(path: Path, expected: str) -> bool:
    try:
        return hash_file(path, 64) != expected
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from None


def _changed(stated: Path, folder: Path, beginning: str) -> list[Path]:
    """Files that a record or `checksums.json` names, as far as their names begin so."""
    try:
        files = read_json_object(stated).get("files")
    except (OSError, ValueError):  # there is none, or whoever reads it says that it is damaged
        return []
    named = files.items() if isinstance(files, dict) else ()
    looked_at = {n: h for n, h in named if n.startswith(beginning) and is_inside(n)}
    return changed_files(looked_at, folder)
