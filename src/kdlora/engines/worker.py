"""The process that does one run, under its lease; the fork server loads torch once for all.

Importing this module loads torch.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet  # noqa: F401  (pandas would load it when the predictions are written)
import torch
from tqdm import tqdm

from kdlora.engines.failure import EXIT_CODES, describe_error, failed_record, is_disk_full
from kdlora.engines.parent_death import stop_without_parent
from kdlora.engines.supervisor import STOP_S, Job, missing_teachers
from kdlora.errors import StoreError
from kdlora.models import checkpoints as quiet
from kdlora.recipes import run as recipes
from kdlora.records.environment import remember_environment
from kdlora.records.leases import EXPIRY_S, Lease, LeaseLost, LeaseSnapshot
from kdlora.records.store import AlreadyDone, Store
from kdlora.spec.run import Run, read_run
from kdlora.training.checkpoint import Paused
from kdlora.training.interrupts import interrupt_now, once_a_press

# "busy": another process holds the run. "lost": it took the run over meanwhile. "interrupted":
# stopped after a checkpoint. "paused": likewise, at the epoch that was asked for. "full": no space.
# "no_teacher": what it learns from has no record, or none any more; no fault of the run.
AttemptOutcome = Literal[
    "done", "failed", "busy", "lost", "interrupted", "paused", "full", "no_teacher"
]


def attempt(
    run: Run,
    store: Store,
    *,
    on_progress: Callable[[dict[str, Any]], None] = lambda event: None,
    dead: LeaseSnapshot | None = None,
    expiry_s: float = EXPIRY_S,
    pause_epoch: int | None = None,
) -> AttemptOutcome:
    """Do a run unless it is done or somebody else is at it; its failure is recorded.

    Args:
        on_progress: told of each step (see `recipes.run.run_one`); may raise KeyboardInterrupt.
        dead: another's lease that has been judged dead (see `records.leases.LeaseObserver`).
        expiry_s: how long this process may be silent before others take the run over.
        pause_epoch: stop with a checkpoint after this epoch.
    """
    try:
        with store.lease(run.run_id, dead=dead, expiry_s=expiry_s) as lease:
            if lease is None:
                return "busy"
            if store.is_done(run.run_id):
                return "done"
            return _do(run, store, lease, on_progress, pause_epoch)
    except (OSError, StoreError) as error:
        if is_disk_full(error, store.root):
            return "full"
        raise


def _do(
    run: Run,
    store: Store,
    lease: Lease,
    on_progress: Callable[[dict[str, Any]], None],
    pause_epoch: int | None,
) -> AttemptOutcome:
    def tell(event: dict[str, Any]) -> None:
        lease.check(now=event.get("stage") == "recording")
        on_progress(event)

    try:
        recipes.run_one(run, store, on_progress=tell, pause_epoch=pause_epoch)
        return "done"
    except (LeaseLost, AlreadyDone):
        return "lost"
    except KeyboardInterrupt:
        return "interrupted"
    except Paused:
        return "paused"
    except BaseException as error:
        if is_disk_full(error, store.root):
            return "full"
        try:
            lease.check(now=True)  # a failure of the new holder's files is not this run's
        except LeaseLost:
            return "lost"
        if missing_teachers(run, store):  # set aside or retired, perhaps while it was being read
            return "no_teacher"
        store.fail(failed_record(run, describe_error(error)))
        return "failed"


# What follows is done once, here; every worker that is forked from here has it. Frozen objects are
# not walked by the workers' garbage collectors, which would copy their pages, too. To look for
# garbage among them first takes a tenth of the server's start and leaves it no smaller.
remember_environment()
tqdm.set_lock(threading.RLock())  # its own would be a semaphore of the system in every worker
gc.freeze()


def work(job: Job, sender: Connection) -> None:
    """Do a run; say how it goes through `sender`, and how it ended by the exit code."""
    signal.signal(signal.SIGINT, once_a_press(interrupt_now))
    stop_without_parent(EXIT_CODES["interrupted"], stop_s=STOP_S)
    if job.detached:
        os.setpgid(0, 0)
    if job.gpu is not None:  # before anything asks for a device
        os.environ["CUDA_VISIBLE_DEVICES"] = job.gpu
    torch.set_num_threads(job.threads)
    quiet.silence_libraries()

    def tell(event: dict[str, Any]) -> None:
        try:
            sender.send(event)
        except OSError:  # the parent died: stop too, the run can be resumed
            raise KeyboardInterrupt from None

    outcome: AttemptOutcome
    try:
        run, store = read_run(job.run), Store(Path(job.root))
        outcome = attempt(
            run,
            store,
            on_progress=tell,
            dead=job.dead,
            expiry_s=job.expiry_s,
            pause_epoch=job.pause_epoch,
        )
    except KeyboardInterrupt:
        outcome = "interrupted"
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_CODES[outcome])
