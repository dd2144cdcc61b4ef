"""Data sets of the hub: a local repository of the same layout; a hub that is asked or is away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest

import kdlora
from kdlora.data.hub_data import as_files
from kdlora.data.tasks import load_task
from kdlora.errors import DataError, InputError
from kdlora.planning.data_looks import look_at_file
from kdlora.planning.distil_study import DistilArguments, distil_study
from kdlora.spec.check import make_study
from kdlora.spec.hub_data import is_stored
from kdlora.spec.plan import make_plan
from kdlora.spec.sections import Data, OwnTask
from tests.harness.moods import sentences

CLASSES = ["neg", "pos"]
FIRST, SECOND = "1" * 40, "2" * 40


def fill(folder: Path, *, seed: int = 0) -> Path:
    """A repository with a train and a test split, the labels numbers with names."""
    (folder / "data").mkdir(parents=True)
    for split, n in (("train", 160), ("test", 40)):
        rows_of(n, seed).to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return folder


def rows_of(n: int, seed: int = 0, classes: Sequence[str] = CLASSES) -> datasets.Dataset:
    texts, moods = sentences(n, seed + n)
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=[*classes])}
    rows = {"text": texts, "label": [CLASSES.index(mood) for mood in moods]}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def sets_of(n: int, names: Sequence[str] = ("food", "price")) -> datasets.Dataset:
    """Rows of which each has any of two labels, as lists of their numbers."""
    texts, _ = sentences(n, n)
    labels = [[j for j in (1, 0) if (i >> j) & 1] for i in range(n)]
    feature = datasets.List(datasets.ClassLabel(names=[*names]))
    features = datasets.Features({"text": datasets.Value("string"), "label": feature})
    return datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty cache and working folder."""
    monkeypatch.setenv("KDLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def study(corner, **task: object):
    values = {"hub": "org/moods", "train": "train", "eval": "test", **task}
    return make_study(
        {
            "name": "hub",
            "tasks": [values],
            "pairs": [{"teacher": corner.teacher, "student": corner.student}],
            "arms": ["teacher/fft", "student/kd-lora"],
            "training": {"epochs": 1, "max_length": 32},
        }
    )


def test_a_local_repository_is_read_with_the_names_of_its_classes(here, corner):
    fill(here / "org" / "moods")
    plan = make_plan(study(corner))
    ref = plan.runs[0].task
    assert (ref.name, ref.source) == ("moods", "hub")
    assert not is_stored(ref.own)
    data = load_task(ref, Data(selection_min=20))
    assert data.task.label_names == ("neg", "pos")
    assert len(data.train) + len(data.selection) == 160
    assert len(data.reports["report"]) == 40
    texts, moods = sentences(200 - 160, 40)
    assert data.reports["report"].texts[0] == texts
    assert [CLASSES[i] for i in data.reports["report"].labels] == moods
    assert is_stored(ref.own)


def test_a_run_belongs_to_what_the_repository_holds_and_not_to_where_it_lies(here, corner):
    folder = fill(here / "org" / "moods")
    before = [run.run_id for run in make_plan(study(corner)).runs]
    folder.rename(here / "elsewhere")
    moved = study(corner, hub=str(here / "elsewhere"), name="moods")
    assert [run.run_id for run in make_plan(moved).runs] == before
    other = make_plan(study(corner, hub=str(here / "elsewhere"), name="moods", eval=None))
    assert not {run.run_id for run in other.runs} & set(before)
    fill(here / "org" / "moods", seed=7)
    assert not {run.run_id for run in make_plan(study(corner)).runs} & set(before)


def test_a_repository_that_changed_after_the_plan_is_refused(here, corner):
    fill(here / "org" / "moods")
    ref = make_plan(study(corner)).runs[0].task
    (here / "org" / "moods" / "data" / "more.txt").write_text("x")
    with pytest.raises(DataError, match="changed"):
        load_task(ref, Data())


def asked(monkeypatch, *answers: str | Exception) -> list[tuple[str, str | None]]:
    """A hub that gives these commits, or fails so, one after the other; what it was asked."""
    calls: list[tuple[str, str | None]] = []
    left = list(answers)

    class Api:
        def dataset_info(self, name: str, *, revision: str | None = None, timeout: float) -> object:
            calls.append((name, revision))
            answer = left.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return SimpleNamespace(sha=answer)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return calls


def test_the_revision_is_pinned_in_the_runs_and_kept_for_days_without_a_hub(
    here, corner, monkeypatch
):
    calls = asked(monkeypatch, FIRST, SECOND, ConnectionError("no route"))
    first, second, away = (make_plan(study(corner)).runs[0] for _ in range(3))
    assert first.task.own.revision == first.task.fingerprint == FIRST
    assert first.run_id != second.run_id
    assert away.run_id == second.run_id
    pinned = make_plan(study(corner, revision=FIRST)).runs[0]  # a commit needs no hub
    assert pinned.run_id == first.run_id
    assert calls == [("org/moods", None)] * 3


def test_a_hub_that_never_answered_is_one_message(here, corner, monkeypatch):
    asked(monkeypatch, ConnectionError("no route to host"))
    with pytest.raises(InputError, match=r"no route to host\. Check the network") as caught:
        make_plan(study(corner))
    assert len(caught.value.problems) == 1


def test_rows_are_fetched_at_the_revision_and_once(here, corner, monkeypatch):
    fill(here / "copy")
    asked(monkeypatch, FIRST)
    ref = make_plan(study(corner)).runs[0].task
    loads = []
    real = datasets.load_dataset

    def load(name, config, *, revision, split):
        loads.append((name, config, revision))
        return real(str(here / "copy"), split=split)

    monkeypatch.setattr(datasets, "load_dataset", load)
    for _ in range(2):
        assert len(load_task(ref, Data(selection_min=20)).reports["report"]) == 40
    assert loads == [("org/moods", None, FIRST)]


def test_splits_that_name_other_classes_are_refused(here, corner, monkeypatch):
    fill(here / "org" / "moods")
    ref = make_plan(study(corner)).runs[0].task
    found = {"train": rows_of(160), "test": rows_of(40, classes=CLASSES[::-1])}
    monkeypatch.setattr(datasets, "load_dataset", lambda *rest, **options: found)
    with pytest.raises(DataError, match="the splits name other classes in 'label'"):
        load_task(ref, Data())
    assert not is_stored(ref.own)


def test_wrong_splits_and_columns_are_named(here, corner):
    fill(here / "org" / "moods")
    for task, message in (
        ({"train": "trian"}, "no split 'trian'. Did you mean 'train'"),
        ({"text": "review"}, "review"),
    ):
        ref = make_plan(study(corner, **task)).runs[0].task
        with pytest.raises(DataError, match=message):
            load_task(ref, Data())
    for task, message in (
        ({"hub": "./nowhere"}, "no folder at"),
        ({"eval": "train"}, "the same split"),
    ):
        with pytest.raises(InputError, match=message):
            make_plan(study(corner, **task))
    with pytest.raises(InputError, match="mean nothing without hub"):
        study(corner, hub=None, name="x", revision="main")


def test_plan_look_and_distil_take_a_data_set(here, corner):
    fill(here / "org" / "moods")
    task = OwnTask(hub="org/moods", train="train", eval="test", kind="auto")
    look = look_at_file(task)
    assert [(one.split, one.source) for one in look.splits][-1] == ("report", "moods, test")
    assert kdlora.plan(study(corner)).runs
    made = distil_study(
        DistilArguments(
            train="train", eval="test", hub="org/moods", teacher=corner.teacher,
            student=corner.student,
        )
    )  # fmt: skip
    assert made.name == "distil-moods"
    ref = make_plan(made).runs[0].task
    assert as_files(ref.own).train.endswith(".parquet")
    assert kdlora.look(made)[0].fingerprint == look.fingerprint


def test_a_study_written_elsewhere_finds_its_copy(here, corner):
    fill(here / "org" / "moods")
    (task,) = study(corner).located().tasks
    assert task.hub == str((here / "org" / "moods").resolve())
    assert (task.train, task.eval) == ("train", "test")


def test_lists_of_classes_have_names_and_splits_must_agree_on_them(here, corner, monkeypatch):
    for split, n in (("train", 160), ("test", 40)):
        path = here / "org" / "topics" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        sets_of(n).to_parquet(str(path))
    ref = make_plan(study(corner, hub="org/topics", kind="multilabel")).runs[0].task
    data = load_task(ref, Data(selection_min=20))
    assert data.task.kind.several
    assert data.task.label_names == ("food", "price")
    assert data.reports["report"].labels[:4].tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    (here / "org" / "topics" / "README.md").write_text("another")  # so another fingerprint
    ref = make_plan(study(corner, hub="org/topics", kind="multilabel")).runs[0].task
    found = {"train": sets_of(160), "test": sets_of(40, names=("price", "food"))}
    monkeypatch.setattr(datasets, "load_dataset", lambda *rest, **options: found)
    with pytest.raises(DataError, match="the splits name other classes in 'label'"):
        load_task(ref, Data())
