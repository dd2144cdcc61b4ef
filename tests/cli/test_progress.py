"""What a person sees while a command works: on a terminal's standard error, and nowhere else."""

from __future__ import annotations

import time

import pytest

from kdlora.cli import progress
from kdlora.cli.progress import waiting


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setattr(progress, "_PATIENCE_S", 0.0)


def shown(capsys, *, hidden=False):
    with waiting("comparing", hidden=hidden):
        time.sleep(0.2)
    found = capsys.readouterr()
    assert found.out == ""
    return found.err


def test_a_terminal_shows_what_is_done(terminal, capsys):
    assert "comparing" in shown(capsys)


def test_json_and_pipes_show_nothing(terminal, capsys, monkeypatch):
    assert shown(capsys, hidden=True) == ""
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    assert shown(capsys) == ""


def test_what_is_quick_shows_nothing(terminal, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE_S", 30.0)
    assert "comparing" not in shown(capsys)
