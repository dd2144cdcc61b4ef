"""Files and folders that are there as a whole or not at all, also after a loss of power.

What gets its name here lies on the disk before it does: a record that speaks of a file is never
more durable than the file. And what is read is a file: a pipe would be waited for without end, and
a device may never end.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import glob
import hashlib
import itertools
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path, PurePosixPath

from kdlora.errors import typo_of
from kdlora.machine import is_gone, process_start, this_machine

LARGEST = 64 * 1024 * 1024  # bytes of what is read as one text; a million words have about forty

_LONGEST_PART = 100  # bytes of a name, or of a host's, in a temporary name; 255 are all there are
_ABANDONED_S = 7 * 86400.0  # that nothing has changed in what another machine was writing
_TEMPORARY = re.compile(
    r"\..+\.(?:.+-)?(?P<machine>[0-9a-f]{8}|[^-]*)-(?P<pid>\d+)(?:\+(?P<started>\d+))?"
    r"-[0-9a-f]{6}\.tmp",
    re.DOTALL,
)
_AT_FDCWD, _EXCHANGE = -100, 2  # of renameat2(2)
CHECKPOINT = "checkpoint.pt"  # of an unfinished run; the loop writes it, the store drops it


def real_path(path: str | Path) -> Path:
    """The absolute path without links; where a link leads to itself it stays, and nothing raises.

    `Path.resolve` does so from Python 3.13 on.
    """
    return Path(os.path.realpath(path))


class UnusableFile(OSError):
    """What a path leads to cannot be read as a file, or not as such a one."""

    def __init__(self, reason: str, path: Path) -> None:
        super().__init__(errno.EPERM, reason, str(path))

    def __str__(self) -> str:
        return str(self.strerror)


def odd_kind(path: Path) -> str | None:
    """What a path is that leads to no file: a folder, a pipe, a socket or a device.

    None for a file. Links are followed. Raises OSError where nothing is there.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return None
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")


def is_there(path: Path) -> bool:
    """Whether anything is there; nothing is where the path is longer than any can be."""
    try:
        return path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def is_folder(path: Path) -> bool:
    """Whether a folder is there, likewise."""
    return is_there(path) and path.is_dir()


def open_file(path: Path) -> BufferedReader:
    """Open a file to read. Raises OSError, also for what is no file: it is not waited for."""
    if odd := odd_kind(path):
        raise UnusableFile(f"it is {odd}, and a file is expected", path)
    return path.open("rb")


def read_bytes(path: Path, *, largest: int = LARGEST) -> bytes:
    """What a file holds. Raises OSError, also for what is no file or larger than `largest`."""
    with open_file(path) as handle:
        if os.fstat(handle.fileno()).st_size > largest:
            raise UnusableFile(f"it is larger than {largest / 1e6:,.0f} MB", path)
        return handle.read()


def read_head(path: Path, size: int) -> bytes:
    """The first `size` bytes of a file, or all there are. Raises OSError as `open_file`."""
    with open_file(path) as handle:
        return handle.read(size)


def read_text(path: Path, *, largest: int = LARGEST) -> str:
    """The text of a file in UTF-8, a byte order mark left out.

    Raises OSError as `read_bytes`, also for what is no UTF-8.
    """
    try:
        return read_bytes(path, largest=largest).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8: {error.reason} at byte {error.start}"
        raise UnusableFile(reason, path) from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; it becomes `path` when the block ends without an error.

    Until then, and after an error, `path` is what it was. What a process that is killed meanwhile
    leaves is removed when `path` is written again (`drop_dead`).
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UnusableFile("it is no file, and not to be replaced by one", path)
    drop_dead(leftovers(path))
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
    """The same for a new folder, which takes the place of one at `path`, or of where that leads.

    What it replaces goes away as a whole before it is removed: under its name there is never a part
    of a folder.
    """
    if path.is_symlink():
        path = real_path(path)
    if path.exists() and not path.is_dir():
        raise UnusableFile("it is no folder, and not to be replaced by one", path)
    drop_dead(leftovers(path))
    temporary, replaced = beside(path), beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        usual = _mode(temporary) & 0o666
        for inner in (*temporary.rglob("*"), temporary):
            if not inner.is_symlink():
                if inner.is_file():
                    _give_mode(inner, usual)
                sync(inner)
        if not (path.is_dir() and _exchanged(temporary, path)):
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, replaced)
            os.replace(temporary, path)
        sync(path.parent)
    finally:
        for folder in (temporary, replaced):
            shutil.rmtree(folder, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Give each of two paths the other's name in one step; False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # no Linux
        return False
    done: int = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE)
    return done == 0


def _mode(path: Path) -> int:
    """Who may read and write a path, as the process's umask left it when it was made."""
    return stat.S_IMODE(path.stat().st_mode)


