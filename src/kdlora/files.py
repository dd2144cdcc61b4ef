"""Files and folders that are there as a whole or not at all, also after a loss of power.

What gets its name here lies on the disk before it does: a record that speaks of a file is never
more durable than the file.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKPOINT = "checkpoint.pt"  # of an unfinished run; the loop writes it, the store drops it


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; it becomes `path` when the block ends without an error.

    Until then, and after an error, `path` is what it was. A process that is killed meanwhile leaves
    a file of the pattern `leftovers`.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EPERM, "no file, and not to be replaced by one", str(path))
    temporary = beside(path)
    try:
        temporary.touch(exist_ok=False)
        usual = _mode(temporary)
        yield temporary
        _give_mode(temporary, usual)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """The same for a new folder, which takes the place of what is at `path`."""
    temporary = beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        usual = _mode(temporary) & 0o666
        for inner in (*temporary.rglob("*"), temporary):
            if not inner.is_symlink():
                if inner.is_file():
                    _give_mode(inner, usual)
                sync(inner)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _mode(path: Path) -> int:
    """Who may read and write a path, as the process's umask left it when it was made."""
    return stat.S_IMODE(path.stat().st_mode)


def _give_mode(path: Path, mode: int) -> None:
    """Some libraries (safetensors) make files that only their owner may read."""
    if _mode(path) != mode:
        with contextlib.suppress(PermissionError):  # file systems without modes
            path.chmod(mode)


def write_new(path: Path, text: str) -> bool:
    """Write a whole text file where nothing is yet; returns whether this call wrote it."""
    temporary = beside(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if path.exists():  # the nearest that a file system without links allows
                return False
            os.replace(temporary, path)
        sync(path.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Move a file that cannot be trusted to the first free name beside it; returns that name.

    ``record.json`` becomes ``record.damaged-0.json``. Nothing that lies there already is replaced,
    whoever else sets something aside at the same time. Raises FileNotFoundError when another
    process was as quick, and OSError where the folder cannot be written to.
    """
    for number in itertools.count():
        aside = path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            break
    try:
        os.replace(path, aside)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return aside


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC or not path.is_dir():
            raise
    finally:
        os.close(handle)


def beside(path: Path) -> Path:
    """A name in the same folder that nobody else uses; it says which process of which machine."""
    process = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    return path.with_name(f".{path.name}.{process}.tmp")


def leftovers(path: Path) -> list[Path]:
    """What processes that were killed while they wrote `path` left behind."""
    return list(path.parent.glob(f".{path.name}.*.tmp"))


def cache_dir() -> Path:
    """Where fetched models and data are kept: $KDLORA_CACHE, or ~/.cache/kdlora."""
    return Path(os.environ.get("KDLORA_CACHE") or "~/.cache/kdlora").expanduser()


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # of folders, on some network file systems
