import json
import re
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from kdlora.api import check
from kdlora.data.examples import ids_of_keys, ids_of_texts
from kdlora.data.own_task import (
    check_classes,
    check_numbers,
    check_own_task,
    check_teaching_files,
    check_unknown,
    infer_kind,
    load_own,
    look_alikes,
)
from kdlora.data.tasks import load_task
from kdlora.errors import DataError, InputError
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.run import DistilledRun, TaskRef
from kdlora.spec.sections import Data, OwnTask
from kdlora.vocabulary.task import CLASSIFICATION, KINDS, REGRESSION
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
    (said,) = problems_of(tmp_path, rows(14))
    assert "train.csv holds 14 usable rows; at least 16 are needed" in said
    assert len(load(tmp_path, rows(16)).train) == 16


def test_lists_of_json_are_neither_texts_nor_labels(tmp_path):
    path = tmp_path / "train.jsonl"
    values = [{"text": t, "label": i % 2} for i, t in enumerate(WORDS)]
    values[1]["text"] = ["a", "list"]
    values[2]["label"] = [0, 1]
    path.write_text("\n".join(json.dumps(v) for v in values))
    with pytest.raises(DataError) as caught:
        load_own(own(path))
    assert [p.removeprefix(f"{path}: ") for p in caught.value.problems] == [
        "column 'text' holds no text in row 2",
        "column 'label' holds no single label in row 3. Where a text may have several labels, set "
        "`kind: multilabel`",
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


@pytest.mark.parametrize("truth", [("true", "false"), ("True", "False"), ("TRUE", "FALSE")])
def test_truth_values_are_named_however_the_file_writes_them(tmp_path, truth):
    named = {True: "pos", False: "neg"}  # as YAML reads true and false
    assert load(tmp_path, rows(label=truth * 20), labels=named).task.label_names == ("neg", "pos")


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


def files_of(train, held_out=None, **changes):
    return OwnTask(name="m", train=str(train), eval=held_out and str(held_out), **changes)


def test_good_files_have_no_problems(tmp_path):
    train = write_csv(tmp_path / "a.csv", key=["1"], text=["x"], label=["y"])
    (tmp_path / "b.jsonl").write_text('{"key": 2, "text": "x", "label": "y"}\n')
    (tmp_path / "c.tsv").write_text("key\ttext\tlabel\n3\tx\ty\n")
    pd.DataFrame({"key": [4], "text": ["x"], "label": ["y"]}).to_parquet(tmp_path / "d.parquet")
    for held_out in ("b.jsonl", "c.tsv", "d.parquet", None):
        assert check_own_task(files_of(train, held_out and tmp_path / held_out, id="key")) == []


def test_problems_of_both_files_come_at_once(tmp_path):
    train = write_csv(tmp_path / "a.csv", txt=["x"], label=["y"])
    held_out = write_csv(tmp_path / "b.csv", text=["x"], lab=["y"])
    assert check_own_task(files_of(train, held_out, id="key")) == [
        f"{train} has no column 'text'. Did you mean 'txt'? Known: label, txt.",
        f"{train} has no column 'key'. Known: label, txt.",
        f"{held_out} has no column 'label'. Did you mean 'lab'? Known: lab, text.",
        f"{held_out} has no column 'key'. Known: lab, text.",
    ]


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "empty.csv").touch()
    (tmp_path / "latin.csv").write_bytes(b"text,label\ncaf\xe9,1\n")
    (tmp_path / "a.xls").write_bytes(b"x")
    (said,) = check_own_task(files_of(tmp_path / "empty.csv"))
    assert said.endswith("empty.csv is empty")
    missing, latin = check_own_task(files_of(tmp_path / "no.csv", tmp_path / "latin.csv"))
    assert missing == f"there is no file {tmp_path / 'no.csv'}"
    assert "is not UTF-8: byte 0xe9 at offset 14 (line 2)" in latin
    assert "unknown kind of file '.xls'" in check_own_task(files_of(tmp_path / "a.xls"))[0]


def test_a_column_has_one_use(tmp_path):
    train = write_csv(tmp_path / "a.csv", text=["x"])
    (said,) = check_own_task(files_of(train, label="text"))
    assert said == "text, label and id must be different columns; named twice: text"


