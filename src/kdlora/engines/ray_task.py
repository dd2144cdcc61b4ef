"""What a node of a Ray cluster does with one run: fork a worker as the local engine does.

The run's process is a child of Ray's worker, so that memory, libraries and numbers are those of the
local engine, and a crash of it leaves Ray's worker, with torch loaded beside it, for the next run.
When Ray's worker goes down, the child notices, writes a checkpoint and gives its lease back.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from kdlora.engines.local import interrupt, launch
from kdlora.engines.supervisor import Job
from kdlora.errors import StoreError
from kdlora.records.study_folder import RUNS

_PAUSE_S = 0.25  # between two messages about steps


class Mailbox:
    """Keeps what workers say until the engine asks; an actor. Progress only, never results."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def put(self, key: str, events: list[dict[str, Any]]) -> None:
        self.events += [(key, event) for event in events]

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        events, self.events = self.events, []
        return events


def do_run(job: Job, mailbox: Any, key: str) -> int | None:
    """Do one run; returns the exit code of its process (see `failure.EXIT_CODES`).

    Raises StoreError where this node does not see the study's folder.
    """
    if not (Path(job.root) / RUNS).is_dir():
        raise StoreError(
            f"node {socket.gethostname()} does not see {job.root}: the study's folder has to be "
            "shared by all nodes, under the same path"
        )
    if threading.current_thread() is threading.main_thread():
        # A cluster started in the background of a script ignores SIGINT, and Ray's cancel with it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gpus = ray.get_gpu_ids()
    gpu = ",".join(map(str, gpus)) if gpus else None
    # Detached: Ray kills the process group of a lost worker, and no checkpoint would be left.
    receiver, process = launch(replace(job, gpu=gpu, detached=True), f"kdlora {key}")
    while True:
        try:
            _forward(receiver, mailbox, key)
            process.join()
            return process.exitcode
        except KeyboardInterrupt:  # the engine cancelled the task
            interrupt(process)


def _forward(receiver: Any, mailbox: Any, key: str) -> None:
    """Send on what the child says, steps not more often than a reader can see, until it ends."""
    events: list[dict[str, Any]] = []
    sent = 0.0
    ended = False
    while not ended:
        if receiver.poll(_PAUSE_S):
            try:
                event = receiver.recv()
            except (EOFError, OSError):
                ended = True
            else:
                if events and "step" in event and "step" in events[-1]:
                    events.pop()  # overtaken
                events.append(event)
        if events and (ended or time.monotonic() - sent > _PAUSE_S):
            mailbox.put.remote(key, events)
            events, sent = [], time.monotonic()
