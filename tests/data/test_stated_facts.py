"""Foreign model folders that promise what they do not hold: one message, no traceback, no wait."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from kdlora.data.model_folder import check_folder
from kdlora.data.stated_facts import name_problems, tensor_shapes
from kdlora.errors import KdloraError, ModelError
from kdlora.models.saved import load_trained, save_trained
from kdlora.ship.answers import Predictor, answers
from kdlora.ship.predict import load_predictor
from kdlora.ship.source import find_source
from tests.harness.exported import card_of, save_exported, seal
from tests.harness.models import adapt, load
from tests.harness.tiny_models import save_tiny_encoder

NAMES = {"num_labels": 2, "id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign") / "model"
    save_tiny_encoder(folder, head=True, layers=1, **NAMES)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "model")


def edit(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(values), encoding="utf-8")


def test_the_folder_itself_is_taken(folder: Path) -> None:
    assert load_predictor(folder)([["good film"]])[0]["label"] in ("no", "yes")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_hidden_layers": 100_000}, "num_hidden_layers is 100,000, but the weights are"),
        ({"vocab_size": 10**12}, "vocab_size is 1,000,000,000,000"),
        ({"hidden_size": 10**7}, "hidden_size is 10,000,000"),
        ({"max_position_embeddings": 10**9}, "more than there are weights for"),
        ({"id2label": None, "label2id": None, "num_labels": 10**9}, "num_labels is 1,000,000,000"),
        ({"hidden_size": -4}, "hidden_size is -4"),
        ({"hidden_size": "32"}, "hidden_size is '32'"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": 5}, "cannot read its weights"),
        ({"hidden_act": "nothing"}, "nothing"),
        ({"model_type": 5}, "cannot read its config"),
        ({"pad_token_id": 10**6}, "cannot read its weights"),
        ({"id2label": {"0": "a", "1": "a"}}, "2 outputs are called 'a'"),
        ({"id2label": {"0": "1", "1": 1}}, "2 outputs are called '1'"),
        ({"id2label": {"0": None, "1": "a"}}, "calls an output None"),
        ({"id2label": {"0": True, "1": "a"}}, "calls an output True"),
        ({"id2label": {"0": ["x"], "1": "a"}}, r"calls an output \['x'\]"),
        ({"id2label": ["no", "yes"]}, "expected an object"),
        ({"id2label": {"a": "x", "b": "y"}}, "names the outputs a, b"),
        ({"id2label": {"0": "x", "7": "y"}}, "names the outputs 0, 7"),
        ({"id2label": {"0": "\ud800", "1": "y"}}, "half a character"),
        ({"problem_type": ["x"]}, "problem_type"),
    ],
)
def test_configs_that_the_weights_do_not_bear_out(
    folder: Path, changes: dict[str, Any], told: str
) -> None:
    edit(folder / "config.json", **changes)
    began = time.monotonic()
    with pytest.raises(ModelError, match=told):
        load_predictor(folder)
    assert time.monotonic() - began < 5


def test_numbers_may_name_classes(folder: Path) -> None:
    edit(folder / "config.json", id2label={"0": 1, "1": 2.5})
    assert set(load_predictor(folder)([["good"]])[0]["probabilities"]) == {"1", "2.5"}


JSON_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "kdlora.json")
CONTENTS = (
    b"", b"[]", b"3", b"null", b"\xff\xfe{}", b'{"a":' * 3000, b"[" * 10**5, b'{"model": 3}',
)  # fmt: skip


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
def test_json_of_another_kind_is_one_message(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError):
        load_predictor(folder)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)  # the system takes about 100 characters, a test's folder may have more


def to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [pipe, listening, to_itself, to_nothing, a_folder])
@pytest.mark.parametrize("name", [*JSON_FILES, "export.json", "model.safetensors", "odd"])
def test_what_is_no_file_is_not_waited_for(
    folder: Path, name: str, make: Callable[[Path], None]
) -> None:
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    if (name, make) == ("odd", a_folder):
        load_predictor(folder)
        return
    with pytest.raises(KdloraError):
        load_predictor(folder)
    with pytest.raises(KdloraError):  # export's and the gate's way in
        find_source(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("tensor", ["classifier.bias", "bert.embeddings.word_embeddings.weight"])
def test_weights_that_are_no_numbers(folder: Path, value: float, tensor: str) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights[tensor].view(-1)[-1] = value
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"NaN or infinite .{tensor}"):
        load_predictor(folder)


def test_an_answer_that_is_no_number_is_an_error() -> None:
    for card in (card_of(), card_of(kind="regression", label_names=[])):
        outputs = np.zeros((3, card.num_outputs), dtype=np.float32)
        assert len(answers(outputs, card)) == 3
        for odd in (np.nan, np.inf, -np.inf):
            outputs[1, -1] = odd
            with pytest.raises(ModelError, match="text 2 of 3"):
                answers(outputs, card)


def test_an_onnx_model_whose_weights_are_no_numbers(tmp_path: Path) -> None:
    """One word's row is NaN: texts without the word have answers, one with it is an error."""
    folder = save_exported(tmp_path / "moods", variants=("onnx",))
    path = folder / "onnx/model.onnx"
    content = path.read_bytes()
    row = np.array([2, 0], dtype=np.float32).tobytes()  # of "dull"
    assert content.count(row) == 1
    path.write_bytes(content.replace(row, np.full(2, np.nan, dtype=np.float32).tobytes()))
    seal(folder)
    predictor = load_predictor(folder)
    assert len(predictor([["good film"]])) == 1
    with pytest.raises(ModelError, match="NaN or infinity"):
        predictor([["good film", "dull film"]])


