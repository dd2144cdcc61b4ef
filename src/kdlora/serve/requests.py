"""What a request may hold, and its way from bytes to texts; every problem is told at once."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from kdlora.errors import InputError, did_you_mean

KEYS = ("text", "second", "texts")
_TOLD = 10  # problems in one answer


class Limits(BaseModel):
    """The most that the server takes, holds and waits for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_batch: Annotated[int, Field(ge=1)] = 32
    max_wait_ms: Annotated[float, Field(ge=0)] = 2.0
    queue: Annotated[int, Field(ge=1, description="texts that wait, all requests together")] = 256
    timeout_s: Annotated[float, Field(gt=0, description="from a whole request to its answer")] = 10
    body_timeout_s: Annotated[float, Field(gt=0, description="for headers, and for a body")] = 5
    max_text_chars: Annotated[int, Field(ge=1)] = 20_000
    max_body_mb: Annotated[float, Field(gt=0, description="MB = 10^6 bytes")] = 1.0
    max_connections: Annotated[int, Field(ge=1)] = 512

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mb * 1e6)


class RequestError(InputError):
    """A request that gets a 4xx or 503: `problems` say what was given, expected, and to do."""

    def __init__(
        self, status: int, kind: str, problems: str | list[str], *, retry_after_s: int | None = None
    ) -> None:
        super().__init__(problems)
        self.status, self.kind, self.retry_after_s = status, kind, retry_after_s


def parse_request(raw: bytes, *, columns: int, limits: Limits) -> list[list[str]]:
    """The texts of a request, column by column (two columns for a model of pairs).

    Numbers and sizes are looked at before contents, and no more than the first problems are looked
    for: what a request costs does not grow with what is wrong in it. Raises RequestError: 400 for
    what is no JSON, 422 for a wrong shape, 413 for too much.
    """
    raw = raw.removeprefix(codecs.BOM_UTF8)
    if not raw.strip():
        raise RequestError(400, "not_json", f"the body is empty; expected {_example(columns)}")
    try:
        values = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(
            400, "not_json", f"the body is not valid JSON ({error}); expected {_example(columns)}"
        ) from None
    given = values.get("texts") if isinstance(values, dict) else None
    if isinstance(given, list) and len(given) > limits.queue:
        raise RequestError(
            413, "too_many_texts",
            f"{len(given):,} texts given, at most {limits.queue} in one request; send several",
        )  # fmt: skip
    problems = list(islice(_problems(raw, values, columns), _TOLD + 1))
    if problems:
        if len(problems) > _TOLD:
            problems[_TOLD] = "and perhaps more"
        raise RequestError(422, "wrong_shape", [*problems, f"expected {_example(columns)}"])
    rows = [_listed(item) for item in given] if given is not None else [_one(values)]
    long = (
        f"text {i} has {len(text):,} characters, at most {limits.max_text_chars:,}; shorten it"
        for i, row in enumerate(rows)
        for text in row
        if len(text) > limits.max_text_chars
    )
    if told := list(islice(long, _TOLD)):
        raise RequestError(413, "text_too_long", told)
    return [list(column) for column in zip(*rows, strict=True)]


def _problems(raw: bytes, values: Any, columns: int) -> Iterator[str]:
    """What is wrong with the shape of a request, one after the other."""
    if not isinstance(values, dict):
        yield f"{_named(values)} given instead of an object"
        return
    for key in values:
        if key not in KEYS:
            yield f"unknown key '{key[:40]}'.{did_you_mean(key[:40], KEYS)}"
    if twice := _named_twice(raw, values):
        yield f"'{twice}' is given twice"
    if ("text" in values) == ("texts" in values):
        both = "both 'text' and 'texts' given" if "text" in values else "no 'text' and no 'texts'"
        yield f"{both}; give one of them"
    elif "texts" not in values:
        yield from _problems_of("text", _one(values), columns)
    else:
        if "second" in values:
            yield "'second' belongs to 'text'; in 'texts' a pair is [\"first\", \"second\"]"
        if not isinstance(values["texts"], list):
            yield f"'texts' is {_named(values['texts'])}, not a list"
        elif not values["texts"]:
            yield "'texts' is an empty list"
        else:
            for i, item in enumerate(values["texts"]):
                yield from _problems_of(f"texts[{i}]", _listed(item), columns)


def _one(values: dict[str, Any]) -> list[Any]:
    """The texts of a request for one input; a second one that is null is none."""
    second = values.get("second")
    return [values["text"]] if second is None else [values["text"], second]


def _listed(item: Any) -> list[Any]:
    """The texts of one input in a list."""
    return item if isinstance(item, list) else [item]


def _named_twice(raw: bytes, values: dict[str, Any]) -> str | None:
    """A known key that an object names more than once: parsers take the last one silently."""
    quoted = sum(raw.count(f'"{key}"'.encode()) for key in KEYS)
    if quoted <= len(values) and b"\\u" not in raw:  # an escape may hide a name
        return None
    names = [name for name, _ in json.loads(raw, object_pairs_hook=list, parse_int=float)]
    return next((key for key in KEYS if names.count(key) > 1), None)


def _problems_of(name: str, texts: list[Any], columns: int) -> Iterator[str]:
    """What is wrong with the texts of one input."""
    odd = next((text for text in texts if not isinstance(text, str)), "")
    if not isinstance(odd, str):
        yield f"'{name}' is {_named(odd)}, not a text"
    elif len(texts) != columns:
        reads = "pairs of texts" if columns == 2 else "single texts"
        yield f"'{name}' holds {len(texts)} text(s), but this model reads {reads}"


def _example(columns: int) -> str:
    if columns == 2:
        return '{"text": "first", "second": "second"} or {"texts": [["first", "second"], ...]}'
    return '{"text": "..."} or {"texts": ["...", ...]}'


def _named(value: Any) -> str:
    """What JSON calls the kind of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    kinds = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), "something else")
