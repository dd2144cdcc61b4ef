"""Where a study's runs happen and who else is told of them, as the user chooses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdlora.engines.supervisor import EngineOptions, OnEvent
from kdlora.errors import Problems, did_you_mean
from kdlora.mirrors.mirror import Target
from kdlora.mirrors.tracker import Tracker
from kdlora.records.store import Store
from kdlora.spec.plan import Plan
from kdlora.spec.run import Run

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Execution:
    """An engine and mirrors.

    Attributes:
        engine: one of `ENGINES`.
        address: of the Ray cluster; see `ray_cluster.connected`.
        mlflow: whether records are mirrored to MLflow.
        mlflow_uri: where to; see `mirrors.mlflow.resolve_uri`. Naming it means mirroring.
        trackio: whether records are mirrored to Trackio.
    """

    engine: str = "local"
    address: str | None = None
    mlflow: bool = False
    mlflow_uri: str | None = None
    trackio: bool = False

    @property
    def mirrors(self) -> list[Target]:
        of_mlflow = self.mlflow or self.mlflow_uri is not None
        return [
            *([Target("mlflow", self.mlflow_uri)] if of_mlflow else []),
            *([Target("trackio")] if self.trackio else []),
        ]

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
        for target in self.mirrors:
            checks += target.checks(root)
        for check in checks:
            with problems.caught():
                check()
        problems.raise_any()

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
        with ExitStack() as open_mirrors:
            trackers = [
                open_mirrors.enter_context(Tracker(store.root, target, on_note=on_note))
                for target in self.mirrors
            ]

            def tell(run: Run, event: dict[str, Any]) -> None:
                on_event(run, event)
                for tracker in trackers:
                    tracker.on_event(run, event)

            if self.engine == "ray":
                from kdlora.engines import ray

                return ray.run_plan(plan, store, options, address=self.address, on_event=tell)
            from kdlora.engines import local

            return local.run_plan(plan, store, options, on_event=tell)
