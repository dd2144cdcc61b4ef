"""Dynamic batching: requests that wait are computed together, and no more wait than fit."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from kdlora.serve.requests import Limits, RequestError
from kdlora.ship.answers import Answer, Texts

Ask = Callable[[Texts], list[Answer]]


class Watch(Protocol):
    """Who is told what happens (see `metrics.Metrics`)."""

    def waiting(self, texts: int) -> None: ...

    def batch(self, texts: int, seconds: float) -> None: ...


@dataclass(eq=False)
class _Job:
    texts: list[list[str]]  # [columns][rows]
    answer: asyncio.Future[list[Answer]]

    @property
    def rows(self) -> int:
        return len(self.texts[0])


@dataclass
class Batcher:
    """A bounded queue before one model, which computes in threads of its own.

    A batch is begun as soon as a thread is free; it waits at most `max_wait_ms` for company, and
    only while as many requests as were last under way together have not come yet. A lone caller
    therefore never waits.
    """

    ask: Ask
    limits: Limits
    watch: Watch
    workers: int = 1
    _jobs: deque[_Job] = field(default_factory=deque)
    _rows: int = 0  # texts in `_jobs`
    _company: int = 1  # requests that were last computed or waiting at one time
    _pace_s: float = 0.0  # seconds a text, smoothed
    _busy: set[asyncio.Task[None]] = field(default_factory=set)

    def start(self) -> None:
        """Begin to compute; call it in the running event loop."""
        self._came = asyncio.Event()
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="model")
        self._free = asyncio.Semaphore(self.workers)
        self._loop = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        """Compute what waits, then end."""
        while self._jobs or self._busy:
            await asyncio.sleep(0.005)
        self._loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._loop
        self._threads.shutdown()

    async def submit(self, texts: list[list[str]]) -> list[Answer]:
        """Answers to the texts of one request.

        Raises RequestError: 503 where the queue is full, 504 after `timeout_s`.
        """
        job = _Job(texts, asyncio.get_running_loop().create_future())
        if self._rows + job.rows > self.limits.queue:
            raise RequestError(
                503, "queue_full",
                f"{self._rows} texts wait already, at most {self.limits.queue}; try again later",
                retry_after_s=max(1, math.ceil(self._rows * self._pace_s)),
            )  # fmt: skip
        self._jobs.append(job)
        self._count(job.rows)
        self._came.set()
        try:
            return await asyncio.wait_for(job.answer, self.limits.timeout_s)
        except TimeoutError:
            raise RequestError(
                504, "timeout",
                f"no answer within {self.limits.timeout_s:g} s; try again with fewer texts",
            ) from None  # fmt: skip
        finally:
            if job in self._jobs:  # given up: it makes room for others
                self._jobs.remove(job)
                self._count(-job.rows)

    def _count(self, rows: int) -> None:
        self._rows += rows
        self.watch.waiting(self._rows)

    async def _serve(self) -> None:
        while True:
            await self._free.acquire()
            while not (jobs := await self._next()):
                pass
            task = asyncio.create_task(self._compute(jobs))
            self._busy.add(task)
            task.add_done_callback(self._busy.discard)

    async def _next(self) -> list[_Job]:
        """The next batch, once there is a reason to begin it; empty if all gave up meanwhile."""
        while not self._jobs:
            self._came.clear()
            await self._came.wait()
        deadline = time.monotonic() + self.limits.max_wait_ms / 1e3
        while (
            self._rows < self.limits.max_batch
            and len(self._jobs) < self._company
            and (left := deadline - time.monotonic()) > 0
        ):
            self._came.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._came.wait(), left)
        jobs: list[_Job] = []
        rows = 0
        while self._jobs and (not jobs or rows + self._jobs[0].rows <= self.limits.max_batch):
            job = self._jobs.popleft()
            self._count(-job.rows)
            if not job.answer.done():  # else its caller gives up this very moment
                jobs.append(job)
                rows += job.rows
        return jobs

    async def _compute(self, jobs: list[_Job]) -> None:
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        try:
            outcomes = await loop.run_in_executor(self._threads, self._outcomes, jobs)
        finally:
            self._company = len(jobs) + len(self._jobs)
            self._free.release()
        answered = 0
        for job, outcome in zip(jobs, outcomes, strict=True):
            if not isinstance(outcome, Exception):
                answered += job.rows
            if job.answer.done():  # given up meanwhile
                continue
            if isinstance(outcome, Exception):
                job.answer.set_exception(outcome)
            else:
                job.answer.set_result(outcome)
        if answered:
            seconds = time.monotonic() - began
            self._pace_s += 0.2 * (seconds / answered - self._pace_s)
            self.watch.batch(answered, seconds)

    def _outcomes(self, jobs: list[_Job]) -> list[list[Answer] | Exception]:
        """Each job's answers, or why it has none; what one text breaks costs its own request only.

        Where a batch fails, each of its jobs is tried alone.
        """
        columns = [
            [text for job in jobs for text in job.texts[i]] for i in range(len(jobs[0].texts))
        ]
        try:
            found = self.ask(columns)
        except Exception as error:  # whatever the model does, each caller hears of it
            if len(jobs) == 1:
                return [error]
            return [outcome for job in jobs for outcome in self._outcomes([job])]
        ends = list(itertools.accumulate(job.rows for job in jobs))
        return [found[end - job.rows : end] for job, end in zip(jobs, ends, strict=True)]
