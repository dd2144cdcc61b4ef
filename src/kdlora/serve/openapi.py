"""What the server says of itself in `/openapi.json`: exactly what it takes, and how it answers.

The schemas are those of the model that is served: its number of texts, its labels, its limits.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from kdlora.serve.requests import Limits
from kdlora.ship.answers import Predictor

JSON, TEXT = "application/json", "text/plain"

# What any request may be answered with, whatever its path.
_ANYWHERE = {
    400: "no HTTP/1.1, or no Host",
    403: "the Origin is a page of another site",
    408: "the request came too slowly",
    421: "the Host is no name of this server; see --allow-host",
    431: "headers over 32 kB",
    500: "the server failed on this request; the reason is in its log",
    503: "too many connections, or the server ends; see Retry-After",
}
_OF_PREDICT = {
    400: "the body is not JSON",
    413: "body, text or number of texts beyond the limits",
    415: "content-type is not application/json",
    422: "the wrong shape",
    503: "the queue is full; see Retry-After",
    504: "no answer in time",
}


class Problem(BaseModel):
    """Why a request was not served."""

    kind: str
    problems: list[str] = Field(description="what was given, what was expected, what to do")


class ErrorResponse(BaseModel):
    """Every answer that is not 200."""

    error: Problem


class Health(BaseModel):
    """Whether the server takes requests, and which model it serves."""

    status: str = Field(description="ok, or stopping (with status 503)")
    task: str
    run_id: str
    variant: str = Field(description="torch, onnx, onnx-int8 or onnx-int4")
    labels: list[str]
    columns: list[str] = Field(description="the texts that make one input")
    kdlora: str = Field(description="version")
    up_s: float


def of_predict(predictor: Predictor, limits: Limits) -> dict[str, Any]:
    """How `/predict` is described; arguments of its route."""
    asked = {JSON: {"schema": request_schema(predictor.columns, limits)}}
    answered = {JSON: {"schema": answer_schema(predictor)}}
    return {
        "response_model": None,
        "responses": {
            200: {"description": "one prediction for each text, in order", "content": answered},
            **_errors(_ANYWHERE | _OF_PREDICT),
        },
        "openapi_extra": {"requestBody": {"required": True, "content": asked}},
    }


def of_health() -> dict[str, Any]:
    """How `/health` is described."""
    errors = _errors(_ANYWHERE)
    errors[503] = {"description": "the server ends", "model": Health | ErrorResponse}
    return {"response_model": None, "responses": {200: {"model": Health}, **errors}}


def of_metrics() -> dict[str, Any]:
    """How `/metrics` is described."""
    shown = {"description": "Prometheus' text format", "content": {TEXT: {"schema": _STRING}}}
    return {"response_model": None, "responses": {200: shown, **_errors(_ANYWHERE)}}


_STRING = {"type": "string"}


def request_schema(columns: int, limits: Limits) -> dict[str, Any]:
    """The bodies that `/predict` takes from a model that reads so many texts at once."""
    text = _STRING | {"maxLength": limits.max_text_chars}
    one = _object({"text": text, "second": text if columns == 2 else {"type": "null"}})
    if columns == 1:
        one["required"] = ["text"]
    pair = {"type": "array", "prefixItems": [text, text], "minItems": 2, "maxItems": 2}
    many = {
        "type": "array",
        "items": text if columns == 1 else pair,
        "minItems": 1,
        "maxItems": limits.queue,
    }
    return {"anyOf": [one, _object({"texts": many})]}


def answer_schema(predictor: Predictor) -> dict[str, Any]:
    """What `/predict` answers with: a label or several with all probabilities, or a value."""
    labels = predictor.card.label_names
    share = {"type": "number", "minimum": 0, "maximum": 1}
    card = predictor.card
    length = {
        "tokens": {"type": "integer", "minimum": 0, "description": "of the whole input"},
        "truncated": {"type": "boolean", "description": "whether some of them are not read; the "
                      f"model reads {card.how_long}"},
    }  # fmt: skip
    if card.windows:
        most = card.windows.max_windows
        length["windows"] = {"type": "integer", "minimum": 1, "maximum": most}
    if predictor.card.answers.numeric:
        one = _object({"value": {"type": "number"}, **length})
    else:
        shares = {
            "type": "object",
            "additionalProperties": share,
            "propertyNames": {"enum": labels},
            "minProperties": len(labels),
        }
        label: dict[str, Any] = _STRING | {"enum": labels}
        withheld = {}
        if predictor.card.calibration and predictor.card.calibration.abstention:
            label = {"type": ["string", "null"], "enum": [*labels, None]}
            why = "why there is no label, or null"
            withheld = {"withheld": {"type": ["string", "null"], "description": why}}
        said: dict[str, Any] = {"label": label, "probability": share}
        if card.answers.several:
            said = {"labels": {"type": "array", "items": label, "uniqueItems": True}}
        one = _object({**said, "probabilities": shares, **withheld, **length})
    listed = {"type": "array", "items": one, "description": "one for each text, in the same order"}
    return _object({"predictions": listed})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    """An object with exactly these keys."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _errors(statuses: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    told = sorted(statuses.items())
    found: dict[int | str, dict[str, Any]] = {
        code: {"description": said, "model": ErrorResponse} for code, said in told
    }
    return found
