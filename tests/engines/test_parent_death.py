"""What an engine has started ends with it, whatever it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

# A process that starts another one as an engine starts its workers, from a fork server.
ENGINE = """
import multiprocessing as mp
import signal
import time

from kdlora.engines.parent_death import stop_without_parent


def work(stubborn):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    stop_without_parent(130, stop_s={stop_s})
    print(mp.current_process().pid, flush=True)
    while True:
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            if not stubborn:
                raise SystemExit(130) from None


if __name__ == "__main__":
    process = mp.get_context("forkserver").Process(target=work, args=({stubborn},))
    process.start()
    process.join()
"""


@pytest.mark.parametrize(("stubborn", "stop_s"), [(False, 600), (True, 0.5)])
def test_a_worker_ends_when_its_engine_is_killed(tmp_path, stubborn, stop_s):
    """Also one that does not listen to its interruption."""
    script = ENGINE.replace("{stubborn}", str(stubborn)).replace("{stop_s}", str(stop_s))
    (tmp_path / "engine.py").write_text(script)
    engine = subprocess.Popen(
        [sys.executable, "engine.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    worker = int(engine.stdout.readline())
    engine.send_signal(signal.SIGKILL)
    engine.communicate(timeout=60)  # until the worker has closed its end, too
    deadline = time.monotonic() + 60
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
