"""A study's folder on disk: one folder a run, the record written last and by rename.

Whatever the moment a process dies at, a folder either holds a whole `record.json` (and then
everything the record speaks of) or the run is not done.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlora.errors import StoreError
from kdlora.spec.run import Run
from kdlora.store.record import Record, checksum


@dataclass(frozen=True)
class Store:
    """The runs of one study below `root`."""

    root: Path

    def folder(self, run_id: str) -> Path:
        return self.root / "runs" / run_id

    @property
    def tokens(self) -> Path:
        """Where tokenised texts are kept for all runs; see `data.tokens`."""
        return self.root / "cache" / "tokens"

    def check(self) -> None:
        """See, without writing anything, that the folder can be made. Raises StoreError."""
        ground = _existing(self.root.absolute())
        if not ground.is_dir():
            raise StoreError(_explain(OSError(errno.ENOTDIR, ""), ground))
        if not os.access(ground, os.W_OK | os.X_OK):
            raise StoreError(_explain(OSError(errno.EACCES, os.strerror(errno.EACCES)), self.root))

    def prepare(self) -> None:
        """Make the folder and see that it can be written to. Raises StoreError."""
        try:
            (self.root / "runs").mkdir(parents=True, exist_ok=True)
            probe = self.root / f".write-probe-{os.getpid()}"
            probe.write_bytes(b"0" * 4096)
            probe.unlink()
        except OSError as error:
            raise StoreError(_explain(error, self.root)) from None

    def read(self, run_id: str) -> Record | None:
        """The record of a finished run, or None. A damaged record is set aside, never deleted."""
        path = self.folder(run_id) / "record.json"
        try:
            values = json.loads(path.read_bytes())
            record = Record.model_validate(values)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror or error}") from None
        except ValueError:  # no JSON, or no record
            record = None
        # The sum is over what was written: fields that records have gained since are not in it.
        if record and record.run_id == run_id and record.checksum == checksum(values):
            return record
        number = len(list(path.parent.glob("record.damaged*")))
        os.replace(path, path.with_name(f"record.damaged-{number}.json"))
        return None

    def read_failure(self, run_id: str) -> Record | None:
        """The record of a run that failed and has not been done since, or None."""
        path = self.folder(run_id) / "failed.json"
        try:
            return Record.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def is_done(self, run_id: str) -> bool:
        return self.read(run_id) is not None

    def damaged(self) -> list[Path]:
        """Records that were set aside because they could not be trusted."""
        return sorted((self.root / "runs").glob("*/record.damaged*"))

    def begin(self, run: Run) -> Path:
        """The folder of a run that starts or resumes; states what is about to be done."""
        folder = self.folder(run.run_id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "spec.json", run.model_dump(mode="json"))
        except OSError as error:
            raise StoreError(_explain(error, folder)) from None
        return folder

    def finish(self, record: Record) -> None:
        """Write the record, last; then drop what only an unfinished run needs."""
        folder = self.folder(record.run_id)
        write_json(folder / "record.json", record.sealed().model_dump(mode="json", by_alias=True))
        for name in ("checkpoint.pt", "checkpoint.tmp", "failed.json"):
            (folder / name).unlink(missing_ok=True)

    def fail(self, record: Record) -> None:
        """Keep the error of a run that could not be done, beside which it can be tried again."""
        write_json(
            self.folder(record.run_id) / "failed.json",
            record.sealed().model_dump(mode="json", by_alias=True),
        )

    @contextmanager
    def lock(self, run_id: str) -> Iterator[bool]:
        """Yields whether this process may work on the run; freed even by a killed process."""
        folder = self.folder(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the path holds either the old content or the whole new one."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically and durably."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(_explain(error, path)) from None
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _explain(error: OSError, path: Path) -> str:
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(_existing(path)).free / 1e6
        return f"the disk is full ({free:.0f} MB left) while writing {path}; free some space"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"cannot write to {path}: {error.strerror}; choose another folder with --out"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"cannot use {path} as a folder: a file of that name is in the way"
    return f"cannot write to {path}: {error.strerror or error}"


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
