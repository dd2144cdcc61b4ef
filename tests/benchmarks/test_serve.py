"""The load test measures what it says, on a small model and in seconds."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from benchmarks import serve
from benchmarks.serve_client import Tally, keep_asking, predict_bytes
from tests.harness.exported import save_exported
from tests.harness.threads import apart


def test_the_whole_load_test(tmp_path: Path) -> None:
    model = save_exported(tmp_path / "moods")
    found = apart(
        serve.measure,
        model,
        variant="onnx",
        threads=1,
        seconds=0.2,
        minutes=0.02,
        rate=40,
        hostile_seconds=0.2,
        good=8,
        end_after_s=0.3,
    )
    assert found["title"] == "moods as onnx"
    for connections in serve.CONNECTIONS:
        row = found["speed"][str(connections)]
        assert row["answered"] > 0
        assert row["p50_ms"] <= row["p99_ms"]
        assert row["lost"] == row["refused"] == 0
    assert found["hostile"]["unexpected"] == {}
    assert all(found["hostile"]["refused"].values())
    assert found["hostile"]["clients_that_never_read"] >= 60
    assert found["hostile"]["clients_that_left"] > 0
    assert found["hostile"]["health_asked"] > 0
    assert found["hostile"]["memory_grew_mb"] < 200
    for name in ("end_keep_alive", "end_new_connections"):
        row = found[name]
        assert row["exit_code"] == 0
        assert row["accepted"] == row["answered_by_server"] == row["answers_received"] > 0
    assert 0 < found["memory"]["load"]["answered"] <= 2 * 40 * 60 * 0.02 + 8
    serve.write(found, tmp_path)
    assert json.loads((tmp_path / "serve.json").read_text(encoding="utf-8")) == found
    text = (tmp_path / "serve.md").read_text(encoding="utf-8")
    assert f"| 64 | {found['speed']['64']['requests_per_s']:,.0f} |" in text
    assert "| a body that never comes |" in text


def test_a_slope_needs_sizes_and_says_so() -> None:
    assert serve._slope([0, 1, 2], [5.0, 6.0, 7.0]) is None
    assert serve._slope([0, 60, 120, 180], [5.0, 6.0, 7.0, 9.0]) == 2.0
    assert "too short" in serve._slope_said({"second_half_mb_per_minute": None})
    assert "-0.100 MB" in serve._slope_said({"second_half_mb_per_minute": -0.1})


def test_what_gets_no_answer_is_lost() -> None:
    """A server that answers twice on a connection and then hangs up."""

    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = 0
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(size)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()

    async def work() -> Tally:
        server = await asyncio.start_server(rude, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        tally = Tally()
        await asyncio.wait_for(keep_asking(port, 3, until=asyncio.Event(), tally=tally), 10)
        server.close()
        return tally

    tally = apart(asyncio.run, work())
    assert (tally.statuses, tally.lost) == ({200: 6}, 3)
    assert predict_bytes({"text": "é"}).endswith(b"\r\n\r\n" + json.dumps({"text": "é"}).encode())


def test_quantiles_of_known_latencies() -> None:
    tally = Tally(seconds=2.0)
    for i in range(101):
        tally.answer(200, i / 1000)
    tally.answer(503, 9.0)
    found = tally.summary()
    assert (found["p50_ms"], found["p99_ms"]) == (50.0, 99.0)
    assert found["requests_per_s"] == pytest.approx(50.5)
    assert found["other_statuses"] == {"503": 1}
