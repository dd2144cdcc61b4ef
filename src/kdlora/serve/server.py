"""Run the application: listen, guard connections against slow clients, and end without loss."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kdlora.errors import InputError
from kdlora.serve.app import make_app
from kdlora.serve.requests import Limits
from kdlora.ship.answers import Predictor

_LARGEST_HEAD = 32 * 1024  # bytes of a request line with its headers
_LAST_ROUND_S = 0.3  # for requests that are on their way when the server is told to end
_BACKLOG = 512


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises InputError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError, OverflowError) as error:
        raise InputError(f"cannot listen on host '{host}', port {port}: {error}") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        bound.close()
        raise InputError(
            f"cannot listen on {host}:{port}: {error}. Give another --port, or 0 for a free one"
        ) from None
    return bound


def serve(
    predictor: Predictor,
    bound: socket.socket,
    limits: Limits,
    *,
    workers: int = 1,
    on_ready: Callable[[str], None] = lambda url: None,
) -> tuple[int, int]:
    """Serve until SIGTERM or SIGINT, then finish every request that was accepted.

    Returns how many requests were accepted and how many of them answered.
    """
    return asyncio.run(_serve(predictor, bound, limits, workers, on_ready))


async def _serve(
    predictor: Predictor,
    bound: socket.socket,
    limits: Limits,
    workers: int,
    on_ready: Callable[[str], None],
) -> tuple[int, int]:
    app = make_app(predictor, limits, workers=workers)
    metrics = app.state.serve.metrics
    config = uvicorn.Config(
        app,
        http=_guarded(limits, lambda kind: metrics.errors.labels(kind).inc()),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        backlog=_BACKLOG,
        limit_concurrency=limits.max_connections,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(limits.timeout_s + limits.body_timeout_s) + 5,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # a bad request is no news
    server = _Server(config)
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, told.set)
    running = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started and not running.done():
        await asyncio.sleep(0.01)
    if not running.done():
        on_ready(_url(bound))
        waiting = asyncio.create_task(told.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        await _end(server, app.state.serve)
    await running
    return app.state.serve.accepted, app.state.serve.answered


async def _end(server: _Server, state: Any) -> None:
    """Take no new connections; answer what comes on open ones, each for the last time."""
    state.draining = True
    for listening in getattr(server, "servers", []):
        listening.close()
    await asyncio.sleep(_LAST_ROUND_S)
    server.should_exit = True


class _Server(uvicorn.Server):
    """Leaves signals to its caller: it would end by the signal again instead of with code 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _guarded(limits: Limits, on_refused: Callable[[str], None]) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, which by itself waits for ever for headers of any length."""

    class Guarded(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle
        _head = 0  # bytes since the last request was whole

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.transport.is_closing():
                self._stop_waiting()
            elif self.cycle is not before or self._at_work():
                self._head = 0
                self._stop_waiting()
            else:
                self._head += len(data)
                if self._head > _LARGEST_HEAD:
                    self._refuse(431, "head_too_large", f"headers over {_LARGEST_HEAD} bytes")
                elif self._timer is None:
                    self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            """The client does not read: give it as long as a request may take, no longer."""
            super().pause_writing()
            self._unread = self.loop.call_later(limits.timeout_s, self.transport.abort)

        def resume_writing(self) -> None:
            self._unread.cancel()
            super().resume_writing()

        def _at_work(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _wait_for_head(self) -> None:
            self._timer = self.loop.call_later(
                limits.body_timeout_s,
                lambda: self._refuse(
                    408, "slow_head", f"no whole request within {limits.body_timeout_s:g} s"
                ),
            )

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _refuse(self, status: int, kind: str, told: str) -> None:
            self._stop_waiting()
            if not self.transport.is_closing():
                on_refused(kind)
                self.transport.write(_raw(status, kind, told))
                self.transport.close()

        def send_400_response(self, msg: str) -> None:
            told = "this is not HTTP/1.1; expected a request such as POST /predict"
            self._refuse(400, "not_http", told)

    return Guarded


def _raw(status: int, kind: str, told: str) -> bytes:
    """A whole response, for connections that never became a request."""
    body = json.dumps({"error": {"kind": kind, "problems": [told]}}).encode()
    head = (
        f"HTTP/1.1 {status} {kind}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
