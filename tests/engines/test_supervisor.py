from __future__ import annotations

from types import SimpleNamespace

from kdlora.engines import supervisor
from kdlora.engines.supervisor import EngineOptions, Supervisor, Worker


class Deaf:
    """A process that hears only the last of so many requests to stop."""

    def __init__(self, requests: int) -> None:
        self.left, self.terminated, self.exitcode = requests, False, None

    def is_alive(self) -> bool:
        return self.left > 0

    def join(self, timeout: float | None = None) -> None:
        pass

    def terminate(self) -> None:
        self.terminated = True


def stopped(processes: dict[str, Deaf], monkeypatch, *, stages: dict[str, str]) -> list[str]:
    """Whom a supervisor asked to stop, in order; each look at the clock takes a second."""
    asked: list[str] = []
    clock = iter(range(10_000))
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    names = {id(process): name for name, process in processes.items()}

    def interrupt(process: Deaf) -> None:
        asked.append(names[id(process)])
        process.left -= 1

    prepared = SimpleNamespace(schedule=None, failures={})
    backend = SimpleNamespace(interrupt=interrupt)
    one = Supervisor(None, prepared, backend, EngineOptions(), None)  # type: ignore[arg-type]
    for name, process in processes.items():
        one.active[name] = Worker(None, process, 0, 0.0, stage=stages.get(name, ""))  # type: ignore
    one.stop()
    return asked


def test_a_worker_that_was_only_starting_is_asked_again(monkeypatch):
    starting = Deaf(2)
    assert stopped({"starting": starting}, monkeypatch, stages={}) == ["starting", "starting"]
    assert not starting.terminated


def test_one_that_trains_is_asked_once_and_its_checkpoint_is_not_cut_off(monkeypatch):
    training = Deaf(2)
    found = stopped({"training": training}, monkeypatch, stages={"training": "training"})
    assert found == ["training"]
    assert training.terminated  # after the time for a checkpoint
