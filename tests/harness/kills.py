"""Work that is killed at every change that it makes to the disk."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

_CHANGES = ("os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.symlink")
_KILLED, _FAILED = 9, 7


def killed_at_every_change(work: Callable[[], object], check: Callable[[int], None]) -> int:
    """Do the work in processes of which the n-th ends before its n-th change, until one is done.

    A file that is about to be written over is empty when its process ends: what is being written
    is never whole. `check` is called with n after each. Returns how many were killed.
    """
    killed = 0
    while True:
        child = os.fork()
        if child == 0:
            _work_and_end(work, killed)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        check(killed)
        if code == 0:
            return killed
        assert code == _KILLED, "the work failed"
        killed += 1


def killed_at_any_time(
    work: Callable[[], object], check: Callable[[int], None], *, times: int = 8
) -> None:
    """Do the work in processes that are killed at random moments, then once in one that is not.

    A library that writes files by itself is killed in the middle of one only so.
    """
    drawn, longest = random.Random(0), 0.0
    for number in range(-1, times + 1):
        child = os.fork()
        if child == 0:
            _work_and_end(work, -1)
        began = time.perf_counter()
        if 0 <= number < times:
            time.sleep(drawn.uniform(0, longest))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        longest = max(longest, time.perf_counter() - began)
        code = os.waitstatus_to_exitcode(status)
        check(number)
        assert code == 0 or (code == -signal.SIGKILL and 0 <= number < times), "the work failed"


def _work_and_end(work: Callable[[], object], at: int) -> None:
    """In a process of its own: end it at this change (at none if negative), or with the work."""
    left = at

    def see(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if left < 0:  # this very change
            return
        path, flags = (arguments[0], arguments[2]) if event == "open" else (None, 0)
        opened = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
        if not (opened or event in _CHANGES):
            return
        left -= 1
        if left < 0:
            if opened and flags & os.O_TRUNC and isinstance(path, str | bytes | os.PathLike):
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644))
            os._exit(_KILLED)

    try:
        sys.addaudithook(see)
        work()
    except BaseException as error:
        sys.stderr.write(repr(error))
        os._exit(_FAILED)
    os._exit(0)
