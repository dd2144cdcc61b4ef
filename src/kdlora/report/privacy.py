"""A report is made to be shared: it names no machine and no folder of the one that made it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pandas as pd

from kdlora.report.content.parts import ReportInputs

_NAMES = ("encoder", "teacher", "student", "pair")  # columns that may name a model by its folder
_TEXTS = ("error",)
_TEXT_LISTS = ("flag_details",)
# An absolute path of two parts or more, as it stands in a sentence; none of an address such as
# https://host/a/b, and no fraction.
_PATH = re.compile(r"(?<![\w.:/\\])(?:/|[A-Za-z]:[\\/])(?:[^\s/\\'\"`,;:()\[\]<>|]+[/\\])+"
                   r"[^\s/\\'\"`,;:()\[\]<>|]*")  # fmt: skip


def without_private(frame: pd.DataFrame, inputs: ReportInputs) -> tuple[pd.DataFrame, ReportInputs]:
    """The frame and the inputs of a report with folders by their last part, and hosts numbered.

    Two folders that end alike keep as many parts as tell them apart.
    """
    named = {value for name in _NAMES if name in frame for value in frame[name].dropna()}
    short = short_names([*map(str, named), *_strings(inputs.spec)])
    changed = {
        name: frame[name].map(lambda value: short.get(value, value))
        for name in _NAMES
        if name in frame
    }
    changed |= {
        name: frame[name].map(lambda text: shared(text, short) if isinstance(text, str) else text)
        for name in _TEXTS
        if name in frame
    }
    changed |= {
        name: frame[name].map(
            lambda texts: (
                tuple(shared(t, short) for t in texts) if isinstance(texts, tuple | list) else texts
            )
        )
        for name in _TEXT_LISTS
        if name in frame
    }
    if "environment" in frame:
        changed["environment"] = _without_hosts(frame["environment"])
    notes = tuple(shared(note, short) for note in inputs.notes)
    return frame.assign(**changed), replace(
        inputs, spec=_with_short(inputs.spec, short), notes=notes
    )


def short_names(texts: Iterable[str]) -> dict[str, str]:
    """Each absolute path among the texts by the last parts that tell it from the others."""
    paths = {text: parts for text in texts if (parts := _parts(text))}
    found = {}
    for text, parts in paths.items():
        others = [other for other in paths.values() if other != parts]
        kept = next(
            n
            for n in range(1, len(parts) + 1)
            if n == len(parts) or not any(other[-n:] == parts[-n:] for other in others)
        )
        found[text] = "/".join(parts[-kept:])
    return found


def shared(text: str, short: dict[str, str]) -> str:
    """A sentence with the known paths as they are called elsewhere, and others by their end."""
    for path in sorted(short, key=len, reverse=True):
        if path in text:
            whole = re.escape(path) + r"(?![\w/\\-]|\.\w)"  # and no longer path
            text = short[path].join(re.split(whole, text))
    return _PATH.sub(lambda match: re.split(r"[/\\]", match[0].rstrip("/\\"))[-1], text)


def _parts(text: str) -> tuple[str, ...]:
    """The parts of an absolute path below its root; layers in brackets are of the last part."""
    if "\n" in text:
        return ()
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(text)
        if path.is_absolute() or text.startswith("~/"):
            return tuple(part for part in path.parts if part not in (path.anchor, "~"))
    return ()


def _strings(value: Any) -> list[str]:
    """All texts in nested lists and mappings."""
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value
    if not isinstance(children, list | tuple | type({}.values())):
        return []
    return [text for child in children for text in _strings(child)]


def _with_short(value: Any, short: dict[str, str]) -> Any:
    if isinstance(value, str):
        return short.get(value, value)
    if isinstance(value, dict):
        return {key: _with_short(child, short) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_short(child, short) for child in value)
    return value


def _without_hosts(column: pd.Series) -> pd.Series:
    """Environments without the machine's name; several machines are numbered as they come."""
    hosts: dict[str, str] = {}
    for values in column:
        if isinstance(values, dict) and values.get("host"):
            hosts.setdefault(str(values["host"]), f"machine {len(hosts) + 1}")

    def renamed(values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        others = {key: value for key, value in values.items() if key != "host"}
        host = values.get("host")
        return ({"host": hosts[str(host)]} if host and len(hosts) > 1 else {}) | others

    return column.map(renamed)
