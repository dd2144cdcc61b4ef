"""Run a plan on this machine: one fresh process a run, forked from a server that has torch loaded.

A process of its own gives each run a clean memory reading, frees everything afterwards and keeps a
crash from taking the study along.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import forkserver, popen_forkserver, spawn
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from types import FunctionType, SimpleNamespace
from typing import Any

from kdlora.engines.supervisor import EngineOptions, Job, OnEvent, supervise
from kdlora.machine import available_cores, tune_workers, visible_gpus, worker_environment
from kdlora.records.store import Store
from kdlora.spec.plan import Plan
from kdlora.spec.run import Run

_RETRIES = 1
_STARTS = 5  # of a worker, while its server is being killed and its end is not seen yet
_BETWEEN_S = 0.2


@dataclass
class LocalBackend:
    """Workers are forked on this machine; see `supervisor.Backend`."""

    workers: int

    def room(self) -> int:
        return self.workers

    def launch(self, job: Job, run: Run) -> tuple[Connection, BaseProcess]:
        return launch(job, run.run_id)

    def ready(self, channels: Sequence[Connection], timeout_s: float) -> Iterable[Any]:
        return wait(channels, timeout=timeout_s)

    def interrupt(self, process: BaseProcess) -> None:
        interrupt(process)


def run_plan(
    plan: Plan,
    store: Store,
    options: EngineOptions | None = None,
    *,
    on_event: OnEvent = lambda run, event: None,
) -> dict[str, str]:
    """Do every run that is not done, teachers before their students.

    Unless `options` say more, one worker at a time has all the cores and GPUs that this process
    may use, and a run whose process was killed is tried once more.

    Returns run_id -> what became of it (see `schedule.State`). Raises Interrupted after Ctrl-C,
    once the running ones have written their checkpoints, and StoreError when the disk is full.
    """
    options = options or EngineOptions()
    options = replace(
        options,
        threads=_threads(options),
        gpus=visible_gpus() if options.gpus is None else options.gpus,
        retries=_RETRIES if options.retries is None else options.retries,
    )
    return supervise(plan, store, LocalBackend(options.workers or 1), options, on_event)


def _threads(options: EngineOptions) -> int:
    """Threads of each worker; unless named, they share the cores."""
    return options.threads or max(1, available_cores() // (options.workers or 1))


def start_server(options: EngineOptions) -> None:
    """Let the server that workers are forked from load torch, while a study is still checked.

    It ends with this process. Otherwise the first worker would start it and wait for it.
    """
    _context()
    with _environment(worker_environment(_threads(options))):  # the server's: workers inherit it
        forkserver.ensure_running()


def _preparation_without_main(name: str) -> dict[str, Any]:
    """What a worker is told of its parent, but for the main module, which it is not to import."""
    told = spawn.get_preparation_data(name)
    return {key: value for key, value in told.items() if not key.startswith("init_main_from_")}


class _WorkerPopen(popen_forkserver.Popen):
    # The standard library's own method. It finds another `spawn` among its globals, so that
    # nothing changes for the other processes that the user's program may start meanwhile.
    _launch = FunctionType(
        popen_forkserver.Popen._launch.__code__,  # type: ignore[attr-defined]
        {
            **vars(popen_forkserver),
            "spawn": SimpleNamespace(get_preparation_data=_preparation_without_main),
        },
    )


class WorkerProcess(ForkServerProcess):
    """A process of the fork server in which the user's main module is not run a second time.

    A script without a main guard would start its study again in every worker, and what comes from
    stdin or a notebook cannot be imported at all. Nothing that a worker needs is defined there.
    """

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> _WorkerPopen:  # noqa: N802  (multiprocessing's name)
        return _WorkerPopen(process_obj)


def launch(job: Job, name: str) -> tuple[Connection, BaseProcess]:
    """Fork a worker; its events arrive at the connection, which ends with it.

    The server that all workers are forked from, with what they need loaded, is started by
    `start_server` or the first of them, and again by the next should it have been killed.
    """
    context = _context()
    starts = 0
    while True:
        starts += 1
        receiver, sender = context.Pipe(duplex=False)
        process = WorkerProcess(target=_work, args=(job, sender), name=name)
        try:
            with _environment(worker_environment(job.threads)):  # should the server start with it
                process.start()
            return receiver, process
        except (EOFError, ConnectionError):  # the server is being killed at this moment
            receiver.close()
            if starts == _STARTS:
                raise
            time.sleep(_BETWEEN_S)
        finally:
            sender.close()


def _context() -> ForkServerContext:
    """The context of workers, whose server will load what they need when it starts."""
    tune_workers()
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["kdlora.engines.worker"])
    return context


def _work(job: Job, sender: Connection) -> None:
    """Named here, because to name it in `worker` would load torch where nothing computes."""
    from kdlora.engines.worker import work

    work(job, sender)


def interrupt(process: BaseProcess) -> None:
    """Ask a worker to stop after a checkpoint."""
    if process.pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """These variables for the processes started meanwhile; what the user set stays."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
