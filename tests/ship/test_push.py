"""Against a hub of our own: an HTTP server that keeps what is sent to it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PUSH = """
import sys
from pathlib import Path
from kdlora.errors import KdloraError
from kdlora.ship.push import push
try:
    print(push(Path(sys.argv[1]), sys.argv[2], private=sys.argv[3] == "private"))
except KdloraError as error:
    print(f"error: {error}")
    sys.exit(2)
"""


class Hub(ThreadingHTTPServer):
    """Takes repositories and commits of small files; `refuse` answers everything with 403."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.created: list[dict] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        self.refuse = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.add(self.headers.get("Authorization", ""))
        if self.server.refuse:
            return self._answer({"error": "not yours"}, status=403)
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            return self._answer({"url": f"{self.server.url}/me/moods", "name": "me/moods"})
        if self.path.endswith("/preupload/main"):
            names = [f["path"] for f in json.loads(body)["files"]]
            found = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            return self._answer({"files": found})
        if self.path.endswith("/commit/main"):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            url = f"{self.server.url}/me/moods/commit/{'0' * 40}"
            return self._answer({"commitUrl": url, "commitOid": "0" * 40, "success": True})
        return self._answer({"errors": [], "warnings": []})  # validation of the card's YAML

    def do_GET(self) -> None:
        self._answer({"id": "me/moods", "sha": "0" * 40, "siblings": []})

    def _answer(self, value: dict, *, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def push(folder: Path, hub: Hub, *arguments: str, token: str = "hf_test") -> tuple[int, str]:
    environment = os.environ | {
        "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token,
        "HF_HOME": str(folder.parent / "home"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PUSH, str(folder), *arguments],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout.strip() or done.stderr[-500:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    (folder / "onnx").mkdir(parents=True)
    (folder / "README.md").write_text("---\ntags:\n- kdlora\n---\n\n# moods\n")
    (folder / "onnx" / "model.onnx").write_bytes(bytes(range(256)))
    (folder / "export.json").write_text("{}")
    return folder


def test_every_file_arrives_and_new_repositories_are_private(folder: Path, hub: Hub) -> None:
    code, said = push(folder, hub, "me/moods", "private")
    assert code == 0, said
    assert "me/moods" in said
    assert hub.created[0]["name"] == "moods"
    asked = hub.created[0]  # as the hub's client of this or of an earlier version says it
    assert asked.get("visibility") == "private" or asked.get("private") is True
    assert hub.tokens == {"Bearer hf_test"}
    expected = {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
    assert hub.files == expected


def test_a_refusal_is_one_message_that_says_the_export_is_whole(folder: Path, hub: Hub) -> None:
    hub.refuse = True
    code, said = push(folder, hub, "me/moods", "public")
    assert code == 2
    assert said.startswith("error: the hub did not take 'me/moods'")
    assert str(folder) in said
    assert hub.files == {}


def test_a_public_one_is_public(folder: Path, hub: Hub) -> None:
    assert push(folder, hub, "me/moods", "public")[0] == 0
    asked = hub.created[0]
    assert asked.get("visibility", "public") == "public"
    assert not asked.get("private")
