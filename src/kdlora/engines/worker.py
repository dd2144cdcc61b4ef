"""The process that does one run. Importing this module loads torch, once, in the fork server."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from kdlora import recipes
from kdlora.engines.local import INTERRUPTED, describe_error, failed_record, worker_busy
from kdlora.models import quiet
from kdlora.spec.run import Run
from kdlora.store.store import Store


def work(run_json: str, root: str, threads: int, sender: Connection) -> None:
    """Do the run that `run_json` describes; say how it goes through `sender`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(threads)
    quiet.silence_libraries()
    run, store = Run.model_validate_json(run_json), Store(Path(root))

    def tell(event: dict[str, Any]) -> None:
        try:
            sender.send(event)
        except OSError:  # the parent died: stop too, the run can be resumed
            raise KeyboardInterrupt from None

    with store.lock(run.run_id) as free:
        if not free:
            sys.exit(worker_busy())
        if store.is_done(run.run_id):
            return
        try:
            recipes.run_one(run, store, on_progress=tell)
        except KeyboardInterrupt:
            os._exit(INTERRUPTED)
        except BaseException as error:
            store.fail(failed_record(run, describe_error(error)))
            sys.exit(1)
