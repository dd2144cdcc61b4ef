"""One task, one list of classes: records, cards, predictions, exports and tables say the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdlora.recipes.run import run_one
from kdlora.records.frame import load_frame, positive_place, read_plan, save_plan
from kdlora.records.record import checksum, task_facts
from kdlora.records.store import Store
from kdlora.records.tidy import tidy
from kdlora.report.content import task_by_task
from kdlora.ship.calibration import calibrate_folder
from kdlora.ship.card import CARD, read_card
from kdlora.ship.export import export_model
from kdlora.ship.predict import load_predictor
from kdlora.ship.source import find_source
from kdlora.ship.student import save_students
from kdlora.spec.plan import make_plan
from tests.harness.moods import Corner, write_csv

WORDS = ("the", "a", "film", "movie", "story", "plot", "actor", "scene", "music", "book")
CUES = ("good", "bad", "dull", "funny", "sad")


@dataclass(frozen=True)
class Case:
    """Labels that each file holds, and the classes that every part of kdlora has to state."""

    train: tuple[Any, ...]
    held_out: tuple[Any, ...]
    names: tuple[str, ...]
    task: dict[str, Any] = field(default_factory=dict)
    positive: str | None = None
    known: str | None = None  # a task of the vocabulary, in a folder


CASES = {
    "the report split lacks a class": Case(("a", "b", "c"), ("b", "c"), ("a", "b", "c")),
    "the report split has one of two classes": Case(
        ("no", "yes"), ("no",), ("no", "yes"), {"positive": "yes"}, "yes"
    ),
    "no held-out split has a rare class": Case(
        (*["a", "b"] * 30, "c", "c"), ("a", "b"), ("a", "b", "c")
    ),
    "the metric is of a class that comes first": Case(
        ("spam", "ham"), ("spam", "ham"), ("ham", "spam"),
        {"positive": "ham", "metric": "f1"}, "ham",
    ),
    "names look like numbers": Case(
        (2, 10, "1.0", 2), (10, 2), ("1", "2", "10"), {"kind": "classification"}
    ),
    "a column of numbers with a positive class": Case(
        (0, 1), (1, 0), ("0", "1"), {"positive": "1.0", "metric": "f1"}, "1"
    ),
    "labels are named and joined": Case(
        (0, 1, 2), (2,), ("bad", "good"), {"labels": {0: "good", 1: "bad", 2: "bad"}}
    ),
    "a known task": Case((0, 1), (1,), ("not_equivalent", "equivalent"),
                         positive="equivalent", known="mrpc"),
    "a regression": Case((0.5, 1.5, 2.25), (0.75, 2.0), (), {"kind": "regression"}),
}  # fmt: skip


def rows_of(labels: tuple[Any, ...], n: int, seed: int, texts: tuple[str, ...]) -> dict[str, list]:
    """n rows whose texts tell their label by a word; labels by turns."""
    rng = np.random.default_rng(seed)
    own = [labels[i % len(labels)] for i in range(n)]
    cue = {str(label): CUES[i % len(CUES)] for i, label in enumerate(dict.fromkeys(labels))}
    columns = {
        name: [" ".join([*rng.choice(WORDS, 4), cue[str(label)]]) for label in own]
        for name in texts
    }
    return {**columns, "label": own}


@dataclass(frozen=True)
class Finished:
    """The finished run of a case in a study of its own."""

    case: Case
    store: Store
    run_id: str

    @property
    def folder(self) -> Path:
        return self.store.folder(self.run_id)

    @property
    def student(self) -> Path:
        return self.store.root / "student"


def write_rows(case: Case, name: str, root: Path) -> str | dict[str, Any]:
    """Both files of a case; the task as a study file names it."""
    texts = ("sentence1", "sentence2") if case.known else ("text",)
    parts = {"train": rows_of(case.train, 124, 1, texts),
             "eval": rows_of(case.held_out, 24, 2, texts)}  # fmt: skip
    if case.known is None:
        files = {k: str(write_csv(root / f"{name}-{k}.csv", **part)) for k, part in parts.items()}
        return {"name": name, **files, **case.task}
    (root / case.known).mkdir()
    for split, part in zip(("train", "validation"), parts.values(), strict=True):
        rows = zip(*part.values(), strict=True)
        lines = ["\t".join(part), *("\t".join(map(str, row)) for row in rows)]
        path = root / case.known / f"{split}.tsv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return case.known


@pytest.fixture(scope="module")
def every_case(corner: Corner, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A study of all cases, a tiny student each, trained in this process."""
    root = tmp_path_factory.mktemp("classes")
    study = corner.study(
        tasks=[write_rows(case, f"t{i}", root) for i, case in enumerate(CASES.values())],
        data_dir=str(root),
        arms=["student/fft"],
        baselines=False,
        training={"epochs": 1, "batch_size": 16, "max_length": 16, "precision": "fp32"},
        data={"selection_min": 12},
    )
    plan, store = make_plan(study), Store(root / "study")
    store.prepare()
    save_plan(store, study, plan)
    for run in plan.runs:
        record = run_one(run, store)
        (store.folder(run.run_id) / "record.json").unlink()
        # after one epoch all predictions may be alike, and such a run is no candidate
        store.finish(record.model_copy(update={"health": []}))
    return store


