"""Leases: which process may work on a run, among processes and machines that share one folder.

A lease is a file ``lease-<generation>`` in the run's folder. The highest generation is the one that
counts, and it never falls: whoever takes over a lease creates the next generation with O_EXCL, so
of many that try exactly one wins, and nobody ever removes or overwrites what belongs to another.
The holder rewrites a counter inside its own file. Nothing relies on flock, on equal clocks, or on
the time of day: a holder is dead when its process is gone from this machine, or when an observer
has watched its counter stand still for as long as the lease says.

A holder that was suspended finds a higher generation when it wakes and must then write nothing
more; `Lease.check` tells it. The record itself is created only where there is none (see
`Store.finish`), so even a process that sleeps between its last check and its write cannot finish a
run twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdlora.errors import StoreError
from kdlora.files import read_bytes
from kdlora.machine import is_gone, process_start, this_machine

EXPIRY_S = 60.0  # a counter that stands still for so long belongs to a dead holder
_BEATS = 12  # beats within that time
_PREFIX = "lease-"
_RELEASED = b"released".ljust(20)


class LeaseLost(StoreError):
    """Another process has taken the run over: this one must not write anything more."""


@dataclass(frozen=True)
class LeaseSnapshot:
    """A lease as it was seen: generation 0 means that nobody ever held one."""

    generation: int = 0
    content: bytes = b""

    @property
    def released(self) -> bool:
        return self.generation == 0 or self.content.endswith(_RELEASED)

    @property
    def owner(self) -> dict[str, Any]:
        """What the holder said of itself; empty where its file is torn."""
        try:
            values = json.loads(self.content.split(b"\n", 1)[0])
        except ValueError:
            return {}
        return values if isinstance(values, dict) else {}

    @property
    def holder(self) -> str:
        """The holder in words."""
        owner = self.owner
        return f"process {owner.get('pid', '?')} on {owner.get('host', 'an unknown machine')}"

    @property
    def of_this_machine(self) -> bool:
        """Whether this process can ask the system for the holder's."""
        owner, here = self.owner, this_machine()
        return bool(here["boot"]) and all(owner.get(key) == here[key] for key in here)

    def process_gone(self) -> bool:
        """Whether the holder was a process of this machine that does not exist any more."""
        if not self.of_this_machine:
            return False
        pid, started = self.owner.get("pid"), self.owner.get("started")
        return isinstance(pid, int) and is_gone(pid, started)


def look(folder: Path) -> LeaseSnapshot:
    """The lease that counts in a run's folder at this moment.

    Opening the folder and the file makes a network file system ask the server again.
    """
    while True:
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return LeaseSnapshot()
        generations = [int(n[len(_PREFIX) :]) for n in names if _is_lease(n)]
        if not generations:
            return LeaseSnapshot()
        with contextlib.suppress(FileNotFoundError):  # a higher one was made meanwhile
            return LeaseSnapshot(max(generations), read_bytes(_path(folder, max(generations))))