def test_only_the_start_of_a_large_file_is_read(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text,label\n" + b"some words,1\n" * 2_000_000)
    start = time.perf_counter()
    assert check_own_task(files_of(tmp_path / "a.csv")) == []
    assert time.perf_counter() - start < 0.2  # reading all 26 MB strictly takes a second


def test_the_files_that_teach_are_looked_at_too(tmp_path):
    texts = write_csv(tmp_path / "more.csv", sentense=["x"])
    answers = write_csv(tmp_path / "answers.csv", sentence=["x"], negative=[1], positiv=[0])
    pair = {"name": "p", "student": "small"}
    pair["teacher_outputs"] = {"file": str(answers), "kind": "logits"}
    study = make_study(
        {"name": "s", "tasks": ["sst2"], "pairs": [pair], "unlabelled": {"sst2": str(texts)}}
    )
    plan = make_plan(study)
    teacher = next(run for run in plan.runs if run.role == "teacher")
    student = next(run for run in plan.runs if isinstance(run, DistilledRun))
    assert f"{answers} has no column 'positive'. Did you mean 'positiv'?" in str(
        check_teaching_files(teacher)
    )
    assert "has no column 'sentence'. Did you mean 'sentense'?" in str(
        check_teaching_files(student)
    )
    with pytest.raises(InputError, match="2 problems"):
        check(study)


@pytest.mark.parametrize("task", ["sst2", "own"])
def test_names_of_classes_are_looked_for_in_one_column(tmp_path, task):
    answers = write_csv(tmp_path / "answers.csv", sentence=["x"], answer=["positive"])
    train = write_csv(tmp_path / "train.csv", sentence=WORDS, label=["positive", "negative"] * 20)
    own = {"name": "own", "train": str(train), "text": "sentence"}

    def problems(**outputs):
        told = {"file": str(answers), "kind": "labels"} | outputs
        pairs = [{"name": "p", "student": "small", "teacher_outputs": told}]
        tasks = [own if task == "own" else task]
        plan = make_plan(make_study({"name": "s", "tasks": tasks, "pairs": pairs}))
        return check_teaching_files(next(run for run in plan.runs if run.role == "teacher"))

    assert problems(label="answer") == []
    assert "has no column 'label'" in str(problems())
    assert "has no column 'sure'" in str(problems(label="answer", confidence="sure"))


def test_no_heavy_import(tmp_path):
    train = write_csv(tmp_path / "a.csv", text=["x"], label=["y"])
    code = (
        "import sys\n"
        "from kdlora.data.own_task import check_own_task\n"
        "from kdlora.spec.study import OwnTask\n"
        f"assert check_own_task(OwnTask(name='m', train={str(train)!r})) == []\n"
        "heavy = {'numpy', 'pandas', 'pyarrow', 'torch', 'datasets', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1.5", "2", "3"], "regression"),
        ([0.1, 1], "regression"),
        (["1.0", "2.0"], "classification"),
        ([1, 2, 3], "classification"),
        ([True, False], "classification"),
        (["good", "bad"], "classification"),
        (["0.5", "x", "y", "z"], "classification"),
        (["0.5", "1.5", "2.5", "x"], "regression"),  # a slip among scores
    ],
)
def test_infer_kind(values, kind):
    assert infer_kind(values) is KINDS[kind]


def class_problems(values, stated=False):
    return check_classes(values, CLASSIFICATION.names(values), stated=stated)


def test_good_classes():
    assert class_problems(["a", "b"] * 20) == []
    assert class_problems(list(range(50)) * 4) == []
    assert class_problems(list(range(77)) * 4, stated=True) == []


def test_bad_classes():
    assert class_problems(["a"] * 20) == ["only one class, 'a': there is nothing to tell apart"]
    (many,) = class_problems(list(range(51)) * 4)
    assert "51 different labels" in many
    assert "kind: regression" in many
    (texts,) = class_problems([f"t{i}" for i in range(51)] * 4)
    assert "check the label column" in texts
    for stated in (True, False):
        (ids,) = class_problems(list(range(40)), stated)
        assert "40 different labels in 40 rows" in ids


