"""Model folders from strangers: nothing in them is run, and nothing outside them is read.

Weights are safetensors or ONNX. Pickled weights, which run code when they are read, are refused;
code that comes with a model (`auto_map`) is never run; links, and paths in the files, that lead
out of the folder are refused, and so is a config that its weights do not bear out. Neither torch
nor transformers is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdlora import json_files
from kdlora.data.stated_facts import CONFIG, adapter_problems, config_problems
from kdlora.errors import ModelError
from kdlora.files import is_inside, links_root, odd_kind, read_head, real_path

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


def is_model_folder(folder: Path) -> bool:
    """Whether a folder holds what tells of a model, of kdlora's or of transformers'."""
    return any((folder / name).exists() for name in _MODEL_FILES)


def check_folder(folder: Path) -> None:
    """See that a folder is a model's and holds nothing that could harm.

    Every way to a model's folder leads through here before any library opens it: to predict, serve,
    export or trim, to train on, to learn from, to put an adapter on. Pickle files beside safe
    weights are passed over (they are never read); a folder whose only weights are pickled is
    refused, and so is a config that its weights do not bear out. Raises ModelError with all
    problems.
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
        if read_head(path, _BEGINNING).lstrip()[:1] != b"{":
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
