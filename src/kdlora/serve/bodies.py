"""The body of a request: its type, its size, how long it takes, and what all bodies hold."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from kdlora.serve.openapi import JSON
from kdlora.serve.requests import Limits, RequestError

_READ_ON = 16  # times the largest body: what is not wanted is read and thrown away so far
_TOGETHER = 64  # times the largest body: what the bodies of all requests may hold at one time


@dataclass
class Bodies:
    """Reads bodies within the limits, each and all together."""

    limits: Limits
    held: int = 0  # bytes

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, held while the block lasts.

        Raises RequestError (408, 413, 415, 503), before anything is read where the headers tell
        it, and starlette's ClientDisconnect.
        """
        if told := _wrong_type(request):
            raise RequestError(415, "wrong_type", told)
        if _announced(request) > self.limits.max_body_bytes:
            raise self._too_large()
        parts: list[bytes] = []
        try:
            await self._read(request, parts)
            yield b"".join(parts)
        finally:
            self.held -= sum(map(len, parts))

    async def _read(self, request: Request, parts: list[bytes]) -> None:
        size = 0
        try:
            async with asyncio.timeout(self.limits.body_timeout_s):
                async for part in request.stream():
                    size += len(part)
                    if size > self.limits.max_body_bytes:
                        raise self._too_large()
                    if self.held + len(part) > _TOGETHER * self.limits.max_body_bytes:
                        raise RequestError(
                            503, "busy", "too many large requests at one time; try again later",
                            retry_after_s=1,
                        )  # fmt: skip
                    self.held += len(part)
                    parts.append(part)
        except TimeoutError:
            raise RequestError(
                408, "slow_body", f"the body was not whole within {self.limits.body_timeout_s:g} s"
            ) from None

    def _too_large(self) -> RequestError:
        told = f"the body is larger than {self.limits.max_body_mb:g} MB; send several requests"
        return RequestError(413, "body_too_large", told)


async def read_on(receive: Callable[[], Awaitable[Any]], limits: Limits) -> bool:
    """Read a body that nobody wants, as much as is reasonable; returns whether that was all.

    A client that is still sending would not see an answer.
    """
    size = 0
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            while size <= _READ_ON * limits.max_body_bytes:
                message = await receive()
                if message["type"] != "http.request":
                    return False
                if not message.get("more_body"):
                    return True
                size += len(message.get("body", b""))
    except TimeoutError:
        pass
    return False


def _wrong_type(request: Request) -> str | None:
    """Why a body is anything but plain JSON in UTF-8, by its headers."""
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", parameters, re.IGNORECASE)
    coding = request.headers.get("content-encoding", "identity").strip()
    if kind.strip().lower() != JSON:
        return f"content-type {kind.strip()[:60].lower() or 'missing'!r} given, expected {JSON}"
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        return f"charset {charset[1][:40]!r} given; JSON is UTF-8"
    if coding.lower() != "identity":
        return f"content-encoding {coding[:40]!r} given; send the body as it is"
    return None


def _announced(request: Request) -> int:
    """The size that a request announces for its body, in bytes; 0 where it does not."""
    given = request.headers.get("content-length", "")
    return int(given) if given.isascii() and given.isdigit() else 0
