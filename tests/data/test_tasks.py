import datasets
import numpy as np
import pytest

from kdlora.data import tasks as sources
from kdlora.data.examples import ids_of_texts
from kdlora.data.own_task import load_own
from kdlora.data.tasks import examples_of, load_folder, load_hub, load_task
from kdlora.errors import DataError, FetchError
from kdlora.spec.check import make_study
from kdlora.spec.fingerprint import hash_files
from kdlora.spec.run import TaskRef
from kdlora.spec.sections import Data, OwnTask
from kdlora.vocabulary.task import TASKS
from tests.harness.moods import sentences, write_csv


def ref_of(path, held_out=None, **changes):
    own = OwnTask(name="mood", train=str(path), eval=held_out and str(held_out), **changes)
    return TaskRef(name="mood", version=1, source="files", own=own)


def moods(path, n, seed, **changes):
    texts, labels = sentences(n, seed)
    return write_csv(path, **({"text": texts, "label": labels} | changes))


def rows_of(part):
    return list(zip(*part.texts, strict=True))


def test_own_files_with_an_eval_file(tmp_path):
    train, held_out = moods(tmp_path / "a.csv", 300, 1), moods(tmp_path / "b.csv", 50, 2)
    data = load_task(ref_of(train, held_out), Data(selection_min=40))
    assert (len(data.train), len(data.selection), len(data.reports["report"])) == (260, 40, 50)
    loaded = load_own(ref_of(train, held_out).own)
    assert {*data.train.ids, *data.selection.ids} == set(loaded.train.ids)
    assert data.reports["report"].ids.tolist() == loaded.reports["report"].ids.tolist()
    assert data.overlap == 0
    assert data.split("report") is data.reports["report"]


def test_without_an_eval_file_a_fifth_is_held_out(tmp_path):
    data = load_task(ref_of(moods(tmp_path / "a.csv", 300, 1)), Data(selection_min=1))
    parts = [data.train, data.selection, data.reports["report"]]
    assert [len(part) for part in parts] == [216, 24, 60]
    assert len({i for part in parts for i in part.ids.tolist()}) == 300
    for part in parts:
        assert part.labels.mean() == pytest.approx(np.mean(data.train.labels), abs=1 / len(part))
    assert any("60 rows of train are held out to report on" in note for note in data.notes)


def test_no_text_is_on_two_sides(tmp_path):
    texts = [f"text {i % 60}" for i in range(300)]
    path = write_csv(tmp_path / "a.csv", text=texts, label=[i % 3 for i in range(300)])
    data = load_task(ref_of(path), Data(selection_min=20))
    parts = [set(rows_of(p)) for p in (data.train, data.selection, data.reports["report"])]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert data.overlap == 0


def test_splits_depend_on_the_split_seed_alone(tmp_path):
    ref = ref_of(moods(tmp_path / "a.csv", 300, 1))
    first, again, other = (
        load_task(ref, Data(split_seed=seed, selection_min=10, max_train=150)) for seed in (0, 0, 1)
    )
    assert first.fingerprint == again.fingerprint
    for split in ("train", "selection", "report"):
        assert set(first.split(split).ids) != set(other.split(split).ids)


def test_the_selection_split_hangs_on_no_other_setting(tmp_path):
    train, held_out = moods(tmp_path / "a.csv", 300, 1), moods(tmp_path / "b.csv", 50, 2)
    own, ref = ref_of(train), ref_of(train, held_out)
    drawn = {
        tuple(load_task(ref, Data(split_seed=seed, selection_min=10)).selection.ids)
        for seed in (0, 1)
    }
    assert len(drawn) == 2
    reports = [
        load_task(own, Data(selection_min=size, max_train=n)).reports["report"].ids.tolist()
        for size, n in ((10, None), (30, 50))
    ]
    assert reports[0] == reports[1]


def test_max_eval_cuts_what_is_reported_on_and_nothing_else(tmp_path):
    file, held_out = moods(tmp_path / "a.csv", 300, 0), moods(tmp_path / "b.csv", 120, 1)
    whole = load_task(ref_of(file, held_out), Data(selection_min=30))
    cut = load_task(ref_of(file, held_out), Data(selection_min=30, max_eval=40))
    assert len(cut.reports["report"]) == 40
    assert set(cut.reports["report"].ids) < set(whole.reports["report"].ids)
    assert cut.train.ids.tolist() == whole.train.ids.tolist()
    assert cut.selection.ids.tolist() == whole.selection.ids.tolist()
    shares = [np.mean(one.reports["report"].labels) for one in (whole, cut)]
    assert abs(shares[0] - shares[1]) < 0.03
    assert "max_eval: 40 of 120 report rows are used" in cut.notes


