"""What other processes on the same folder are doing, as far as one that looks can know."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from kdlora.spec.run import Run
from kdlora.store.leases import Sighting, Watch, look
from kdlora.store.record import Record
from kdlora.store.store import Store


@dataclass(frozen=True)
class Seen:
    """One of: its record, a new failure, who holds it; none of them means that it is free.

    `dead` is a lease to take over, judged dead after watching it.
    """

    record: Record | None = None
    failure: Record | None = None
    holder: str | None = None
    dead: Sighting | None = None


class Others:
    """Looks at runs again and again and remembers since when nothing has moved.

    `failures` are the checksums of the failures that were there at the start, which are not news.
    """

    def __init__(self, store: Store, failures: Mapping[str, str], *, expiry_s: float) -> None:
        self.store, self.failures = store, failures
        self.every_s = min(1.0, expiry_s / 12)
        self._watches: dict[str, Watch] = {}
        self._looked = 0.0

    def due(self) -> bool:
        """Whether it is time to look at them again."""
        if time.monotonic() - self._looked < self.every_s:
            return False
        self._looked = time.monotonic()
        return True

    def look(self, run: Run) -> Seen:
        """How a run stands at this moment."""
        folder = self.store.folder(run.run_id)
        lease = look(folder)
        verdict = self._watches.setdefault(run.run_id, Watch()).judge(lease)
        record = self.store.read(run.run_id)  # after the look: a released lease has its record
        if record is not None:
            self._watches.pop(run.run_id, None)
            return Seen(record=record)
        if verdict == "held":
            return Seen(holder=lease.holder)
        failure = self.store.read_failure(run.run_id)
        if failure is not None and failure.checksum != self.failures.get(run.run_id):
            return Seen(failure=failure)
        return Seen(dead=lease if verdict == "dead" else None)


def lost_teachers(run: Run, store: Store) -> list[str]:
    """Those of a run's teachers that have no record at this moment.

    A record may go while a study runs: it is found to be damaged and set aside, or another process
    was told to do the run again.
    """
    return [teacher for teacher in run.teachers if not store.is_done(teacher)]
