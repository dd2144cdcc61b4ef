"""What one connection may cost: heads, bodies, pipelines, and clients that leave or never read."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from benchmarks.serve_client import predict_bytes, read_answer
from kdlora.serve.app import make_app
from kdlora.serve.bodies import Bodies
from kdlora.serve.connections import guarded, turn_s
from kdlora.serve.requests import Limits, RequestError, parse_request
from kdlora.ship.answers import Predictor
from tests.harness.threads import apart

LIMITS = Limits(body_timeout_s=0.5, timeout_s=2, max_body_mb=0.05, queue=64, max_connections=8)
_HEAD = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"


class Host:
    """The guarded protocol before the application, in this process, so that one sees inside."""

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self.app, self.limits = make_app(predictor, limits), limits
        self.state = self.app.state.serve
        self.refused: list[str] = []

    async def begin(self) -> None:
        self.state.batcher.start()
        protocol = guarded(self.limits, self.refused.append)
        config = uvicorn.Config(self.app, http=protocol, ws="none", log_config=None, lifespan="off")
        config.load()
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self.server_state = uvicorn.Server(config).server_state
        self.server = await asyncio.get_running_loop().create_server(
            lambda: protocol(config, self.server_state, {}), "127.0.0.1", 0
        )
        self.port = self.server.sockets[0].getsockname()[1]

    async def end(self) -> None:
        self.server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await self.state.batcher.stop()

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, *parts: bytes, pause_s: float = 0.0) -> tuple[int, bool, Any]:
        """Status, whether the connection ends, and the body, of parts sent one by one."""
        reader, writer = await self.open()
        try:
            for part in parts:
                writer.write(part)
                await asyncio.sleep(pause_s)
            async with asyncio.timeout(10):
                status, ends, body = await read_answer(reader)
            return status, ends, json.loads(body) if body else None
        finally:
            writer.close()


@pytest.fixture
def hosted(predictor: Predictor) -> Callable[[Callable[[Host], Awaitable[Any]]], Any]:
    async def work(test: Callable[[Host], Awaitable[Any]]) -> Any:
        host = Host(predictor, LIMITS)
        await host.begin()
        try:
            return await test(host)
        finally:
            await host.end()

    return lambda test: apart(asyncio.run, work(test))


def test_a_head_is_bounded_however_it_arrives(hosted: Callable) -> None:
    heads = {
        "one line": b"GET /health HTTP/1.1\r\nx: " + b"a" * 100_000,
        "many lines": b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 20_000,
        "the path": b"GET /" + b"a" * 100_000,
        "whole": b"GET /health HTTP/1.1\r\nx: " + b"a" * 100_000 + b"\r\n\r\n",
        "trailers": _HEAD + _CHUNKED + b"2\r\n{}\r\n0\r\nx: " + b"a" * 100_000,
        "a chunk's": _HEAD + _CHUNKED + b"2;" + b"a" * 100_000,
    }  # fmt: skip

    async def test(host: Host) -> None:
        for name, head in heads.items():
            assert (await host.ask(head))[0] == 431, name
            pieces = [head[i : i + 7000] for i in range(0, len(head), 7000)]
            assert (await host.ask(*pieces, pause_s=0.001))[0] == 431, name
        assert set(host.refused) == {"head_too_large"}
        fits = b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 30_000 + b"\r\n\r\n"
        assert (await host.ask(fits))[0] == 200

    hosted(test)


def test_pipelines_are_answered_in_order_and_wait_as_bytes(hosted: Callable) -> None:
    count = 40

    async def test(host: Host) -> None:
        reader, writer = await host.open()
        paths = [b"/health", b"/no", b"/health", b"/predict"]
        for i in range(count):
            writer.write(b"GET %s HTTP/1.1\r\nhost: localhost\r\n\r\n" % paths[i % 4])
        found, most = [], 0
        for _ in range(count):
            found.append((await read_answer(reader))[0])
            (connection,) = host.server_state.connections
            most = max(most, len(connection.pipeline))
        writer.close()
        assert found == [200, 404, 200, 405] * (count // 4)
        assert most == 0

    hosted(test)


def test_who_sends_far_ahead_waits_for_its_turn(hosted: Callable) -> None:
    """A thousand requests at once on each of some connections hold nobody up."""

    async def test(host: Host) -> None:
        writers = [(await host.open())[1] for _ in range(5)]
        for writer in writers:
            writer.write(HEALTH * 1000)
        await asyncio.sleep(0.3)
        assert host.state.accepted < 5 * 40
        began = time.perf_counter()
        assert (await host.ask(HEALTH))[0] == 200
        assert time.perf_counter() - began < 1
        for writer in writers:
            writer.transport.abort()

    hosted(test)


def test_who_sends_ever_further_ahead_waits_ever_longer() -> None:
    assert [turn_s(ahead) for ahead in (0, 16, 17, 49, 100, 400, 7000)] == pytest.approx(
        [0, 0, 0.05, 0.05, 0.15, 0.45, 1.0]
    )


def test_clients_that_pipeline_and_never_read_cost_little(hosted: Callable) -> None:
    many = HEALTH * 7000

    async def test(host: Host) -> None:
        writers = [(await host.open())[1] for _ in range(6)]
        for writer in writers:
            writer.transport.set_write_buffer_limits(high=len(many) + 1)
            writer.write(many)
        for _ in range(20):
            await asyncio.sleep(0.05)
            for connection in host.server_state.connections:
                assert len(connection.pipeline) <= 1
                assert len(connection._waiting) <= 2**18 + 1024
                assert connection.transport.get_write_buffer_size() < 2**17
        assert (await host.ask(HEALTH))[0] == 200
        for writer in writers:
            writer.transport.abort()

    hosted(test)


@pytest.mark.parametrize("sent", [b"", b'{"text": "go'])
def test_a_client_that_leaves_inside_a_body_is_gone_and_no_error(
    hosted: Callable, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    whole = predict_bytes({"text": "good film"})
    head = whole[: whole.index(b"\r\n\r\n") + 4]

    async def test(host: Host) -> str:
        _, writer = await host.open()
        writer.write(head + sent)
        await asyncio.sleep(0.05)
        writer.transport.abort()
        await asyncio.sleep(0.05)
        assert host.state.gone == 1
        assert host.state.accepted == 1
        assert host.state.answered == 0
        assert host.state.bodies.held == 0
        assert (await host.ask(whole))[0] == 200
        return host.state.metrics.text().decode()

    figures = hosted(test)
    assert 'kdlora_errors_total{kind="gone"} 1.0' in figures
    assert "internal" not in figures
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


def test_bodies_in_every_form(hosted: Callable) -> None:
    whole = predict_bytes({"text": "good film"})
    body = whole[whole.index(b"\r\n\r\n") + 4 :]
    chunks = _HEAD + _CHUNKED
    length = _HEAD + b"content-length: %d\r\n" % len(body)

    async def test(host: Host) -> None:
        for size in (1, 3, 1000):
            assert (await host.ask(chunks + chunked(body, size)))[0] == 200
        assert (await host.ask(chunks, chunked(body, 5), pause_s=0.05))[0] == 200
        assert (await host.ask(length, b"\r\n", body[:3], body[3:], pause_s=0.02))[0] == 200
        upgrade = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: \r\n\r\n"
        for raw in ((length + upgrade + body,), (length, upgrade, body)):
            assert (await host.ask(*raw))[0] == 200
        assert (await host.ask(chunks + b"0\r\n\r\n"))[0] == 400
        assert (await host.ask(_HEAD + b"\r\n"))[0] == 400
        for raw in (
            chunks + b"zz\r\n",
            b"CONNECT a:443 HTTP/1.1\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\n\r\n",
        ):
            assert (await host.ask(raw))[0] == 400

    hosted(test)


def test_a_client_that_waits_to_go_on_is_told_or_refused_at_once(hosted: Callable) -> None:
    whole = predict_bytes({"text": "good film"})
    head, body = whole.split(b"\r\n\r\n", 1)
    waits = head + b"\r\nexpect: 100-continue\r\n\r\n"
    large = waits.replace(b"content-length: %d" % len(body), b"content-length: 900000")

    async def test(host: Host) -> None:
        reader, writer = await host.open()
        writer.write(waits)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await read_answer(reader))[0] == 200
        writer.close()
        for raw, status in ((large, 413), (waits.replace(b"json", b"text"), 415)):
            reader, writer = await host.open()
            writer.write(raw)
            first = await asyncio.wait_for(reader.readline(), 0.3)
            assert first.startswith(b"HTTP/1.1 %d" % status)  # nothing was asked for
            writer.close()

    hosted(test)


def test_refusals_reach_clients_that_send_all_before_they_read(hosted: Callable) -> None:
    large = predict_bytes({"text": "a" * 400_000})
    cases = {
        413: large,
        415: large.replace(b"application/json", b"text/plain"),
        404: large.replace(b"/predict", b"/nothing"),
        405: large.replace(b"POST /predict", b"PUT /predict"),
        421: large.replace(b"host: localhost", b"host: evil.example"),
    }

    async def test(host: Host) -> None:
        for close in (b"", b"connection: close\r\n"):
            for status, raw in cases.items():
                reader, writer = await host.open()
                writer.write(raw.replace(b"content-type", close + b"content-type"))
                await writer.drain()
                async with asyncio.timeout(5):
                    found, ends, _ = await read_answer(reader)
                assert (found, ends) == (status, bool(close))
                writer.close()

    hosted(test)


def test_bodies_are_bounded_together(predictor: Predictor) -> None:
    class Asked:
        def __init__(self, body: bytes) -> None:
            self.headers = {"content-type": "application/json"}
            self.body = body

        async def stream(self) -> Any:
            yield self.body

    async def work() -> None:
        bodies = Bodies(LIMITS)
        bodies.held = 63 * LIMITS.max_body_bytes
        async with bodies.read(Asked(b"a" * LIMITS.max_body_bytes)) as raw:  # type: ignore[arg-type]
            assert len(raw) == LIMITS.max_body_bytes
            with pytest.raises(RequestError) as error:
                async with bodies.read(Asked(b"b")):  # type: ignore[arg-type]
                    pass
            assert (error.value.status, error.value.retry_after_s) == (503, 1)
        assert bodies.held == 63 * LIMITS.max_body_bytes

    apart(asyncio.run, work())


def test_connections_too_many_are_told_so_in_json(hosted: Callable) -> None:
    async def test(host: Host) -> None:
        idle = [await host.open() for _ in range(LIMITS.max_connections)]
        status, ends, answer = await host.ask(HEALTH)
        assert (status, ends, answer["error"]["kind"]) == (503, True, "too_many_connections")
        more = [await host.open() for _ in range(2 * LIMITS.max_connections)]
        await asyncio.sleep(0.05)
        assert len(host.server_state.connections) <= 2 * LIMITS.max_connections
        for _, writer in (*idle, *more):
            writer.close()

    hosted(test)


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps({f"key {i}": 0 for i in range(60_000)}).encode(),
        json.dumps({"texts": [1] * 300_000}).encode(),
        json.dumps({"texts": [[]] * 200_000}).encode(),
        json.dumps({"text": [0] * 300_000}).encode(),
        json.dumps([[0]] * 150_000).encode(),
        b'{"text": "a", ' * 60_000,
        b'{"text": {' + b",".join(b'"text": 1' for _ in range(60_000)) + b"}}",
    ],
    ids=["keys", "numbers", "lists", "list", "no object", "nested", "one key"],
)
def test_what_is_wrong_with_a_request_costs_no_more_than_reading_it(raw: bytes) -> None:
    began = time.process_time()
    with pytest.raises(RequestError) as error:
        parse_request(raw, columns=1, limits=Limits(queue=10**6))
    assert time.process_time() - began < 1.5  # 5 to 10 s before
    assert len(error.value.problems) <= 12


def test_a_key_that_is_named_twice_is_not_read_as_the_last_one() -> None:
    for raw in (
        b'{"text": "a", "text": "b"}',
        b'{"text": "a", "te\\u0078t": "b"}',
        b'{"texts": ["a"], "texts": ["b"]}',
        b'{"text": "a", "second": "b", "second": null}',
    ):
        with pytest.raises(RequestError, match="given twice"):
            parse_request(raw, columns=1, limits=Limits())
    for text in ('"text"', '"text": "text"', "\\u0041", "9" * 9):
        raw = json.dumps({"text": text}).encode()
        assert parse_request(raw, columns=1, limits=Limits()) == [[text]]


def test_health_is_answered_while_large_bodies_are_read(predictor: Predictor) -> None:
    bad = predict_bytes(json.dumps({f"key {i}": 0 for i in range(60_000)}).encode())

    async def work() -> float:
        host = Host(predictor, Limits())
        await host.begin()
        asked = [asyncio.create_task(host.ask(bad)) for _ in range(3)]
        slowest = 0.0
        while not all(task.done() for task in asked):
            began = time.perf_counter()
            assert (await host.ask(HEALTH))[0] == 200
            slowest = max(slowest, time.perf_counter() - began)
        assert {task.result()[0] for task in asked} == {422}
        await host.end()
        return slowest

    assert apart(asyncio.run, work()) < 1.5
