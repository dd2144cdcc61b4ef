"""Where a study's runs happen and who else is told of them, as the user chooses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlora.engines.supervisor import EngineOptions, OnEvent
from kdlora.errors import Problems, did_you_mean
from kdlora.mlflow.mirror import require_mlflow, resolve_uri
from kdlora.mlflow.tracker import Tracker
from kdlora.records.store import Store
from kdlora.spec.plan import Plan
from kdlora.spec.run import Run

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Execution:
    """An engine and a mirror.

    Attributes:
        engine: one of `ENGINES`.
        address: of the Ray cluster; see `ray_cluster.connected`.
        mlflow: whether records are mirrored to MLflow.
        mlflow_uri: where to; see `mlflow_mirror.resolve_uri`. Naming it means mirroring.
    """

    engine: str = "local"
    address: str | None = None
    mlflow: bool = False
    mlflow_uri: str | None = None

    @property
    def mirrors(self) -> bool:
        return self.mlflow or self.mlflow_uri is not None

    def check(self, root: Path) -> None:
        """See that it can be, without connecting. Raises InputError with all problems."""
        problems = Problems()
        if self.engine not in ENGINES:
            problems.add(f"unknown engine '{self.engine}'.{did_you_mean(self.engine, ENGINES)}")
        if self.address is not None and self.engine == "local":
            problems.add(f"--address {self.address} is for --engine ray; the engine is local")
        checks: list[Callable[[], Any]] = []
        if self.engine == "ray":
            from kdlora.engines.ray_cluster import check_address, require_ray

            checks.append(require_ray)
            checks.append(lambda: self.address and check_address(self.address))
        if self.mirrors:
            checks.append(require_mlflow)
            checks.append(lambda: self.mlflow_uri and resolve_uri(self.mlflow_uri, root))
        for check in checks:
            with problems.caught():
                check()
        problems.raise_any()

    def tracker(
        self, root: Path, on_note: Callable[[str], None]
    ) -> AbstractContextManager[Tracker | None]:
        """What mirrors the study while it runs, or nothing."""
        return (
            Tracker(root, uri=self.mlflow_uri, on_note=on_note) if self.mirrors else nullcontext()
        )

    def prepare(self, options: EngineOptions) -> None:
        """Let workers of this machine load what they need while the study is still checked."""
        if self.engine == "local":
            from kdlora.engines import local

            local.start_server(options)

    def run_plan(
        self,
        plan: Plan,
        store: Store,
        options: EngineOptions | None = None,
        *,
        on_event: OnEvent = lambda run, event: None,
        on_note: Callable[[str], None] = lambda text: None,
    ) -> dict[str, str]:
        """`run_plan` of the engine, its events mirrored too; see `engines.local.run_plan`."""
        with self.tracker(store.root, on_note) as tracker:

            def tell(run: Run, event: dict[str, Any]) -> None:
                on_event(run, event)
                if tracker is not None:
                    tracker.on_event(run, event)

            if self.engine == "ray":
                from kdlora.engines import ray

                return ray.run_plan(plan, store, options, address=self.address, on_event=tell)
            from kdlora.engines import local

            return local.run_plan(plan, store, options, on_event=tell)