@pytest.fixture(scope="module")
def case_alone(
    every_case: Store, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Path], Finished]:
    """`case_alone(name, root)`: one case as a study of its own, its student saved once for all."""
    root, made = tmp_path_factory.mktemp("alone"), {}

    def copied(name: str, target: Path) -> Finished:
        if name not in made:
            made[name] = alone(every_case, name, root / f"study-{len(made)}")
        done = made[name]
        shutil.copytree(done.store.root, target, dirs_exist_ok=True)
        return Finished(done.case, Store(target), done.run_id)

    return copied


@pytest.fixture(params=list(CASES), ids=list(CASES))
def fresh(
    request: pytest.FixtureRequest, case_alone: Callable[[str, Path], Finished], tmp_path: Path
) -> Finished:
    return case_alone(request.param, tmp_path / "study")


def alone(every_case: Store, name: str, root: Path) -> Finished:
    """One case of the study as a study of its own, its student saved."""
    plan = read_plan(every_case.root)
    cell = plan["cells"][list(CASES).index(name)]
    run_id = cell["run_id"]
    store = Store(root)
    shutil.copytree(every_case.folder(run_id), store.folder(run_id))
    values = plan | {"cells": [cell], "runs": {run_id: plan["runs"][run_id]}}
    (root / "plan.json").write_text(json.dumps(values), encoding="utf-8")
    save_students(load_frame(root), store)
    return Finished(CASES[name], store, run_id)


@pytest.fixture(params=["new", "old"])
def study(request: pytest.FixtureRequest, fresh: Finished) -> Finished:
    """The study as it was just written, or as versions wrote it that told no facts of the task."""
    if request.param == "old":
        forget(fresh)
    return fresh


