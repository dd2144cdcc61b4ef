"""docs/serving.md names options that exist, with the defaults that they have."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import typer

from kdlora.cli.app import app
from kdlora.serve.connections import LARGEST_HEAD
from kdlora.serve.requests import Limits
from kdlora.ship.predict import ROWS

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "serving.md").read_text(encoding="utf-8")


def options(command: str) -> dict[str, object]:
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    return {name: p.default for p in found.params for name in p.opts if name.startswith("--")}


def test_every_option_exists() -> None:
    known = {*options("predict"), *options("serve"), "--hostile-seconds"}
    known |= {"--form", "--rm", "--model-repository"}  # of the servers beyond
    known |= {"--inputs", "--minutes"}  # of the fuzz
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT))
    assert len(named) > 12
    assert named <= known


def test_defaults_are_those_of_the_command_and_of_the_limits() -> None:
    serve, limits = options("serve"), Limits().model_dump()
    told = {name: float(value) for name, value in re.findall(r"`--([a-z-]+) ([\d.]+)`", TEXT)}
    told |= {name: float(v) for name, v in re.findall(r"`--([a-z-]+)` \(default (\d+)\)", TEXT)}
    told.pop("port", None)
    assert {"queue", "timeout-s", "max-batch", "max-wait-ms", "workers"} <= set(told)
    for name, value in told.items():
        assert serve[f"--{name}"] == value, name
        assert limits.get(name.replace("-", "_"), value) == value, name
    for name, value in limits.items():
        assert serve[f"--{name.replace('_', '-')}"] == value, name
    assert f"{ROWS:,} rows at a time" in TEXT
    assert LARGEST_HEAD == 32 * 1024
    assert "headers over 32 kB" in TEXT


def test_every_status_is_listed() -> None:
    from kdlora.serve import app, bodies, connections, openapi, requests

    modules = (app, bodies, connections, openapi, requests)
    raised = {
        status
        for module in modules
        for status in re.findall(r"\b(4\d\d|50[034])\b", inspect.getsource(module))
    }
    assert {"413", "421", "431", "504"} < raised
    assert raised <= set(re.findall(r"\b(4\d\d|50\d)\b", TEXT))
