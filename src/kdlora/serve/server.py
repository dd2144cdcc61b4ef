"""Run the application: listen, serve, and end without loss."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI

from kdlora.errors import InputError
from kdlora.serve.app import make_app
from kdlora.serve.connections import guarded
from kdlora.serve.hosts import AllowedHosts
from kdlora.serve.requests import Limits
from kdlora.ship.answers import Predictor

_LAST_ROUND_S = 0.3  # for requests that are on their way when the server is told to end
_BACKLOG = 512


@dataclass(frozen=True)
class Served:
    """How many requests came, how many were answered, and how many left before they were whole."""

    accepted: int
    answered: int
    gone: int

    def __str__(self) -> str:
        left = f", {self.gone} gone before they were whole" if self.gone else ""
        return f"{self.accepted} requests accepted, {self.answered} answered{left}"


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
    hosts: AllowedHosts | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
) -> Served:
    """Serve until SIGTERM or SIGINT, then finish every request that was accepted.

    `hosts` are the names that it answers to, by default those of loopback.
    """
    app = make_app(predictor, limits, workers=workers, hosts=hosts)
    return asyncio.run(_serve(app, bound, limits, on_ready))


async def _serve(
    app: FastAPI, bound: socket.socket, limits: Limits, on_ready: Callable[[str], None]
) -> Served:
    metrics = app.state.serve.metrics
    config = uvicorn.Config(
        app,
        http=guarded(limits, lambda kind: metrics.errors.labels(kind).inc()),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        backlog=_BACKLOG,
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
    state = app.state.serve
    return Served(state.accepted, state.answered, state.gone)


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


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
