"""Commands of kdlora, in this process or in one of their own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

from kdlora.cli import main


def command(*arguments: object, cwd: Path) -> str:
    """What a command prints that ends well, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "kdlora", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def in_process(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same command without a new process, whose imports of torch alone take seconds.

    What is no error of a user's, and would be a traceback, is raised.
    """
    words, before = [str(word) for word in arguments], dict(os.environ)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    code = 0
    try:
        with (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            main(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        os.environ.clear()
        os.environ.update(before)
    shown = []
    for stream in (out, err):
        stream.flush()
        shown.append(stream.buffer.getvalue().decode())
    return subprocess.CompletedProcess(words, code, *shown)
