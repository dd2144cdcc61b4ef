import datasets
import pytest

from kdlora.data.tasks import load_hub
from kdlora.errors import DataError, FetchError
from kdlora.vocabulary.task import TASKS


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
    from kdlora.data.tasks import load_folder

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
