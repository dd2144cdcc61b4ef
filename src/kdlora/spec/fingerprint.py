"""Short content hashes, so that a run knows which data and which weights it was made from."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdlora.files import open_file, real_path

_BLOCK = 1 << 20
_SAME_TIME_NS = 2_000_000_000  # clocks of file systems tick as slowly as that
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def hash_json(value: Any, length: int = 16) -> str:
    """Hash of a JSON-able value, independent of key order."""
    return hash_text(canonical_json(value), length)


def canonical_json(value: Any) -> str:
    """The one JSON text of a value that is hashed."""
    return _CANONICAL.encode(value)


def hash_text(text: str, length: int = 16) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def hash_file(path: Path, length: int = 16) -> str:
    """Hash of a file's whole content; remembered while size and time stay the same.

    What was written a moment ago is read anew: a second change might have the same time.
    """
    stat = path.stat()
    if abs(time.time_ns() - stat.st_mtime_ns) < _SAME_TIME_NS:
        return sha256_of(path)[:length]
    return _hash_file(str(real_path(path)), stat.st_size, stat.st_mtime_ns)[:length]


@lru_cache(maxsize=1 << 16)
def _hash_file(path: str, size: int, mtime_ns: int) -> str:
    return sha256_of(Path(path))


def sha256_of(path: Path) -> str:
    """The whole SHA-256 of a file as it is now, whatever was remembered of it."""
    with open_file(path) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hash_files(paths: Iterable[Path | None], length: int = 16) -> str:
    """Hash of several files' contents in their order; a None keeps its place."""
    return hash_json([None if path is None else hash_file(path) for path in paths], length)


def hash_model_folder(folder: Path, length: int = 16) -> str:
    """Hash of a saved model: the small files whole, of each large one its size, head and tail.

    Weights run to gigabytes; two different ones that agree in all three do not occur by accident.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        with open_file(path) as handle:
            digest.update(handle.read(_BLOCK))
            if size > 2 * _BLOCK:
                handle.seek(-_BLOCK, 2)
            digest.update(handle.read(_BLOCK))
    return digest.hexdigest()[:length]
