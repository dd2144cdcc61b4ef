import json

import numpy as np
import pytest

from kdlora.data.examples import ids_of_keys, ids_of_texts
from kdlora.data.own_task import load_own
from kdlora.errors import DataError
from kdlora.spec.sections import OwnTask
from kdlora.vocabulary.task import CLASSIFICATION, REGRESSION
from tests.harness.moods import write_csv

WORDS = [f"text number {i}" for i in range(40)]


def rows(n=40, **changes):
    columns = {"text": WORDS[:n], "label": ["good", "bad"] * (n // 2)}
    return columns | changes


def own(path, **changes):
    if path.name == "train.csv" and (path.parent / "eval.csv").exists():
        changes = {"eval": str(path.parent / "eval.csv")} | changes
    return OwnTask(name="mood", train=str(path), **changes)


def load(folder, train=None, held_out=None, **changes):
    path = write_csv(folder / "train.csv", **(train or rows()))
    if held_out:
        write_csv(folder / "eval.csv", **held_out)
    return load_own(own(path, **changes))


def problems_of(folder, *args, **changes):
    with pytest.raises(DataError) as caught:
        load(folder, *args, **changes)
    return caught.value.problems


def test_classes_of_a_csv(tmp_path):
    loaded = load(tmp_path, held_out={"text": ["x y", "z"], "label": ["bad", "good"]})
    task = loaded.task
    assert (task.name, task.kind, task.texts, task.label) == (
        "mood",
        CLASSIFICATION,
        ("text",),
        "label",
    )
    assert (task.label_names, task.primary, task.positive) == (("bad", "good"), "macro_f1", None)
    assert task.reports == {"report": "eval"}
    assert loaded.train.labels.tolist() == [1, 0] * 20
    assert loaded.train.texts == (WORDS,)
    assert loaded.train.ids.tolist() == ids_of_texts("mood", (WORDS,)).tolist()
    assert loaded.reports["report"].labels.tolist() == [0, 1]
    assert loaded.notes == ("column 'label' was read as 2 classes: bad, good",)


def test_scores_of_pairs_without_an_eval_file(tmp_path):
    scores = [i / 8 for i in range(40)]
    train = {"a": WORDS, "b": WORDS[::-1], "score": scores}
    loaded = load(tmp_path, train, text=["a", "b"], label="score")
    assert (loaded.task.kind, loaded.task.primary, loaded.task.label_names) == (
        REGRESSION,
        "pearson",
        (),
    )
    assert loaded.train.texts == (WORDS, WORDS[::-1])
    assert loaded.train.labels.dtype == np.float32
    assert loaded.train.labels.tolist() == scores
    assert loaded.reports == {}
    assert loaded.task.reports == {"report": "held out of train"}


def test_integers_are_classes_unless_told_otherwise(tmp_path):
    train = rows(label=[1, 2, 10, 2] * 10)
    assert load(tmp_path, train).task.label_names == ("1", "2", "10")
    loaded = load(tmp_path, train, kind="regression", metric="spearman")
    assert loaded.task.primary == "spearman"
    assert loaded.train.labels[2] == 10.0
    assert loaded.notes == ()


def test_integers_that_pandas_wrote_as_floats_match_plain_ones(tmp_path):
    loaded = load(tmp_path, rows(label=["1.0", "2.0"] * 20), {"text": ["x"], "label": [2]})
    assert loaded.task.label_names == ("1", "2")
    assert loaded.reports["report"].labels.tolist() == [1]
    assert "has no row of class 1" in loaded.notes[-1]


def test_truth_values_of_json(tmp_path):
    path = tmp_path / "train.jsonl"
    lines = [json.dumps({"text": t, "label": i % 4 == 0}) for i, t in enumerate(WORDS)]
    path.write_text("\n".join(lines))
    loaded = load_own(own(path))
    assert loaded.task.label_names == ("False", "True")
    assert loaded.train.labels.sum() == 10


def test_own_ids(tmp_path):
    keys = [f"k{i}" for i in range(40)]
    loaded = load(
        tmp_path, rows(key=keys), {"text": ["x"], "label": ["bad"], "key": ["q"]}, id="key"
    )
    assert loaded.train.ids.tolist() == ids_of_keys("mood", keys).tolist()
    assert loaded.reports["report"].ids.tolist() == ids_of_keys("mood", ["q"]).tolist()


def test_f1_of_the_positive_class(tmp_path):
    task = load(tmp_path, metric="f1", positive="bad").task
    assert (task.primary, task.positive) == ("f1", "bad")
    assert task.metrics[0] == "f1"
    assert load(tmp_path, rows(label=[1, 0] * 20), positive="1.0").task.positive == "1"


def test_rows_without_text_are_dropped_and_named(tmp_path):
    texts = ["", "  ", *WORDS[2:]]
    loaded = load(tmp_path, rows(text=texts))
    assert loaded.train.texts == (WORDS[2:],)
    assert loaded.train.labels.tolist() == [1, 0] * 19
    assert "dropped rows 1, 2, which hold no text" in loaded.notes[0]


def test_a_pair_keeps_rows_of_which_one_text_is_empty(tmp_path):
    train = {"a": ["", "", *WORDS[2:]], "b": ["b", "", *WORDS[2:]], "label": ["x", "y"] * 20}
    loaded = load(tmp_path, train, text=["a", "b"])
    assert loaded.train.texts[1][0] == "b"
    assert len(loaded.train) == 39
    assert "dropped row 2," in loaded.notes[0]
    assert "column 'a' is empty in row 1" in loaded.notes[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": ["good"] * 40}, "column 'label': only one class, 'good'"),
        ({"label": ["good", "", "nan", "bad"] * 10}, "no label in rows 2, 3, 6, 7, 10 and 15 more"),
        ({"label": [f"{i} {i}" for i in range(40)]}, "40 different labels in 40 rows"),
        ({"text": [str(i / 3) for i in range(40)]}, "column 'text' holds numbers, not text"),
        ({"text": [""] * 40}, "column 'text' is empty in every row"),
        ({"label": [2.5] * 40}, "every label is 2.5: there is nothing to learn"),
        ({"label": [0.5, 1.5, 2.5, "lots"] * 10}, "not finite numbers, in rows 4, 8, 12, 16, 20"),
    ],
)
def test_bad_columns(tmp_path, changes, said):
    problems = problems_of(tmp_path, rows(**changes))
    assert any(said in p for p in problems), problems
    assert all(str(tmp_path) in p for p in problems)


def test_numbers_instead_of_text_name_the_columns_that_hold_text(tmp_path):
    train = {"n": range(40), "text": range(40), "body": WORDS, "label": ["x", "y"] * 20}
    (said,) = problems_of(tmp_path, train)
    assert said.endswith("not text. Columns that look like text: body")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric": "pearson"}, "metric 'pearson' does not fit classification"),
        ({"metric": "accuracy", "kind": "regression", "label": "score"}, "does not fit regression"),
        ({"metric": "f1"}, "name it as `positive`"),
        ({"positive": "goood"}, "not among the labels. Did you mean 'good'?"),
        ({"positive": "1", "kind": "regression", "label": "score"}, "the labels are numbers"),
        ({"kind": "regression"}, "not finite numbers, in rows 1, 2, 3, 4, 5 and 35 more: 'good'"),
        (
            {"label": "score"},
            "40 different labels in 40 rows are no classes: set `kind: regression`",
        ),
        ({"label": "text"}, "must be different columns; named twice: text"),
    ],
)
def test_settings_that_do_not_fit_the_data(tmp_path, changes, said):
    (problem,) = problems_of(tmp_path, rows(score=range(40)), **changes)
    assert said in problem


