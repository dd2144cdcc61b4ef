"""The web application: `/predict`, `/health`, `/metrics`, `/docs`, and a page to try the model."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from kdlora.errors import did_you_mean
from kdlora.serve.batching import Batcher
from kdlora.serve.metrics import PATHS, Metrics
from kdlora.serve.requests import (
    ErrorResponse,
    Limits,
    OneText,
    PredictResponse,
    RequestError,
    TextList,
    parse_request,
)
from kdlora.ship.answers import Predictor

_TEMPLATES = Path(__file__).parent / "templates"
_ASSETS = {
    "try.html": "text/html",
    "docs.html": "text/html",
    "serve.css": "text/css",
    "try.js": "text/javascript",
    "docs.js": "text/javascript",
}
# The pages load nothing from elsewhere and nothing else may frame them.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_ERRORS = {
    400: "the body is not JSON",
    408: "the body came too slowly",
    413: "body, text or number of texts beyond the limits",
    415: "content-type is not application/json",
    422: "the wrong shape",
    503: "the queue is full; see Retry-After",
    504: "no answer in time",
}
_log = logging.getLogger("kdlora.serve")


class State:
    """What all requests share."""

    def __init__(self, predictor: Predictor, limits: Limits, workers: int) -> None:
        self.predictor, self.limits = predictor, limits
        self.metrics = Metrics(predictor)
        self.batcher = Batcher(predictor, limits, self.metrics, workers)
        self.draining = False
        self.accepted = self.answered = 0  # requests
        self.began = time.monotonic()


def make_app(predictor: Predictor, limits: Limits | None = None, *, workers: int = 1) -> FastAPI:
    """The application for one model; its `state.serve` is the `State`."""
    state = State(predictor, limits or Limits(), workers)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        state.batcher.start()
        yield
        await state.batcher.stop()

    card = predictor.card
    app = FastAPI(
        title=f"{card.task or 'A model'}, served by kdlora",
        description=_description(predictor),
        version=version("kdlora"),
        lifespan=life,
        docs_url=None,  # the usual page loads its program from another host
        redoc_url=None,
    )
    app.state.serve = state
    _add_routes(app, state)
    app.add_middleware(_Frame, state=state)
    return app


def _add_routes(app: FastAPI, state: State) -> None:
    metrics = state.metrics

    @app.post("/predict", summary="Predict one text or many", **_predict_schema())
    async def predict(request: Request) -> Response:
        began = time.monotonic()
        raw = await read_body(request, state.limits)
        texts = parse_request(raw, columns=state.predictor.columns, limits=state.limits)
        found = await state.batcher.submit(texts)
        metrics.latency.observe(time.monotonic() - began)
        return as_json({"predictions": found})

    @app.get("/health", summary="Whether the server takes requests, and which model it serves")
    async def health() -> Response:
        card = state.predictor.card
        return as_json(
            {
                "status": "stopping" if state.draining else "ok",
                "task": card.task,
                "run_id": card.run_id,
                "variant": state.predictor.variant,
                "labels": card.label_names,
                "columns": card.text_columns,
                "kdlora": version("kdlora"),
                "up_s": round(time.monotonic() - state.began, 1),
            },
            503 if state.draining else 200,
        )

    @app.get("/metrics", summary="Counters for Prometheus")
    async def figures() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def page(name: str) -> Callable[[], Response]:
        content = (_TEMPLATES / name).read_bytes()
        return lambda: Response(content, media_type=_ASSETS[name], headers=_HEADERS)

    app.get("/", include_in_schema=False)(page("try.html"))
    app.get("/docs", include_in_schema=False)(page("docs.html"))
    for name in ("serve.css", "try.js", "docs.js"):
        app.get(f"/assets/{name}", include_in_schema=False)(page(name))

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        metrics.errors.labels(error.kind).inc()
        answer = problem(error.status, error.kind, error.problems)
        if error.retry_after_s is not None:
            answer.headers["retry-after"] = str(error.retry_after_s)
        return answer

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        kind = {404: "no_such_path", 405: "wrong_method"}.get(error.status_code, "http")
        if error.status_code == 404:
            told = f"no such path {path[:80]!r}.{did_you_mean(path[:80], PATHS)}"
        else:
            allowed = (error.headers or {}).get("Allow", "another method")
            told = f"{request.method} {path[:80]} given, expected {allowed}"
        metrics.errors.labels(kind).inc()
        return problem(error.status_code, kind, [told], dict(error.headers or {}))


class _Frame:
    """Around every request: counts it, closes connections at the end, hides tracebacks."""

    def __init__(self, app: Any, state: State) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False
        self.state.accepted += 1

        async def counted(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self.state.metrics.request(scope["path"], message["status"])
                if self.state.draining:
                    message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self.state.answered += 1

        try:
            await self.app(scope, receive, counted)
        except Exception:
            _log.exception("%s failed", scope["path"])
            self.state.metrics.errors.labels("internal").inc()
            if not started:
                told = "the server failed on this request; the reason is in its log"
                await problem(500, "internal", [told])(scope, receive, counted)


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request within the limits. Raises RequestError (408, 413, 415).

    What is too large is read on and thrown away for a while, because a client that is still
    sending would not see an answer.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(
            415, "wrong_type",
            f"content-type {kind[:60] or 'missing'!r} given, expected application/json",
        )  # fmt: skip
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for part in request.stream():
                size += len(part)
                if size <= limits.max_body_bytes:
                    parts.append(part)
                elif size > 16 * limits.max_body_bytes:
                    break
    except TimeoutError:
        if size <= limits.max_body_bytes:
            raise RequestError(
                408, "slow_body", f"the body was not whole within {limits.body_timeout_s:g} s"
            ) from None
    if size > limits.max_body_bytes:
        raise RequestError(
            413, "body_too_large",
            f"the body is larger than {limits.max_body_mb:g} MB; send several requests",
        )  # fmt: skip
    return b"".join(parts)


def as_json(values: Any, status: int = 200) -> Response:
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return Response(text.encode(), status, media_type="application/json")


def problem(
    status: int, kind: str, problems: list[str], headers: dict[str, str] | None = None
) -> Response:
    """An error as the client sees it; the connection ends where a body may still be on its way."""
    answer = as_json({"error": {"kind": kind, "problems": problems}}, status)
    answer.headers.update(headers or {})
    if status in (408, 413, 415):
        answer.headers["connection"] = "close"
    return answer


def _predict_schema() -> dict[str, Any]:
    body = {"anyOf": [m.model_json_schema() for m in (OneText, TextList)]}
    errors = {code: {"description": told, "model": ErrorResponse} for code, told in _ERRORS.items()}
    return {
        "response_model": None,
        "responses": {200: {"model": PredictResponse}, **errors},
        "openapi_extra": {
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}}
        },
    }


def _description(predictor: Predictor) -> str:
    card = predictor.card
    answer = f"the labels {', '.join(card.label_names)}" if card.label_names else "a value"
    return (
        f"Reads {' and '.join(card.text_columns) or 'a text'} (up to {card.max_length} tokens, "
        f"longer texts are cut) and gives {answer}. Runs as {predictor.variant}."
    )
