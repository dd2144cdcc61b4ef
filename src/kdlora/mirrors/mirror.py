"""Mirror a study's records to MLflow or Trackio, so that a team's usual dashboard shows them.

The store stays the source of truth: the mirror reads it and never the other way round. Mirroring
again adds nothing: a run is known by its id and the checksum of its record, which the entry holds.
A record that has changed since (a failed run done at last), or whose mirroring was torn, is entered
anew and the old entry removed.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdlora.mirrors import entries, mlflow, trackio
from kdlora.mirrors.sink import Entered, Sink
from kdlora.records.contents import read_history
from kdlora.records.frame import read_plan
from kdlora.records.record import Record
from kdlora.records.store import Store

Tool = Literal["mlflow", "trackio"]
Outcome = Literal["added", "replaced", "kept"]

_FILES = ("record.json", "spec.json", "history.jsonl", "predictions.parquet")


@dataclass(frozen=True)
class Target:
    """A tracker of experiments, and of MLflow where it is; see `mlflow.resolve_uri`."""

    tool: Tool = "mlflow"
    uri: str | None = None

    @property
    def title(self) -> str:
        """The tool as people write it, with the address where one is named."""
        if self.tool == "trackio":
            return "Trackio"
        return f"MLflow at {self.uri}" if self.uri else "MLflow"

    @property
    def options(self) -> str:
        """What `kdlora track STUDY` needs to mean it."""
        if self.tool == "trackio":
            return " --trackio"
        return f" --to {self.uri}" if self.uri else ""

    def checks(self, root: Path) -> list[Callable[[], object]]:
        """What raises InputError where the tool or its address cannot be used."""
        if self.tool == "trackio":
            return [trackio.require_trackio]
        return [mlflow.require_mlflow, lambda: mlflow.resolve_uri(self.uri, root)]

    def open(self, root: Path, study: str) -> Sink:
        """Connect, and find or make the study's place."""
        if self.tool == "trackio":
            return trackio.open_project(study)
        return mlflow.open_experiment(mlflow.resolve_uri(self.uri, root), study)


@dataclass
class Mirrored:
    """What mirroring a study did, in records; `location` is where they are."""

    location: str
    added: int = 0
    replaced: int = 0
    kept: int = 0

    @property
    def records(self) -> int:
        return self.added + self.replaced + self.kept


@dataclass(frozen=True)
class Mirror:
    """An open connection to a study's place in a tracker. `open_mirror` makes it."""

    sink: Sink
    study: str
    store: Store
    target: Target
    artefacts: bool

    def sync(self) -> Mirrored:
        """Enter every record of the study that is not there yet, failed ones too."""
        result = Mirrored(self.sink.location)
        known = self.sink.known()
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
        with _one_at_a_time(self.store.root, self.target):
            found = self.sink.known(record.run_id).get(record.run_id, [])
            current = [old for old in found if _is_current(old, record)]
            for old in found:
                if old not in current[:1]:
                    self.sink.remove(old)
            if current:
                return "kept"
            folder = self.store.folder(record.run_id)
            history = read_history(folder)
            new = entries.entry(record, history, root=self.store.root, study=self.study)
            files = [folder / name for name in _FILES] if self.artefacts else []
            self.sink.enter(new, [path for path in files if path.is_file()])
            return "replaced" if found else "added"


def open_mirror(root: Path, target: Target | None = None, *, artefacts: bool = False) -> Mirror:
    """Connect to the target (MLflow) and find or make the study's experiment there.

    Raises InputError when the tracker is not installed or its address is none, and whatever the
    tracker raises when its server or database cannot be reached.
    """
    target = target or Target()
    for check in target.checks(root):
        check()
    study = read_plan(root)["study"]["name"]
    with _one_at_a_time(root, target):
        sink = target.open(root, study)
    return Mirror(sink, study, Store(root), target, artefacts)


def mirror_study(root: Path, target: Target | None = None, *, artefacts: bool = False) -> Mirrored:
    """Mirror every record of a study's folder, failed ones too; again adds only what is new.

    Args:
        target: where to; default MLflow at `mlflow.resolve_uri`.
        artefacts: send ``record.json``, ``history.jsonl`` and ``predictions.parquet`` along.

    Raises StoreError when `root` holds no study; otherwise as `open_mirror`.
    """
    return open_mirror(root, target, artefacts=artefacts).sync()


def _is_current(old: Entered, record: Record) -> bool:
    return old.checksum == record.checksum


@contextmanager
def _one_at_a_time(root: Path, target: Target) -> Iterator[None]:
    """Two processes must not both find a record missing and enter it twice."""
    with (root / f".{target.tool}.lock").open("w") as handle:
        with suppress(OSError):  # a file system without locks: rather mirror than not
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
