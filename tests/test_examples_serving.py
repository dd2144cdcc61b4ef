"""The files for other servers fit what an export holds; the servers themselves are not here."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml

from kdlora.ship.predict import load_predictor
from tests.harness.exported import save_exported, save_quantised, seal

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "serving"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = save_exported(tmp_path / "moods")
    save_quantised(folder / "onnx" / "model_int8.onnx")
    about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    seal(folder, about | {"inputs": ["input_ids", "attention_mask"]})
    return folder


def answer_of(model: Path, body: dict[str, Any]) -> dict[str, Any]:
    """What Triton answers: the tensors by name, through ONNX Runtime, as JSON."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    feed = {
        tensor["name"]: np.array(tensor["data"], dtype=np.int64).reshape(tensor["shape"])
        for tensor in json.loads(json.dumps(body))["inputs"]
    }
    (logits,) = session.run(["logits"], feed)
    flat = logits.astype(float).reshape(-1).tolist()
    return {"outputs": [{"name": "logits", "shape": list(logits.shape), "data": flat}]}


@pytest.mark.parametrize(("form", "most"), [("onnx", 32), ("onnx-int8", 1)])
def test_the_repository_says_what_the_graph_is(export: Path, form: str, most: int) -> None:
    folder = load("triton_repository").write_repository(export, export.parent / "models", form)
    config = (folder / "config.pbtxt").read_text(encoding="utf-8")
    assert folder.name == "moods"
    assert f"max_batch_size: {most}\n" in config
    assert ("dynamic_batching" in config) == (most > 1)
    session = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"))
    named = re.findall(r'name: "(\w+)" data_type: (\w+) dims: \[(.*?)\]', config)
    types = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
    tensors = [*session.get_inputs(), *session.get_outputs()]
    assert [(n, t) for n, t, _ in named] == [(t.name, types[t.type]) for t in tensors]
    assert [len(dims.split(",")) for *_, dims in named] == [len(t.shape) - 1 for t in tensors]


@pytest.mark.parametrize("form", ["onnx", "onnx-int8"])
def test_the_client_gives_the_answers_of_kdlora(export: Path, form: str) -> None:
    client, texts = load("triton_client"), ["good film", "bad dull film"]
    folder = load("triton_repository").write_repository(export, export.parent / "models", form)
    expected = load_predictor(export, variant=form)([texts])
    for text, answer in zip(texts, expected, strict=True):
        body = client.request_of(export, text)
        ((label, share),) = client.labels_of(export, answer_of(folder / "1/model.onnx", body))
        assert (label, share) == (answer["label"], pytest.approx(answer["probability"], abs=1e-5))


def test_a_form_that_there_is_not(export: Path) -> None:
    with pytest.raises(SystemExit, match="it has onnx, onnx-int8"):
        load("triton_repository").write_repository(export, export.parent, "onnx-int4")


def test_the_compose_file_mounts_the_export_where_the_server_looks() -> None:
    (service,) = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"].values()
    place = service["command"][service["command"].index("--model-id") + 1]
    assert service["volumes"] == [f"${{EXPORT:?the folder of an export}}:{place}:ro"]
