"""What a model folder states of itself, held against its weights before anything is built.

A config of a few bytes may promise a hundred thousand layers, a billion labels or two classes of
one name. Only headers are read here; neither torch nor transformers is needed.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdlora.files import open_file
from kdlora.json_files import parse_json

CONFIG = "config.json"
_LARGEST_HEADER = 100_000_000  # bytes; the safetensors format's own limit
# The names that families give to the number of their layers and to their sizes.
_LAYERS = ("num_hidden_layers", "n_layers", "num_layers", "n_layer", "encoder_layers")
_SIZES = (
    "vocab_size", "hidden_size", "dim", "d_model", "embedding_size", "intermediate_size",
    "hidden_dim", "type_vocab_size", "num_labels",
)  # fmt: skip
_POSITIONS = "max_position_embeddings"
_MOST_POSITIONS = 1 << 20
_HEADS = ("num_attention_heads", "n_heads", "n_head", "encoder_attention_heads")
_RANKS = ("r", "init_r", "target_r")
# What peft would import a module of the config's choice for, or repeat layers at will for.
_NEVER = ("megatron_config", "layer_replication")
# A model's tokenizer is in at least one of these; without, the library makes an empty one.
_TOKENIZERS = (
    "tokenizer.json", "vocab.txt", "vocab.json", "*.model", "tokenizer.tiktoken", "bpe.codes",
)  # fmt: skip

Shapes = dict[str, list[int]]  # tensor -> its shape


def config_problems(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """What a classifier's config says that cannot be; sentences without the name of the file."""
    yield from _label_problems(config)
    sizes = {name: config[name] for name in (*_LAYERS, *_HEADS, *_SIZES, _POSITIONS)
             if config.get(name) is not None}  # fmt: skip
    odd = {n: v for n, v in sizes.items() if type(v) is not int or v < (n != "type_vocab_size")}
    for name, value in odd.items():
        yield f"{name} is {_shown(value)}, expected a whole number above 0"
    shapes, problems = tensor_shapes(folder)
    yield from problems
    if not shapes or odd:
        return
    largest = max(max(shape, default=1) for shape in shapes.values())
    places = [
        shape[0] for name, shape in shapes.items() if name.endswith("position_embeddings.weight")
    ]
    for name, value in sizes.items():
        if name in _LAYERS and value > len(shapes):
            yield f"{name} is {value:,}, but the weights are {len(shapes):,} tensors"
        elif name in _SIZES and value > largest:
            yield f"{name} is {value:,}, but no dimension of any weight is above {largest:,}"
        elif name == _POSITIONS and value > min([*places, _MOST_POSITIONS]):
            yield f"{name} is {value:,}, more than there are weights for"
    if not any(next(folder.glob(pattern), None) for pattern in _TOKENIZERS):
        yield f"there is no tokenizer beside it; expected one of {', '.join(_TOKENIZERS[:3])}"


def adapter_problems(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """The same for the config of an adapter, which may name modules to import, too."""
    for name in _NEVER:
        if config.get(name):
            yield f"{name} is given: an adapter of a classifier has none, and it is not acted on"
    shapes, problems = tensor_shapes(folder)
    yield from problems
    largest = max((max(shape, default=1) for shape in shapes.values()), default=0)
    for name in _RANKS:
        value = config.get(name)
        if value is not None and (type(value) is not int or value < 0 or value > 2 * largest > 0):
            yield f"{name} is {_shown(value)}, which its weights do not bear out"


def _label_problems(config: dict[str, Any]) -> Iterator[str]:
    """Why the names of the outputs cannot be used: each is a text of its own, from 0 on."""
    names = config.get("id2label")
    if names is None:
        return
    if not isinstance(names, dict):
        yield f"id2label is {_shown(names)}, expected an object such as {{'0': 'no', '1': 'yes'}}"
        return
    if sorted(names) != sorted(map(str, range(len(names)))):
        yield f"id2label names the outputs {', '.join(sorted(names)[:5])}, expected 0, 1, ..."
    odd = [v for v in names.values() if not isinstance(v, str | int | float) or v is True]
    odd += [v for v in names.values() if v is False]
    if odd:
        yield f"id2label calls an output {_shown(odd[0])}, expected a text"
        return
    yield from name_problems([str(name) for name in names.values()])


def name_problems(names: list[str]) -> Iterator[str]:
    """Why these cannot be the names of a model's classes: answers are told apart by them."""
    name, count = next(iter(Counter(names).most_common(1)), ("", 0))
    if count > 1:
        yield f"{count} outputs are called {_shown(name)}: one would hide another"
    if any(_is_broken(name) for name in names):
        yield "a label's name holds half a character (a lone surrogate)"


def tensor_shapes(folder: Path) -> tuple[Shapes, list[str]]:
    """The shapes of all tensors in a folder's safetensors files, and files that hold none."""
    shapes: Shapes = {}
    problems = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            header = _header(path)
            shapes |= {k: v["shape"] for k, v in header.items() if k != "__metadata__"}
        except (OSError, ValueError, struct.error, KeyError, TypeError) as error:
            problems.append(f"{path.name} is no safetensors file: {error}")
    odd = [
        name
        for name, shape in shapes.items()
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape)
    ]
    for name in odd:
        del shapes[name]
    if odd:
        problems.append(f"{len(odd)} tensors, such as {odd[0]!r}, have no shape that can be read")
    return shapes, problems


def _header(path: Path) -> dict[str, Any]:
    with open_file(path) as handle:
        (size,) = struct.unpack("<Q", handle.read(8))
        if size > min(_LARGEST_HEADER, path.stat().st_size):
            raise ValueError("its header is longer than the file")
        header = parse_json(handle.read(size))
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    return header


def _is_broken(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _shown(value: Any) -> str:
    """A value in a message, cut."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
