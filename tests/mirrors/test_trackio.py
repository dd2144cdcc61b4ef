"""The mirror in a real project of Trackio, read back by trackio itself; skips without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdlora import extras
from kdlora.errors import InputError
from kdlora.mirrors import entries
from kdlora.mirrors.mirror import Target, mirror_study, open_mirror
from kdlora.mirrors.sink import Entered
from tests.harness.records import half_done_study, record_of

TRACKIO = Target("trackio")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Trackio keeps projects: it asks for that once, when it is imported."""
    place = tmp_path_factory.mktemp("trackio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(place))
        storage = pytest.importorskip("trackio.sqlite_storage")
    return Path(storage.TRACKIO_DIR)


@pytest.fixture
def study(corner, tmp_path: Path, folder: Path, request: pytest.FixtureRequest):
    """A done teacher and student, and a student that failed, in a study of the test's own name."""
    spec = corner.study(baselines=False)
    spec = spec.model_copy(update={"name": request.node.name.replace("_", "-")})
    store, arms = half_done_study(spec, tmp_path / "study")
    return store, arms, spec.name


def test_every_record_is_a_run_with_its_axes_measures_and_curve(study) -> None:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    store, arms, name = study
    done = mirror_study(store.root, TRACKIO)
    assert (done.added, done.replaced, done.kept) == (3, 0, 0)
    assert f"trackio show --project {name}" in done.location
    runs = {run.id: run for run in trackio.Api().runs(name)}
    assert set(runs) == {arms[a].run_id for a in ("teacher/fft", "student/kd-lora", "student/lora")}
    student = runs[arms["student/kd-lora"].run_id]
    assert student.config["arm"] == "student/kd-lora"
    assert student.config["adapter.rank"] == "4"
    assert student.config["kdlora.flags"] == "barely_trained"
    assert student.config["_Group"] == "moods"
    logs = SQLiteStorage.get_logs(name, student.name, run_id=student.id)
    by_step = {log["step"]: log for log in logs}
    assert by_step[0]["report/accuracy"] == by_step[0]["score"] == 0.75
    curve = [(step, by_step[step]["learning/selection_accuracy"]) for step in (10, 20)]
    assert curve == [(10, 0.6), (20, 0.8)]
    failed = runs[arms["student/lora"].run_id]
    assert failed.config["kdlora.error"] == "no memory"
    assert failed.config["kdlora.status"] == "failed"


def test_again_adds_only_what_changed(study) -> None:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    store, arms, name = study
    mirror_study(store.root, TRACKIO)
    again = mirror_study(store.root, TRACKIO)
    assert (again.added, again.replaced, again.kept) == (0, 0, 3)
    store.finish(record_of(arms["student/lora"], accuracy=0.5))
    later = mirror_study(store.root, TRACKIO)
    assert (later.added, later.replaced, later.kept) == (0, 1, 2)
    runs = {run.id: run for run in trackio.Api().runs(name)}
    assert len(runs) == 3
    now = runs[arms["student/lora"].run_id]
    assert now.config["kdlora.status"] == "done"
    (row,) = SQLiteStorage.get_logs(name, now.name, run_id=now.id)  # nothing of the old is left
    assert row["score"] == 0.5


def test_a_record_is_added_alone_and_kept_when_it_is_there(study) -> None:
    store, arms, _ = study
    mirror = open_mirror(store.root, TRACKIO)
    record = store.read(arms["teacher/fft"].run_id)
    assert mirror.add(record) == "added"
    assert mirror.add(record) == "kept"


def test_a_run_that_measured_nothing_is_shown_all_the_same(folder: Path) -> None:
    from kdlora.mirrors.trackio import open_project

    project = open_project("nothing")
    tags = {entries.RUN_ID: "r", entries.CHECKSUM: "c", "kdlora.status": "failed"}
    project.enter(entries.Entry("r s1", {"task": "moods"}, [], tags, None, None, True), [])
    assert project.known() == {"r": [Entered("r", "c")]}


def test_a_name_that_trackio_does_not_take_is_one_message(folder: Path) -> None:
    from kdlora.mirrors.trackio import open_project

    with pytest.raises(InputError, match="Trackio has no project for study 'registry-mine'"):
        open_project("registry-mine")


def test_without_trackio_the_message_names_the_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs trackio,.*: pip install 'kdlora\[trackio\]'"):
        open_mirror(tmp_path, TRACKIO)


def test_the_mirror_loads_no_tracker_until_it_is_opened() -> None:
    code = (
        "import sys; import kdlora.mirrors.mirror; "
        "print([m for m in ('mlflow', 'trackio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
