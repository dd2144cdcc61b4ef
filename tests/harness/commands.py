"""Commands of kdlora in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def command(*arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "kdlora", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
