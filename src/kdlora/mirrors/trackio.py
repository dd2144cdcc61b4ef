"""Records in a project of Trackio on this machine: https://github.com/gradio-app/trackio

An entry is written in one transaction, so it is there as a whole or not at all. Trackio's folder is
where it keeps all projects (TRACKIO_DIR); ``trackio sync`` brings a project to a Space of the hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdlora.errors import InputError
from kdlora.extras import need
from kdlora.mirrors import entries
from kdlora.mirrors.entries import Entry
from kdlora.mirrors.sink import Entered


@dataclass(frozen=True)
class Project:
    """A study's project. `open_project` makes it."""

    storage: Any  # trackio's SQLiteStorage: its `init` would start threads and print
    name: str

    @property
    def location(self) -> str:
        folder = self.storage.get_project_db_path(self.name).parent
        return f"Trackio's project '{self.name}' in {folder} (trackio show --project {self.name})"

    def known(self, run_id: str | None = None) -> dict[str, list[Entered]]:
        if run_id is None:
            found = self.storage.get_all_run_configs(self.name)
        else:
            one = self.storage.get_run_config(self.name, run_id=run_id)
            found = {} if one is None else {run_id: one}
        return {k: [Entered(k, config.get(entries.CHECKSUM))] for k, config in found.items()}

    def enter(self, entry: Entry, files: Sequence[Path]) -> None:
        by_step: dict[int, dict[str, float]] = {0: {}}  # so that what measured nothing is shown
        for point in entry.points:
            by_step.setdefault(point.step, {})[point.name] = point.value
        steps = sorted(by_step)
        began = entry.started_ms or entry.finished_ms or 0
        ended = entry.finished_ms or began
        self.storage.bulk_log(
            project=self.name,
            run=entry.name,
            run_id=entry.tags[entries.RUN_ID],
            metrics_list=[by_step[step] for step in steps],
            steps=steps,
            timestamps=[_moment(ended)] * len(steps),
            config={
                **entry.params,
                **{k: v for k, v in entry.tags.items() if not k.startswith("mlflow.")},
                "_Username": None,
                "_Created": _moment(began),
                "_Group": entry.params.get("task"),
            },
        )

    def remove(self, old: Entered) -> None:
        self.storage.delete_run(self.name, old.key, run_id=old.key)


def open_project(study: str) -> Project:
    """The study's project. Raises InputError for a name that Trackio does not take."""
    from trackio.sqlite_storage import SQLiteStorage

    try:
        SQLiteStorage.validate_project_name(study)
    except ValueError as error:
        raise InputError(f"Trackio has no project for study '{study}': {error}") from None
    return Project(SQLiteStorage, study)


def require_trackio() -> None:
    """Raise InputError that says how to install it when trackio is missing."""
    need("mirroring to Trackio", "trackio")


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()
