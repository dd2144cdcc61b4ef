"""Leases between processes: one winner, dead holders, sleepers that must notice, no clocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from kdlora.machine import process_start, this_machine
from kdlora.records import leases
from kdlora.records.leases import (
    LeaseLost,
    LeaseObserver,
    LeaseSnapshot,
    acquire,
    held,
    look,
)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def foreign(folder, *, count: int = 7, generation: int = 1, **changes: object) -> LeaseSnapshot:
    """A lease as a process of another machine leaves it."""
    owner = {"host": "far", "boot": "another", "namespace": "pid:[1]", "pid": 1, "started": "1"}
    owner |= {"nonce": "n", "expiry_s": 60.0} | changes
    content = json.dumps(owner).encode() + b"\n" + str(count).encode().zfill(20)
    (folder / f"lease-{generation:06d}").write_bytes(content)
    return look(folder)


def test_one_holder_at_a_time_and_the_next_after_the_release(tmp_path):
    with held(tmp_path) as lease:
        assert lease is not None
        assert acquire(tmp_path) is None
    with held(tmp_path) as lease:
        assert lease.generation == 2
    assert [p.name for p in tmp_path.iterdir()] == ["lease-000002"]


def test_of_many_that_try_at_once_one_wins(tmp_path):
    for _ in range(20):
        start, won = threading.Barrier(8), []

        def attempt(start=start, won=won) -> None:
            start.wait()
            won.append(acquire(tmp_path))

        threads = [threading.Thread(target=attempt) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [lease for lease in won if lease is not None]
        assert len(winners) == 1
        winners[0].release()


def test_a_counter_that_moves_keeps_a_lease_for_ever(tmp_path):
    clock = Clock()
    watch = LeaseObserver(clock)
    for count in range(50):
        assert watch.judge(foreign(tmp_path, count=count)) == "held"
        clock.now += 30
    assert acquire(tmp_path) is None


def test_a_counter_that_stands_still_is_dead_after_the_time_it_states(tmp_path):
    clock = Clock()
    watch, seen = LeaseObserver(clock), foreign(tmp_path, expiry_s=20.0)
    verdicts = []
    for _ in range(7):
        verdicts.append(watch.judge(look(tmp_path)))
        clock.now += 4
    assert verdicts == ["held"] * 6 + ["dead"]  # more than 20 s were watched at the seventh look
    assert acquire(tmp_path) is None  # nobody else may take it for granted
    lease = acquire(tmp_path, dead=seen)
    assert lease.generation == 2
    lease.release()


def test_a_clock_that_jumps_makes_nobody_dead(tmp_path):
    clock = Clock()
    watch, seen = LeaseObserver(clock), foreign(tmp_path)
    for jump in (1e9, -2e9, 1e6):
        assert watch.judge(seen) == "held"
        clock.now += jump
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))  # nor does the time of the file
    assert watch.judge(look(tmp_path)) == "held"


def test_a_holder_that_moved_after_it_was_judged_dead_keeps_its_lease(tmp_path):
    seen = foreign(tmp_path, count=3)
    foreign(tmp_path, count=4)
    assert acquire(tmp_path, dead=seen) is None


def test_a_torn_lease_is_held_until_it_has_been_watched_for_long(tmp_path):
    (tmp_path / "lease-000001").write_bytes(b'{"host": "fa')
    clock = Clock()
    watch = LeaseObserver(clock)
    assert acquire(tmp_path) is None
    for _ in range(6):
        assert watch.judge(look(tmp_path)) == "held" or clock.now > 1060
        clock.now += 15
    assert watch.judge(look(tmp_path)) == "dead"
    acquire(tmp_path, dead=look(tmp_path)).release()


def test_who_slept_while_another_took_over_notices_and_nobody_elses_file_is_touched(tmp_path):
    sleeper = acquire(tmp_path)
    sleeper._ended.set()  # its thread sleeps too
    taken = acquire(tmp_path, dead=look(tmp_path))
    sleeper.check()  # it cannot know yet, and nothing that matters is written without `now`
    with pytest.raises(LeaseLost):
        sleeper.check(now=True)
    sleeper.release()
    assert not look(tmp_path).released
    taken.check(now=True)
    taken.release()


def test_after_a_long_sleep_every_check_asks_the_disk(tmp_path, monkeypatch):
    sleeper = acquire(tmp_path)
    sleeper._ended.set()
    taken = acquire(tmp_path, dead=look(tmp_path))
    now = leases._awake_s()
    monkeypatch.setattr(leases, "_awake_s", lambda: now + 8)  # more than a beat of five seconds
    with pytest.raises(LeaseLost):
        sleeper.check()
    taken.release()


def test_a_lower_generation_made_late_is_no_lease(tmp_path, monkeypatch):
    """Two were faster: the look is old, its successor was held, replaced and removed meanwhile."""
    foreign(tmp_path, generation=5)
    monkeypatch.setattr(leases, "look", lambda folder: LeaseSnapshot())
    assert acquire(tmp_path) is None
    monkeypatch.undo()
    assert look(tmp_path).owner["host"] == "far"


def test_the_beat_is_seen_by_others(tmp_path):
    with held(tmp_path, expiry_s=0.6):
        first = look(tmp_path)
        for _ in range(100):
            time.sleep(0.05)
            if look(tmp_path) != first:
                break
        assert look(tmp_path) != first
        assert look(tmp_path).owner == first.owner


def test_a_killed_process_of_this_machine_frees_its_lease_at_once_a_zombie_too(tmp_path):
    code = (
        "import time; from pathlib import Path; from kdlora.records.leases import acquire\n"
        f"print(acquire(Path({str(tmp_path)!r})).generation, flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline().strip() == "1"
    assert acquire(tmp_path) is None
    assert LeaseObserver().judge(look(tmp_path)) == "held"
    other.kill()
    for _ in range(200):  # not yet waited for: a zombie
        if look(tmp_path).process_gone():
            break
        time.sleep(0.02)
    assert LeaseObserver().judge(look(tmp_path)) == "dead"
    with held(tmp_path) as lease:
        assert lease.generation == 2
    other.wait()
    other.stdout.close()


def test_the_number_of_a_process_alone_proves_nothing(tmp_path):
    """The same number on another machine, after a reboot, in a container, or given out again."""
    here = this_machine() | {"pid": os.getpid(), "started": process_start(os.getpid())}
    assert not foreign(tmp_path, **here).process_gone()
    assert foreign(tmp_path, **here | {"started": "1"}).process_gone()
    for change in ({"boot": "b"}, {"namespace": "pid:[2]"}, {"host": "far"}):
        assert not foreign(tmp_path, **here | {"started": "1"} | change).process_gone()


def test_a_lease_that_cannot_be_written_blocks_nobody(tmp_path, monkeypatch):
    def full(handle: int, content: bytes) -> int:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(leases.os, "write", full)
    with pytest.raises(OSError, match="no space"):
        acquire(tmp_path)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    with held(tmp_path) as lease:
        assert lease is not None


def test_a_folder_out_of_reach_for_too_long_is_a_lost_lease(tmp_path, monkeypatch):
    lease = acquire(tmp_path)
    lease._ended.set()

    def fail(folder) -> int:
        raise OSError(116, "stale file handle")

    monkeypatch.setattr(leases, "_highest", fail)
    lease.check()
    with pytest.raises(LeaseLost):  # nothing may be recorded on a mere belief
        lease.check(now=True)
    now = leases._awake_s()
    monkeypatch.setattr(leases, "_awake_s", lambda: now + 100)
    with pytest.raises(LeaseLost):
        lease.check()
    assert lease.lost
    lease.release()
