r"""Texts of strangers as they are shown: no character of them is obeyed by what shows them.

Names of labels, columns, files and models may hold anything. An escape sequence clears a terminal,
a return writes over what stands before, a change of direction turns a line around, and XML and
LaTeX cannot hold control characters at all. Shown, each stands as its number: ``\u001b``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, TypeVar

# Control characters but tab and newline, and what changes the direction of the text that follows.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_OF_MARKDOWN = re.compile(r"([\\|`*<>\[\]])")

T = TypeVar("T")


@lru_cache(maxsize=1 << 14)  # names stand in hundreds of rows
def as_markdown(text: str) -> str:
    """One line that Markdown shows as it is, inside a table too."""
    return _OF_MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))


def visible(value: T) -> T:
    """A text with the numbers of such characters; of lists and mappings all texts, also keys.

    Anything else stays as it is. What is the text of a JSON stays one of the same value.
    """
    if isinstance(value, str) and value.isprintable():  # nearly all: nothing to look for
        return value
    return _visible(value)


def _visible(value: Any) -> Any:
    if isinstance(value, str):
        if not _OBEYED.search(value):
            return value
        return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", value)
    if isinstance(value, dict):
        return {_visible(key): _visible(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_visible(child) for child in value])
    return value
