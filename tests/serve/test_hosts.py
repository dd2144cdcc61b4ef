"""Names that a server answers to: loopback by default, what it listens on, what the user adds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.errors import InputError
from kdlora.serve.app import make_app
from kdlora.serve.hosts import AllowedHosts, allowed_hosts
from kdlora.ship.answers import Predictor
from tests.harness.serving import call
from tests.harness.threads import apart

LOOPBACK = (
    "localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:8000", "127.0.0.53", "[::1]:80", "[::1]",
    "model.localhost:1",
)  # fmt: skip
FOREIGN = (
    "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example",
    "10.0.0.5", "0.0.0.0:8000", "", "local host", "user@localhost", "localhost:8000:1", "[::1",
    "localhost/", "127.1",
)  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_is_always_answered(host: str) -> None:
    for hosts in (AllowedHosts(), allowed_hosts("127.0.0.1"), allowed_hosts("0.0.0.0")):
        assert hosts.refuse(host, None) is None


@pytest.mark.parametrize("host", FOREIGN)
def test_other_names_are_refused_by_a_server_on_this_machine(host: str) -> None:
    assert allowed_hosts("127.0.0.1").refuse(host, None)


@given(st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){0,3}\.[a-z]{2,6}", fullmatch=True))
def test_no_name_that_somebody_owns_is_loopback(name: str) -> None:
    refused = AllowedHosts().refuse(f"{name}:8000", None)
    assert (refused is None) == name.endswith((".localhost", "localhost.localdomain"))


def test_a_server_that_listens_beyond_loopback_is_reached_by_address_and_by_its_own_name() -> None:
    hosts = allowed_hosts("models.example.org")
    for host in ("models.example.org:8000", "10.0.0.5", "[2001:db8::1]:80"):
        assert hosts.refuse(host, None) is None
    assert hosts.refuse("evil.example", None)
    assert allowed_hosts("0.0.0.0").refuse("evil.example", None)
    assert allowed_hosts("::").refuse("[2001:db8::1]", None) is None


def test_more_names() -> None:
    hosts = allowed_hosts("127.0.0.1", ["Models.example.org", "model"])
    for host in ("models.example.org", "MODEL:80", "models.example.org."):
        assert hosts.refuse(host, None) is None
    assert hosts.refuse("other.example.org", None)
    assert allowed_hosts("127.0.0.1", ["*"]).refuse("evil.example", "https://evil.example") is None
    for bad in ("http://a.example", "a b", "", "a.example/x"):
        with pytest.raises(InputError, match="no host name"):
            allowed_hosts("127.0.0.1", [bad])


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("localhost:8000", "http://localhost:8000", True),
        ("localhost:8000", "http://localhost:3000", True),
        ("127.0.0.1:8000", "http://[::1]:8000", True),
        ("localhost:8000", "https://evil.example", False),
        ("localhost:8000", "null", False),
        ("localhost:8000", "file://", False),
        ("localhost:8000", "localhost.evil.example", False),
    ],
)
def test_a_page_of_another_site_is_refused(host: str, origin: str, allowed: bool) -> None:
    assert (AllowedHosts().refuse(host, origin) is None) == allowed


def test_strangers_reach_no_path(predictor: Predictor) -> None:
    app = make_app(predictor)
    app.state.serve.batcher.start = None  # nothing of a refused request may reach the model

    async def asked(path: str, **headers: str) -> tuple[int, Any]:
        method = "POST" if path == "/predict" else "GET"
        status, _, answer = await call(app, method, path, b'{"text": "good"}', headers=headers)
        return status, answer

    async def work() -> None:
        for path in ("/", "/health", "/metrics", "/docs", "/openapi.json", "/predict", "/none"):
            status, answer = await asked(path, host="evil.example:8000")
            assert (status, answer["error"]["kind"]) == (421, "foreign_host")
            assert "--allow-host" in answer["error"]["problems"][0]
            status, answer = await asked(path, origin="https://evil.example")
            assert (status, answer["error"]["kind"]) == (403, "foreign_origin")
        assert (await asked("/health"))[0] == 200

    apart(asyncio.run, work())