def _give_mode(path: Path, mode: int) -> None:
    """Some libraries (safetensors) make files that only their owner may read."""
    if _mode(path) != mode:
        with contextlib.suppress(PermissionError):  # file systems without modes
            path.chmod(mode)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` for what is needed only while the block lasts.

    What a process that is killed meanwhile leaves is removed when `path` is worked on again.
    """
    folder = beside(path)
    try:
        folder.mkdir()
        drop_dead(leftovers(path))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


def set_aside(path: Path, why: str = "damaged") -> Path:
    """Move a file or a folder that must not stay to the first free name beside it.

    Returns that name: ``record.json`` becomes ``record.damaged-0.json``; `why` is the word in it.
    Nothing that lies there already is replaced, whoever else sets something aside at the same time.
    Raises FileNotFoundError when another process was as quick, and OSError where the folder cannot
    be written to.
    """
    for number in itertools.count():
        aside = path.with_name(f"{path.stem}.{why}-{number}{path.suffix}")
        with contextlib.suppress(FileExistsError):
            if path.is_dir():
                aside.mkdir()
            else:
                os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            break
    try:
        os.replace(path, aside)
    except BaseException:
        if aside.is_dir():
            aside.rmdir()
        else:
            aside.unlink(missing_ok=True)
        raise
    return aside


def nearest_folder(path: Path) -> Path | None:
    """A folder that there is, of whose path this one is a slip of the keyboard in one part."""
    folder, name = path.parent, path.name
    if folder.is_dir():
        near = typo_of(name, _folders(folder))
        return folder / near if near else None
    near = typo_of(folder.name, _folders(folder.parent))
    found = folder.parent / near / name if near else None
    return found if found is not None and found.is_dir() else None


def _folders(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except OSError:
        return []


def is_inside(name: str) -> bool:
    """Whether a path in a folder is plain: relative, with slashes, never upwards."""
    path = PurePosixPath(name)
    return bool(path.parts) and not (
        path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name
    )


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
    host, pid = socket.gethostname()[:_LONGEST_PART], os.getpid()
    started = process_start(pid)
    process = f"{pid}+{started}" if started.isdecimal() else f"{pid}"
    unique = f"{host}-{_machine()}-{process}-{secrets.token_hex(3)}"
    return path.with_name(f".{_shortened(path.name)}.{unique}.tmp")


def leftovers(path: Path) -> list[Path]:
    """What processes that were killed while they wrote `path` left behind, and others still write.

    See `drop_dead` for which is which.
    """
    return list(path.parent.glob(f".{glob.escape(_shortened(path.name))}.*.tmp"))


def drop_dead(places: Iterable[Path]) -> list[Path]:
    """Remove what no process writes any more, of paths that `beside` made; returns what it was.

    Its process is one of this machine and has ended, or nothing in it has changed for days: then it
    was one of a machine, or of a container, that may be gone. What was being written is no data
    yet; nothing that had its name is ever touched.
    """
    return [path for path in places if _is_dead(path) and _removed(path)]


def drop_dead_below(folder: Path) -> list[Path]:
    """The same for everything below a folder, links not followed."""
    found = []
    for root, folders, names in os.walk(folder):
        found += [Path(root) / name for name in (*folders, *names) if _TEMPORARY.fullmatch(name)]
        folders[:] = [name for name in folders if not _TEMPORARY.fullmatch(name)]
    return drop_dead(found)


def _is_dead(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None:
        return False
    if match["machine"] == _machine():
        gone = is_gone(int(match["pid"]), match["started"])
        if gone or match["started"]:  # earlier names hold no start, nor do those of other systems
            return gone
    try:
        newest = max(p.lstat().st_mtime for p in (path, *path.rglob("*")))
    except OSError:  # somebody else was as quick
        return False
    return time.time() - newest > _ABANDONED_S


def _removed(path: Path) -> bool:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return not os.path.lexists(path)


@functools.cache
def _machine() -> str:
    """A short mark of this machine in names; earlier versions made the same."""
    here = this_machine()
    shared = f"{here['host']}\n{here['boot']}\n\n{here['namespace']}"
    return hashlib.sha256(shared.encode()).hexdigest()[:8]


def _shortened(name: str) -> str:
    """As much of a file's name as leaves room for what `beside` adds."""
    return name.encode()[:_LONGEST_PART].decode("utf-8", "ignore")


def links_root(folder: Path) -> Path:
    """Within what links of a model's folder may lead: the folder itself.

    For a snapshot in the hub's cache, whose files are links, it is the model's.
    """
    resolved = real_path(folder)
    model = resolved.parent.parent
    cached = resolved.parent.name == "snapshots" and model.name.startswith("models--")
    return model if cached else resolved


def cache_dir() -> Path:
    """Where fetched models and data are kept: $KDLORA_CACHE, or ~/.cache/kdlora."""
    return Path(os.environ.get("KDLORA_CACHE") or "~/.cache/kdlora").expanduser()


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # of folders, on some network file systems
