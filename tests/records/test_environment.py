"""Which commit ran, without a change to the user's repository."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kdlora.records import environment


def git(folder: Path, *args: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *who, *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def module(tmp_path: Path) -> ModuleType:
    """The module as it lies in a repository of its own."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    place = shutil.copy(environment.__file__, tmp_path / "environment_copy.py")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "environment_copy.py")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    spec = importlib.util.spec_from_file_location("environment_copy", place)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    spec.loader.exec_module(made)
    sys.dont_write_bytecode = before
    return made


def test_the_commit_is_named_and_changes_are_told(module: ModuleType, tmp_path: Path) -> None:
    first = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert module.source_commit() == first
    with (tmp_path / "environment_copy.py").open("a", encoding="utf-8") as handle:
        handle.write("# changed\n")
    module.source_commit.cache_clear()
    assert module.source_commit() == f"{first}+changes"


def test_the_index_is_left_alone(module: ModuleType, tmp_path: Path) -> None:
    """`git status` takes the index's lock to note what it saw, and a commit meanwhile fails."""
    os.utime(tmp_path / "environment_copy.py", (1e9, 1e9))
    index = tmp_path / ".git" / "index"
    before = index.read_bytes()
    assert module.source_commit() is not None
    assert index.read_bytes() == before
    git(tmp_path, "status", "--porcelain")
    assert index.read_bytes() != before  # what it would have done
