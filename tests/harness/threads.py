"""Calls that need a thread of their own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def apart(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The function's result from a thread of its own.

    A browser test in the same process leaves an event loop running, beside which `asyncio.run`
    refuses to work.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args, **kwargs).result()
