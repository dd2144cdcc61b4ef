"""The Ray engine: its arithmetic anywhere, and whole studies on a real cluster of two nodes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from kdlora.engines import local
from kdlora.engines.ray_cluster import Node, check_address, node_problems
from kdlora.engines.supervisor import EngineOptions
from kdlora.errors import InputError
from kdlora.records.predictions import read_predictions
from kdlora.records.store import Store
from kdlora.spec.plan import make_plan

NODES = [Node("a", "one", 8, 0, 16e9), Node("b", "two", 4, 2, 32e9)]


def small_study(corner, **changes):
    """A teacher and two students under two seeds, each of a few seconds' training."""
    arms = ["teacher/fft", "student/lora", "student/kd-lora"]
    training = {
        "epochs": 12,
        "batch_size": 16,
        "lr": {"fft": 1e-3, "peft": 5e-3},
        "max_length": 32,
        "precision": "fp32",
    }
    values = {"arms": arms, "baselines": False, "seeds": [1, 2], "training": training}
    return corner.study(**(values | changes))


def outputs(store: Store, run_id: str) -> np.ndarray:
    return read_predictions(store.folder(run_id)).by_split()[0]["report"]


class TestWithoutCluster:
    def test_addresses(self):
        for good in ("local", "auto", "ray://head:10001", "10.0.0.1:6379"):
            assert check_address(good) == good
        for bad in ("lokal", "head", "ray://head", "http://head:1", "ray://:1"):
            with pytest.raises(InputError, match="expected local, auto, ray://"):
                check_address(bad)

    def test_nodes_that_do_not_fit_are_all_named(self):
        def answer(host, sees=True, **versions):
            return {"host": host, "sees": sees, "versions": {"kdlora": "1", **versions}}

        assert (
            list(node_problems([answer("a", torch="2"), answer("b", torch="2")], Path("s"))) == []
        )
        bare = {"host": "c", "sees": False, "versions": {"torch": "3"}}
        problems = "\n".join(node_problems([answer("a", torch="2"), bare], Path("/study")))
        assert "node c does not see /study" in problems
        assert "node c has no kdlora" in problems
        assert "differ in torch, so their runs would not compare: 2 on a, 3 on c" in problems

    def test_room_and_resources(self, corner):
        pytest.importorskip("ray", reason="pip install 'kdlora[ray]'")
        from kdlora.engines import ray as engine

        assert engine.room_of(NODES, 2, gpu=False) == 4 + 2
        assert engine.room_of(NODES, 3, gpu=False) == 2 + 1
        assert engine.room_of(NODES, 1, gpu=True) == 2
        assert engine.usual_threads(NODES, None) == 4
        assert engine.usual_threads(NODES, 6) == 2
        assert engine.usual_threads([], None) == 1
        assert engine.cluster_problems(NODES, 8) == []
        assert "no node offers more than 8" in engine.cluster_problems(NODES, 9)[0]

        plan = make_plan(corner.study())
        student = next(run for run in plan.runs if run.role == "student")
        baseline = next(run for run in plan.runs if run.role == "baseline")
        asked = engine.resources(student, NODES, 2, True, {student.run_id: 1e9})
        assert asked == {"num_cpus": 2, "num_gpus": 1, "memory": 10**9}
        huge = engine.resources(student, NODES, 2, False, {student.run_id: 1e15})
        assert huge["memory"] < 32e9  # else it would wait for ever
        assert engine.resources(baseline, NODES, 1, True, {}) == {"num_cpus": 1}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes on this machine, one processor each; gone afterwards."""
    ray = pytest.importorskip("ray", reason="the Ray engine: pip install 'kdlora[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "memory": 8 * 2**30}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    made.second = made.add_node(**node)
    yield made
    ray.shutdown()
    made.shutdown()


def ray_worker_of(run_id: str) -> int | None:
    """The process id of the Ray worker that does a run; Ray calls it by the task's name."""
    import psutil

    for process in psutil.process_iter(["pid", "cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith(f"ray::{run_id}"):
            return process.info["pid"]
    return None


def test_a_node_and_a_worker_lost_half_way_change_no_record(corner, cluster, tmp_path):
    """One study: a Ray worker is killed in the midst of its run, later a whole node."""
    from kdlora.engines import ray as engine

    plan = make_plan(small_study(corner))
    store = Store(tmp_path / "ray")
    store.prepare()
    seen: dict[str, list[dict]] = {run.run_id: [] for run in plan.runs}
    hurt: dict[str, str] = {}

    def follow(run, event):
        seen[run.run_id].append(event)
        done = sum(store.is_done(other.run_id) for other in plan.runs)
        if "evaluation" in event and "worker" not in hurt:
            worker = ray_worker_of(run.run_id)
            if worker is not None:
                os.kill(worker, signal.SIGKILL)
                hurt["worker"] = run.run_id
        elif "step" in event and done >= len(plan.runs) // 2 and "node" not in hurt:
            cluster.remove_node(cluster.second, allow_graceful=False)
            hurt["node"] = run.run_id

    status = engine.run_plan(
        plan, store, EngineOptions(threads=1), address=cluster.address, on_event=follow
    )
    assert set(status.values()) == {"done"}, {k: v[-1] for k, v in seen.items()}
    assert set(hurt) == {"worker", "node"}
    retried = [run_id for run_id, events in seen.items() if any("retry" in e for e in events)]
    assert hurt["worker"] in retried
    assert store.read(hurt["worker"]).facts.resumed >= 1  # from its checkpoint, not from the start

    undisturbed = Store(tmp_path / "local")
    undisturbed.prepare()
    local.run_plan(plan, undisturbed, EngineOptions(threads=1))
    for run in plan.runs:
        here, there = store.read(run.run_id), undisturbed.read(run.run_id)
        assert here.quality == there.quality, run.title
        assert here.agreement == there.agreement, run.title
        np.testing.assert_array_equal(
            outputs(store, run.run_id), outputs(undisturbed, run.run_id), run.title
        )
