"""How a run ends that is not done, in words and in numbers; the same for every engine."""

from __future__ import annotations

import errno
import shutil
import signal
import traceback
from datetime import UTC, datetime
from pathlib import Path

from kdlora.errors import KdloraError
from kdlora.records.record import Record
from kdlora.spec.run import Run

# By these exit codes a worker process says how its run ended; see `attempt.Outcome`.
EXIT_CODES = {
    "done": 0,
    "failed": 1,
    "full": 74,
    "busy": 75,
    "lost": 76,
    "paused": 77,
    "no_teacher": 78,
    "interrupted": 130,
}

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = ("disk is full", "no space left on device", "disk quota exceeded")
_NEARLY_FULL_BYTES = 4 * 2**20  # libraries that only say "write failed" are not asked further


def failed_record(run: Run, error: str) -> Record:
    """What is kept of a run that could not be done."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Record(run_id=run.run_id, run=run, status="failed", error=error, finished_at=now)


def describe_error(error: BaseException) -> str:
    """One message for a user's mistake, the whole traceback for a fault of kdlora."""
    if isinstance(error, KdloraError):
        return str(error)
    return "".join(traceback.format_exception(error)).strip()


def is_disk_full(error: BaseException, root: Path) -> bool:
    """Whether a run ended for want of space in the study's folder, which is no fault of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return True
        if any(words in str(cause).lower() for words in _FULL_WORDS):
            return True
        cause = cause.__cause__ or cause.__context__
    try:
        return shutil.disk_usage(root).free < _NEARLY_FULL_BYTES
    except OSError:
        return False


def disk_full_message(root: Path) -> str:
    """What a user is told when a study had to stop for want of space."""
    return (
        f"the disk of {root} is full; nothing that is done is lost: free some space and run the "
        "same command again"
    )


def describe_death(code: int | str | None, times: int = 1) -> str:
    """Why a process that left neither a record nor an error is gone; `code` may say it in words."""
    again = f", {times} times" if times > 1 else ""
    if isinstance(code, str):
        return f"{code}{again}"
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (often the system's answer to too little memory)" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{hint}{again}"
    return f"its process ended with code {code} before the record was written{again}"
