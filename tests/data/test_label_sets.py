"""Several labels a text, in each of the three forms in which files have them; none is guessed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from kdlora.data.checks.look import look_at
from kdlora.data.label_sets import joined_labels
from kdlora.data.own_task import load_own
from kdlora.data.tasks import load_task
from kdlora.errors import DataError
from kdlora.spec.resolve import own_task_ref
from kdlora.spec.sections import Data, OwnTask, stated_kind
from kdlora.vocabulary.task import MULTILABEL
from tests.harness.moods import TOPICS, reviews, write_csv

TEXTS, SETS = reviews(60, 5)
NAMES = tuple(sorted(TOPICS))
EXPECTED = MULTILABEL.decode(SETS, NAMES)


def own(path: Path, **changes) -> OwnTask:
    return OwnTask(name="topics", train=str(path), **changes)


def problems_of(path: Path, **changes) -> str:
    with pytest.raises(DataError) as caught:
        load_own(own(path, **changes))
    return "\n".join(caught.value.problems)


def as_json_lines(path: Path, cells: list) -> Path:
    rows = [{"text": t, "label": c} for t, c in zip(TEXTS, cells, strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def forms(tmp_path) -> dict[str, OwnTask]:
    columns = {name: [int(name in row) for row in SETS] for name in NAMES}
    return {
        "list": own(as_json_lines(tmp_path / "a.jsonl", SETS), kind="multilabel"),
        "written list": own(
            write_csv(tmp_path / "b.csv", text=TEXTS, label=list(map(json.dumps, SETS))),
            kind="multilabel",
        ),
        "separator": own(
            write_csv(tmp_path / "c.csv", text=TEXTS, label=[" | ".join(row) for row in SETS]),
            label_separator="|",
        ),
        "columns": own(write_csv(tmp_path / "d.csv", text=TEXTS, **columns), labels=NAMES),
    }


@pytest.mark.parametrize("form", ["list", "written list", "separator", "columns"])
def test_every_form_gives_the_same_labels(forms, form):
    loaded = load_own(forms[form])
    assert stated_kind(forms[form]) is loaded.task.kind is MULTILABEL
    assert loaded.task.label_names == NAMES
    assert loaded.task.primary == "mean_average_precision"
    np.testing.assert_array_equal(loaded.train.labels, EXPECTED)
    empty = sum(not row for row in SETS)
    assert 0 < empty < len(SETS)
    assert f"{empty} of 60 rows have none" in loaded.notes[0]


def test_columns_keep_the_order_in_which_they_are_named(tmp_path):
    columns = {name: [str(name in row).lower() for row in SETS] for name in NAMES}
    path = write_csv(tmp_path / "d.csv", text=TEXTS, **columns)
    loaded = load_own(own(path, labels=NAMES[::-1]))
    assert loaded.task.label_names == NAMES[::-1]
    np.testing.assert_array_equal(loaded.train.labels, EXPECTED[:, ::-1])


def test_one_label_and_two_hundred(tmp_path):
    one = write_csv(tmp_path / "one.csv", text=TEXTS, label=["x" * (i % 3 == 0) for i in range(60)])
    assert load_own(own(one, label_separator=",")).train.labels.shape == (60, 1)
    texts = [f"text {i}" for i in range(500)]
    many = [f"l{i % 200}|l{(i + 7) % 200}" for i in range(500)]
    path = write_csv(tmp_path / "many.csv", text=texts, label=many)
    loaded = load_own(own(path, label_separator="|"))
    assert loaded.train.labels.shape == (500, 200)
    assert set(loaded.train.labels.sum(1).tolist()) == {2}


def test_labels_are_renamed_and_joined_by_the_study_file(tmp_path):
    path = write_csv(tmp_path / "c.csv", text=TEXTS, label=["|".join(row) for row in SETS])
    names = {"price": "money", "service": "people", "food": "people"}
    loaded = load_own(own(path, label_separator="|", labels=names))
    assert loaded.task.label_names == ("money", "people")
    both = EXPECTED[:, [NAMES.index("service"), NAMES.index("food")]].max(1)
    np.testing.assert_array_equal(loaded.train.labels[:, 1], both)
    told = problems_of(path, label_separator="|", labels={"price": "a", "food": "b"})
    assert "`labels` has no name for service" in told


def test_joined_names_without_a_separator_are_never_guessed(tmp_path):
    path = write_csv(
        tmp_path / "c.csv", text=TEXTS, label=["|".join(row) or "none" for row in SETS]
    )
    told = problems_of(path, kind="multilabel")
    assert "holds no set of labels in rows 1, 2" in told
    assert "set `label_separator`" in told
    # of kind auto they are classes, and a look says so
    task = own(path, kind="classification")
    data = load_task(own_task_ref(task, {"train": path}), Data(selection_min=10))
    assert not data.task.kind.several
    look = look_at(data, own_task_ref(task, {"train": path}))
    (found,) = [one for one in look.findings if one.name == "several_labels"]
    assert "--label-separator '|'" in found.told


def test_rows_without_a_label_beside_joined_ones_are_told_of_the_separator(tmp_path):
    path = write_csv(tmp_path / "c.csv", text=TEXTS, label=["|".join(row) for row in SETS])
    told = problems_of(path)
    assert "no label in rows" in told
    assert "with --label-separator '|'" in told
    alone = write_csv(tmp_path / "d.csv", text=TEXTS, label=[(row or [""])[0] for row in SETS])
    assert "separator" not in problems_of(alone)


def test_lists_of_kind_auto_are_refused_with_what_to_set(tmp_path):
    told = problems_of(as_json_lines(tmp_path / "a.jsonl", SETS))
    assert "holds no single label in rows 1" in told
    assert "kind: multilabel" in told


@pytest.mark.parametrize(
    ("cells", "changes", "told"),
    [
        (["['a']"], {"kind": "multilabel"}, "with double quotes"),
        (["[" * 3000 + "]" * 3000], {"kind": "multilabel"}, "holds no set of labels in row 1"),
        ([[["a"]]], {"kind": "multilabel"}, "no name of a label"),
        ([None], {"kind": "multilabel"}, "no label in row 1 of 60"),
    ],
)
def test_a_cell_that_is_no_set_is_named(tmp_path, cells, changes, told):
    path = as_json_lines(tmp_path / "a.jsonl", [*cells, *SETS[1:]])
    assert told in problems_of(path, **changes)


def test_columns_hold_0_or_1(tmp_path):
    columns = {name: [int(name in row) for row in SETS] for name in NAMES}
    columns["food"][3] = 2
    columns["price"][4] = ""
    told = problems_of(write_csv(tmp_path / "d.csv", text=TEXTS, **columns), labels=NAMES)
    assert "column 'food' is neither 0 nor 1 in row 4: '2'" in told
    assert "column 'price' is neither 0 nor 1 in row 5: ''" in told


def test_what_cannot_be_learnt_is_refused(tmp_path):
    path = write_csv(tmp_path / "none.csv", text=TEXTS, label=[""] * 60)
    assert "no row has any label" in problems_of(path, label_separator="|")
    always = write_csv(tmp_path / "all.csv", text=TEXTS, label=["|".join(["x", *r]) for r in SETS])
    assert "every training row has the label x" in problems_of(always, label_separator="|")
    ids = write_csv(tmp_path / "ids.csv", text=TEXTS, label=[f"i{i}" for i in range(60)])
    assert "60 different labels in 60 rows" in problems_of(ids, label_separator="|")
    columns = {name: [int(name in row) for row in SETS] for name in NAMES} | {"rare": [0] * 60}
    rare = write_csv(tmp_path / "rare.csv", text=TEXTS, **columns)
    assert "no training row has the label rare" in problems_of(rare, labels=(*NAMES, "rare"))


def test_held_out_labels_are_those_of_the_training_file(tmp_path):
    train = write_csv(tmp_path / "c.csv", text=TEXTS, label=["|".join(row) for row in SETS])
    held = write_csv(tmp_path / "e.csv", text=TEXTS[:4], label=["price", "new|price", "", "price"])
    told = problems_of(train, eval=str(held), label_separator="|")
    assert "labels that the train file lacks: 'new' (1 rows)" in told
    held = write_csv(tmp_path / "e.csv", text=TEXTS[:4], label=["price", "food", "", "price"])
    loaded = load_own(own(train, eval=str(held), label_separator="|"))
    assert loaded.reports["report"].labels.sum(0).tolist() == [1, 2, 0]


def test_rows_that_only_the_teacher_labels_are_told_from_rows_without_labels(tmp_path):
    cells = [None if i % 3 == 0 else row for i, row in enumerate(SETS)]
    path = as_json_lines(tmp_path / "a.jsonl", cells)
    loaded = load_own(own(path, kind="multilabel", missing_labels="rest"))
    assert (len(loaded.train), len(loaded.rest)) == (40, 20)
    assert (loaded.rest.labels == -1).all()
    assert (loaded.train.labels.sum(1) == 0).any()


def test_an_empty_cell_of_the_held_out_file_is_a_row_without_labels(tmp_path):
    """Its rows all have labels, whatever the training file may lack."""
    train = write_csv(tmp_path / "c.csv", text=TEXTS, label=["|".join(row) for row in SETS])
    held = write_csv(tmp_path / "e.csv", text=TEXTS[:4], label=["price", "food", "", "service"])
    loaded = load_own(own(train, eval=str(held), label_separator="|", missing_labels="rest"))
    assert loaded.reports["report"].labels.sum(axis=1).tolist() == [1, 1, 0, 1]
    assert len(loaded.rest) == sum(not row for row in SETS)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"label_separator": "|", "kind": "classification"}, "of kind multilabel, but kind is"),
        ({"label_separator": "|", "labels": ["a", "b"]}, "say the labels twice"),
        ({"labels": ["a", "a"]}, "names a column twice"),
        ({"labels": []}, "empty list"),
    ],
)
def test_contradicting_settings_are_refused(changes, told):
    with pytest.raises(ValidationError, match=told):
        OwnTask(name="x", train="x.csv", **changes)


def test_a_metric_or_a_positive_class_of_another_kind_is_refused(tmp_path):
    path = write_csv(tmp_path / "c.csv", text=TEXTS, label=["|".join(row) for row in SETS])
    assert "metric 'accuracy' does not fit multilabel" in problems_of(
        path, label_separator="|", metric="accuracy"
    )
    assert "every label of kind multilabel is scored" in problems_of(
        path, label_separator="|", positive="food"
    )


def test_splits_keep_each_labels_rate_and_say_which_label_they_lack(tmp_path):
    texts = [f"text {i}" for i in range(600)]
    rng = np.random.default_rng(0)
    rare = set(rng.choice(600, 3, replace=False).tolist())
    cells = [
        "|".join(["common"] * bool(rng.random() < 0.5) + ["rare"] * (i in rare)) for i in range(600)
    ]
    path = write_csv(tmp_path / "c.csv", text=texts, label=cells)
    task = own(path, label_separator="|")
    data = load_task(own_task_ref(task, {"train": path}), Data(selection_min=100, max_train=200))
    assert [len(part) for part in data.splits().values()] == [200, 96, 120]
    rates = [part.labels[:, 0].mean() for part in data.splits().values()]
    assert max(rates) - min(rates) < 0.02
    assert data.train.labels[:, 1].sum() >= 1


def test_a_text_under_different_sets_of_labels_is_told(tmp_path):
    texts = [*TEXTS, TEXTS[0]]
    other = ["price"] if SETS[0] != ["price"] else ["food"]
    path = write_csv(tmp_path / "c.csv", text=texts, label=["|".join(r) for r in [*SETS, other]])
    ref = own_task_ref(own(path, label_separator="|"), {"train": path})
    look = look_at(load_task(ref, Data(selection_min=10)), ref)
    (found,) = [one for one in look.findings if one.name == "conflicting_labels"]
    assert f"{other[0]} in row 61" in found.told
    assert not [one for one in look.findings if one.name == "several_labels"]


@pytest.mark.parametrize(
    ("names", "tags"),
    [
        (["price", "service", "food", "price|service", "price|food", "food|service",
          "food|price|service"], ["food", "price", "service"]),
        (["a", "b", "a;b", "b; a"], ["a", "b"]),
        (["['a']", "['b']", "['a', 'b']", "['b', 'a']"], ["a", "b"]),
        (["x,y", "y,x", "x,z"], ["x", "y", "z"]),
        (["price", "service", "price and service"], ["price", "service"]),
        (['["price"]', '["service"]', '["price", "service"]'], ["price", "service"]),
    ],
)  # fmt: skip
def test_classes_that_join_tags_are_seen(names, tags):
    found = joined_labels(names)
    assert found is not None
    assert found[1] == tags


@pytest.mark.parametrize(
    "names",
    [
        ["World", "Sports", "Business", "Sci/Tech"],
        ["Electronics/Phones", "Electronics/Laptops", "Home/Kitchen", "Home/Garden"],
        ["Books, films and music", "Home, garden and tools"],
        ["positive", "negative"],
        ["0", "1"],
        ["1,5", "2,5", "3"],
        ["salt", "salt and pepper", "sugar"],
        [],
    ],
)
def test_classes_that_only_hold_a_sign_are_not(names):
    assert joined_labels(names) is None
