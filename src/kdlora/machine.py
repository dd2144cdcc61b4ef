"""This machine: which one it is, which of its processes live, and what a process may use of it.

Threads and memory have to be decided before a process that computes starts: they are environment
variables of the runtime libraries, read once when a process begins. What the user has set stays;
what was chosen is kept in the record's environment.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import socket
import subprocess
import time
from functools import lru_cache
from pathlib import Path

# glibc gives large blocks back to the system as soon as they are free, so that every step of a
# training pays for fresh pages; kept, and in large pages, they save about a seventh of a step.
# All threads share one arena: the thresholds hold for the main one only, and glibc gives whole
# heaps of the others back as soon as they are free.
_KEEP_MEMORY = {
    "glibc.malloc.arena_max": 1,
    "glibc.malloc.hugetlb": 1,
    "glibc.malloc.mmap_threshold": 2**32,
    "glibc.malloc.trim_threshold": 2**33,
}


# Libraries beside torch that start a thread for every core unless they are told otherwise.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


def this_machine() -> dict[str, str]:
    """What two processes must share for the one to know whether the other lives.

    The host, its boot and the container; what the system does not tell is empty.
    """
    boot = namespace = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")  # containers count their processes apart
    return {"host": socket.gethostname(), "boot": boot, "namespace": namespace}


def process_start(pid: int) -> str:
    """When a process of this machine began, in the kernel's ticks.

    Empty if it is gone, "unknown" where the system does not tell.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as lines:
            fields = lines.read().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return "" if _has_no_process(pid) else "unknown"
    return "" if fields[0] in "ZX" else fields[19]  # a zombie does nothing any more


def is_gone(pid: int, started: str | None) -> bool:
    """Whether a process of this machine has ended, by its number and by when it began.

    A number is given to another process some day: only number and start together name one. Where
    the start was not noted the number has to do.
    """
    now = process_start(pid)
    return not now if started is None else now not in (started, "unknown")


def _has_no_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # it lives, and is somebody else's
        return False
    return False


def worker_environment(threads: int) -> dict[str, str]:
    """Variables that keep the libraries of a worker to its share of the cores."""
    return dict.fromkeys(_THREADS, str(threads))


def available_cores() -> int:
    """Cores that this process may use: what it is bound to and what its control group grants."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as lines:
            quota, period = lines.read().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no control group, or "max"
        pass
    return cores


@lru_cache(maxsize=1)
def memory_mb() -> float:
    """The memory that this process may use: the machine's, or what its control group grants."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as lines:
            found = min(found, int(lines.read()) / 1e6)
    except (OSError, ValueError):  # no control group, or "max"
        pass
    return found


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that workers are given one by one, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1"))
    return tuple(number for number, _, _ in _listed_gpus())


def computes_on() -> str:
    """What runs compute on here, as records name it: the first visible GPU, else the processor."""
    listed = _listed_gpus()
    for chosen in visible_gpus()[:1]:
        for number, name, uuid in listed:
            if chosen == number or uuid.startswith(chosen):
                return name
    return listed[0][1] if listed and visible_gpus() else processor_name()


@lru_cache(maxsize=1)
def processor_name() -> str:
    """The processor as the system calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _listed_gpus() -> list[tuple[str, str, str]]:
    """Number, name and UUID of every GPU, by its driver."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=20
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r"^GPU (\d+): (.*) \(UUID: (.*)\)$", listed, flags=re.MULTILINE)


def tune_workers() -> None:
    """Set up the environment that worker processes of this one will start with.

    A worker then keeps the most memory that it ever needed until it ends, which is after one run.
    """
    choose_waiting()
    tunables = ":".join(f"{name}={value}" for name, value in _KEEP_MEMORY.items())
    os.environ.setdefault("GLIBC_TUNABLES", tunables)


def choose_waiting() -> None:
    """Decide, before torch is loaded, whether threads that wait for each other spin or sleep.

    On an idle machine a short spin is faster, for single texts by a factor; beside other work
    spinning threads starve each other and training slows down many times. What the user has set
    stays; the choice is kept in the record's environment.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return
    if busy_share() > 0.25:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    else:
        os.environ["GOMP_SPINCOUNT"] = "100000"


def busy_share(seconds: float = 0.2) -> float:
    """Share of the processors' time that is in use at the moment, between 0 and 1."""
    try:
        idle, total = _processor_time()
        time.sleep(seconds)
        idle_after, total_after = _processor_time()
    except (OSError, ValueError, IndexError):  # not Linux: the average of the last minute
        return min(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0)
    return 1 - (idle_after - idle) / max(total_after - total, 1)


def _processor_time() -> tuple[int, int]:
    """Idle and total time of all processors since the start, in the kernel's ticks."""
    with open("/proc/stat", encoding="ascii") as lines:
        ticks = [int(value) for value in lines.readline().split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)  # idle and waiting for a disk
