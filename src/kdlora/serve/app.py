"""The web application: `/predict`, `/health`, `/metrics`, `/docs`, and a page to try the model."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from kdlora.errors import ModelError, did_you_mean
from kdlora.serve.batching import Batcher
from kdlora.serve.bodies import Bodies, read_on
from kdlora.serve.hosts import AllowedHosts
from kdlora.serve.metrics import PATHS, Metrics
from kdlora.serve.openapi import JSON, Health, of_health, of_metrics, of_predict
from kdlora.serve.requests import Limits, RequestError, parse_request
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
_SMALL = 16 * 1024  # bytes or labels; what is larger is read and written off the event loop
_log = logging.getLogger("kdlora.serve")


class State:
    """What all requests share."""

    def __init__(
        self, predictor: Predictor, limits: Limits, workers: int, hosts: AllowedHosts
    ) -> None:
        self.predictor, self.limits, self.hosts = predictor, limits, hosts
        self.metrics = Metrics(predictor)
        self.batcher = Batcher(predictor, limits, self.metrics, workers)
        self.aside = ThreadPoolExecutor(1, thread_name_prefix="json")
        self.bodies = Bodies(limits)
        self.draining = False
        self.accepted = self.answered = self.gone = 0  # requests
        self.began = time.monotonic()

    async def off_loop(self, large: bool, work: Callable[[], Any]) -> Any:
        """The result of `work`, in a thread where it is large: others are served meanwhile."""
        if not large:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self.aside, work)


def make_app(
    predictor: Predictor,
    limits: Limits | None = None,
    *,
    workers: int = 1,
    hosts: AllowedHosts | None = None,
) -> FastAPI:
    """The application for one model; its `state.serve` is the `State`.

    `hosts` are the names that it answers to, by default those of loopback.
    """
    state = State(predictor, limits or Limits(), workers, hosts or AllowedHosts())

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        state.batcher.start()
        yield
        await state.batcher.stop()
        state.aside.shutdown(wait=False)

    card = predictor.card
    app = FastAPI(
        title=f"{card.task or 'A model'}, served by kdlora",
        description=_description(predictor),
        version=version("kdlora"),
        lifespan=life,
        docs_url=None,  # the usual page loads its program from another host
        redoc_url=None,
        redirect_slashes=False,  # it would redirect to whatever Host says
    )
    app.state.serve = state
    _add_routes(app, state)
    app.add_middleware(_Frame, state=state)
    return app


def _add_routes(app: FastAPI, state: State) -> None:
    metrics = state.metrics

    @app.post(
        "/predict", summary="Predict one text or many", **of_predict(state.predictor, state.limits)
    )
    async def predict(request: Request) -> Response:
        began = time.monotonic()
        columns, limits = state.predictor.columns, state.limits
        async with state.bodies.read(request) as raw:
            texts = await state.off_loop(
                len(raw) > _SMALL, lambda: parse_request(raw, columns=columns, limits=limits)
            )
        try:
            found = await state.batcher.submit(texts)
        except ModelError as error:
            raise RequestError(500, "model", error.problems) from None
        metrics.latency.observe(time.monotonic() - began)
        metrics.truncated.inc(sum(answer["truncated"] for answer in found))
        metrics.windows.inc(sum(answer.get("windows", 1) for answer in found))
        size = len(found) * state.predictor.card.num_outputs
        return await state.off_loop(size > _SMALL, lambda: as_json({"predictions": found}))

    @app.get(
        "/health",
        summary="Whether the server takes requests, and which model it serves",
        **of_health(),
    )
    async def health() -> Response:
        card = state.predictor.card
        told = Health(
            status="stopping" if state.draining else "ok",
            task=card.task,
            run_id=card.run_id,
            variant=state.predictor.variant,
            labels=card.label_names,
            columns=card.text_columns,
            kdlora=version("kdlora"),
            up_s=round(time.monotonic() - state.began, 1),
        )
        return as_json(told.model_dump(), 503 if state.draining else 200)

    @app.get("/metrics", summary="Counters for Prometheus", **of_metrics())
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
        path, headers = request.url.path, dict(error.headers or {})
        kind = {404: "no_such_path", 405: "wrong_method"}.get(error.status_code, "http")
        if error.status_code == 404:
            told = f"no such path {path[:80]!r}.{did_you_mean(path[:80], PATHS)}"
        else:
            expected = headers.pop("Allow", "GET")
            heads = ["HEAD"] if expected == "GET" else []  # HEAD goes wherever GET does
            headers["allow"] = ", ".join([expected, *heads, "OPTIONS"])
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
            told = f"{request.method} {path[:80]} given, expected {expected}"
        metrics.errors.labels(kind).inc()
        return problem(error.status_code, kind, [told], headers)


class _Frame:
    """Around every request: whose it is, HEAD, counts, and no traceback to the outside."""

    def __init__(self, app: Any, state: State) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = self.state
        state.accepted += 1
        exchange = _Exchange(state, scope, receive, send)
        try:
            app = self._own_answer(scope) or self.app
            asked = scope | {"method": "GET"} if scope["method"] == "HEAD" else scope
            await app(asked, exchange.receive, exchange.send)
        except ClientDisconnect:  # nobody is left to be told, and nothing went wrong here
            state.gone += 1
            state.metrics.errors.labels("gone").inc()
        except Exception:
            _log.exception("%r failed", scope["path"])
            state.metrics.errors.labels("internal").inc()
            if not exchange.started:
                told = "the server failed on this request; the reason is in its log"
                await problem(500, "internal", [told])(scope, exchange.receive, exchange.send)

    def _own_answer(self, scope: Any) -> Response | None:
        """The answer that no route gives: to names that are not allowed, to a slash too many."""
        hosts, origins = (
            [value.decode("latin-1").strip() for name, value in scope["headers"] if name == wanted]
            for wanted in (b"host", b"origin")
        )
        if len(hosts) > 1 or not (hosts or scope["http_version"] == "1.0"):
            return self._refuse(400, "no_host", f"{len(hosts)} Host headers given, expected one")
        # HTTP/1.0, which some health checks speak, may have none; browsers always send it
        host = hosts[0] if hosts else "localhost"
        why = self.state.hosts.refuse(host, origins[0] if origins else None)
        if why is not None:
            told = (
                f"{why}, a name that this server does not answer to. Ask it as localhost, or "
                "start it with --allow-host NAME, once for each name"
            )
            foreign = why.startswith("Origin")
            status, kind = (403, "foreign_origin") if foreign else (421, "foreign_host")
            return self._refuse(status, kind, told)
        path = scope["path"]
        bare = path.rstrip("/")
        if bare != path and bare in PATHS:  # a relative way, whatever stands before this server
            up = "../" * (len(path) - len(bare))
            return Response(status_code=307, headers={"location": up + bare.removeprefix("/")})
        return None

    def _refuse(self, status: int, kind: str, told: str) -> Response:
        self.state.metrics.errors.labels(kind).inc()
        return problem(status, kind, [told])


class _Exchange:
    """One request and its answer on their way: what was read, what was said."""

    def __init__(self, state: State, scope: Any, receive: Any, send: Any) -> None:
        self.state, self.scope, self._receive, self._send = state, scope, receive, send
        self.started = self.whole = False
        self.waits = any(name == b"expect" for name, _ in scope["headers"])  # to be told to go on

    async def receive(self) -> Any:
        self.waits = False
        message = await self._receive()
        self.whole |= message["type"] == "http.request" and not message.get("more_body")
        return message

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            slow = message["status"] == 408
            if not (self.whole or self.waits or slow):
                self.whole = await read_on(self._receive, self.state.limits)
            self.state.metrics.request(self.scope["path"], message["status"])
            if self.state.draining or not self.whole:
                message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
        elif self.scope["method"] == "HEAD":
            message["body"] = b""
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.state.answered += 1


def as_json(values: Any, status: int = 200) -> Response:
    """Values as JSON. Raises ValueError for NaN and infinity, which JSON has not."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Response(text.encode(), status, media_type=JSON)


def problem(
    status: int, kind: str, problems: list[str], headers: dict[str, str] | None = None
) -> Response:
    """An error as the client sees it."""
    answer = as_json({"error": {"kind": kind, "problems": problems}}, status)
    answer.headers.update(headers or {})
    return answer


def _description(predictor: Predictor) -> str:
    card = predictor.card
    which = "any of the labels" if card.answers.several else "one of the labels"
    answer = f"{which} {', '.join(card.label_names)}" if card.label_names else "a value"
    return (
        f"Reads {' and '.join(card.text_columns) or 'a text'} ({card.how_long}) "
        f"and gives {answer}. Runs as {predictor.variant}."
    )
