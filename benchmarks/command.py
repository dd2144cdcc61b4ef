"""What one `kdlora` command takes: wall-clock and processor seconds, and its peak memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Taken:
    """What a command printed, and what it took; MB = 10^6 bytes."""

    stdout: str
    wall_s: float
    cpu_s: float
    peak_mb: float


def measured(arguments: Sequence[str]) -> Taken:
    """Run `kdlora` with these arguments in a process of its own, its start-up counted."""
    begun, spent = time.perf_counter(), _children_s()
    command = [sys.executable, "-m", "benchmarks.command", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall_s, cpu_s = time.perf_counter() - begun, _children_s() - spent
    *said, last = done.stdout.splitlines()
    return Taken("\n".join(said), wall_s, cpu_s, json.loads(last)["peak_mb"])


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _one(arguments: list[str]) -> None:
    """The command itself, then how large its process grew."""
    from kdlora.cli import main

    try:
        main(arguments)
    except SystemExit as end:
        if end.code:
            raise
    # Not getrusage: its peak is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    print(json.dumps({"peak_mb": peak}))


if __name__ == "__main__":
    _one(sys.argv[1:])
