"""The loop of every engine: start what is ready, listen, notice what died, until nothing is open.

Where the workers are and how they are reached is the business of an engine's `Backend`. Several
supervisors, on one machine or on many, may work on one folder at once: each run belongs to whoever
holds its lease.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kdlora.engines.failure import EXIT_CODES, describe_death, disk_full_message, failed_record
from kdlora.engines.selection import PreparedStudy, RunSelection, prepare_schedule
from kdlora.errors import Interrupted, StoreError
from kdlora.records.leases import EXPIRY_S, LeaseObserver, LeaseSnapshot, look
from kdlora.records.record import Record
from kdlora.records.store import Store
from kdlora.spec.plan import Plan
from kdlora.spec.run import Run


@dataclass(frozen=True)
class EngineOptions:
    """How an engine works through a plan; None is what the engine has by default.

    Attributes:
        workers: runs at the same time.
        threads: of each worker.
        gpus: what CUDA_VISIBLE_DEVICES is set to, worker by worker.
        retries: how often a run is tried again whose process was killed.
        expiry_s: how long a worker may be silent before another process takes its run over.
        selection: which runs, and until when.
    """

    workers: int | None = None
    threads: int | None = None
    gpus: Sequence[str] | None = None
    retries: int | None = None
    expiry_s: float = EXPIRY_S
    selection: RunSelection = field(default_factory=RunSelection)


@dataclass(frozen=True)
class ObservedRun:
    """One of: its record, a new failure, who holds it; none of them means that it is free.

    `dead` is a lease to take over, judged dead after watching it.
    """

    record: Record | None = None
    failure: Record | None = None
    holder: str | None = None
    dead: LeaseSnapshot | None = None


class PeerMonitor:
    """Looks at the runs that other processes may do, and remembers since when nothing has moved.

    `failures` are the checksums of the failures that were there at the start, which are not news.
    """

    def __init__(self, store: Store, failures: Mapping[str, str], *, expiry_s: float) -> None:
        self.store, self.failures = store, failures
        self.every_s = min(1.0, expiry_s / 12)
        self._observers: dict[str, LeaseObserver] = {}
        self._looked = 0.0

    def due(self) -> bool:
        """Whether it is time to look at them again."""
        if time.monotonic() - self._looked < self.every_s:
            return False
        self._looked = time.monotonic()
        return True

    def look(self, run: Run) -> ObservedRun:
        """How a run stands at this moment."""
        folder = self.store.folder(run.run_id)
        lease = look(folder)
        verdict = self._observers.setdefault(run.run_id, LeaseObserver()).judge(lease)
        # After the look: a released lease has its record.
        record = self.store.read(run.run_id, models=True)
        if record is not None:
            self._observers.pop(run.run_id, None)
            return ObservedRun(record=record)
        if verdict == "held":
            return ObservedRun(holder=lease.holder)
        failure = self.store.read_failure(run.run_id)
        if failure is not None and failure.checksum != self.failures.get(run.run_id):
            return ObservedRun(failure=failure)
        return ObservedRun(dead=lease if verdict == "dead" else None)


def missing_teachers(run: Run, store: Store) -> list[str]:
    """Those of a run's teachers that have no record at this moment.

    A record may go while a study runs: it is found to be damaged and set aside, or another process
    was told to do the run again.
    """
    return [teacher for teacher in run.teachers if not store.is_done(teacher)]


# (run, event): {"start": True, "worker": n}, dicts of `recipes.run.run_one`, then one of {"done":
# Record}, {"failed": why}, {"retry": why}, {"leased": who}, {"later": why}, {"stopped": why}.
# The first and the last also say "remaining_s", the estimated time until the study is complete.
OnEvent = Callable[[Run, dict[str, Any]], None]

STOP_S = 60  # for the checkpoints; then the workers are terminated
_AGAIN_S = 2  # after which one that has said nothing yet, and has nothing to lose, is asked again
_GRACE_S = 900  # at the deadline, for a run that is trained and is being measured
_MEASURED = ("saving and scoring", "measuring", "recording")


@dataclass(frozen=True)
class Job:
    """What a worker is told: the run as JSON, where its study lies, and what it may use."""

    run: str
    root: str
    threads: int
    gpu: str | None
    expiry_s: float
    dead: LeaseSnapshot | None = None
    pause_epoch: int | None = None
    detached: bool = False  # in a process group of its own, which outlives the parent's


class Process(Protocol):
    """What a supervisor asks of a worker's process, wherever it is; as `multiprocessing` has it."""

    @property
    def exitcode(self) -> int | str | None:
        """As in `failure.EXIT_CODES`, minus a signal's number, or why it is gone in words."""

    def is_alive(self) -> bool: ...
    def join(self, timeout: float | None = None) -> None: ...
    def terminate(self) -> None: ...


