"""Records in an experiment of MLflow: on a server, or in a database of one file.

An entry is made by several requests; a tag that is set last says that it is whole. What another
entry replaces lies in MLflow's own trash.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kdlora.errors import InputError, did_you_mean
from kdlora.extras import need
from kdlora.mirrors import entries
from kdlora.mirrors.entries import Entry
from kdlora.mirrors.sink import Entered

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DATABASE = "mlflow.db"
_SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")
_BATCH = 100  # of params and tags; MLflow's own limit for one request
_BATCH_METRICS = 1000

# A server that does not answer must not hold up a study: MLflow's own default is minutes.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}


@dataclass(frozen=True)
class Experiment:
    """A study's experiment. `open_experiment` makes it."""

    client: MlflowClient
    uri: str
    name: str
    experiment_id: str

    @property
    def location(self) -> str:
        return f"MLflow's experiment '{self.name}' at {self.uri}"

    def known(self, run_id: str | None = None) -> dict[str, list[Entered]]:
        wanted = f"tags.`{entries.RUN_ID}` = '{run_id}'" if run_id else ""
        found: dict[str, list[Entered]] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], filter_string=wanted, max_results=1000, page_token=token
            )
            for run in page:
                tags = run.data.tags
                checksum = tags.get(entries.CHECKSUM) if entries.COMPLETE in tags else None
                entered = Entered(run.info.run_id, checksum)
                found.setdefault(tags.get(entries.RUN_ID, ""), []).append(entered)
            token = page.token
            if not token:
                return found

    def enter(self, entry: Entry, files: Sequence[Path]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        params = [Param(name, value) for name, value in entry.params.items()]
        tags = [RunTag(name, value) for name, value in entry.tags.items()]
        when = entry.finished_ms or 0
        metrics = [Metric(point.name, point.value, when, point.step) for point in entry.points]
        first = dict(list(entry.tags.items())[:_BATCH])
        run_id = self.client.create_run(
            self.experiment_id, start_time=entry.started_ms, tags=first, run_name=entry.name
        ).info.run_id
        for some in _batches(params, _BATCH):
            self.client.log_batch(run_id, params=some)
        for some in _batches(tags[_BATCH:], _BATCH):
            self.client.log_batch(run_id, tags=some)
        for some in _batches(metrics, _BATCH_METRICS):
            self.client.log_batch(run_id, metrics=some)
        for path in files:
            self.client.log_artifact(run_id, str(path))
        self.client.set_tag(run_id, entries.COMPLETE, "yes")
        self.client.set_terminated(
            run_id, "FAILED" if entry.failed else "FINISHED", end_time=entry.finished_ms
        )

    def remove(self, old: Entered) -> None:
        self.client.delete_run(old.key)


def open_experiment(address: str, study: str) -> Experiment:
    """Connect to an address of `resolve_uri` and find or make the study's experiment."""
    client = connect(address)
    known = client.get_experiment_by_name(study)
    identity = (
        known.experiment_id
        if known is not None
        else client.create_experiment(study, artifact_location=_artefacts_beside(address))
    )
    return Experiment(client, address, study, identity)


def resolve_uri(uri: str | None, root: Path) -> str:
    """Where records are mirrored to: `uri`, else MLFLOW_TRACKING_URI, else SQLite in the study.

    A plain path is the file of an SQLite database. Raises InputError for what mlflow cannot read.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or str(root / DATABASE)
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme in _SCHEMES or uri == "databricks":
        return uri
    if "://" in uri:
        raise InputError(
            f"cannot mirror to {uri}: expected a server or a database."
            + did_you_mean(scheme, _SCHEMES)
        )
    path = Path(uri).expanduser().absolute()
    if path.is_dir():
        raise InputError(
            f"cannot mirror to {uri}: it is a folder, and MLflow keeps runs in a database; "
            f"give a file such as {Path(uri) / DATABASE}"
        )
    if os.path.lexists(path) and not path.is_file():  # MLflow would try again for minutes
        raise InputError(f"cannot mirror to {uri}: it is there, and no file")
    if not path.parent.is_dir():
        raise InputError(f"cannot mirror to {uri}: there is no folder {path.parent}")
    return f"sqlite:///{path}"


def require_mlflow() -> None:
    """Raise InputError that says how to install it when mlflow or its database part is missing."""
    need("mirroring to MLflow", "mlflow", "sqlalchemy", "alembic")


def _artefacts_beside(address: str) -> str | None:
    """Artefacts lie beside an SQLite file; a server has its own place for them."""
    if not address.startswith("sqlite:///"):
        return None
    return str(Path(address.removeprefix("sqlite:///")).absolute().parent / "mlflow-artefacts")


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def connect(address: str) -> MlflowClient:
    """A client without telemetry, that keeps what it says of making tables to itself."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(address, registry_uri=address)
