from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from kdlora import machine as tuning


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


def test_workers_share_the_cores_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(tuning.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5})
    found = {"text": "max 100000"}
    monkeypatch.setattr("builtins.open", lambda *a, **k: io.StringIO(found["text"]))
    assert tuning.available_cores() == 6
    found["text"] = "250000 100000"  # a container with two and a half cores
    assert tuning.available_cores() == 2
    found["text"] = "50000 100000"
    assert tuning.available_cores() == 1


def test_the_libraries_of_a_worker_are_told_its_share():
    values = tuning.worker_environment(3)
    assert {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"} <= set(values)
    assert set(values.values()) == {"3"}


def test_a_process_is_gone_when_it_has_ended_or_its_number_is_anothers():
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = tuning.process_start(other.pid)
    assert not tuning.is_gone(other.pid, started)
    assert not tuning.is_gone(other.pid, None)
    assert tuning.is_gone(other.pid, f"{int(started) - 1}")
    other.communicate()
    assert tuning.is_gone(other.pid, started)
    assert tuning.is_gone(other.pid, None)
    for nobodys in (2**22 + 1, 2**80):  # the second is no number that the system could have
        assert tuning.process_start(nobodys) == ""
        assert tuning.is_gone(nobodys, None)


def test_where_the_system_does_not_tell_when_a_process_began_its_number_has_to_do(monkeypatch):
    def missing(*arguments: object, **options: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    assert tuning.process_start(os.getpid()) == "unknown"
    assert not tuning.is_gone(os.getpid(), "1")
    assert not tuning.is_gone(os.getpid(), None)
    assert tuning.is_gone(2**22 + 1, "1")


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [("0, 2", ("0", "2")), ("GPU-8a,GPU-9b", ("GPU-8a", "GPU-9b")), ("", ()), ("-1", ())],
)
def test_the_users_choice_of_gpus_is_handed_out_one_by_one(monkeypatch, chosen, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert tuning.visible_gpus() == expected


def test_gpus_are_counted_by_their_driver_if_there_is_one(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    listed = "GPU 0: A100 (UUID: GPU-1)\nGPU 1: A100 (UUID: GPU-2)\n"

    def ask(*arguments: object, **options: object) -> SimpleNamespace:
        return SimpleNamespace(stdout=listed)

    monkeypatch.setattr(tuning.subprocess, "run", ask)
    assert tuning.visible_gpus() == ("0", "1")

    def missing(*arguments: object, **options: object) -> SimpleNamespace:
        raise FileNotFoundError

    monkeypatch.setattr(tuning.subprocess, "run", missing)
    assert tuning.visible_gpus() == ()


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [(None, "A100"), ("1", "H100"), ("GPU-2", "H100"), ("1,0", "H100"), ("", "a processor")],
)
def test_what_runs_compute_on_is_named_as_in_their_records(monkeypatch, chosen, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    listed = "GPU 0: A100 (UUID: GPU-1a)\nGPU 1: H100 (UUID: GPU-2b)\n"
    answer = SimpleNamespace(stdout=listed)
    monkeypatch.setattr(tuning.subprocess, "run", lambda *arguments, **options: answer)
    monkeypatch.setattr(tuning, "processor_name", lambda: "a processor")
    assert tuning.computes_on() == expected


def test_gpus_that_are_named_but_have_no_driver_are_none(monkeypatch):
    def missing(*arguments: object, **options: object) -> SimpleNamespace:
        raise FileNotFoundError

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(tuning.subprocess, "run", missing)
    monkeypatch.setattr(tuning, "processor_name", lambda: "a processor")
    assert tuning.computes_on() == "a processor"
