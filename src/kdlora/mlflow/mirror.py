"""Mirror a study's records to MLflow, so that a team's usual dashboard shows them.

The store stays the source of truth: the mirror reads it and never the other way round. Mirroring
again adds nothing: a run is known by its id and the checksum of its record, kept as tags. A record
that has changed since (a failed run done at last), or whose mirroring was torn, is entered anew and
the old entry put into MLflow's own trash.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from kdlora.errors import InputError, did_you_mean
from kdlora.extras import need
from kdlora.mlflow import entries
from kdlora.records.contents import read_history
from kdlora.records.frame import read_plan
from kdlora.records.record import Record
from kdlora.records.store import Store

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Outcome = Literal["added", "replaced", "kept"]

DATABASE = "mlflow.db"
_SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")
_ARTEFACTS = ("record.json", "spec.json", "history.jsonl", "predictions.parquet")
_BATCH = 100  # of params and tags; MLflow's own limit for one request
_BATCH_METRICS = 1000

# A server that does not answer must not hold up a study: MLflow's own default is minutes.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}


@dataclass
class Mirrored:
    """What mirroring a study did, in records."""

    uri: str
    experiment: str
    added: int = 0
    replaced: int = 0
    kept: int = 0


@dataclass(frozen=True)
class Mirror:
    """An open connection to one experiment, named after the study. `open_mirror` makes it."""

    client: MlflowClient
    uri: str
    experiment: str
    experiment_id: str
    store: Store
    artefacts: bool

    def sync(self) -> Mirrored:
        """Enter every record of the study that is not there yet, failed ones too."""
        result = Mirrored(self.uri, self.experiment)
        known = self.known_runs()
        for run_id in read_plan(self.store.root)["runs"]:
            record = self.store.read(run_id) or self.store.read_failure(run_id)
            if record is None:
                continue
            entered = known.get(run_id, [])
            alone = len(entered) == 1 and _is_current(entered[0], record)
            what = "kept" if alone else self.add(record)
            setattr(result, what, getattr(result, what) + 1)
        return result

    def add(self, record: Record) -> Outcome:
        """Enter a record, or see that it is there already ("kept")."""
        with _one_at_a_time(self.store.root):
            found = self.known_runs(record.run_id).get(record.run_id, [])
            current = [old for old in found if _is_current(old, record)]
            for old in found:
                if old not in current[:1]:
                    self.client.delete_run(old.info.run_id)
            if current:
                return "kept"
            self._enter(record)
            return "replaced" if found else "added"

    def known_runs(self, run_id: str | None = None) -> dict[str, list[Any]]:
        """Entries of this experiment (of one run or of all) by kdlora's run id."""
        wanted = f"tags.`{entries.RUN_ID}` = '{run_id}'" if run_id else ""
        found: dict[str, list[Any]] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], filter_string=wanted, max_results=1000, page_token=token
            )
            for run in page:
                found.setdefault(run.data.tags.get(entries.RUN_ID, ""), []).append(run)
            token = page.token
            if not token:
                return found

    def _enter(self, record: Record) -> None:
        from mlflow.entities import Metric, Param, RunTag

        folder = self.store.folder(record.run_id)
        history = read_history(folder)
        new = entries.entry(record, history, root=self.store.root, study=self.experiment)
        params = [Param(name, value) for name, value in new.params.items()]
        tags = [RunTag(name, value) for name, value in new.tags.items()]
        when = new.finished_ms or 0
        metrics = [Metric(point.name, point.value, when, point.step) for point in new.points]
        first = dict(list(new.tags.items())[:_BATCH])
        run_id = self.client.create_run(
            self.experiment_id, start_time=new.started_ms, tags=first, run_name=new.name
        ).info.run_id
        for some in _batches(params, _BATCH):
            self.client.log_batch(run_id, params=some)
        for some in _batches(tags[_BATCH:], _BATCH):
            self.client.log_batch(run_id, tags=some)
        for some in _batches(metrics, _BATCH_METRICS):
            self.client.log_batch(run_id, metrics=some)
        for name in _ARTEFACTS if self.artefacts else ():
            if (folder / name).is_file():
                self.client.log_artifact(run_id, str(folder / name))
        self.client.set_tag(run_id, entries.COMPLETE, "yes")
        self.client.set_terminated(
            run_id, "FAILED" if new.failed else "FINISHED", end_time=new.finished_ms
        )


def open_mirror(root: Path, *, uri: str | None = None, artefacts: bool = False) -> Mirror:
    """Connect to `uri` (see `resolve_uri`) and find or make the study's experiment.

    Raises InputError when mlflow is missing or the address is none, and whatever mlflow raises
    when the server or the database cannot be reached.
    """
    require_mlflow()
    address = resolve_uri(uri, root)
    study = read_plan(root)["study"]["name"]
    client = _connect(address)
    with _one_at_a_time(root):
        known = client.get_experiment_by_name(study)
        identity = (
            known.experiment_id
            if known is not None
            else client.create_experiment(study, artifact_location=_artefacts_beside(address))
        )
    return Mirror(client, address, study, identity, Store(root), artefacts)


def mirror_study(root: Path, *, uri: str | None = None, artefacts: bool = False) -> Mirrored:
    """Mirror every record of a study's folder, failed ones too; again adds only what is new.

    Args:
        uri: where to; see `resolve_uri`.
        artefacts: send ``record.json``, ``history.jsonl`` and ``predictions.parquet`` along.

    Raises StoreError when `root` holds no study; otherwise as `open_mirror`.
    """
    return open_mirror(root, uri=uri, artefacts=artefacts).sync()


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


def _is_current(old: Any, record: Record) -> bool:
    tags = old.data.tags
    return tags.get(entries.CHECKSUM) == record.checksum and entries.COMPLETE in tags


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Two processes must not both find a record missing and enter it twice."""
    with (root / ".mlflow.lock").open("w") as handle:
        with suppress(OSError):  # a file system without locks: rather mirror than not
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _connect(address: str) -> MlflowClient:
    """A client without telemetry, that keeps what it says of making tables to itself."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(address, registry_uri=address)
