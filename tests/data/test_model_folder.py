"""Folders from strangers: pickles, links, paths that lead out, and code are refused or ignored."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

from kdlora.data.model_folder import check_folder, read_json
from kdlora.errors import ModelError
from kdlora.files import is_inside
from kdlora.ship.predict import load_predictor
from tests.harness.exported import save_exported, save_onnx, seal
from tests.harness.tiny_models import save_tiny_encoder


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    names = {0: "no", 1: "yes"}
    save_tiny_encoder(
        folder, head=True, num_labels=2, id2label=names, label2id={v: k for k, v in names.items()}
    )
    return folder


def test_pickled_weights_are_never_opened(classifier: Path, tmp_path: Path) -> None:
    (classifier / "model.safetensors").unlink()
    (classifier / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(ModelError, match=r"pickled \(pytorch_model.bin\).*safetensors"):
        load_predictor(classifier)
    from kdlora.models.checkpoints import read_classifier, read_config

    with pytest.raises(ModelError, match="pickled"):  # the way of training, too
        read_classifier(str(classifier), read_config(str(classifier)), seed=0, attention="eager")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_beside_safe_weights_is_passed_over(classifier: Path, tmp_path: Path) -> None:
    for name in ("training_args.bin", "pytorch_model.bin"):
        (classifier / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    assert load_predictor(classifier)([["good film"]])[0]["label"] in ("no", "yes")
    assert not (tmp_path / "ran").exists()


def test_code_of_the_model_is_not_run(classifier: Path, tmp_path: Path) -> None:
    code = f"import os; os.mkdir({str(tmp_path / 'ran')!r})"
    (classifier / "evil.py").write_text(code + "\nclass Evil: pass\n", encoding="utf-8")
    for name in ("config.json", "tokenizer_config.json"):
        path = classifier / name
        values = json.loads(path.read_text(encoding="utf-8"))
        kinds = ("AutoConfig", "AutoModelForSequenceClassification", "AutoTokenizer")
        values["auto_map"] = dict.fromkeys(kinds, "evil.Evil")
        path.write_text(json.dumps(values), encoding="utf-8")
    assert len(load_predictor(classifier)([["good"]])) == 1
    config = json.loads((classifier / "config.json").read_text(encoding="utf-8"))
    config["model_type"] = "evil"
    (classifier / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError):
        load_predictor(classifier)
    assert not (tmp_path / "ran").exists()


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("{}", encoding="utf-8")
    folder = save_exported(tmp_path / "model")
    (folder / "onnx" / "inside.onnx").symlink_to("model.onnx")
    check_folder(folder)
    (folder / "extra.json").symlink_to(secret)
    (folder / "onnx" / "data").symlink_to("/etc")
    with pytest.raises(ModelError) as told:
        load_predictor(folder)
    assert [p.split()[0] for p in told.value.problems] == ["extra.json", "onnx/data"]


def test_links_of_the_hubs_cache_are_fine(tmp_path: Path) -> None:
    model = tmp_path / "models--a--b"
    (model / "blobs").mkdir(parents=True)
    (model / "blobs" / "1f").write_text("{}", encoding="utf-8")
    snapshot = model / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/1f")
    check_folder(snapshot)
    (snapshot / "b.json").symlink_to("../../../secret")
    with pytest.raises(ModelError, match=r"b\.json"):
        check_folder(snapshot)


@pytest.mark.parametrize(
    "value", ["/etc/passwd", "../up.txt", "a/../../up.txt", "..\\up.txt", "C:x", "file:x"]
)
def test_paths_that_lead_out(tmp_path: Path, value: str) -> None:
    assert not is_inside(value)
    folder = save_exported(tmp_path / "model")
    (folder / "tokenizer_config.json").write_text(json.dumps({"vocab_file": value}))
    with pytest.raises(ModelError, match="vocab_file"):
        check_folder(folder)
    (folder / "tokenizer_config.json").unlink()
    exported = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    exported["variants"][0]["path"] = value
    (folder / "export.json").write_text(json.dumps(exported), encoding="utf-8")
    with pytest.raises(ModelError, match=r"export\.json"):
        load_predictor(folder)


def test_shards_from_elsewhere(classifier: Path) -> None:
    index = classifier / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "b.safetensors"}}), encoding="utf-8")
    check_folder(classifier)
    index.write_text(json.dumps({"weight_map": {"a": "../b.safetensors"}}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"weight_map is '\.\./b"):
        load_predictor(classifier)


def test_paths_that_stay(tmp_path: Path) -> None:
    assert all(map(is_inside, ("vocab.txt", "onnx/model.onnx", "a..b")))
    assert not is_inside("")


def test_checksums_are_compared(tmp_path: Path) -> None:
    folder = save_exported(tmp_path / "model")
    save_onnx(folder / "onnx" / "model_int8.onnx", factor=2.0)
    with pytest.raises(ModelError, match=r"model_int8\.onnx is not what was exported"):
        load_predictor(folder)
    load_predictor(folder, variant="onnx")  # only what is loaded counts
    seal(folder)
    load_predictor(folder)
    card = folder / "kdlora.json"
    card.write_text(card.read_text(encoding="utf-8").replace("negative", "neutral"))
    with pytest.raises(ModelError, match=r"kdlora\.json is not what was exported"):
        load_predictor(folder)


def test_json_bombs(tmp_path: Path) -> None:
    for name, text in (("deep", "[" * 200_000), ("broken", "{"), ("binary", "\x00")):
        path = tmp_path / f"{name}.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ModelError, match=name):
            read_json(path)