def test_max_train_cuts_train_and_nothing_else(tmp_path):
    ref = ref_of(moods(tmp_path / "a.csv", 300, 1))
    whole = load_task(ref, Data(selection_min=30))
    cut = load_task(ref, Data(selection_min=30, max_train=60))
    assert len(cut.train) == 60
    assert whole.rest is None
    assert sorted([*cut.train.ids, *cut.rest.ids]) == sorted(whole.train.ids)
    assert set(cut.train.ids) < set(whole.train.ids)
    assert cut.train.labels.mean() == pytest.approx(whole.train.labels.mean(), abs=1 / 60)
    assert cut.selection.ids.tolist() == whole.selection.ids.tolist()
    assert cut.reports["report"].ids.tolist() == whole.reports["report"].ids.tolist()
    assert any(note.startswith("max_train: 60 of") for note in cut.notes)
    assert load_task(ref, Data(selection_min=30, max_train=9999)).fingerprint == whole.fingerprint


def test_few_labels_are_selected_on_few_rows_as_planned_now(tmp_path):
    ref = ref_of(moods(tmp_path / "a.csv", 3000, 1))
    for most, rows in ((None, 500), (100, 100), (600, 150), (2000, 480)):
        data = Data(max_train=most).planned()
        found = load_task(ref, data)
        assert len(found.selection) <= rows
        assert len(found.selection) >= rows - 20  # texts that repeat stay together
        assert any("data.max_selection" in note for note in found.notes) == (most in (100, 600))
    before = load_task(ref, Data(max_train=600))  # as records of before were planned
    assert len(before.selection) >= 460
    assert Data(max_train=600, max_selection=300).planned().max_selection == 300


def test_overlap_is_counted(tmp_path):
    train = moods(tmp_path / "a.csv", 100, 1)
    texts, labels = sentences(100, 1)
    held_out = write_csv(
        tmp_path / "b.csv", text=[*texts[:3], texts[0], "new one"], label=[*labels[:4], "pos"]
    )
    data = load_task(ref_of(train, held_out), Data(selection_min=10))
    assert data.overlap == 4


def test_rows_know_their_numbers_in_the_file_through_every_split(tmp_path):
    path = moods(tmp_path / "a.csv", 100, 1)
    data = load_task(ref_of(path), Data(selection_min=10, max_train=40))
    lines = path.read_text().splitlines()
    assert all(map(len, data.splits().values()))
    assert len(data.splits()) == 3
    for part in data.splits().values():
        for number, text in zip(part.numbers, part.texts[0], strict=True):
            assert lines[number].startswith(text)


def test_small_classes_stay_in_train_and_are_told(tmp_path):
    labels = ["a"] * 50 + ["b"] * 47 + ["c"] * 2 + ["d"]
    path = write_csv(tmp_path / "a.csv", text=[f"t {i}" for i in range(100)], label=labels)
    data = load_task(ref_of(path), Data(selection_min=5))
    assert set(data.train.labels) == {0, 1, 2, 3}
    assert set(data.reports["report"].labels) == {0, 1, 2}
    assert set(data.selection.labels) == {0, 1}


def test_a_train_split_without_a_class_is_refused(tmp_path):
    path = write_csv(
        tmp_path / "a.csv", text=[f"t {i}" for i in range(90)], label=["a", "b", "c"] * 30
    )
    with pytest.raises(DataError, match=r"task 'mood': 2 train rows hold no row of class .*max_"):
        load_task(ref_of(path), Data(max_train=2))


def test_rows_that_are_all_one_text_cannot_be_split(tmp_path):
    path = write_csv(tmp_path / "a.csv", text=["same thing"] * 40, label=["a", "b"] * 20)
    with pytest.raises(DataError, match="too few different texts"):
        load_task(ref_of(path), Data())


def test_a_large_selection_fraction_is_cut_and_told(tmp_path):
    ref = ref_of(moods(tmp_path / "a.csv", 300, 1), moods(tmp_path / "b.csv", 30, 2))
    data = load_task(ref, Data(selection_fraction=0.4))
    assert len(data.selection) == 60
    assert any("selection_fraction 0.4 was cut to 0.2" in note for note in data.notes)


def test_regression_is_split_by_score(tmp_path):
    scores = np.random.default_rng(0).uniform(0, 5, 400).round(3).tolist()
    path = write_csv(tmp_path / "a.csv", text=[f"t {i}" for i in range(400)], label=scores)
    data = load_task(ref_of(path), Data(selection_min=40))
    cuts = np.quantile(scores, [0.25, 0.5, 0.75])
    for part in (data.selection, data.reports["report"]):
        shares = np.bincount(np.searchsorted(cuts, part.labels), minlength=4) / len(part)
        assert shares == pytest.approx([0.25] * 4, abs=0.05)


