"""Model folders from strangers: nothing in them is run, and nothing outside them is read.

Weights are safetensors or ONNX. Pickled weights, which run code when they are read, are refused;
code that comes with a model (`auto_map`) is never run; links, and paths in the files, that lead
out of the folder are refused.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdlora import json_files
from kdlora.errors import ModelError
from kdlora.files import is_inside, links_root, odd_kind, open_file, real_path
from kdlora.ship.stated_facts import CONFIG, adapter_problems, config_problems

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"})
SAFE_WEIGHTS = ("*.safetensors", "onnx/*.onnx", "*.onnx")
_BEGINNING = 256  # bytes
_MODEL_FILES = ("config.json", "adapter_config.json", "export.json")
_OBJECTS = frozenset(
    {
        *_MODEL_FILES, "kdlora.json", "tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json", "generation_config.json", "vocab.json", "calibration.json",
        "model.safetensors.index.json",
    }
)  # fmt: skip
# Keys whose value transformers, peft or kdlora takes for the name of a file in the folder.
_FILE_KEYS = frozenset(
    {"path", "adapter", "location", "vocab_file", "merges_file", "tokenizer_file", "spm_file"}
)

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


def is_model_folder(folder: Path) -> bool:
    """Whether a folder holds what tells of a model, of kdlora's or of transformers'."""
    return any((folder / name).exists() for name in _MODEL_FILES)


def check_folder(folder: Path) -> None:
    """See that a folder is a model's and holds nothing that could harm.

    Every way to a foreign model (predict, serve, export, the gate) leads through here, before any
    library opens the folder. Pickle files beside safe weights are passed over (they are never
    read); a folder whose only weights are pickled is refused, and so is a config that its weights
    do not bear out. Raises ModelError with all problems.
    """
    if not is_model_folder(folder):
        raise ModelError(
            f"{folder} holds no model: none of {', '.join(_MODEL_FILES)} is there. Give a saved "
            "student, an exported folder, a run's folder, or a classifier saved by transformers"
        )
    root = links_root(folder)
    problems = []
    pickled = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if odd := _odd_file(path, root):
            problems.append(f"{name} is {odd}: refused")
        elif path.suffix.lower() in PICKLES and path.is_file():
            pickled.append(name)
        elif path.suffix == ".json" and path.parent == folder:
            problems += [f"{name}: {problem}" for problem in _json_problems(path)]
    if pickled and not any(next(folder.glob(pattern), None) for pattern in SAFE_WEIGHTS):
        problems.append(
            f"the weights are pickled ({', '.join(pickled[:3])}), and reading a pickle runs "
            "whatever code is in it: refused. Expected model.safetensors or an ONNX file; have "
            "the author save the model with safe_serialization, or convert it where you trust it"
        )
    if not problems:  # what they say may be looked at
        problems += _promises(folder)
    if problems:
        raise ModelError(problems, where=str(folder))


def _odd_file(path: Path, root: Path) -> str | None:
    """What a path is where it is no file or folder below `root`."""
    try:
        if not real_path(path).is_relative_to(root):
            return "a link that leads out of the folder"
        odd = odd_kind(path)
    except FileNotFoundError:
        return "a link to nothing"
    except OSError:
        return "a link to itself"
    return None if odd == "a folder" else odd


def _json_problems(path: Path) -> Iterator[str]:
    """What is wrong with a JSON file at the top of a folder, whatever it means."""
    if not path.is_file():
        yield "a folder of this name is no file"
        return
    if path.name == "tokenizer.json":  # large, and names no files: its beginning tells its kind
        with open_file(path) as handle:
            if handle.read(_BEGINNING).lstrip()[:1] != b"{":
                yield "expected a JSON object"
        return
    values = read_json(path)
    if path.name in _OBJECTS and not isinstance(values, dict):
        yield "expected a JSON object"
    elif path.name not in ("adapter_config.json", "kdlora.json"):
        yield from _paths_out(values)  # an adapter's base model lies elsewhere by nature


def _promises(folder: Path) -> list[str]:
    """What the configs say that the weights do not bear out."""
    found = []
    for name, problems in ((CONFIG, config_problems), ("adapter_config.json", adapter_problems)):
        if (folder / name).is_file() and any(folder.glob("*.safetensors")):
            config = read_json(folder / name)
            found += [f"{name}: {problem}" for problem in problems(folder, config)]
    return found


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


def read_json(path: Path) -> Any:
    """Parse a JSON file of a stranger. Raises ModelError."""
    try:
        return json_files.read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None


def _paths_out(values: Any) -> Iterator[str]:
    """Values of file keys, at any depth of what a JSON file holds, that lead out of the folder."""
    todo = [values]
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += value
        elif isinstance(value, dict):
            todo += value.values()
            named = [(key, value[key]) for key in _FILE_KEYS & value.keys()]
            if isinstance(shards := value.get("weight_map"), dict):
                named += [("weight_map", name) for name in set(map(str, shards.values()))]
            for key, name in named:
                if isinstance(name, str) and name and not is_inside(name):
                    yield f"{key} is {name!r}, which leads out of the folder: refused"


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
