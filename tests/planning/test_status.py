"""A plan says of every run what the store says of it, whatever lies in the run's folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdlora.errors import StoreError
from kdlora.planning.status import DONE, study_status
from kdlora.records.frame import load_frame
from kdlora.records.record import checksum
from kdlora.records.store import Store
from kdlora.spec.check import read_study
from kdlora.spec.plan import Plan, make_plan

OLD = Path(__file__).parents[1] / "fixtures" / "study_0_1"
RUN, OTHER = "moods-student-kd-lora-s2-43b565e561c1", "moods-teacher-fft-s1-4f26d92cc602"


@pytest.fixture
def study(tmp_path: Path) -> tuple[Plan, Store]:
    root = Path(shutil.copytree(OLD, tmp_path / "study"))
    return make_plan(read_study(root / "study.yaml")), Store(root / "records")


def rewrite(folder: Path, **changed: object) -> None:
    """Give fields of a record other values, under a checksum that fits."""
    path = folder / "record.json"
    values = json.loads(path.read_text()) | changed
    path.write_text(json.dumps(values | {"checksum": checksum(values)}))


def of_another_run(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / OTHER, folder)


def cut_short(folder: Path) -> None:
    path = folder / "record.json"
    path.write_bytes(path.read_bytes()[:-9])


def torn_beside(folder: Path) -> None:
    name = next(p.name for p in sorted(folder.iterdir()) if p.name != "record.json")
    rewrite(folder, files={name: "0" * 64})


HARMS: dict[str, Callable[[Path], None]] = {
    "nothing": lambda folder: None,
    "another run's files": of_another_run,
    "a record that is cut short": cut_short,
    "a torn file beside it": torn_beside,
    "no time of its end": lambda folder: rewrite(folder, finished_at=""),
    "no folder": shutil.rmtree,
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_run_is_done_for_the_plan_where_it_is_done_for_the_store(study, harm) -> None:
    plan, store = study
    harm(store.folder(RUN))
    done = {run.run_id for run in plan.runs if store.is_done(run.run_id)}
    seen = study_status(plan, store)
    assert {run_id for run_id, state in seen.states.items() if state in DONE} == done
    frame = load_frame(store.root)
    assert set(frame.loc[frame["status"] == "done", "run_id"]) == done


def test_a_record_of_another_version_stops_the_plan_as_it_stops_the_run(study) -> None:
    plan, store = study
    rewrite(store.folder(RUN), schema=2)
    for ask in (store.is_done, lambda _: study_status(plan, store)):
        with pytest.raises(StoreError, match="was written by"):
            ask(RUN)