def test_no_model_has_two_classes_of_one_name() -> None:
    assert not list(name_problems(["a", "A", "a "]))
    assert list(name_problems(["a", "b", "a"])) == [
        "2 outputs are called 'a': one would hide another"
    ]
    with pytest.raises(ModelError, match="called 'a'"):
        Predictor(card_of(label_names=["a", "a"]), "onnx", lambda texts: np.zeros((1, 2)))
    began = time.monotonic()
    assert not list(name_problems([str(i) for i in range(200_000)]))
    assert time.monotonic() - began < 2


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    """transformers would make one that knows no word."""
    for path in folder.glob("tok*"):
        path.unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        load_predictor(folder)


def test_a_token_without_an_embedding_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    rules = json.loads(path.read_text())
    rules["model"]["vocab"]["film"] = 9999
    path.write_text(json.dumps(rules))
    with pytest.raises(ModelError, match="tokens up to number 9999"):
        load_predictor(folder)


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "bert.embeddings.word_embeddings.weight"
    weights[name] = weights[name][:50].clone()
    save_file(weights, path, metadata={"format": "pt"})
    edit(folder / "config.json", vocab_size=50)
    with pytest.raises(ModelError, match="do not belong together"):
        load_predictor(folder)


def test_texts_are_cut_to_the_positions_that_there_are(tmp_path: Path, folder: Path) -> None:
    """As BERTweet: 130 rows of positions in RoBERTa's way, of which two are never used."""
    few = tmp_path / "few"
    save_tiny_encoder(
        few, "roberta", head=True, layers=1, max_position_embeddings=130, pad_token_id=1, **NAMES
    )
    card = card_of(label_names=["no", "yes"], max_length=10**6).model_dump(mode="json")
    (folder / "kdlora.json").write_text(json.dumps(card), encoding="utf-8")
    for place in (few, folder):
        assert len(load_predictor(place)([["good film " * 300]])) == 1


@pytest.mark.parametrize("size", [0, 7, 8, 20, 300])
def test_weights_that_end_too_early(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match="safetensors"):
        load_predictor(folder)


def test_shapes_are_those_of_the_library(folder: Path) -> None:
    expected = {name: list(t.shape) for name, t in load_file(folder / "model.safetensors").items()}
    assert tensor_shapes(folder) == (expected, [])
    save_file({"other": torch.zeros(3, 0)}, folder / "more.safetensors")
    assert tensor_shapes(folder)[0] == expected | {"other": [3, 0]}


def test_no_search_through_a_folder_that_is_no_model(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"deep{i}" / "er").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"holds no model: none of config\.json"):
        load_predictor(tmp_path)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    reference = save_tiny_encoder(folder / "encoder", layers=1)
    loaded = load(reference)
    save_trained(adapt(loaded, "lora"), loaded.tokenizer, folder / "adapter", encoder=reference)
    return folder / "adapter"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("adapter_config.json", {"megatron_config": {"a": 1}, "megatron_core": "this"}),
        ("adapter_config.json", {"layer_replication": [[0, 100_000]]}),
        ("adapter_config.json", {"r": 10**9}),
        ("adapter_config.json", {"r": "8"}),
        ("adapter_config.json", {"peft_type": "NOTHING"}),
        ("adapter_config.json", {"target_modules": 5}),
        ("adapter_config.json", {"modules_to_save": [3]}),
        ("kdlora.json", {"labels": 3}),
        ("kdlora.json", {"labels": [["a"]]}),
        ("kdlora.json", {"encoder": {"name": 1}}),
    ],
)
def test_adapters_that_promise_what_they_do_not_hold(
    adapter: Path, tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    def read() -> None:
        check_folder(place)
        load_trained(place)

    place = shutil.copytree(adapter, tmp_path / "adapter")
    read()
    edit(place / name, **changes)
    began = time.monotonic()
    with pytest.raises(ModelError):
        read()
    assert time.monotonic() - began < 5


def test_an_adapter_alone_says_what_to_give_instead(adapter: Path) -> None:
    with pytest.raises(ModelError, match="Give the run's folder"):
        load_predictor(adapter)
