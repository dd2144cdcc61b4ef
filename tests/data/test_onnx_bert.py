import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from transformers import AutoModel

from kdlora.data.packaged import bert_weights, write_bert
from tests.harness.tiny_models import save_tiny_encoder

PREFIX = "model.0.auto_model."


def write_onnx(model: torch.nn.Module, path: Path) -> None:
    """The encoder's weights as torch's exporter leaves them: matrices renamed and transposed."""
    tensors, nodes = [], []
    for number, (name, value) in enumerate(model.state_dict().items()):
        if name.startswith("pooler"):
            continue
        if name.startswith("encoder") and value.ndim == 2:
            matrix = f"onnx::MatMul_{number}"
            place = f"/model/{PREFIX}{name}".replace("model.0.auto_model.", "model.0/auto_model/")
            place = place.removesuffix(".weight").replace(".", "/").replace("model/0", "model.0")
            place = place.replace("layer/", "layer.")
            nodes.append(helper.make_node("MatMul", ["x", matrix], ["y"], name=f"{place}/MatMul"))
            tensors.append(numpy_helper.from_array(value.numpy().T.copy(), matrix))
        else:
            tensors.append(numpy_helper.from_array(value.numpy(), PREFIX + name))
    scores = "/model/model.0/auto_model/encoder/layer.0/attention/self/MatMul"
    nodes.append(helper.make_node("MatMul", ["x", "y"], ["z"], name=scores))
    graph = helper.make_graph(nodes, "bert", [], [], initializer=tensors)
    onnx.save(helper.make_model(graph), path)


@pytest.fixture
def exported(tmp_path):
    """(model, path of its ONNX file, config of a deeper model of the same family)."""
    folder = tmp_path / "bert"
    save_tiny_encoder(folder, "bert", layers=3, seed=5)
    model = AutoModel.from_pretrained(folder).eval()
    write_onnx(model, tmp_path / "m.onnx")
    config = json.loads((folder / "config.json").read_text())
    return model, tmp_path / "m.onnx", config | {"num_hidden_layers": 6, "_name_or_path": "x"}


def test_weights_come_back_under_their_names(exported):
    model, path, _ = exported
    weights = bert_weights(path)
    expected = {k: v for k, v in model.state_dict().items() if not k.startswith("pooler")}
    assert set(weights) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value.numpy(), err_msg=name)


def test_the_written_folder_computes_the_same(exported, tmp_path):
    model, path, config = exported
    (tmp_path / "made").mkdir()
    write_bert(bert_weights(path), config, tmp_path / "made")
    written, info = AutoModel.from_pretrained(tmp_path / "made", output_loading_info=True)
    assert set(info["missing_keys"]) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert not info["unexpected_keys"]
    assert written.config.num_hidden_layers == 3
    assert "_name_or_path" not in json.loads((tmp_path / "made" / "config.json").read_text())
    batch = {"input_ids": torch.tensor([[2, 9, 11, 3]]), "attention_mask": torch.ones(1, 4)}
    with torch.no_grad():
        ours, theirs = (m.eval()(**batch).last_hidden_state for m in (written, model))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
