"""A server to ask: the real command in a process of its own, or the application without one."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.serve_client import ask_once
from tests.harness.threads import apart

_START = (
    "import sys\n"
    "for name in ('torch', 'transformers', 'pandas', 'onnx'): sys.modules[name] = None\n"
    "from kdlora.cli import main\n"
    "main(sys.argv[1:])\n"
)


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-c", _START, "serve", str(folder), "--port", "0", "--threads", "1"]
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r":(\d+)$", line.strip())
        assert found, line + process.communicate()[1]
        yield process, int(found[1])
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ask(port: int, raw: bytes) -> tuple[int, Any]:
    """Status and body, JSON where it is, of one request on a connection of its own."""
    status, body = apart(asyncio.run, ask_once(port, raw, wait_s=10))
    return status, json.loads(body) if body[:1] in (b"{", b"[") else body.decode()


def get(port: int, path: str) -> tuple[int, Any]:
    return ask(port, f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())


async def call(
    app: Any,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[bytes, bytes], Any]:
    """Straight into the application: status, headers and body (JSON where it is)."""
    sent: list[dict] = []
    given = {"host": "localhost", "content-type": "application/json"} | (headers or {})
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "path": path,
        "method": method, "query_string": b"", "raw_path": path.encode(), "root_path": "",
        "scheme": "http", "headers": [(k.encode(), v.encode("latin-1")) for k, v in given.items()],
    }  # fmt: skip

    async def receive() -> dict:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    await app(scope, receive, send)
    whole = b"".join(m.get("body", b"") for m in sent)
    answer = json.loads(whole) if whole[:1] == b"{" else whole.decode()
    return sent[0]["status"], dict(sent[0]["headers"]), answer