def test_labels_that_train_lacks(tmp_path):
    (said,) = problems_of(tmp_path, rows(), {"text": ["x", "y"], "label": ["Good", "bad"]})
    assert "eval.csv: column 'label': labels that the train file lacks: 'Good' (1 rows)" in said


def test_ids_that_are_missing_repeated_or_shared(tmp_path):
    keys = ["", "a", "a", "b", *range(36)]
    held_out = {"text": ["x", "y"], "label": ["good", "bad"], "key": ["b", "c"]}
    missing, repeated, shared = problems_of(tmp_path, rows(key=keys), held_out, id="key")
    assert "no id in row 1 (column 'key')" in missing
    assert "ids in column 'key' repeat: a" in repeated
    assert "1 ids stand in both" in shared
    assert "leave `id` out" in shared


def test_rows_keep_their_numbers_when_others_are_dropped(tmp_path):
    train = rows(text=["", *WORDS[1:]], label=[0.5, 1.5, "lots", 2.5] * 10)
    (said,) = problems_of(tmp_path, train, kind="regression")
    assert "in rows 3, 7, 11, 15, 19 and 5 more" in said


def test_labels_that_are_no_classes_are_told_once(tmp_path):
    (said,) = problems_of(
        tmp_path, rows(label=[f"{i} {i}" for i in range(40)]), {"text": ["x"], "label": ["y"]}
    )
    assert "40 different labels in 40 rows" in said


