"""Where a run happened: versions, processor, threads, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kdlora.machine import processor_name

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "GLIBC_TUNABLES")  # see `machine`
PACKAGES = ("kdlora", "torch", "transformers", "peft", "tokenizers", "numpy", "scikit-learn")


def describe_environment(data_fingerprint: str = "") -> dict[str, Any]:
    """What a reader needs to judge whether two runs are comparable."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "data_fingerprint": data_fingerprint,
        "host": platform.node(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "waiting": {name: os.environ[name] for name in WAITING if name in os.environ},
        "gpu": gpu,
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "versions": {name: package_version(name) for name in PACKAGES},
        "commit": source_commit(),
    }


def remember_environment() -> None:
    """Find out what does not change while this process lives, and keep it for those it forks."""
    processor_name()
    source_commit()
    for name in PACKAGES:
        package_version(name)


@lru_cache
def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def source_commit() -> str | None:
    """Commit of the kdlora checkout that runs, with "+changes" if it differs; else None."""
    here = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        # `git status` would take the lock of the index, against whatever the user does with it
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(here), *args],
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        ).stdout.strip()

    try:
        if not git("ls-files", "--error-unmatch", __file__):
            return None
        return git("rev-parse", "--short=12", "HEAD") + (
            "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None
