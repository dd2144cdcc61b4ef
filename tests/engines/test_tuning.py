from __future__ import annotations

import time

import pytest

from kdlora.engines import tuning


@pytest.mark.parametrize(
    ("busy", "expected"),
    [(0.0, {"GOMP_SPINCOUNT": "100000"}), (0.9, {"OMP_WAIT_POLICY": "PASSIVE"})],
)
def test_threads_spin_on_an_idle_machine_and_sleep_on_a_busy_one(monkeypatch, busy, expected):
    environment: dict[str, str] = {}
    monkeypatch.setattr(tuning.os, "environ", environment)
    monkeypatch.setattr(tuning, "busy_share", lambda: busy)
    tuning.choose_waiting()
    assert environment == expected
    monkeypatch.setattr(tuning, "busy_share", lambda: 1 - busy)
    tuning.choose_waiting()
    assert environment == expected  # chosen once, or by the user


def test_what_the_user_set_stays(monkeypatch):
    environment = {"OMP_WAIT_POLICY": "ACTIVE", "GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}
    monkeypatch.setattr(tuning.os, "environ", dict(environment))
    tuning.tune_workers()
    assert tuning.os.environ == environment


def test_the_busy_share_counts_what_is_not_idle(monkeypatch):
    ticks = iter([(100, 400), (130, 500)])
    monkeypatch.setattr(tuning, "_processor_time", lambda: next(ticks))
    assert tuning.busy_share(seconds=0) == 0.7


def test_without_the_kernels_counters_the_load_average_serves(monkeypatch):
    def missing() -> tuple[int, int]:
        raise FileNotFoundError

    monkeypatch.setattr(tuning, "_processor_time", missing)
    monkeypatch.setattr(tuning.os, "getloadavg", lambda: (1.0, 0.0, 0.0))
    monkeypatch.setattr(tuning.os, "cpu_count", lambda: 4)
    assert tuning.busy_share() == 0.25


def test_this_machine_answers():
    started = time.monotonic()
    assert 0 <= tuning.busy_share() <= 1
    assert time.monotonic() - started < 5
