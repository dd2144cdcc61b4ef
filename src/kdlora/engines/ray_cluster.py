"""A Ray cluster as the engine sees it: connect and look at its nodes; quiet, no telemetry."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlora.errors import InputError, Problems, did_you_mean
from kdlora.extras import need
from kdlora.machine import available_cores
from kdlora.records.environment import PACKAGES

if TYPE_CHECKING:
    from kdlora.records.store import Store

_OBJECTS_BYTES = 100 * 2**20  # nothing passes through Ray's memory but short messages
_PROBE_S = 120


@dataclass(frozen=True)
class Node:
    """What a live node offers."""

    id: str
    host: str
    cpus: float
    gpus: float
    memory: float  # bytes


def require_ray() -> None:
    """Raise InputError that says how to install it where ray is missing."""
    need("the engine 'ray'", "ray")


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A connection to a cluster, closed at the end; one that the program has already stays open.

    Args:
        address: "local" starts a cluster on this machine and stops it at the end, "auto" is the
            one running here, otherwise ``ray://host:port`` or ``host:port``. Default:
            RAY_ADDRESS, else local.

    Raises InputError for what is no address and where no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when a cluster starts
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    address = check_address(address or os.environ.get("RAY_ADDRESS") or "local")
    _silence()
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        options |= {"num_cpus": available_cores(), "include_dashboard": False}
        options |= {"object_store_memory": _OBJECTS_BYTES}
    try:
        ray.init(address, **options)
    except (ConnectionError, TimeoutError, RuntimeError) as error:
        first, *_ = str(error).strip().splitlines() or [type(error).__name__]
        token = address.startswith("ray://") and "RAY_AUTH_MODE" not in os.environ
        raise InputError(
            f"no Ray cluster answers at '{address}' ({first}); start one with `ray start --head`, "
            "check the address and that both sides have the same versions of Python and Ray, "
            + ("set RAY_AUTH_MODE=token if the cluster asks for one, " if token else "")
            + "or use --address local"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def check_address(address: str) -> str:
    """The address, if it can be one. Raises InputError."""
    if address in ("local", "auto"):
        return address
    scheme, _, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    if scheme in ("", "ray") and host and port.isdigit():
        return address
    raise InputError(
        f"'{address}' is no address of a Ray cluster: expected local, auto, ray://host:port or "
        f"host:port.{did_you_mean(address, ('local', 'auto'))}"
    )


def live_nodes() -> list[Node]:
    """The nodes that are up at this moment."""
    import ray

    return [
        Node(
            id=node["NodeID"],
            host=node["NodeManagerHostname"],
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            memory=node["Resources"].get("memory", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def check_nodes(store: Store) -> None:
    """See that every node shares the study's folder and has the same software.

    Raises InputError with the problems of all nodes at once.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probe = f".ray-probe-{socket.gethostname()}-{uuid.uuid4().hex}"
    (store.root / probe).touch()
    try:
        ask = ray.remote(num_cpus=0, max_retries=1)(_describer())
        nodes = live_nodes()
        asked = [
            ask.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
            ).remote(str(store.root.absolute()), probe, PACKAGES)
            for node in nodes
        ]
        problems = Problems("Ray cluster")
        answers = []
        for node, reference in zip(nodes, asked, strict=True):
            try:
                answers.append(ray.get(reference, timeout=_PROBE_S))
            except ray.exceptions.RayError as error:
                problems.add(f"node {node.host} does not answer: {type(error).__name__}")
    finally:
        (store.root / probe).unlink(missing_ok=True)
    here = {"host": "this machine", "sees": True, "versions": {"kdlora": version("kdlora")}}
    problems.add(*node_problems([*answers, here], store.root))
    problems.raise_any()


def node_problems(answers: list[dict[str, Any]], root: Path) -> Iterator[str]:
    """What is wrong with the nodes or differs between them, by their answers."""
    for answer in answers:
        host = answer["host"]
        if not answer["sees"]:
            yield (
                f"node {host} does not see {root}: put the study's folder where all nodes find "
                "it under the same path (--out), and start kdlora on a machine that does, too"
            )
        if "kdlora" not in answer["versions"]:
            yield f"node {host} has no kdlora: install the same environment on every node"
    for name in PACKAGES:
        has = {a["host"]: v for a in answers if (v := a["versions"].get(name)) is not None}
        if len(set(has.values())) > 1:
            shown = ", ".join(f"{version} on {host}" for host, version in sorted(has.items()))
            yield f"the nodes differ in {name}, so their runs would not compare: {shown}"


def _describer() -> Callable[[str, str, tuple[str, ...]], dict[str, Any]]:
    """What asks a node. A function of no module, so that a node without kdlora can run it."""

    def describe(root: str, probe: str, packages: tuple[str, ...]) -> dict[str, Any]:
        import os
        import socket
        from importlib.metadata import PackageNotFoundError, version

        found = {}
        for name in packages:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
        sees = os.path.exists(os.path.join(root, probe))
        return {"host": socket.gethostname(), "sees": sees, "versions": found}

    return describe


def _silence() -> None:
    """Ray prints pages about a lost node or worker on stdout; the engine tells it in a line."""
    if os.environ.get("RAY_LOG_TO_DRIVER", "0") == "1":
        return
    import ray._private.worker as inside

    if hasattr(inside, "print_worker_logs"):
        inside.print_worker_logs = lambda *arguments, **named: None
