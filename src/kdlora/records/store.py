"""A study's folder on disk: one folder a run, the record written last and by rename.

Whatever the moment a process dies at, a folder either holds a whole `record.json` (and then
everything the record speaks of) or the run is not done.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlora.errors import StoreError
from kdlora.files import (
    CHECKPOINT,
    drop_dead_below,
    leftovers,
    read_bytes,
    set_aside,
    whole_file,
    write_new,
)
from kdlora.records import leases
from kdlora.records.contents import changed_files, content_hashes
from kdlora.records.record import DamagedRecord, OtherVersion, Record, read_record
from kdlora.records.study_folder import RUNS
from kdlora.spec.run import Run

_PLAIN_NAME = re.compile("[^/\\\\\0\ud800-\udfff]{1,255}")


@dataclass(frozen=True)
class Store:
    """The runs of one study below `root`."""

    root: Path

    def folder(self, run_id: str) -> Path:
        """Where a run lies. Raises StoreError for what no run can be called."""
        if not _PLAIN_NAME.fullmatch(run_id) or run_id in (".", ".."):
            raise StoreError(f"{run_id[:80]!a} is no run id: the name of a folder is expected")
        return self.root / RUNS / run_id

    @property
    def tokens(self) -> Path:
        """Where tokenised texts are kept for all runs; see `data.batches`."""
        return self.root / "cache" / "tokens"

    @property
    def costs(self) -> Path:
        """Where FLOPs and timings of every shape of model are kept; see `measure.shape_cache`."""
        return self.root / "cache" / "costs"

    def check(self) -> None:
        """See, without writing anything, that the folder can be made. Raises StoreError."""
        ground = _existing(self.root.absolute())
        if not ground.is_dir():
            raise StoreError(_explain(OSError(errno.ENOTDIR, ""), ground))
        if not os.access(ground, os.W_OK | os.X_OK):
            raise StoreError(_explain(OSError(errno.EACCES, os.strerror(errno.EACCES)), self.root))

    def prepare(self) -> None:
        """Make the folder and see that it can be written to. Raises StoreError.

        What processes that were killed were still writing is removed.
        """
        try:
            (self.root / RUNS).mkdir(parents=True, exist_ok=True)
            drop_dead_below(self.root)
            probe = self.root / f".write-probe-{socket.gethostname()}-{os.getpid()}"
            probe.write_bytes(b"0" * 4096)
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(_explain(error, self.root)) from None

    def read(self, run_id: str, *, models: bool = False) -> Record | None:
        """The record of a finished run; None where there is none, or none that can be trusted.

        It is not trusted either where its predictions or its learning curve are damaged, and with
        `models` where its weights are; else who loads them sees to it. Nothing is moved or changed:
        who holds the run's lease sets what is damaged aside (`set_damaged_aside`). Raises
        StoreError for a whole record that only another version of kdlora understands.
        """
        record = self._whole(self.folder(run_id) / "record.json")
        if record is None or record.run_id != run_id:
            return None
        return None if changed_files(record.files, self.folder(run_id), models=models) else record

    def read_failure(self, run_id: str) -> Record | None:
        """The record of a run that failed and has not been done since, or None, as `read` does."""
        return self._whole(self.folder(run_id) / "failed.json")

    def _whole(self, path: Path) -> Record | None:
        content = _content(path)
        if content is None:
            return None
        try:
            return read_record(content)
        except DamagedRecord:
            return None
        except OtherVersion as other:
            raise StoreError(
                f"{path} was written by {other}. Use that version, or another folder with --out; "
                "nothing was changed"
            ) from None

    def is_done(self, run_id: str) -> bool:
        """Whether a run has a record, and all that lies beside it is whole, its weights too."""
        return self.read(run_id, models=True) is not None

    def set_damaged_aside(self, run_id: str) -> list[Path]:
        """Give the files of a run that cannot be trusted another name, never deleting them.

        Returns what they are called now. The caller holds the run's lease. A record of another
        version is whole and stays; one of which a file is damaged goes with it, and first: from
        then on the run is not done. Raises StoreError where the folder cannot be written to.
        """
        moved = []
        folder = self.folder(run_id)
        changed = [path.relative_to(folder) for path in self._changed(run_id)]
        beside = {folder / path.parts[0]: None for path in changed}
        for path in (folder / "record.json", folder / "failed.json", *beside):
            damaged = bool(beside) if path.name == "record.json" else path in beside
            if (damaged or self._is_damaged(path)) and (aside := _aside(path)) is not None:
                moved.append(aside)
        return moved

    def damage(self, run_id: str) -> list[Path]:
        """What of a finished run cannot be trusted; weights are not looked at."""
        path = self.folder(run_id) / "record.json"
        return [path] if self._is_damaged(path) else self._changed(run_id, models=False)

    def _changed(self, run_id: str, *, models: bool = True) -> list[Path]:
        """The files of a whole record that are no longer what was written."""
        content = _content(self.folder(run_id) / "record.json")
        try:
            record = read_record(content) if content is not None else None
        except (DamagedRecord, OtherVersion):
            record = None
        return changed_files(record.files, self.folder(run_id), models=models) if record else []

    def _is_damaged(self, path: Path) -> bool:
        content = _content(path)
        if content is None:
            return False
        try:
            record = read_record(content)
        except DamagedRecord:
            return True
        except OtherVersion:
            return False
        return path.name == "record.json" and record.run_id != path.parent.name

    def damaged(self) -> list[Path]:
        """All files that were set aside because they could not be trusted."""
        return sorted(
            path
            for folder in ("runs/*", "decisions")
            for path in self.root.glob(f"{folder}/*.damaged*")
        )

    def damaged_in_place(self) -> list[Path]:
        """All files of runs that cannot be trusted and that nobody has set aside yet.

        Weights are not looked at.
        """
        failures = [p for p in self.root.glob("runs/*/failed.json") if self._is_damaged(p)]
        records = self.root.glob("runs/*/record.json")
        return sorted([*failures, *(p for r in records for p in self.damage(r.parent.name))])

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
        """Write the record, last; then drop what only an unfinished run needs.

        Raises AlreadyDone when the run has a record: the first one counts, whoever else was late.
        """
        folder = self.folder(record.run_id)
        record = record.model_copy(update={"files": content_hashes(folder)})
        values = record.sealed().model_dump(mode="json", by_alias=True)
        while not write_new_json(folder / "record.json", values):
            if self.is_done(record.run_id):
                raise AlreadyDone(f"{record.run_id} has been recorded by another process")
            self.set_damaged_aside(record.run_id)
        checkpoint = folder / CHECKPOINT
        for path in (checkpoint, *leftovers(checkpoint), folder / "failed.json"):
            path.unlink(missing_ok=True)

    def fail(self, record: Record) -> None:
        """Keep the error of a run that could not be done, beside which it can be tried again."""
        folder = self.folder(record.run_id)
        try:
            folder.mkdir(parents=True, exist_ok=True)  # a worker may die before it makes anything
        except OSError as error:
            raise StoreError(_explain(error, folder)) from None
        write_json(
            folder / "failed.json",
            record.sealed().model_dump(mode="json", by_alias=True),
        )

    @contextmanager
    def lease(
        self,
        run_id: str,
        *,
        dead: leases.LeaseSnapshot | None = None,
        expiry_s: float = leases.EXPIRY_S,
    ) -> Iterator[leases.Lease | None]:
        """Yields the right to work on a run, or None while another process has it.

        Who has it finds no damaged record: it has been set aside. See `leases.acquire` for the
        arguments.
        """
        folder = self.folder(run_id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(_explain(error, folder)) from None
        with leases.held(folder, dead=dead, expiry_s=expiry_s) as lease:
            if lease is not None:
                self.set_damaged_aside(run_id)
            yield lease

    def closing(self) -> AbstractContextManager[leases.Lease]:
        """Yields when no other process is writing what sums up the study: report and students."""
        folder = self.root / "closing"
        folder.mkdir(parents=True, exist_ok=True)
        return leases.waited_for(folder)

    def retire(self, run_id: str) -> Path | None:
        """Move what a run left, done or half done, into a folder beside it: it begins anew.

        Returns that folder; None when the run had not begun. The caller holds the run's lease.
        """
        folder = self.folder(run_id)
        left = [
            path
            for path in folder.iterdir()
            if not path.name.startswith(("retired-", "lease-", "spec.json"))
            and ".damaged" not in path.name
        ]
        if not left:
            return None
        retired = _new_folder(folder, "retired-")
        # The record first: from then on the run is not done.
        for path in sorted(left, key=lambda path: path.name != "record.json"):
            os.replace(path, retired / path.name)
        return retired


class AlreadyDone(StoreError):
    """The run has a record already, which stays."""


def json_text(value: Any) -> str:
    """A value as the JSON files of kdlora hold it."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the path holds either the old content or the whole new one."""
    write_text(path, json_text(value))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically and durably."""
    try:
        with whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(_explain(error, path)) from None


def write_new_json(path: Path, value: Any) -> bool:
    """Like `write_json`, but only where nothing is yet; returns whether this call wrote it."""
    try:
        return write_new(path, json_text(value))
    except OSError as error:
        raise StoreError(_explain(error, path)) from None


def _content(path: Path) -> bytes | None:
    """What a file of a run holds, None where there is none. Raises StoreError."""
    try:
        return read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from None


def _aside(path: Path) -> Path | None:
    """Set a damaged file aside; None where it is gone, or was written anew, and stays."""
    content = None if path.is_dir() else _content(path)
    try:
        aside = set_aside(path)
    except FileNotFoundError:  # another process was as quick
        return None
    except OSError as error:
        raise StoreError(f"{path} is damaged and {_explain(error, path)}") from None
    if aside.is_dir() or _content(aside) == content:
        return aside
    if not path.exists():
        os.replace(aside, path)  # written anew between the look and the move
    return None


def _new_folder(parent: Path, prefix: str) -> Path:
    """A new folder with the first number that is free."""
    for number in itertools.count():
        folder = parent / f"{prefix}{number}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def _explain(error: OSError, path: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(_existing(path)).free / 1e6
        return f"the disk is full ({free:.0f} MB left) while writing {path}; free some space"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"cannot write to {path}: {error.strerror}; choose another folder with --out"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"cannot use {path} as a folder: a file of that name is in the way"
    return f"cannot write to {path}: {error.strerror or error}"


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
