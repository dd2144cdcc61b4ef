"""What a request may hold, and its way from bytes to texts; every problem is told at once."""

from __future__ import annotations

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


class OneText(BaseModel):
    """One text, or a pair."""

    text: str
    second: str | None = Field(None, description="the second text, for a model that reads pairs")


class TextList(BaseModel):
    """Many texts, or pairs of texts."""

    texts: list[str | tuple[str, str]]


class Prediction(BaseModel):
    """A label with its probabilities, or a value from a model that predicts one."""

    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    value: float | None = None


class PredictResponse(BaseModel):
    predictions: list[Prediction] = Field(description="one for each text, in the same order")


class Problem(BaseModel):
    kind: str
    problems: list[str]


class ErrorResponse(BaseModel):
    error: Problem


def parse_request(raw: bytes, *, columns: int, limits: Limits) -> list[list[str]]:
    """The texts of a request, column by column (two columns for a model of pairs).

    Raises RequestError: 400 for what is no JSON, 422 for a wrong shape, 413 for too much.
    """
    try:
        values = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(
            400, "not_json", f"the body is not valid JSON ({error}); expected {_example(columns)}"
        ) from None
    rows, problems = _rows(values, columns)
    if problems:
        if len(problems) > _TOLD:
            problems = [*problems[:_TOLD], f"and {len(problems) - _TOLD} more"]
        raise RequestError(422, "wrong_shape", [*problems, f"expected {_example(columns)}"])
    if len(rows) > limits.queue:
        raise RequestError(
            413, "too_many_texts",
            f"{len(rows)} texts given, at most {limits.queue} in one request; send several",
        )  # fmt: skip
    long = [
        f"text {i} has {len(text):,} characters, at most {limits.max_text_chars:,}; shorten it"
        for i, row in enumerate(rows)
        for text in row
        if len(text) > limits.max_text_chars
    ]
    if long:
        raise RequestError(413, "text_too_long", long[:_TOLD])
    return [list(column) for column in zip(*rows, strict=True)]


def _rows(values: Any, columns: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """The rows of texts, and what is wrong with the request."""
    if not isinstance(values, dict):
        return [], [f"{_named(values)} given instead of an object"]
    problems = [
        f"unknown key '{key[:40]}'.{did_you_mean(key[:40], KEYS)}"
        for key in values
        if key not in KEYS
    ]
    if ("text" in values) == ("texts" in values):
        both = "both 'text' and 'texts' given" if "text" in values else "no 'text' and no 'texts'"
        return [], [*problems, f"{both}; give one of them"]
    if "texts" not in values:
        given = [values["text"], values.get("second")]
        found = _row("text", given if given[1] is not None else given[:1], columns)
        return ([found], problems) if isinstance(found, tuple) else ([], [*problems, found])
    if "second" in values:
        problems.append("'second' belongs to 'text'; in 'texts' a pair is [\"first\", \"second\"]")
    if not isinstance(values["texts"], list):
        return [], [*problems, f"'texts' is {_named(values['texts'])}, not a list"]
    if not values["texts"]:
        return [], [*problems, "'texts' is an empty list"]
    rows = []
    for i, item in enumerate(values["texts"]):
        found = _row(f"texts[{i}]", item, columns)
        if isinstance(found, str):
            problems.append(found)
        else:
            rows.append(found)
    return rows, problems


def _row(name: str, item: Any, columns: int) -> tuple[str, ...] | str:
    """The texts of one input, or what is wrong with it."""
    given = item if isinstance(item, list) else [item]
    for text in given:
        if not isinstance(text, str):
            return f"'{name}' is {_named(text)}, not a text"
    if len(given) != columns:
        reads = "pairs of texts" if columns == 2 else "single texts"
        return f"'{name}' holds {len(given)} text(s), but this model reads {reads}"
    return tuple(given)


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
