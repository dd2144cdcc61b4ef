"""Mirroring to a tracker while a study runs, beside it and never in its way."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdlora.mirrors.mirror import Mirror, Target, open_mirror
from kdlora.records.store import Store
from kdlora.spec.run import Run


class Tracker:
    """Enters each run that ends into MLflow or Trackio, from a thread of its own.

    A server that fails or hangs costs the study nothing: it is told once, and the records can be
    mirrored later. Use it as a context manager around the study.

    Args:
        root: the study's folder, whose plan has been saved.
        target: where to.
        on_note: told the one warning.
        patience_s: how long the end of the study waits for the last records.

    Raises InputError when the tracker is not installed or its address is none.
    """

    def __init__(
        self,
        root: Path,
        target: Target | None = None,
        *,
        on_note: Callable[[str], None] = lambda text: None,
        patience_s: float = 60.0,
    ) -> None:
        self.store, self.target = Store(root), target or Target()
        for check in self.target.checks(root):
            check()
        self.on_note, self.patience_s = on_note, patience_s
        self.ended: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        name = f"{self.target.tool} mirror"
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> Tracker:
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.ended.put(None)
        self.thread.join(self.patience_s)
        if self.thread.is_alive():
            self._warn(f"it did not take the last records within {self.patience_s:.0f} s")

    def on_event(self, run: Run, event: dict[str, Any]) -> None:
        """Follow the study (see `engines.supervisor.OnEvent`)."""
        if "done" in event or "failed" in event:
            self.ended.put(run.run_id)

    def _work(self) -> None:
        try:
            mirror = open_mirror(self.store.root, self.target)
            while (run_id := self.ended.get()) is not None:
                self._add(mirror, run_id)
            mirror.sync()  # what was done before, and by others meanwhile
        except Exception as error:
            first, *_ = (str(error).strip() or "no reason given").splitlines()
            self._warn(f"{type(error).__name__}: {first}")

    def _add(self, mirror: Mirror, run_id: str) -> None:
        record = self.store.read(run_id) or self.store.read_failure(run_id)
        if record is not None:
            mirror.add(record)

    def _warn(self, why: str) -> None:
        self.on_note(
            f"warning: the mirror to {self.target.title} stopped ({why}); the study goes on, and "
            f"`kdlora track {self.store.root}{self.target.options}` mirrors all of it later"
        )
