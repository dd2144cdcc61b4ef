"""Files and folders that are there as a whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; it becomes `path` when the block ends without an error.

    Until then, and after an error, `path` is what it was. A process that is killed meanwhile leaves
    a file of the pattern `leftovers`.
    """
    temporary = beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """The same for a new folder, which takes the place of what is at `path`."""
    temporary = beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def beside(path: Path) -> Path:
    """A name in the same folder that nobody else uses; it says which process of which machine."""
    process = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    return path.with_name(f".{path.name}.{process}.tmp")


def leftovers(path: Path) -> list[Path]:
    """What processes that were killed while they wrote `path` left behind."""
    return list(path.parent.glob(f".{path.name}.*.tmp"))
