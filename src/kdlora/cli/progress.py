"""What a person sees while a study runs: one bar for all runs, one for each at work."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kdlora.spec.plan import Plan
from kdlora.spec.run import Run


class Board:
    """Live bars on a terminal, one line a finished run anywhere else."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan, self.console = plan, console
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.jobs: dict[str, Any] = {}
        self.begun: dict[str, float] = {}
        self.ended = 0

    def __enter__(self) -> Board:
        self.bars.__enter__()
        self.overall = self.bars.add_task("all runs", total=len(self.plan.runs), info="")
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.__exit__(*exception)  # type: ignore[arg-type]

    def note(self, text: str) -> None:
        self.console.print(text, style="dim", highlight=False, soft_wrap=True)

    def on_event(self, run: Run, event: dict[str, Any]) -> None:
        """Follow one run (see `engines.local.OnEvent`)."""
        name = escape(f"{run.task.name} {run.title} s{run.seed}")
        if "start" in event:
            self.begun[run.run_id] = time.monotonic()
            self.jobs[run.run_id] = self.bars.add_task(name, total=None, info="starting")
            return
        job = self.jobs.get(run.run_id)
        if "done" in event or "failed" in event:
            self._end(run, name, event)
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
        job = self.jobs.pop(run.run_id, None)
        if job is not None:
            self.bars.remove_task(job)
        self.ended += 1
        self.bars.update(self.overall, completed=self.ended)
        seconds = time.monotonic() - self.begun.get(run.run_id, time.monotonic())
        if "failed" in event:
            reason = escape(str(event["failed"]).strip().splitlines()[-1])
            self.console.print(f"[red]failed[/red] {name}: {reason}", soft_wrap=True)
            return
        quality = event["done"].quality
        shown = "undefined" if quality.score is None else f"{quality.score:.4f}"
        flags = [flag.name for flag in event["done"].health if flag.severity != "info"]
        doubt = f"  [yellow]{', '.join(flags)}[/yellow]" if flags else ""
        self.console.print(
            f"[green]done[/green]   {name}: {quality.primary} {shown} in {seconds:.0f} s{doubt}",
            highlight=False,
            soft_wrap=True,
        )