def test_unknown_classes_are_named_and_counted():
    assert check_unknown(["a", "b", 1.0], ("1", "a", "b")) == []
    (said,) = check_unknown(["a", "z", "z", "y"], ("a", "b"))
    assert said == "labels that the train file lacks: 'y' (1 rows), 'z' (2 rows). It knows a, b"


def test_numbers_that_are_none_are_shown_with_their_rows():
    assert check_numbers(["1", 2.5, "-3e2"], [1, 2, 3]) == []
    (said,) = check_numbers(["1", "high", "inf", 1e39, "high"], [1, 4, 6, 8, 9])
    assert said == (
        "labels that are not finite numbers, in rows 4, 6, 8, 9: 'high', 'inf', '1e+39'"
    )


@pytest.mark.parametrize(
    "names",
    [("Pos", "pos"), ("café", "cafe\u0301"), ("pos", "pos\u200b"), ("very good", "very\u00a0good")],
)
def test_classes_that_look_alike_are_told(tmp_path, names):
    loaded = load(tmp_path, rows(label=[*names, "neg", "neg"] * 10))
    assert len(loaded.task.label_names) == 3
    (said,) = [note for note in loaded.notes if "look alike" in note]
    assert all(repr(name) in said for name in names)
    assert look_alikes(["pos", "neg", "positive", "1", "10"]) == []


@pytest.mark.parametrize("separator", [",", "\t"])
def test_rows_without_any_cell_as_spreadsheets_write_them_are_no_rows(tmp_path, separator):
    path = tmp_path / ("a.csv" if separator == "," else "a.tsv")
    lines = [f"{text},{label}," for text, label in zip(*rows().values(), strict=True)]
    content = "\n".join([",,", "text,label,", *lines[:20], ",,", "", *lines[20:], *[",,"] * 3])
    path.write_text(content.replace(",", separator))
    loaded = load_own(own(path))
    assert loaded.train.texts == (WORDS,)
    path.write_text((content + "\nno label,,").replace(",", separator))
    with pytest.raises(DataError, match="no label in row 46 of 41"):
        load_own(own(path))


REST = {"missing_labels": "rest"}


def test_rows_without_a_label_are_kept_apart_where_a_teacher_labels_them(tmp_path):
    labels = [*(["good", "bad", ""] * 13), "good"]
    loaded = load(tmp_path, rows(label=labels), **REST)
    assert loaded.task.label_names == ("bad", "good")
    assert loaded.train.labels.tolist() == [1, 0] * 13 + [1]
    assert loaded.rest.texts == ([w for w, label in zip(WORDS, labels, strict=True) if not label],)
    assert (loaded.rest.labels == -1).all()
    whole = ids_of_texts("mood", [WORDS]).tolist()
    assert sorted([*loaded.train.ids, *loaded.rest.ids]) == sorted(whole)
    assert any("13 of 40 rows have no label" in note for note in loaded.notes)
    assert "no label in row" in str(problems_of(tmp_path, rows(label=labels)))


def test_a_file_of_texts_alone_takes_its_classes_from_the_held_out_file(tmp_path):
    held = {"text": [f"gold {i}" for i in range(30)], "label": ["up", "down", "flat"] * 10}
    loaded = load(tmp_path, {"text": WORDS}, held, **REST)
    assert loaded.task.label_names == ("down", "flat", "up")
    assert (len(loaded.train), len(loaded.rest), len(loaded.reports["report"])) == (0, 40, 30)
    assert check_own_task(own(tmp_path / "train.csv", **REST)) == []
    assert "no column 'label'" in str(check_own_task(own(tmp_path / "train.csv")))
    partly = {"text": WORDS, "label": ["up"] * 20 + [""] * 20}
    assert load(tmp_path, partly, held, **REST).task.label_names == ("down", "flat", "up")


