"""The process that does one run. Importing this module loads torch, once, in the fork server."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow.parquet  # noqa: F401  (pandas would load it when the predictions are written)
import torch
from tqdm import tqdm

from kdlora.engines.attempt import Outcome, attempt
from kdlora.engines.crew import Job
from kdlora.engines.failure import EXIT_CODES
from kdlora.models import quiet
from kdlora.spec.run import Run
from kdlora.store.environment import remember_environment
from kdlora.store.store import Store
from kdlora.training.interrupts import interrupt_now, once_a_press

# What follows is done once, here; every worker that is forked from here has it. Frozen objects are
# not walked by the workers' garbage collectors, which would copy their pages, too.
remember_environment()
tqdm.set_lock(threading.RLock())  # its own would be a semaphore of the system in every worker
gc.collect()
gc.freeze()


def work(job: Job, sender: Connection) -> None:
    """Do a run; say how it goes through `sender`, and how it ended by the exit code."""
    signal.signal(signal.SIGINT, once_a_press(interrupt_now))
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

    outcome: Outcome
    try:
        run, store = Run.model_validate_json(job.run), Store(Path(job.root))
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