class Channel(Protocol):
    """Where a worker's events arrive; EOFError when it has ended."""

    def recv(self) -> Any: ...
    def close(self) -> None: ...


class Backend(Protocol):
    """Where workers run: all that is different between engines."""

    def room(self) -> int:
        """How many runs may be at work at this moment."""

    def launch(self, job: Job, run: Run) -> tuple[Channel, Process]:
        """Start a worker."""

    def ready(self, channels: Sequence[Any], timeout_s: float) -> Iterable[Channel]:
        """Those of the channels that have something to say, as soon as there is one."""

    def interrupt(self, process: Any) -> None:
        """Ask a worker to stop after a checkpoint."""


@dataclass
class Worker:
    """A run at work."""

    run: Run
    process: Process
    slot: int
    since: float
    stage: str = ""
    ending: float | None = None  # when it was asked to stop


@dataclass
class Supervisor:
    """The workers of one engine and what they need to be started.

    Of `options` the threads are known here; no GPUs and no retries are the defaults.
    """

    store: Store
    prepared: PreparedStudy
    backend: Backend
    options: EngineOptions
    on_event: OnEvent
    active: dict[Channel, Worker] = field(default_factory=dict)
    deaths: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        max_hours = self.options.selection.max_hours
        self.deadline = max_hours and time.monotonic() + 3600 * max_hours
        self.schedule = self.prepared.schedule
        self.peers = PeerMonitor(self.store, self.prepared.failures, expiry_s=self.options.expiry_s)

    def work(self) -> None:
        """Until nothing is open any more."""
        while True:
            self._fill()
            self._tell_news()
            if not self.schedule.open:
                return
            if self.active:
                self._listen()
            else:
                time.sleep(self.peers.every_s)
            self._check_peers()
            self._keep_deadline()

    def stop(self) -> None:
        """Ask the running workers to write their checkpoints; insist after a while."""
        for worker in self.active.values():
            self._interrupt(worker)
        until = time.monotonic() + STOP_S
        for worker in self.active.values():
            while worker.process.is_alive() and (left_s := until - time.monotonic()) > 0:
                worker.process.join(timeout=min(left_s, _AGAIN_S))
                if not worker.stage:  # it was only starting, and may have missed the signal
                    self._interrupt(worker)
            if worker.process.is_alive():
                worker.process.terminate()

    def _fill(self) -> None:
        """Start runs while there is room, past those that others have done or are doing."""
        while len(self.active) < self.backend.room():
            run = self.schedule.take(self._left_s())
            if run is None:
                return
            seen = self.peers.look(run)
            if seen.record is not None:
                self._end(run, "done", {"done": seen.record})
            elif seen.holder is not None:
                self.schedule.leased(run.run_id)
                self.on_event(run, {"leased": seen.holder})
            elif lost := missing_teachers(run, self.store):
                self._redo_teachers(run, lost)
            else:
                self._start(run, seen.dead)

    def _redo_teachers(self, run: Run, lost: Iterable[str]) -> None:
        """Records that a run was to learn from are gone: they are made again first."""
        for teacher in lost:
            self.schedule.lost(teacher)
            why = "its record is gone, and others learn from it: it is done again"
            self.on_event(self.schedule.runs[teacher], {"retry": why})
        self.schedule.again(run.run_id)

    def _start(self, run: Run, dead: LeaseSnapshot | None) -> None:
        taken = {busy.slot for busy in self.active.values()}
        slot = next(n for n in itertools.count() if n not in taken)
        gpus = self.options.gpus
        job = Job(
            run=run.model_dump_json(),
            root=str(self.store.root),
            threads=self.options.threads or 1,
            gpu=gpus[slot % len(gpus)] if gpus else None,
            expiry_s=self.options.expiry_s,
            dead=dead,
            pause_epoch=self.prepared.halving.pause_epoch(run.run_id),
        )
        receiver, process = self.backend.launch(job, run)
        self.active[receiver] = Worker(run, process, slot, time.monotonic())
        self._tell(run, {"start": True, "worker": slot})

    def _listen(self) -> None:
        """Pass on what the workers say; notice those that ended or died."""
        for connection in self.backend.ready(list(self.active), min(1.0, self.peers.every_s)):
            worker = self.active[connection]
            try:
                event: dict[str, Any] = connection.recv()
            except (EOFError, OSError):
                worker.process.join()
                connection.close()
                del self.active[connection]
                self._ended(worker)
                continue
            if stage := event.get("stage"):
                worker.stage = stage
                if stage == "building the model":
                    self.schedule.labelled(worker.run.run_id)
            self.on_event(worker.run, event)

    def _ended(self, worker: Worker) -> None:
        """What became of a run whose process is gone."""
        run, code = worker.run, worker.process.exitcode
        record = self.store.read(run.run_id, models=True)
        failure = self.store.read_failure(run.run_id)
        if record is not None:
            self._end(run, "done", {"done": record}, took_s=time.monotonic() - worker.since)
        elif code == EXIT_CODES["interrupted"] or worker.ending is not None:
            if worker.ending is None:  # Ctrl-C reached the worker, and will reach us
                raise KeyboardInterrupt
            self._end(run, "later", {"later": "stopped after a checkpoint: the time is over"})
        elif code == EXIT_CODES["full"]:
            raise StoreError(disk_full_message(self.store.root))
        elif code in (EXIT_CODES["busy"], EXIT_CODES["lost"], EXIT_CODES["paused"]):
            self.schedule.again(run.run_id)
        elif code == EXIT_CODES["no_teacher"]:
            self._redo_teachers(run, missing_teachers(run, self.store))
        elif code == EXIT_CODES["failed"] and failure is not None:
            self._end(run, "failed", {"failed": failure.error})
        else:
            self._died(run, code)

    def _died(self, run: Run, code: int | str | None) -> None:
        """A worker that was killed: once more, for it may have been bad luck; then no more."""
        times = self.deaths[run.run_id] = self.deaths.get(run.run_id, 0) + 1
        if times <= (self.options.retries or 0):
            self.on_event(run, {"retry": describe_death(code)})
            self.schedule.again(run.run_id)
            return
        failure = failed_record(run, describe_death(code, times))
        self.store.fail(failure)
        self._end(run, "failed", {"failed": failure.error})

    def _check_peers(self) -> None:
        """Runs that other processes had: done, failed, or free again."""
        for run in self.schedule.in_state("leased") if self.peers.due() else ():
            seen = self.peers.look(run)
            if seen.record is not None:
                self._end(run, "done", {"done": seen.record})
            elif seen.failure is not None:
                self._end(run, "failed", {"failed": seen.failure.error})
            elif seen.holder is None:
                self.schedule.again(run.run_id)

    def _keep_deadline(self) -> None:
        """At the deadline: nothing new, checkpoints for what trains, grace for what is measured."""
        if self.deadline is None or time.monotonic() < self.deadline:
            return
        self.schedule.close()
        over_s = time.monotonic() - self.deadline
        for worker in self.active.values():
            if worker.ending is None and (worker.stage not in _MEASURED or over_s > _GRACE_S):
                self._interrupt(worker)
            elif worker.ending is not None and time.monotonic() - worker.ending > STOP_S:
                worker.process.terminate()

    def _interrupt(self, worker: Worker) -> None:
        worker.ending = time.monotonic()
        if worker.process.is_alive():
            self.backend.interrupt(worker.process)

    def _left_s(self) -> float | None:
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)

    def _end(
        self, run: Run, state: Any, event: dict[str, Any], *, took_s: float | None = None
    ) -> None:
        self.schedule.ended(run.run_id, state, took_s=took_s, why=event.get("later"))
        if state != "later":  # which is news, see `_tell_news`
            self._tell(run, event)

    def _tell(self, run: Run, event: dict[str, Any]) -> None:
        spent = [time.monotonic() - worker.since for worker in self.active.values()]
        room = max(self.backend.room(), 1)
        self.on_event(run, {**event, "remaining_s": self.schedule.remaining_s(room, spent)})

    def _tell_news(self) -> None:
        for run, why in self.schedule.news():
            state = self.schedule.states[run.run_id]
            self.on_event(run, {"failed" if state == "skipped" else state: why})


def supervise(
    plan: Plan, store: Store, backend: Backend, options: EngineOptions, on_event: OnEvent
) -> dict[str, str]:
    """Do every run that is not done by the backend of an engine.

    The other arguments, the result and the errors are those of `engines.local.run_plan`.
    """
    prepared = prepare_schedule(plan, store, options.selection)
    supervisor = Supervisor(store, prepared, backend, options, on_event)
    try:
        supervisor.work()
    except KeyboardInterrupt:
        supervisor.stop()
        raise Interrupted(
            f"interrupted; finished runs are kept in {store.root} and the unfinished ones go on "
            "where they stopped when the same command is run again; "
            f"`kdlora report {store.root}` writes the report of what is done"
        ) from None
    except BaseException:
        supervisor.stop()
        raise
    return dict(prepared.schedule.states)