def test_problems_name_the_task(tmp_path):
    with pytest.raises(DataError) as caught:
        load_task(ref_of(tmp_path / "no.csv", tmp_path / "none.csv"), Data())
    assert str(caught.value).startswith("task 'mood': 2 problems:")


def test_a_task_of_another_version_is_refused(tmp_path):
    with pytest.raises(DataError, match="version 9 is meant, but this kdlora knows version 1"):
        load_task(TaskRef(name="sst2", version=9, source="folder", folder=str(tmp_path)), Data())
    with pytest.raises(DataError, match=r"unknown task\. Did you mean 'sst2'"):
        load_task(TaskRef(name="sst", version=1, source="hub"), Data())


def test_a_planned_task_loads(tmp_path):
    from kdlora.spec.plan import make_plan

    moods(tmp_path / "a.csv", 100, 1)
    study = make_study(
        {
            "name": "s",
            "tasks": [{"name": "mood", "train": "a.csv"}],
            "pairs": [{"teacher": "minilm-l6", "student": "minilm-l3"}],
            "base_dir": str(tmp_path),
        }
    )
    data = load_task(make_plan(study).runs[0].task, study.data)
    assert data.task.label_names == ("neg", "pos")


def test_hub_tasks_come_from_the_hub(monkeypatch):
    def out_of_reach(task):
        raise FetchError(f"{task.name} is far away")

    monkeypatch.setattr(sources, "load_hub", out_of_reach)
    with pytest.raises(FetchError, match="rte is far away"):
        load_task(TaskRef(name="rte", version=1, source="hub"), Data())


def test_movie_reviews_keep_their_split(monkeypatch, tmp_path):
    path = write_csv(
        tmp_path / "reviews.csv",
        split=["train"] * 30 + ["validation"] * 10,
        label=["positive", "negative"] * 20,
        text=[f"review {i}" for i in range(40)],
    )
    monkeypatch.setattr(sources, "fetch_movie_reviews", lambda progress: path)
    data = load_task(TaskRef(name="movie-reviews", version=1, source="package"), Data())
    assert data.reports["report"].texts == ([f"review {i}" for i in range(30, 40)],)
    assert data.reports["report"].labels.tolist() == [1, 0] * 5
    assert (len(data.train), len(data.selection)) == (24, 6)


# The overlaps that the folder's list of sources found by other means.
@pytest.mark.real
@pytest.mark.parametrize(("name", "overlap"), [("cola", 16), ("stsb", 6), ("rte", 0)])
def test_overlap_of_real_tasks(shared, name, overlap):
    ref = TaskRef(name=name, version=1, source="folder", folder=str(shared / "glue" / name))
    data = load_task(ref, Data())
    assert data.overlap == overlap
    assert not set(rows_of(data.train)) & set(rows_of(data.selection))


def test_files_that_changed_since_the_plan_are_refused(tmp_path):
    path = tmp_path / "train.csv"
    rows = "".join(f"text number {i} word,{'ab'[i % 2]}\n" for i in range(60))
    path.write_text("text,label\n" + rows)
    own = OwnTask(name="own", train=str(path))
    ref = TaskRef(
        name="own", version=1, source="files", fingerprint=hash_files([path, None]), own=own
    )
    assert len(load_task(ref, Data()).train) > 0
    path.write_text("text,label\n" + rows.replace("word", "other"))
    with pytest.raises(DataError, match="changed since the study was planned"):
        load_task(ref, Data())


def write(folder, **splits):
    for name, content in splits.items():
        (folder / f"{name}.tsv").write_text(content, encoding="utf-8")
    return folder


def test_texts_are_raw_and_columns_go_by_place(tmp_path):
    train = 'sentence1\tsentence2\tlabel\n"quoted\tNA\t1\n"all"\t\t0\n'
    folder = write(tmp_path, train=train, validation='q\tp\tlabel\n"a"\tb\t1\n')
    loaded = load_folder(TASKS["qqp"], folder)
    assert loaded.train.texts == (['"quoted', '"all"'], ["NA", ""])
    assert loaded.train.labels.tolist() == [1, 0]
    assert loaded.train.ids.tolist() == ids_of_texts("qqp", loaded.train.texts).tolist()
    assert loaded.reports["report"].texts == (['"a"'], ["b"])


def test_scores_are_float32(tmp_path):
    text = "a\tb\tlabel\nx\ty\t3.8\nx\ty\t5\n"
    labels = load_folder(TASKS["stsb"], write(tmp_path, train=text, validation=text)).train.labels
    assert labels.dtype == np.float32
    assert labels.tolist() == pytest.approx([3.8, 5])


def test_mnli_has_two_report_splits(tmp_path):
    text = "a\tb\tlabel\nx\ty\t2\n"
    write(tmp_path, train=text, validation_matched=text, validation_mismatched=text)
    assert list(load_folder(TASKS["mnli"], tmp_path).reports) == ["report", "report_mismatched"]