class LeaseObserver:
    """Judges another's lease by looking at it again and again.

    Only time that was watched counts: a look adds at most a quarter of the expiry time, so neither
    a jump of the clock nor a long sleep of the observer makes a living holder dead.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: LeaseSnapshot | None = None
        self._looked = 0.0
        self._still_s = 0.0

    def judge(self, seen: LeaseSnapshot) -> Literal["free", "held", "dead"]:
        """What is known of the lease just seen; "dead" may be passed to `acquire`."""
        now = self._clock()
        expiry_s = float(seen.owner.get("expiry_s", EXPIRY_S))
        if seen == self._seen:
            self._still_s += min(max(now - self._looked, 0.0), expiry_s / 4)
        else:
            self._seen, self._still_s = seen, 0.0
        self._looked = now
        if seen.released:
            return "free"
        return "dead" if self._still_s > expiry_s or seen.process_gone() else "held"


class Lease:
    """A lease that this process holds; a thread moves its counter until `release`."""

    def __init__(self, folder: Path, generation: int, *, expiry_s: float) -> None:
        self.folder, self.generation = folder, generation
        self.every_s = expiry_s / _BEATS
        self.lost = False
        self._count = 0
        self._mutex = threading.Lock()
        self._ended = threading.Event()
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        self._file = os.open(_path(folder, generation), flags, 0o644)
        try:
            header = {**this_machine(), "pid": os.getpid(), "started": process_start(os.getpid())}
            header |= {"nonce": uuid.uuid4().hex, "expiry_s": expiry_s}
            self._at = os.write(self._file, json.dumps(header).encode() + b"\n")
            os.pwrite(self._file, b"0".zfill(20), self._at)
            os.fsync(self._file)
        except BaseException:  # a full disk: an empty file would be a holder that nobody knows
            os.close(self._file)
            with contextlib.suppress(OSError):
                _path(folder, generation).unlink()
            raise
        self._proven = _awake_s()

    def start(self) -> None:
        threading.Thread(target=self._beat_until_the_end, name="lease", daemon=True).start()

    def check(self, *, now: bool = False) -> None:
        """Raises LeaseLost when the run belongs to another process.

        Cheap: the disk is asked only if it has not been for longer than a beat takes, as after the
        process was suspended, or if `now` is given.
        """
        stale = _awake_s() - self._proven > 1.5 * self.every_s
        proven = self._beat() if now or stale else True
        if self.lost or (now and not proven):
            raise LeaseLost(f"another process has taken over {self.folder.name}")

    def release(self) -> None:
        """Let the next one in at once."""
        self._ended.set()
        with self._mutex:
            if self._file >= 0:
                with contextlib.suppress(OSError):
                    os.pwrite(self._file, _RELEASED, self._at)
                    os.fsync(self._file)
                os.close(self._file)
                self._file = -1

    def _beat_until_the_end(self) -> None:
        while not self._ended.wait(self.every_s) and not self.lost:
            self._beat()

    def _beat(self) -> bool:
        """Move the counter, then see that no higher generation exists; whether that was seen."""
        with self._mutex:
            if self._file < 0 or self.lost:
                return False
            started = _awake_s()
            try:
                self._count += 1
                os.pwrite(self._file, str(self._count).encode().zfill(20), self._at)
                os.fsync(self._file)
                self.lost = _highest(self.folder) != self.generation
            except OSError:  # a folder out of reach for a while; for too long, and it is lost
                self.lost = started - self._proven > _BEATS * self.every_s
                return False
            self._proven = started
            return not self.lost


def acquire(
    folder: Path, *, dead: LeaseSnapshot | None = None, expiry_s: float = EXPIRY_S
) -> Lease | None:
    """The lease of a run's folder, or None while another process holds it.

    Args:
        dead: a lease that a `LeaseObserver` of the caller has judged dead; it is taken over if it
            still looks exactly as it did.
        expiry_s: how long others must see the counter stand still before they take over.

    Raises OSError where the folder cannot be written to.
    """
    seen = look(folder)
    if not seen.released and seen != dead and not seen.process_gone():
        return None
    try:
        lease = Lease(folder, seen.generation + 1, expiry_s=expiry_s)
    except FileExistsError:  # somebody was faster
        return None
    if _highest(folder) != lease.generation:  # made long after the look: two were faster
        lease.release()
        return None
    for name in os.listdir(folder):
        if _is_lease(name) and int(name[len(_PREFIX) :]) < lease.generation:
            (folder / name).unlink(missing_ok=True)
    lease.start()
    return lease


@contextlib.contextmanager
def held(
    folder: Path, *, dead: LeaseSnapshot | None = None, expiry_s: float = EXPIRY_S
) -> Iterator[Lease | None]:
    """`acquire`, and release at the end of the block."""
    lease = acquire(folder, dead=dead, expiry_s=expiry_s)
    try:
        yield lease
    finally:
        if lease is not None:
            lease.release()


@contextlib.contextmanager
def waited_for(folder: Path, *, every_s: float = 0.5) -> Iterator[Lease]:
    """The lease of a folder, as soon as nobody who lives holds it."""
    watch = LeaseObserver()
    while True:
        seen = look(folder)
        dead = seen if watch.judge(seen) == "dead" else None
        with held(folder, dead=dead) as lease:
            if lease is not None:
                yield lease
                return
        time.sleep(every_s)


def _awake_s() -> float:
    """Seconds that also run while the machine sleeps, where the system can tell."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _highest(folder: Path) -> int:
    return max((int(n[len(_PREFIX) :]) for n in os.listdir(folder) if _is_lease(n)), default=0)


def _is_lease(name: str) -> bool:
    return name.startswith(_PREFIX) and name[len(_PREFIX) :].isdigit()


def _path(folder: Path, generation: int) -> Path:
    return folder / f"{_PREFIX}{generation:06d}"