def test_too_few_rows(tmp_path):
    (said,) = problems_of(tmp_path, rows(18))
    assert "train.csv holds 18 usable rows; at least 20 are needed" in said
    assert len(load(tmp_path, rows(20)).train) == 20


def test_lists_and_broken_characters_of_json(tmp_path):
    path = tmp_path / "train.jsonl"
    values = [{"text": t, "label": i % 2} for i, t in enumerate(WORDS)]
    values[1]["text"] = ["a", "list"]
    values[2]["label"] = [0, 1]
    values[4]["text"] = "half \ud83d"
    path.write_text("\n".join(json.dumps(v) for v in values))
    with pytest.raises(DataError) as caught:
        load_own(own(path))
    assert [p.removeprefix(f"{path}: ") for p in caught.value.problems] == [
        "column 'text' holds no text in row 2",
        "column 'text' holds half a character (a lone surrogate) in row 5",
        "column 'label' holds no single label in row 3",
    ]


def test_all_problems_of_both_files_come_at_once(tmp_path):
    train = rows(label=["good", "bad", "", "bad"] * 10)
    problems = problems_of(tmp_path, train, {"txt": ["x"], "label": ["good"]}, metric="rmse")
    assert len(problems) == 3
    assert "no label in rows 3" in problems[0]
    assert "eval.csv has no column 'text'. Did you mean 'txt'?" in problems[1]
    assert "metric 'rmse'" in problems[2]


def test_labels_are_named_and_joined(tmp_path):
    train = rows(label=["0", "1", "2", "2"] * 10)
    loaded = load(tmp_path, train, labels={0: "toxic", 1: "toxic", 2: "fine"}, positive="toxic")
    assert loaded.task.label_names == ("fine", "toxic")
    assert loaded.task.positive == "toxic"
    assert loaded.train.labels.tolist() == [1, 1, 0, 0] * 10
    same = load(tmp_path, rows(label=[0.0, 1.0, 2.0, 2.0] * 10), labels={0: "t", 1: "t", 2: "f"})
    assert same.train.labels.tolist() == loaded.train.labels.tolist()


def test_labels_that_no_name_is_given_for(tmp_path):
    train = rows(label=["0", "1", "2", "9"] * 10)
    [problem] = problems_of(tmp_path, train, labels={"0": "a", "1": "b"})
    assert "no name for 2, 9 of column 'label'" in problem


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"labels": {"0": "a", "1": "a"}}, "everything in one class, 'a'"),
        ({"labels": {"0": "a", "1": "b"}, "kind": "regression"}, "kind is regression"),
    ],
)
def test_labels_that_make_no_classes(tmp_path, settings, said):
    with pytest.raises(ValueError, match=said):
        own(tmp_path / "other.csv", **settings)