def test_problems_of_all_files_come_at_once(tmp_path):
    write(
        tmp_path, train="sentence\tlabel\nx\t1\ny\t2\nz\t0.5\nw\tpos\n", validation="a\tb\nx\t1\n"
    )
    with pytest.raises(DataError) as caught:
        load_folder(TASKS["sst2"], tmp_path)
    train, validation = caught.value.problems
    assert train == (
        f"{tmp_path / 'train.tsv'}: label '2' in rows 2, 3, 4; expected one of 0 negative, "
        "1 positive"
    )
    assert "has the columns a, b; expected 1 text column(s), then 'label'" in validation


def test_a_missing_split_is_named(tmp_path):
    write(tmp_path, train="sentence\tlabel\nx\t1\n")
    with pytest.raises(DataError, match=r"there is no file .*validation\.tsv"):
        load_folder(TASKS["sst2"], tmp_path)


def test_a_score_must_be_finite():
    with pytest.raises(DataError, match="label 'nan' in row 2; expected a finite number"):
        examples_of(TASKS["stsb"], (["a", "b"], ["c", "d"]), [1.0, float("nan")], where="x")


# Rows and label counts as the folder's own list of sources states them.
@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "train", "report"),
    [
        ("cola", [2528, 6023], [322, 721]),
        ("sst2", [29780, 37569], [428, 444]),
        ("mrpc", [1194, 2474], [129, 279]),
        ("qqp", [18267, 10593], [2460, 1540]),
        ("mnli", [3408, 3313, 3278], [3479, 3123, 3213]),
        ("qnli", [5027, 4972], [2702, 2761]),
        ("rte", [1249, 1241], [146, 131]),
        ("wnli", [323, 312], [40, 31]),
        ("hate", [1284, 17230, 3745], [143, 1914, 416]),
    ],
)
def test_real_tasks_are_read_whole(shared, name, train, report):
    loaded = load_folder(TASKS[name], shared / "glue" / name)
    assert np.bincount(loaded.train.labels).tolist() == train
    assert np.bincount(loaded.reports["report"].labels).tolist() == report
    assert len(set(loaded.train.ids)) == sum(train)


def dataset(labels=(0, 1), names=("not_duplicate", "duplicate"), **changes):
    columns = {"question1": ["a", "b"], "question2": ["c", "d"], "label": list(labels)}
    features = {"question1": "string", "question2": "string"} | changes
    return datasets.Dataset.from_dict(
        columns,
        features=datasets.Features(
            {k: datasets.Value(v) for k, v in features.items()}
            | {"label": datasets.ClassLabel(names=list(names))}
        ),
    )


def serve(monkeypatch, *parts):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return list(parts)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_glue_task_is_asked_for_and_read(monkeypatch):
    asked = serve(monkeypatch, dataset([0, 1]), dataset([1, 1]))
    loaded = load_hub(TASKS["qqp"])
    assert asked == [(("nyu-mll/glue", "qqp"), {"split": ["train", "validation"]})]
    assert loaded.train.texts == (["a", "b"], ["c", "d"])
    assert loaded.train.labels.tolist() == [0, 1]
    assert loaded.reports["report"].labels.tolist() == [1, 1]


def test_the_same_rows_have_the_same_ids_as_in_a_folder(monkeypatch, tmp_path):
    serve(monkeypatch, dataset(), dataset())
    for split in ("train", "validation"):
        (tmp_path / f"{split}.tsv").write_text("q\tp\tlabel\na\tc\t0\nb\td\t1\n")
    from_folder = load_folder(TASKS["qqp"], tmp_path)
    assert load_hub(TASKS["qqp"]).train.ids.tolist() == from_folder.train.ids.tolist()


def test_a_changed_order_of_classes_is_refused(monkeypatch):
    serve(monkeypatch, dataset(), dataset(names=["duplicate", "not_duplicate"]))
    with pytest.raises(DataError, match="the classes are duplicate, not_duplicate; expected not_"):
        load_hub(TASKS["qqp"])


def test_unlabelled_rows_and_other_columns_are_refused(monkeypatch):
    serve(monkeypatch, dataset([-1, 1]), dataset())
    with pytest.raises(DataError, match="label '-1' in row 1"):
        load_hub(TASKS["qqp"])
    serve(monkeypatch, dataset(), dataset())
    with pytest.raises(DataError, match="no column sentence; there are question1"):
        load_hub(TASKS["sst2"])


def test_a_hub_out_of_reach(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'nyu-mll/glue' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(FetchError) as caught:
        load_hub(TASKS["rte"])
    said = str(caught.value)
    assert "task 'rte' could not be fetched from the hub" in said
    assert "Couldn't reach" in said
    assert "set data_dir to a folder that holds rte/{train,validation}.tsv" in said
