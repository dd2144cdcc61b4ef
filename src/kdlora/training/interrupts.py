"""Ctrl-C during training: it waits for the end of a step, and is heard once a press.

A press reaches every process of a terminal's group, and the parent of a worker then asks it to stop
as well: signals that close together are one request, and must not cut off the checkpoint that the
first of them asked for.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SAME_PRESS_S = 1.0  # signals closer together than this come from one press


def once_a_press(act: Callable[[], None]) -> Callable[[int, Any], None]:
    """A signal handler that calls `act` for the first signal of a press and ignores the others."""
    heard = -SAME_PRESS_S

    def handler(number: int, frame: Any) -> None:
        nonlocal heard
        now = time.monotonic()
        if now - heard >= SAME_PRESS_S:
            heard = now
            act()

    return handler


def interrupt_now() -> None:
    """What Ctrl-C does by default."""
    raise KeyboardInterrupt


@contextmanager
def polite_interrupt() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether Ctrl-C was pressed; a second press stops at once.

    So a checkpoint is never half a step old. Only the main thread may handle signals; elsewhere
    nothing changes.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def remember() -> None:
        if asked.is_set():
            interrupt_now()
        asked.set()

    previous = signal.signal(signal.SIGINT, once_a_press(remember))
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
