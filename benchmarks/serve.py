"""`kdlora serve` under load on this machine: speed, hostile clients, memory, and a clean end."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import write_results
from benchmarks.serve_client import (
    HEALTH,
    Tally,
    ask_once,
    keep_asking,
    make_texts,
    predict_bytes,
)

CONNECTIONS = (1, 8, 64)
_WATCH_S = 0.5  # between two looks at the memory
_LIMITS = ("--body-timeout-s", "2", "--max-text-chars", "20000", "--max-body-mb", "1")


@dataclass(frozen=True)
class Served:
    """A running `kdlora serve`."""

    process: subprocess.Popen[str]
    port: int
    title: str


@contextmanager
def server(model: Path, *options: str) -> Iterator[Served]:
    """Start the command on a free port; end it whatever happens."""
    command = [sys.executable, "-m", "kdlora", "serve", str(model), "--port", "0", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"^(.*) at http://[^ ]*:(\d+)$", line.strip())
        if found is None:
            raise RuntimeError(f"the server did not start: {line}{process.communicate()[1]}")
        yield Served(process, int(found[2]), found[1])
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


async def measure_speed(served: Served, seconds: float) -> dict[str, Any]:
    """Requests per second and latencies, one text a request, by number of connections."""
    found: dict[str, Any] = {}
    await _for(0.1 * seconds, keep_asking, served.port, 8, tally=Tally())  # warm-up
    for connections in CONNECTIONS:
        tally = Tally()
        await _for(seconds, keep_asking, served.port, connections, tally=tally)
        found[str(connections)] = tally.summary()
    texts = {"texts": make_texts(32)}
    began, batches = time.perf_counter(), 0
    while time.perf_counter() - began < 0.5 * seconds:
        status, _ = await ask_once(served.port, predict_bytes(texts))
        assert status == 200, status
        batches += 1
    found["texts_per_s_in_batches_of_32"] = round(32 * batches / (time.perf_counter() - began), 1)
    return found


async def measure_hostile(served: Served, seconds: float, connections: int) -> dict[str, Any]:
    """Good clients on so many connections and, at the same time, all a server should refuse."""
    good, over = Tally(), asyncio.Event()
    work = asyncio.create_task(keep_asking(served.port, connections, until=over, tally=good))
    big = predict_bytes({"text": "a" * 3_000_000})
    cases = {
        "not JSON": (predict_bytes(b"{'text': 1"), 400),
        "wrong shape": (predict_bytes({"texts": [1, None]}), 422),
        "half a surrogate pair": (predict_bytes(b'{"text": "\\ud800"}'), 400),
        "nested 100,000 deep": (predict_bytes(b"[" * 100_000), 400),
        "text of 30,000 characters": (predict_bytes({"text": "a" * 30_000}), 413),
        "10,000 texts": (predict_bytes({"texts": ["a"] * 10_000}), 413),
        "body of 3 MB": (big, 413),
        "no HTTP": (b"\x16\x03\x01 hello\r\n\r\n", 400),
        "headers of 100 kB": (b"GET / HTTP/1.1\r\nx: " + b"a" * 100_000, 431),
        "60,000 unknown keys": (predict_bytes({f"key {i}": 0 for i in range(60_000)}), 422),
        "300,000 numbers": (predict_bytes({"texts": [1] * 300_000}), 413),
        "one list of 300,000": (predict_bytes({"text": [0] * 300_000}), 422),
        "the name of another site": (HEALTH.replace(b"localhost", b"evil.example"), 421),
        "headers that never end": (b"POST /predict HTTP/1.1\r\nhost: lo", 408),
        "a body that never comes": (predict_bytes({"text": "good"})[:-5], 408),
    }
    asked = dict.fromkeys(cases, 0)
    wrong: dict[str, int] = {}

    async def repeat(name: str, raw: bytes, expected: int) -> None:
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            status, _ = await ask_once(served.port, raw)
            asked[name] += 1
            if status != expected:
                key = f"{name}: {status}"
                wrong[key] = wrong.get(key, 0) + 1
            await asyncio.sleep(0.05)

    before = await _resident_mb(served.port)
    health = asyncio.create_task(_ask_health(served.port, seconds))
    sizes = asyncio.create_task(_watch_memory(served.port, until=over))
    silent = asyncio.create_task(_pipeline_without_reading(served.port, until=over))
    leaving = asyncio.create_task(_leave_inside_bodies(served.port, until=over))
    await asyncio.gather(*(repeat(name, *case) for name, case in cases.items()))
    over.set()
    await work
    waits = await health
    expected = {name: case[1] for name, case in cases.items()}
    resident = await sizes
    return {
        "connections": connections,
        "seconds": seconds,
        "load_after": round(os.getloadavg()[0], 1),
        "good": good.summary(),
        "refused": asked,
        "status": expected,
        "unexpected": wrong,
        "health_p99_ms": round(1e3 * float(np.quantile(waits, 0.99)), 1),
        "health_asked": len(waits),
        "clients_that_never_read": await silent,
        "clients_that_left": await leaving,
        "memory_before_mb": before,
        "memory_grew_mb": round(max(resident) - before, 1),
        "second_half_mb_per_minute": _slope(np.arange(len(resident)) * _WATCH_S, resident),
    }


def _slope_said(row: dict[str, Any]) -> str:
    slope = row["second_half_mb_per_minute"]
    if slope is None:
        return "too short for a slope over the second half"
    return f"slope over the second half {slope:+.3f} MB a minute"


async def _ask_health(port: int, seconds: float) -> list[float]:
    """Seconds that each GET /health took, ten a second, by a process that does nothing else."""
    command = [sys.executable, "-m", "benchmarks.serve_client", str(port), str(seconds)]
    asked = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    told, _ = await asked.communicate()
    assert asked.returncode == 0
    return list(map(float, told.split()))


def _slope(times_s: Any, sizes_mb: list[float]) -> float | None:
    """MB a minute over the second half of the time; None where it holds fewer than two sizes."""
    half = len(sizes_mb) // 2
    if half < 2:
        return None
    slope = np.polyfit(np.asarray(times_s[half:]) / 60, sizes_mb[half:], 1)[0]
    return round(float(slope), 4)


async def _watch_memory(port: int, *, until: asyncio.Event) -> list[float]:
    """Resident MB of the server, twice a second."""
    found = [await _resident_mb(port)]
    while not until.is_set():
        await asyncio.sleep(_WATCH_S)
        found.append(await _resident_mb(port))
    return found


async def _pipeline_without_reading(port: int, *, until: asyncio.Event) -> int:
    """60 connections that send 7,000 requests each and read no answer; again when they are shut."""
    opened, writers = 0, list[asyncio.StreamWriter]()
    many = HEALTH * 7000
    while not until.is_set():
        writers = [w for w in writers if not w.is_closing()]
        while len(writers) < 60:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(many)
            writers.append(writer)
            opened += 1
        await asyncio.sleep(0.2)
    for writer in writers:
        writer.transport.abort()
    return opened


async def _leave_inside_bodies(port: int, *, until: asyncio.Event) -> int:
    """Clients that are gone before their request is whole."""
    left, part = 0, predict_bytes({"text": "good film"})[:-5]
    while not until.is_set():
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(part)
        await asyncio.sleep(0.02)
        writer.transport.abort()
        left += 1
    return left


async def measure_memory(served: Served, minutes: float, rate: float) -> dict[str, Any]:
    """Resident memory under a steady load, every five seconds."""
    tally, over = Tally(), asyncio.Event()
    work = asyncio.create_task(keep_asking(served.port, 8, until=over, tally=tally, rate=rate))
    times, sizes = [], []
    began = time.perf_counter()
    while (past := time.perf_counter() - began) < 60 * minutes:
        times.append(past)
        sizes.append(await _resident_mb(served.port))
        await asyncio.sleep(min(5.0, 6 * minutes))
    over.set()
    await work
    return {
        "minutes": minutes,
        "rate_per_s": rate,
        "first_mb": sizes[0],
        "after_a_tenth_mb": sizes[len(sizes) // 10],
        "last_mb": sizes[-1],
        "largest_mb": max(sizes),
        "second_half_mb_per_minute": _slope(times, sizes),
        "load": tally.summary(),
    }


async def measure_end(served: Served, *, reconnect: bool, after_s: float) -> dict[str, Any]:
    """SIGTERM after so long, while 64 clients ask: what was accepted has to be answered."""
    tally = Tally()
    work = asyncio.create_task(
        keep_asking(served.port, 64, until=asyncio.Event(), tally=tally, reconnect=reconnect)
    )
    await asyncio.sleep(after_s)
    began = time.perf_counter()
    served.process.send_signal(signal.SIGTERM)
    await work
    told = (await asyncio.to_thread(served.process.communicate))[1]
    counts = re.search(r"(\d+) requests accepted, (\d+) answered", told)
    assert counts is not None, told
    return {
        "exit_code": served.process.returncode,
        "seconds_to_end": round(time.perf_counter() - began, 2),
        "accepted": int(counts[1]),
        "answered_by_server": int(counts[2]),
        "answers_received": sum(tally.statuses.values()),
        "sent_without_answer": tally.lost,
        "connections_refused_at_the_end": tally.refused,
    }


def measure(
    model: Path,
    *,
    variant: str | None,
    threads: int,
    seconds: float,
    minutes: float,
    rate: float,
    hostile_seconds: float,
    good: int,
    end_after_s: float = 2.0,
) -> dict[str, Any]:
    """All of it, each part with a server of its own.

    `hostile_seconds` long `good` connections ask beside the hostile clients.
    """
    options = ["--threads", str(threads), *(["--variant", variant] if variant else [])]
    found: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{os.cpu_count()} processors, {platform.machine()}",
        "load_before": round(os.getloadavg()[0], 1),
        "threads": threads,
    }
    with server(model, *options) as served:
        found["title"] = served.title
        found["speed"] = asyncio.run(measure_speed(served, seconds))
    with server(model, *options, *_LIMITS) as served:
        found["hostile"] = asyncio.run(measure_hostile(served, hostile_seconds, good))
    for name, reconnect in (("end_keep_alive", False), ("end_new_connections", True)):
        with server(model, *options) as served:
            found[name] = asyncio.run(measure_end(served, reconnect=reconnect, after_s=end_after_s))
    if minutes:
        with server(model, *options) as served:
            found["memory"] = asyncio.run(measure_memory(served, minutes, rate))
    return found


def write(found: dict[str, Any], folder: Path) -> None:
    """`serve.json` and the page `serve.md` made of it."""
    write_results(folder, "serve", found, page(found))


def page(found: dict[str, Any]) -> str:
    """The results in Markdown."""
    hostile, good = found["hostile"], found["hostile"]["good"]
    lines = [
        "# `kdlora serve` under load",
        "",
        f"{found['title']}, {found['threads']} thread(s), {found['machine']}, {found['date']}. "
        "The clients run on the same machine over loopback and share its processors; other work "
        f"was going on (load average {found['load_before']:g} before the start). Made by "
        "`python -m benchmarks serve`; every number is from `serve.json` beside this page.",
        "",
        "## Speed",
        "",
        "One text of 5 to 40 words a request; a connection asks again as soon as it is answered.",
        "",
        "| connections | requests/s | p50, ms | p99, ms | refused or lost |",
        "|---:|---:|---:|---:|---:|",
    ]
    for connections in CONNECTIONS:
        row = found["speed"][str(connections)]
        bad = row["lost"] + row["refused"] + sum(row["other_statuses"].values())
        lines.append(
            f"| {connections} | {row['requests_per_s']:,.0f} | {row['p50_ms']:.1f} | "
            f"{row['p99_ms']:.1f} | {bad} |"
        )
    lines += [
        "",
        f"In requests of 32 texts: {found['speed']['texts_per_s_in_batches_of_32']:,.0f} texts/s.",
        "",
        "## Hostile clients",
        "",
        f"For {hostile['seconds']:g} s, {hostile['connections']} good connections beside them got "
        f"{good['answered']:,} answers "
        f"({good['requests_per_s']:,.0f}/s, p99 {good['p99_ms']:.1f} ms), "
        f"{good['lost'] + good['refused'] + sum(good['other_statuses'].values())} refused or lost.",
        "",
        "| given | times | answered with |",
        "|---|---:|---:|",
        *(
            f"| {name} | {n} | {hostile['status'][name]} |"
            for name, n in hostile["refused"].items()
        ),
        "",
        f"Answers with another status than that: {hostile['unexpected'] or 'none'}. Beside them, "
        "60 connections pipelined 7,000 requests each and never read "
        f"({hostile['clients_that_never_read']:,} connections in all), and "
        f"{hostile['clients_that_left']:,} clients left inside their body. "
        f"`GET /health` took {hostile['health_p99_ms']:g} ms at the 99th percentile of "
        f"{hostile['health_asked']} (load average {hostile['load_after']:g} on "
        f"{found['machine']}). Resident memory was {hostile['memory_before_mb']:.0f} MB before and "
        f"grew by at most {hostile['memory_grew_mb']:g} MB; "
        f"{_slope_said(hostile)}.",
        "",
        "## SIGTERM under load",
        "",
        "| 64 clients | accepted | answered | received | sent without answer | exit code "
        "| s to end |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, told in (
        ("end_keep_alive", "keep their connections"),
        ("end_new_connections", "connect for every request"),
    ):
        row = found[name]
        lines.append(
            f"| {told} | {row['accepted']:,} | {row['answered_by_server']:,} | "
            f"{row['answers_received']:,} | {row['sent_without_answer']} | {row['exit_code']} | "
            f"{row['seconds_to_end']:g} |"
        )
    lines += [
        "",
        "A connection that the system has queued and the server has not taken yet is reset when it "
        "stops listening; such a request was not accepted, and counts as sent without answer.",
    ]
    if "memory" in found:
        row = found["memory"]
        lines += [
            "",
            "## Memory",
            "",
            f"{row['minutes']:g} minutes at {row['rate_per_s']:g} requests/s "
            f"({row['load']['answered']:,} answered, p99 {row['load']['p99_ms']:.1f} ms): resident "
            f"{row['first_mb']:.0f} MB at the start, {row['after_a_tenth_mb']:.1f} MB after a "
            f"tenth of the time, {row['last_mb']:.1f} MB at the end, at most "
            f"{row['largest_mb']:.1f} MB; "
            f"{_slope_said(row)}.",
        ]
    return "\n".join(lines) + "\n"


async def _for(seconds: float, work: Any, *arguments: Any, **options: Any) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await work(*arguments, until=over, **options)


async def _resident_mb(port: int) -> float:
    _, body = await ask_once(port, b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
    found = re.search(rb"^process_resident_memory_bytes (\S+)$", body, re.MULTILINE)
    assert found is not None
    return round(float(found[1]) / 1e6, 2)
