"""Run a plan on a Ray cluster: each run a task with its share of processors and memory.

The order of runs, leases, retries and records are those of every engine (`engines.supervisor`);
Ray finds the place and says when a worker or a node is lost. The study's folder has to be shared by
all nodes under one path. Needs ``pip install kdlora[ray]``.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kdlora.engines.failure import EXIT_CODES
from kdlora.engines.ray_cluster import Node, check_nodes, connected, live_nodes, require_ray
from kdlora.engines.supervisor import EngineOptions, Job, OnEvent, supervise
from kdlora.errors import InputError, KdloraError
from kdlora.planning.costs import estimate
from kdlora.records.store import Store
from kdlora.spec.plan import Plan
from kdlora.spec.run import BaselineRun, Run

RETRIES = 4  # a node may be lost many times on machines that are lent
_MOST_THREADS = 4  # small encoders gain little from more; more runs at once do
_LOOK_S = 2.0  # between two looks at the cluster's nodes
_MAILBOX_S = 10.0


def run_plan(
    plan: Plan,
    store: Store,
    options: EngineOptions | None = None,
    *,
    address: str | None = None,
    on_event: OnEvent = lambda run, event: None,
) -> dict[str, str]:
    """Do every run that is not done on a Ray cluster, teachers before their students.

    Unless `options` say more, as many runs are at work as the cluster has room for, also when nodes
    come and go, each with up to 4 of its CPUs; more workers than that let an autoscaling cluster
    grow. Which GPU a run gets is Ray's business.

    Args:
        address: local, auto, ray://host:port or host:port; see `ray_cluster.connected`.

    The result and the errors are those of `engines.local.run_plan`; InputError too where ray is
    missing, no cluster answers, or its nodes do not fit each other.
    """
    options = options or EngineOptions()
    require_ray()
    with connected(address):
        check_nodes(store)
        nodes = live_nodes()
        threads = options.threads or usual_threads(nodes, options.workers)
        problems = cluster_problems(nodes, threads)
        if problems:
            raise InputError(problems, where="Ray cluster")
        memory = {i: e.peak_memory_mb * 1e6 for i, e in estimate(plan, store).items()}
        gpu = any(node.gpus for node in nodes)
        backend = RayBackend(options.workers, threads, gpu=gpu, memory=memory)
        retries = RETRIES if options.retries is None else options.retries
        options = replace(options, threads=threads, gpus=(), retries=retries)
        return supervise(plan, store, backend, options, on_event)


@dataclass(eq=False)
class RayWorker:
    """A run as a Ray task: both where its events arrive and what stands for its process."""

    key: str
    reference: Any
    events: deque[dict[str, Any]] = field(default_factory=deque)
    asked_to_stop: bool = False
    exitcode: int | str | None = None
    ended: bool = False

    def recv(self) -> dict[str, Any]:
        """The next event. Raises EOFError after the last one."""
        if self.events:
            return self.events.popleft()
        self._settle()
        raise EOFError

    def close(self) -> None:
        self.events.clear()

    def is_alive(self) -> bool:
        return not self.ended and not _finished([self], 0.0)

    def join(self, timeout: float | None = None) -> None:
        _finished([self], timeout)

    def terminate(self) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError, ConnectionError):
            ray.cancel(self.reference, force=True)

    def _settle(self) -> None:
        """Learn how the task ended. Raises KdloraError where the node could not even begin."""
        if self.ended:
            return
        self.ended = True
        import ray

        try:
            code = ray.get(self.reference)
            outside = code == EXIT_CODES["interrupted"] and not self.asked_to_stop
            self.exitcode = "it was interrupted on its node" if outside else code
        except ray.exceptions.TaskCancelledError:
            stopped = EXIT_CODES["interrupted"]
            self.exitcode = stopped if self.asked_to_stop else "its Ray task was cancelled"
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, KdloraError):
                raise error.cause from None
            self.exitcode = f"its Ray task failed: {error.cause!r}"
        except ray.exceptions.OutOfMemoryError:
            self.exitcode = "Ray ended it, because its node was running out of memory"
        except (ray.exceptions.NodeDiedError, ray.exceptions.LocalRayletDiedError):
            self.exitcode = "the node it ran on was lost"
        except ray.exceptions.RayError as error:
            self.exitcode = f"its Ray worker was lost ({type(error).__name__})"


class RayBackend:
    """Workers are tasks of a Ray cluster; see `supervisor.Backend`.

    Args:
        workers: runs at once, None for as many as there is room for.
        threads: CPUs of a run.
        gpu: whether each run that trains gets a GPU of its own.
        memory: estimated bytes of each run, by run id.
    """

    def __init__(
        self, workers: int | None, threads: int, *, gpu: bool, memory: Mapping[str, float]
    ) -> None:
        import ray

        from kdlora.engines import ray_task

        self.workers, self.threads, self.gpu, self.memory = workers, threads, gpu, memory
        self.task = ray.remote(max_retries=0)(ray_task.do_run)
        # Ray starts it again, on another node, if its own is lost; only news of steps is lost.
        mailbox: Any = ray.remote(ray_task.Mailbox)
        self.mailbox = mailbox.options(num_cpus=0, max_restarts=-1).remote()
        self.nodes: list[Node] = []
        self.looked = 0.0
        self.keys = (f"{number}" for number in itertools.count())

    def room(self) -> int:
        self._look()
        return self.workers or room_of(self.nodes, self.threads, gpu=self.gpu)

    def launch(self, job: Job, run: Run) -> tuple[RayWorker, RayWorker]:
        key = f"{run.run_id} {next(self.keys)}"
        reference = self.task.options(
            name=run.run_id, **resources(run, self.nodes, self.threads, self.gpu, self.memory)
        ).remote(job, self.mailbox, key)
        worker = RayWorker(key, reference)
        return worker, worker

    def ready(self, channels: Sequence[RayWorker], timeout_s: float) -> Iterable[RayWorker]:
        until = time.monotonic() + timeout_s
        while True:
            self._fetch(channels)
            finished = _finished(channels, 0.0)
            ready = [c for c in channels if c.events or c in finished]
            left = until - time.monotonic()
            if ready or left <= 0:
                return ready
            _finished(channels, min(left, 0.25))

    def interrupt(self, process: RayWorker) -> None:
        import ray

        process.asked_to_stop = True
        with contextlib.suppress(ray.exceptions.RayError, ConnectionError):
            ray.cancel(process.reference, force=False)

    def _fetch(self, channels: Sequence[RayWorker]) -> None:
        """Empty the mailbox; while it is away nothing is news."""
        import ray

        open_ones = {channel.key: channel for channel in channels}
        with contextlib.suppress(ray.exceptions.RayError):
            for key, event in ray.get(self.mailbox.take.remote(), timeout=_MAILBOX_S):
                if key in open_ones:
                    open_ones[key].events.append(event)

    def _look(self) -> None:
        if not self.nodes or time.monotonic() - self.looked > _LOOK_S:
            self.nodes, self.looked = live_nodes(), time.monotonic()


def _finished(workers: Sequence[RayWorker], timeout_s: float | None) -> list[RayWorker]:
    """Those whose task has ended in some way, as soon as there is one."""
    import ray

    by_reference = {worker.reference: worker for worker in workers}
    ended, _ = ray.wait(list(by_reference), num_returns=1, timeout=timeout_s)
    if ended:  # all of them, not only the first
        ended, _ = ray.wait(list(by_reference), num_returns=len(by_reference), timeout=0)
    return [by_reference[reference] for reference in ended]


def room_of(nodes: Iterable[Node], threads: int, *, gpu: bool) -> int:
    """How many runs of so many threads, and a GPU each if `gpu`, fit at once."""
    return sum(
        int(min(node.cpus // threads, node.gpus if gpu else node.cpus // threads)) for node in nodes
    )


def usual_threads(nodes: Sequence[Node], workers: int | None) -> int:
    """Threads of a run unless told: the cluster's share of a worker, at most 4, on any node."""
    fit = int(min((node.cpus for node in nodes if node.cpus >= 1), default=1))
    share = int(sum(node.cpus for node in nodes) // workers) if workers else fit
    return max(1, min(fit, share, _MOST_THREADS))


def cluster_problems(nodes: Sequence[Node], threads: int) -> list[str]:
    """Why no run could ever start there."""
    most = int(max((node.cpus for node in nodes), default=0))
    if most == 0:
        return ["no node offers a CPU (was it started with --num-cpus 0?)"]
    if threads > most:
        return [f"--threads {threads}, but no node offers more than {most} CPUs"]
    return []


def resources(
    run: Run,
    nodes: Sequence[Node],
    threads: int,
    gpu: bool,
    memory: Mapping[str, float],
) -> dict[str, Any]:
    """What Ray keeps for a run. An estimate above the largest node's memory asks for all of it."""
    asked: dict[str, Any] = {"num_cpus": threads}
    if gpu and not isinstance(run, BaselineRun):
        asked["num_gpus"] = 1
    largest = max((node.memory for node in nodes), default=0.0)
    wanted = min(memory.get(run.run_id, 0.0), 0.95 * largest)
    if wanted > 0:
        asked["memory"] = int(wanted)
    return asked
