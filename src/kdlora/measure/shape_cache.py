"""What depends on a model's shape alone is found once and kept for all runs of a study.

Neither the operations nor the time of a forward pass depend on the weights' values, and a study
trains few shapes many times: counting and timing them anew would cost a small run more than its
training. The files are only a cache: any of them may be deleted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdlora.files import whole_file
from kdlora.records.contents import read_sealed, sealed
from kdlora.spec.fingerprint import hash_text


def shape_of(model: nn.Module) -> str:
    """A hash that two models share only if one pass of both is the same work.

    It covers the modules with their settings, and shape, dtype, device and training of every
    tensor; the values of the weights and the names of the labels are not in it.
    """
    config: Any = getattr(model, "config", None)
    known = config.to_dict() if hasattr(config, "to_dict") else {}
    names = {"id2label", "label2id", "_name_or_path", "problem_type"}
    facts = [
        repr(model),
        json.dumps({k: v for k, v in known.items() if k not in names}, sort_keys=True, default=str),
        [
            (name, tuple(t.shape), str(t.dtype), str(t.device), t.requires_grad)
            for name, t in (*model.named_parameters(), *model.named_buffers())
        ],
        torch.__version__,
    ]
    return hash_text(repr(facts), 32)


def once(folder: Path | None, key: list[Any], find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `find` returned for this `key` (both of JSON's types), from `folder` or found now.

    None for `folder` keeps nothing. Two runs that look at once both find, and either file serves.
    """
    if folder is None:
        return find()
    text = json.dumps(key)
    path = folder / f"{hash_text(text, 32)}.json"
    try:
        kept = read_sealed(path)
        if kept["key"] == json.loads(text):
            return kept["found"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none there, or damaged
    found = find()
    _write(path, sealed({"key": key, "found": found}))
    return found


def _write(path: Path, value: dict[str, Any]) -> None:
    """Atomically; a full disk costs the cache, not the run."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
