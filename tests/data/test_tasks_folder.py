import numpy as np
import pytest

from kdlora.data.examples import ids_of_texts
from kdlora.data.tasks import examples_of, load_folder
from kdlora.errors import DataError
from kdlora.vocabulary.task import TASKS


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
