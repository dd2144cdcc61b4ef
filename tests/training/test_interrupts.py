from __future__ import annotations

import signal

import pytest

from kdlora.training import interrupts
from kdlora.training.interrupts import once_a_press, polite_interrupt


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now[0])
    return now


def test_signals_of_one_press_act_once(clock):
    calls = []
    handler = once_a_press(lambda: calls.append(clock[0]))
    for clock[0] in (100.0, 100.01, 100.9, 101.1, 101.2, 105.0):
        handler(signal.SIGINT, None)
    assert calls == [100.0, 101.1, 105.0]


def test_the_first_press_is_remembered_and_the_second_stops(clock):
    before = signal.getsignal(signal.SIGINT)
    with polite_interrupt() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # the parent passes the press on
        assert asked()
        clock[0] += 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
