"""A small HTTP client for load: raw connections, so that the client costs little of the machine."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
_WORDS = (  # noqa: SIM905
    "the film is a long and rather sad story about two people who meet on a train and never "
    "speak again which the director tells with wit patience good music and a great deal of rain"
).split()


def make_texts(n: int, seed: int = 0) -> list[str]:
    """Sentences of 5 to 40 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(_WORDS, rng.integers(5, 41))) for _ in range(n)]


def predict_bytes(values: Any) -> bytes:
    """A whole POST /predict with JSON of `values` (or with these bytes) as its body."""
    body = values if isinstance(values, bytes) else json.dumps(values).encode()
    head = (
        "POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass
class Tally:
    """What became of requests; a request is `lost` if it was sent whole and got no answer."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    lost: int = 0
    refused: int = 0  # no connection at all

    @contextmanager
    def timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds = time.perf_counter() - began

    def answer(self, status: int, seconds: float) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 200:
            self.latencies_s.append(seconds)

    def quantile_ms(self, q: float) -> float:
        return 1e3 * float(np.quantile(self.latencies_s, q)) if self.latencies_s else float("nan")

    def summary(self) -> dict[str, Any]:
        answered = self.statuses.get(200, 0)
        return {
            "seconds": round(self.seconds, 2),
            "answered": answered,
            "requests_per_s": round(answered / self.seconds, 1),
            "p50_ms": round(self.quantile_ms(0.5), 2),
            "p99_ms": round(self.quantile_ms(0.99), 2),
            "other_statuses": {str(k): n for k, n in sorted(self.statuses.items()) if k != 200},
            "lost": self.lost,
            "refused": self.refused,
        }


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bool, bytes]:
    """(status, whether the connection ends, body) of the next response."""
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(head.split(" ", 2)[1])
        if status != 100:
            break
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    body = await reader.readexactly(int(fields.get("content-length", 0)))
    return status, fields.get("connection") == "close", body


async def ask_once(port: int, raw: bytes, *, wait_s: float = 30.0) -> tuple[int, bytes]:
    """One request on a connection of its own; status 0 where no answer came."""
    try:
        async with asyncio.timeout(wait_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(raw)
                with suppress(ConnectionError):
                    await writer.drain()
                status, _, body = await read_answer(reader)
                return status, body
            finally:
                writer.close()
    except (OSError, EOFError, TimeoutError):
        return 0, b""


async def keep_asking(
    port: int,
    connections: int,
    *,
    until: asyncio.Event,
    tally: Tally,
    rate: float | None = None,
    reconnect: bool = False,
) -> None:
    """Each connection asks again as soon as it has an answer; `rate` slows all of them together.

    With `reconnect` every request has a connection of its own. Ends when `until` is set or the
    server takes no more.
    """
    requests = [predict_bytes({"text": text}) for text in make_texts(256)]

    async def one(start: int) -> None:
        due = time.perf_counter() + start / (rate or 1e9)
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        at = start
        try:
            while not until.is_set():
                if rate is not None:
                    due += connections / rate
                    await asyncio.sleep(max(due - time.perf_counter(), 0))
                if streams is None:
                    try:
                        streams = await asyncio.open_connection("127.0.0.1", port)
                    except OSError:
                        tally.refused += 1
                        return
                reader, writer = streams
                at += 1
                began = time.perf_counter()
                try:
                    writer.write(requests[at % len(requests)])
                    status, ends, _ = await read_answer(reader)
                except (OSError, EOFError):
                    tally.lost += 1
                    return
                tally.answer(status, time.perf_counter() - began)
                if ends or reconnect:
                    writer.close()
                    streams = None
        finally:
            if streams is not None:
                streams[1].close()

    with tally.timed():
        await asyncio.gather(*(one(i) for i in range(connections)))


async def ask_health(port: int, seconds: float) -> list[float]:
    """Seconds that each GET /health took, ten a second."""
    found = []
    ends = time.perf_counter() + seconds
    while (began := time.perf_counter()) < ends:
        status, _ = await ask_once(port, HEALTH)
        assert status == 200, status
        found.append(time.perf_counter() - began)
        await asyncio.sleep(0.1)
    return found


if __name__ == "__main__":
    print(*asyncio.run(ask_health(int(sys.argv[1]), float(sys.argv[2]))))
