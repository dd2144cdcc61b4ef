"""Run a plan on this machine: one fresh process a run, forked from a server that has torch loaded.

A process of its own gives each run a clean memory reading, frees everything afterwards and keeps a
crash from taking the study along.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import forkserver, popen_forkserver, resource_tracker, spawn
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from types import FunctionType, SimpleNamespace
from typing import Any, TypeVar, cast

from kdlora.engines.failure import EXIT_CODES, describe_death
from kdlora.engines.parent_death import stop_without_parent
from kdlora.engines.supervisor import EngineOptions, Job, OnEvent, supervise
from kdlora.errors import KdloraError, StoreError
from kdlora.machine import available_cores, tune_workers, visible_gpus, worker_environment
from kdlora.records.store import Store
from kdlora.spec.plan import Plan
from kdlora.spec.run import Run

A = TypeVar("A")
R = TypeVar("R")

PRELOADED = ["kdlora.engines.preload"]  # what the workers' server imports when it starts
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
        _ensure_server()


def _ensure_server() -> None:
    """Have the server running, deaf to Ctrl-C from its first instruction (see `preload`)."""
    resource_tracker.ensure_running()  # which the server's start would do, and hear it again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    """Fork a worker; its events arrive at the connection, which ends with it."""
    return _fork(_work, (job,), name, job.threads)


def call_in_worker(
    function: Callable[[A, Callable[[str], None]], R],
    argument: A,
    on_note: Callable[[str], None],
    options: EngineOptions | None = None,
) -> R:
    """Call `function(argument, on_note)` where torch is loaded already, and return its result.

    So this process need not load it. `function` is found by its module's and its own name; the
    argument and the result are pickled.

    Raises what it raises, with its traceback as a note, and StoreError if its process was killed.
    """
    asked = (function, argument, dict(os.environ))
    name = function.__name__.strip("_").replace("_", " ")
    receiver, process = _fork(_answer, asked, name, _threads(options or EngineOptions()))
    try:
        while (told := _received(receiver)) and told[0] == "note":
            on_note(told[1])
        if told is None:
            process.join()
            raise StoreError(f"{name}: {describe_death(process.exitcode)}")
        if told[0] == "error":
            raise told[1]
        return cast(R, told[1])
    finally:
        receiver.close()
        process.kill()  # it has ended, unless this process is interrupted
        process.join()


def _received(receiver: Connection) -> tuple[str, Any] | None:
    """What a process says next; None once it has ended."""
    try:
        return cast(tuple[str, Any], receiver.recv())
    except EOFError:
        return None


def _fork(
    target: Callable[..., None], arguments: tuple[Any, ...], name: str, threads: int
) -> tuple[Connection, BaseProcess]:
    """A process that calls `target(*arguments, sender)`, and the other end of its connection.

    The server that all are forked from, with what they need loaded, is started by `start_server`
    or the first of them, and again by the next should it have been killed.
    """
    context = _context()
    starts = 0
    while True:
        starts += 1
        receiver, sender = context.Pipe(duplex=False)
        process = WorkerProcess(target=target, args=(*arguments, sender), name=name)
        try:
            with _environment(worker_environment(threads)):  # should the server start with it
                _ensure_server()
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
    context.set_forkserver_preload(PRELOADED)
    return context


def _work(job: Job, sender: Connection) -> None:
    """Named here, because to name it in `worker` would load torch where nothing computes."""
    from kdlora.engines.worker import work

    work(job, sender)


def _answer(
    function: Callable[[A, Callable[[str], None]], R],
    argument: A,
    environment: Mapping[str, str],
    sender: Connection,
) -> None:
    """What a process of `call_in_worker` does; the server may be older than its caller's settings.

    Ctrl-C is for the caller, who ends this process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop_without_parent(EXIT_CODES["interrupted"], stop_s=0)
    os.environ.update(environment)
    try:
        result = function(argument, lambda text: sender.send(("note", text)))
    except Exception as error:
        sender.send(("error", _as_sent(error)))
    else:
        sender.send(("result", result))


def _as_sent(error: Exception) -> Exception:
    """An error as another process can raise it, with where it arose."""
    arose = traceback.format_exc()
    if not isinstance(error, KdloraError):  # a user's error stands for itself
        error.add_note(arose)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # of a class that cannot be made again from what it holds
        return RuntimeError(arose)
    return error


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