def test_labels_serve_to_select_and_to_report_on_first(tmp_path):
    texts = [f"text {i}" for i in range(900)]
    label = ["good", "bad"] * 150 + [""] * 600
    whole = load_split(tmp_path, {"text": texts, "label": label})
    sizes = {name: len(part) for name, part in whole.splits().items()}
    assert sizes == {"train": 100, "selection": 100, "report": 100}
    assert len(whole.rest) == 600
    held = {"text": [f"gold {i}" for i in range(300)], "label": ["good", "bad"] * 150}
    alone = load_split(tmp_path, {"text": texts}, held)
    sizes = {name: len(part) for name, part in alone.splits().items()}
    assert sizes == {"train": 0, "selection": 150, "report": 150}
    assert len(alone.rest) == 900
    assert not set(alone.selection.ids) & set(alone.reports["report"].ids)


def load_split(folder, train, held_out=None):
    write_csv(folder / "train.csv", **train)
    if held_out:
        write_csv(folder / "eval.csv", **held_out)
    task = own(folder / "train.csv", **REST)
    ref = TaskRef(name="mood", version=1, source="files", own=task)
    return load_task(ref, Data())


def test_without_any_label_there_is_nothing_to_select_on(tmp_path):
    (problem,) = problems_of(tmp_path, {"text": WORDS}, **REST)
    assert "there are 0 rows with a label; at least 16 are needed" in problem


def stars(names):
    return rows(label=[str(name) for name in names] * (40 // len(names)))


def test_integer_names_are_grades_where_the_study_file_says_so(tmp_path):
    columns = stars([3, 1, 2, 10, 4, 5, 6, 7, 8, 9])
    assert not load(tmp_path, columns, kind="classification").task.graded
    for said in ({"grades": "integers"}, {"metric": "quadratic_weighted_kappa"}, {"metric": "mae"}):
        task = load(tmp_path, columns, kind="classification", **said).task
        assert task.graded
        assert task.label_names == tuple(map(str, range(1, 11)))
        assert {"quadratic_weighted_kappa", "mae"} <= {*task.metrics}


def test_named_grades_are_in_the_order_given(tmp_path):
    task = load(tmp_path, stars(["fair", "good", "bad", "poor"]),
                grades=["bad", "poor", "fair", "good"]).task  # fmt: skip
    assert task.graded
    assert task.label_names == ("bad", "poor", "fair", "good")


def test_a_regression_answers_a_graded_task(tmp_path):
    task = load(tmp_path, stars([1, 2, 3, 4]), kind="regression", grades="integers").task
    assert task.graded
    assert {"quadratic_weighted_kappa", "mae"} <= {*task.metrics}
    plain = load(tmp_path, stars([1, 2, 3, 4]), kind="regression", metric="mae").task
    assert plain.primary == "mae"
    assert "quadratic_weighted_kappa" not in plain.metrics


@pytest.mark.parametrize(
    ("names", "changes", "says"),
    [
        ([1, 2, 4, 5], {"grades": "integers"}, "without a gap"),
        (["low", "high"], {"grades": "integers"}, "no such: high, low"),
        (["low", "high"], {"metric": "quadratic_weighted_kappa"}, "grades: .lowest, ..., highest."),
        ([1.5, 2, 3, 4], {"grades": "integers", "kind": "regression"}, "no such: 1.5.*mae"),
        (["low", "high"], {"grades": ["low", "hihg"]}, "label 'hihg'. Did you mean 'high'"),
        (["low", "mid", "high", "top"], {"grades": ["low", "high"]}, "lacks mid, top"),
    ],
)
def test_what_are_no_grades_is_refused_with_what_to_do(tmp_path, names, changes, says):
    kind = {"kind": "classification"} | changes
    assert re.search(says, " ".join(problems_of(tmp_path, stars(names), **kind)))


def test_grades_of_a_study_file_are_two_names_or_more_and_none_of_a_regression():
    for wrong in ({"grades": ["a", "a"]}, {"grades": ["1", "2"], "kind": "regression"}):
        with pytest.raises(ValueError, match="grades"):
            OwnTask(name="mood", train="train.csv", **wrong)


def test_a_metric_of_one_class_needs_that_class(tmp_path):
    for name in ("average_precision", "recall_at_precision_80"):
        assert "name it as `positive`" in " ".join(problems_of(tmp_path, metric=name))
        task = load(tmp_path, metric=name, positive="bad").task
        assert task.metrics[0] == name