def forget(study: Finished) -> None:
    """Take the facts out of a record, and out of a card the classes that the report split lacks."""
    path = study.folder / "record.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["task"], values["files"]
    quality = values["quality"]
    there = [
        name for name, row in zip(study.case.names, quality["confusion"], strict=False) if sum(row)
    ]
    quality["per_class_f1"] = {k: v for k, v in quality["per_class_f1"].items() if k in there}
    values["checksum"] = checksum(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    card = json.loads((study.student / CARD).read_text(encoding="utf-8"))
    del card["positive"], card["checksum"]
    if study.case.known is None:
        card["label_names"] = there
    (study.student / CARD).write_text(json.dumps(card), encoding="utf-8")


def test_a_record_states_them_with_what_the_task_asks(study: Finished) -> None:
    record = study.store.read(study.run_id)
    assert record is not None
    assert record.quality is not None
    facts = task_facts(record, study.folder)
    assert facts is not None
    assert facts.label_names == study.case.names
    assert facts.positive == study.case.positive
    assert facts.kind == ("classification" if study.case.names else "regression")
    assert (facts.metrics[0], facts.direction) == (record.quality.primary, 1)
    assert facts.metrics == tuple(record.quality.splits["report"])
    assert facts.text_columns == (("sentence1", "sentence2") if study.case.known else ("text",))


def test_every_form_of_the_model_answers_with_all_of_them(study: Finished, tmp_path: Path) -> None:
    export_model(study.student, tmp_path / "export", formats=("torch",), timing=False)
    for folder in (study.folder, study.student, tmp_path / "export"):
        predictor = load_predictor(folder)
        assert tuple(predictor.card.label_names) == study.case.names
        texts = [["a good film"]] * predictor.columns
        (answer,) = predictor(texts)
        if study.case.names:
            assert tuple(answer["probabilities"]) == study.case.names
            assert answer["label"] in study.case.names
        else:
            assert isinstance(answer["value"], float)


def test_cards_and_the_source_of_an_export_state_them(study: Finished) -> None:
    cards = [find_source(place).card for place in (study.folder, study.student)]
    save_students(load_frame(study.store.root), study.store)
    cards += [card for card in [read_card(study.student)] if card is not None]
    assert len(cards) == 3
    for card in cards:
        assert tuple(card.label_names) == study.case.names
        assert card.positive == study.case.positive
        assert card.num_outputs == max(len(study.case.names), 1)
    config = json.loads((study.student / "config.json").read_text(encoding="utf-8"))
    assert list(config["id2label"].values()) == list(study.case.names or ["score"])


def test_a_threshold_is_about_the_positive_class(study: Finished) -> None:
    if len(study.case.names) != 2:
        pytest.skip("a threshold is for two classes")
    for folder in (study.folder, study.student):
        path, made = calibrate_folder(folder, temperature=True, threshold="f1")
        assert made.positive == (study.case.positive or study.case.names[1])
        if path.name == CARD:
            card = read_card(folder)
            assert card is not None
            assert tuple(card.label_names) == study.case.names
        else:
            path.unlink()


def test_the_frame_and_the_table_of_classes_state_them(study: Finished) -> None:
    frame = load_frame(study.store.root)
    assert list(frame["label_names"]) == [study.case.names]
    place = positive_place(frame)
    assert (None if place is None else study.case.names[place]) == study.case.positive
    table = task_by_task.per_class(tidy(frame))
    shown = [row[-2].text for row in table.rows] if table is not None else []
    assert shown == list(study.case.names)


def model_of_its_own(folder: Path, beside: Path) -> None:
    """The run keeps its model."""


def model_beside_it(folder: Path, beside: Path) -> None:
    (folder / "model").rename(beside / "model")


def an_adapter_beside_it(folder: Path, beside: Path) -> None:
    names = list(json.loads((folder / "model" / "config.json").read_text())["id2label"].values())
    (folder / "model" / "config.json").unlink()
    (beside / "model").mkdir()
    (beside / "model" / "kdlora.json").write_text(json.dumps({"labels": names}))


def a_baseline_beside_it(folder: Path, beside: Path) -> None:
    an_adapter_beside_it(folder, beside)
    names = json.loads((beside / "model" / "kdlora.json").read_text())["labels"]
    (beside / "model" / "kdlora.json").rename(beside / "model" / "baseline.json")
    (beside / "model" / "baseline.json").write_text(json.dumps({"label_names": names}))


PLACES = (model_of_its_own, model_beside_it, an_adapter_beside_it, a_baseline_beside_it)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_an_old_record_learns_them_from_a_model_of_the_same_rows(
    place: Callable[[Path, Path], None],
    case_alone: Callable[[str, Path], Finished],
    tmp_path: Path,
) -> None:
    done = case_alone("the report split lacks a class", tmp_path)
    forget(done)
    beside = done.folder.with_name(f"{done.run_id}-beside")
    beside.mkdir()
    (beside / "spec.json").write_bytes((done.folder / "spec.json").read_bytes())
    place(done.folder, beside)
    record = done.store.read(done.run_id)
    assert record is not None
    facts = task_facts(record, done.folder)
    assert facts is not None
    assert facts.label_names == ("a", "b", "c")
    spec = json.loads((beside / "spec.json").read_text())
    spec["task"]["fingerprint"] = "other rows"
    (beside / "spec.json").write_text(json.dumps(spec))
    without = task_facts(record, done.folder)
    assert (without is not None) == (place is model_of_its_own)
