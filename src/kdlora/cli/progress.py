"""What a person sees while a study runs: one bar for all runs, one for each at work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from kdlora.cli.terminal import terminal
from kdlora.spec.plan import Plan
from kdlora.spec.run import Run


class Board:
    """Live bars on a terminal; anywhere else one line a finished run, with how far all is.

    Args:
        done: ids of the runs that were done before.
        only: ids of the runs that are to be done, those among them; None means all of the plan.
    """

    def __init__(
        self,
        plan: Plan,
        console: Console,
        *,
        done: Iterable[str] = (),
        only: Collection[str] | None = None,
    ) -> None:
        self.console = console
        chosen = {run.run_id for run in plan.runs} if only is None else set(only)
        self.total = len(chosen)
        self.ended = chosen.intersection(done)
        self.left = ""
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.jobs: dict[str, Any] = {}
        self.begun: dict[str, float] = {}

    def __enter__(self) -> Board:
        self.bars.__enter__()
        self.overall = self.bars.add_task(
            "all runs", total=self.total, completed=len(self.ended), info=""
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.__exit__(*exception)  # type: ignore[arg-type]

    def note(self, text: str) -> None:
        self.console.print(text, style="dim", soft_wrap=True)

    def on_event(self, run: Run, event: dict[str, Any]) -> None:
        """Follow one run (see `engines.supervisor.OnEvent`)."""
        name = f"{run.task.name} {run.title} s{run.seed}"
        if event.get("remaining_s") is not None:
            self.left = f"about {words(event['remaining_s'])} left"
            self.bars.update(self.overall, info=self.left)
        if "start" in event:
            self._reopen(run)
            self.begun[run.run_id] = time.monotonic()
            worker = f"{event['worker'] + 1} " if "worker" in event else ""
            self.jobs[run.run_id] = self.bars.add_task(worker + name, total=None, info="starting")
            return
        job = self.jobs.get(run.run_id)
        if "done" in event or "failed" in event:
            self._end(run, name, event)
        elif "retry" in event:
            self._reopen(run)
            self._say("again", "yellow", name, event["retry"])
        elif "leased" in event:
            self._say("waits", "dim", name, f"{event['leased']} works on it")
        elif "later" in event or "stopped" in event:
            self._count(run)
            self._say("left", "dim", name, event.get("later") or event["stopped"])
        elif job is None:
            return
        elif "stage" in event:
            self.bars.update(job, info=event["stage"], total=event.get("total"))
        elif "step" in event:
            self.bars.update(job, completed=event["step"], total=event["total"])
        elif "evaluation" in event:
            scores = event["evaluation"]["selection"]
            metric, value = next(iter(scores.items()))
            shown = "undefined" if value is None else f"{value:.4f}"
            self.bars.update(job, info=f"selection {metric} {shown}")

    def _end(self, run: Run, name: str, event: dict[str, Any]) -> None:
        seconds = time.monotonic() - self.begun.get(run.run_id, time.monotonic())
        here = run.run_id in self.begun
        self._count(run)
        if "failed" in event:
            reason = str(event["failed"]).strip().splitlines()[-1]
            self._say("failed", "red", name, reason)
            return
        quality = event["done"].quality
        shown = "undefined" if quality.score is None else f"{quality.score:.4f}"
        flags = [flag.name for flag in event["done"].doubts]
        doubt = f"  {', '.join(flags)}" if flags else ""
        took = f"in {seconds:.0f} s" if here else "by another process"
        self._line("done", "green", f"{name}: {quality.primary} {shown} {took}", doubt)

    def _count(self, run: Run) -> None:
        self._drop(run)
        self.ended.add(run.run_id)
        self.bars.update(self.overall, completed=len(self.ended))

    def _reopen(self, run: Run) -> None:
        """A run begins: for the first time, or again after an attempt that came to nothing."""
        self._drop(run)
        self.ended.discard(run.run_id)
        self.bars.update(self.overall, completed=len(self.ended))

    def _far(self) -> str:
        """How far all is, where no bar shows it."""
        if self.console.is_terminal:
            return ""
        counted = f"{len(self.ended)}/{self.total}"
        return f"  ({counted}, {self.left})" if self.left else f"  ({counted})"

    def _drop(self, run: Run) -> None:
        job = self.jobs.pop(run.run_id, None)
        if job is not None:
            self.bars.remove_task(job)

    def _say(self, state: str, style: str, name: str, why: str) -> None:
        self._line(state, style, f"{name}: {why}")

    def _line(self, state: str, style: str, text: str, doubt: str = "") -> None:
        begin = (f"{state:<6}", style)
        line = Text.assemble(begin, f" {text}", (doubt, "yellow"), self._far())
        self.console.print(line, soft_wrap=True)


@contextmanager
def steps(what: str, total: int, *, hidden: bool = False) -> Iterator[Callable[[str], None]]:
    """A bar of steps, with the time left, on a terminal's standard error; elsewhere nothing.

    `hidden` shows nothing anywhere.

    What is yielded is called with the name of each step before it begins.
    """
    console = terminal(stderr=True)
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[info]}", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=hidden or not console.is_terminal,
    )
    with bars:
        job = bars.add_task(what, total=total, info="")
        begun = 0

        def on_step(name: str) -> None:
            nonlocal begun
            bars.update(job, completed=begun, info=name)
            begun += 1

        yield on_step


_PATIENCE_S = 1.0  # what takes no longer shows nothing


@contextmanager
def waiting(what: str, *, hidden: bool = False) -> Iterator[None]:
    """What is done and for how long already, on a terminal's standard error; elsewhere nothing.

    For work whose steps are not known beforehand. `hidden` shows nothing anywhere.
    """
    console = terminal(stderr=True)
    if hidden or not console.is_terminal:
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    shown = Progress(*columns, console=console, transient=True)
    shown.add_task(what, total=None)
    begin = threading.Timer(_PATIENCE_S, shown.start)
    begin.start()
    try:
        yield
    finally:
        begin.cancel()
        begin.join()  # else it could begin after its end
        shown.stop()


def say_set_aside(root: Path, console: Console) -> None:
    """Name every file of a study that could not be trusted and was set aside."""
    from kdlora.records.store import Store

    store = Store(root)
    for path in store.damaged_in_place():
        console.print(
            f"damaged: {path} (it counts for nothing; `kdlora run` sets it aside and does the run)",
            soft_wrap=True,
        )
    for path in store.damaged():
        console.print(
            f"set aside: {path} (damaged; it counts for nothing, and is kept)",
            soft_wrap=True,
        )


def words(seconds: float) -> str:
    """A duration as a person says it: ``40 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 36:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
