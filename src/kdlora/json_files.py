"""JSON that somebody else may have written: read within bounds, and every fault is a ValueError.

Readers of such files catch ``(OSError, ValueError)`` and nothing else can come out: no endless
nesting, no half characters that cannot be written again, no key that hides another of its name, no
pipe that is waited for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdlora.files import LARGEST, read_bytes, read_text

DEEPEST = 100  # lists and objects within each other
TOO_DEEP = f"more than {DEEPEST} lists or objects within each other"


class UnusableJson(ValueError):
    """A text that is JSON, but cannot be used."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError, which is an UnusableJson where it is JSON."""
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        value = json.loads(text)
        if text.count(":") > _size(value):  # colons in texts, or objects in which a key may hide
            value = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise UnusableJson(TOO_DEEP) from None
    if text.count("[") + text.count("{") > DEEPEST and _is_deeper(value, DEEPEST):
        raise UnusableJson(TOO_DEEP)
    if "\\u" in text and "\\ud" in text.lower():  # an escape of half a pair, or of both halves
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UnusableJson("holds half a character (a lone surrogate)") from None
    return value


def read_json(path: Path, *, largest: int = LARGEST) -> Any:
    """The value of a JSON file. Raises OSError and ValueError."""
    return parse_json(read_bytes(path, largest=largest))


def read_json_object(path: Path, *, largest: int = LARGEST) -> dict[str, Any]:
    """The object in a JSON file. Raises OSError and ValueError."""
    values = read_json(path, largest=largest)
    if not isinstance(values, dict):
        raise ValueError("is no JSON object")
    return values


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The object on each line of a file. Raises OSError and ValueError."""
    rows = [parse_json(line) for line in read_text(path).splitlines()]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no JSON object")
    return rows


def _size(value: Any) -> int:
    return len(value) if isinstance(value, dict) else 0


def _is_deeper(value: Any, limit: int) -> bool:
    inner, depth = [value], 0
    while inner := [
        child
        for item in inner
        if isinstance(item, list | dict)
        for child in (item.values() if isinstance(item, dict) else item)
    ]:
        depth += 1
        if depth > limit:
            return True
    return False


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UnusableJson(f"names '{twice}' twice")
    return values
