"""What one connection may cost: bounded heads and pipelines, and no endless wait."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kdlora.serve.app import problem
from kdlora.serve.requests import Limits

LARGEST_HEAD = 32 * 1024  # bytes of a request line with its headers
_PIECE = 1024  # bytes that are parsed at a time
_AHEAD = 16  # requests that a connection may send ahead at full speed
_TURN_S = 0.05  # between further ones: a thousand that come together hold nobody up
_LONGER = 50  # after so many more it is as much longer, up to a second
_IDLE = 2  # times the connections that are served: so many may be open
_LAST_WORDS_S = 1.0  # that a connection stays open after it was refused
_NOT_HTTP = "this is not HTTP/1.1; expected a request such as POST /predict"


def turn_s(ahead: int) -> float:
    """Seconds until the next request of a connection that has sent so many in a row ahead."""
    if ahead <= _AHEAD:
        return 0.0
    return min(_TURN_S * (1 + ahead // _LONGER), 1.0)


def guarded(limits: Limits, on_refused: Callable[[str], None]) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, held to what one connection may cost.

    By itself it waits for ever for headers of any length, and turns all requests that arrive
    together into objects at once. Here bytes are parsed piece by piece, and those of a further
    request wait as bytes, with nothing more read, until the one before it is answered.
    """

    class Guarded(HttpToolsProtocol):
        flow: _Flow
        _timer: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle
        _refused = False  # the connection ends
        _receiving = False  # the head of a request is known, its end is not
        _ahead = 0  # requests in a row that were sent before the one before was answered
        _unfinished = 0  # bytes since the last head or part of a body was whole

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.flow = _Flow(transport)
            self._waiting = bytearray()
            if len(self.connections) > _IDLE * limits.max_connections:
                on_refused("too_many_connections")
                transport.abort()
                return
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            if not self._refused:
                self._waiting += data
                self._parse()

        def _parse(self) -> None:
            while self._waiting and self._wants_more():
                piece = self._next_piece()
                self._unfinished += len(piece)
                self._unset_keepalive_if_required()
                self._feed(piece)
                if self._unfinished > LARGEST_HEAD:
                    self._refuse(431, "head_too_large", f"headers over {LARGEST_HEAD} bytes")
                elif self._receiving or self._at_work():
                    self._stop_waiting()
                elif self._timer is None:
                    self._wait_for_head()
            if not self._ended():
                self.flow.hold(bool(self._waiting or self.pipeline))

        def _next_piece(self) -> bytes:
            """The next bytes to parse: of a head no more than the head, where its end is near."""
            end = -1 if self._receiving else self._waiting.find(b"\r\n\r\n", 0, _PIECE)
            size = _PIECE if end < 0 else end + 4
            piece = bytes(self._waiting[:size])
            del self._waiting[:size]
            return piece

        def _feed(self, piece: bytes) -> None:
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:  # to what is not spoken here
                if self.parser.get_method() == b"CONNECT":
                    self._refuse(400, "not_http", _NOT_HTTP)
                    return
                lines = [b"%s: %s\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]
                head = b"%s %s HTTP/1.1\r\n" % (self.parser.get_method(), self.url)
                self.parser = httptools.HttpRequestParser(self)
                self._feed(head + b"".join(lines) + b"\r\n" + piece[upgrade.args[0] :])
            except httptools.HttpParserError:
                self._refuse(400, "not_http", _NOT_HTTP)

        def _wants_more(self) -> bool:
            """Whether the next bytes may become objects: no request waits but the one at work."""
            ready = not self.pipeline and (self._receiving or not self._at_work())
            return ready and not self._ended()

        def _ended(self) -> bool:
            return self._refused or self.transport.is_closing()

        def on_header(self, name: bytes, value: bytes) -> None:
            if not self._receiving:  # else a trailer, which nobody reads
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            if self.parser.should_upgrade():
                return  # comes again without that header
            self._receiving, self._unfinished = True, 0
            crowded = len(self.connections) > limits.max_connections
            self.app = _crowded if crowded else self.config.loaded_app
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._unfinished = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            if not self._receiving:
                return
            self._receiving, self._unfinished = False, 0
            super().on_message_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._ended():
                return
            self.flow.hold(bool(self._waiting or self.pipeline))
            self._ahead = self._ahead + 1 if self._waiting else 0
            if self._waiting:  # others have their turn first
                self.loop.call_later(turn_s(self._ahead), self._parse)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            self._waiting.clear()
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
            """End the connection, with a reason unless an answer is on its way already.

            What the client still sends is read for a moment, or it would not see the reason.
            """
            self._stop_waiting()
            if self._ended():
                return
            on_refused(kind)
            self._refused = True
            self._waiting.clear()
            if self._at_work():
                if self.cycle.response_started or self.pipeline:
                    self.transport.close()
                    return
                self.cycle.disconnected = True  # the application answers no more
                self.cycle.message_event.set()
            self.transport.write(_raw(status, kind, told))
            self.transport.write_eof()
            self.flow.hold(False)
            self._timer = self.loop.call_later(_LAST_WORDS_S, self.transport.close)

    return Guarded


class _Flow(FlowControl):
    """Reads nothing while it is held, whoever asks for more."""

    _held = False

    def hold(self, held: bool) -> None:
        self._held = held
        if held:
            self.pause_reading()
        else:
            self.resume_reading()

    def resume_reading(self) -> None:
        if not self._held:
            super().resume_reading()


async def _crowded(scope: Any, receive: Any, send: Any) -> None:
    """The answer to a request on a connection too many."""
    told = "too many connections at one time; try again later"
    headers = {"retry-after": "1", "connection": "close"}
    await problem(503, "too_many_connections", [told], headers)(scope, receive, send)


def _raw(status: int, kind: str, told: str) -> bytes:
    """A whole response, for connections that never became a request."""
    body = json.dumps({"error": {"kind": kind, "problems": [told]}}).encode()
    head = (
        f"HTTP/1.1 {status} {kind}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
