"""ONNX files from strangers: their tensors are read from the folder that they lie in alone."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from kdlora.errors import ModelError
from kdlora.files import is_inside, open_file, real_path

# Where a TensorProto can hide in an ONNX file: message -> {field number: message within}.
# The numbers are those of onnx.proto (opset-independent, IR version 3 and later).
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "tensor": {13: "entry"},
}
_DEEPEST = 64  # graphs within graphs; real models have a handful


def check_onnx(path: Path) -> list[str]:
    """The files beside an ONNX file that hold its tensors; all lie in its folder.

    Raises ModelError for tensors that would be read from anywhere else and for a file that is no
    ONNX model.
    """
    try:
        with open_file(path) as handle:
            content = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        # Closed when the last view of it is gone, which after an error is a moment later.
        found = dict.fromkeys(_external(memoryview(content), "model", 0))
    except (ValueError, IndexError) as error:
        raise ModelError(f"{path} is no ONNX model: {error}") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error}") from None
    root = real_path(path.parent)
    problems = []
    for name in found:
        if not is_inside(name) or not real_path(root / name).is_relative_to(root):
            problems.append(f"tensors would be read from {name!r}, outside the folder: refused")
        elif not (root / name).is_file():
            problems.append(f"the file {name} with its tensors is missing")
    if problems:
        raise ModelError(problems, where=str(path))
    return list(found)


def _external(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    """Locations of external data below a protobuf message; payloads are skipped, not copied."""
    if depth > _DEEPEST:
        raise ValueError("graphs nested too deeply")
    inner = _FIELDS[kind]
    for number, value in _fields(message):
        name = inner.get(number)
        if name is None or not isinstance(value, memoryview):
            continue
        if name == "entry":
            entry = {n: bytes(v) for n, v in _fields(value) if isinstance(v, memoryview)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode("utf-8")
        else:
            yield from _external(value, name, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """(number, bytes) of each field of a protobuf message; None for fields that hold a number."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            _, at = _varint(message, at)
            yield number, None
        elif wire == 2:
            size, at = _varint(message, at)
            yield number, message[at : at + size]
            at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
            yield number, None
        else:
            raise ValueError(f"unknown wire type {wire}")
        if at > len(message):
            raise ValueError("it ends in the middle of a field")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number without end")
