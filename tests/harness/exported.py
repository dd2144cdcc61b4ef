"""A small exported folder made by hand: its logits can be computed with paper and pencil."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from kdlora.ship.card import ModelCard

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "dull", "film")
# What each word adds to the logits of (negative, positive).
TABLE = np.array(
    [[90, 90], [0, 0], [0, 0], [0, 0], [-1, 3], [4, -1], [2, 0], [0.5, 0.5]], dtype=np.float32
)
LABELS = ["negative", "positive"]
CARD: dict[str, Any] = {
    "run_id": "moods-student-kd-lora-s1-0123456789ab", "task": "moods",
    "arm": "student/kd-lora", "seed": 1, "kind": "classification", "text_columns": ["text"],
    "label_names": LABELS, "max_length": 16, "metric": "accuracy", "selection_score": 0.9,
    "report_score": 0.9, "chosen_because": "by hand",
}  # fmt: skip


def card_of(**changes: Any) -> ModelCard:
    """The folder's card, some of its fields changed."""
    return ModelCard(**CARD | changes)


def logits_of(text: str, second: str | None = None) -> np.ndarray:
    """The mean of the table's rows over all tokens, [CLS] and [SEP] included."""
    tokens = ["[CLS]", *text.split(), "[SEP]"]
    if second is not None:
        tokens += [*second.split(), "[SEP]"]
    rows = [TABLE[WORDS.index(t) if t in WORDS else 1] for t in tokens]
    return np.mean(rows, axis=0)


def save_exported(
    folder: Path,
    *,
    pairs: bool = False,
    variants: Sequence[str] = ("onnx", "onnx-int8"),
    gates: dict[str, str] | None = None,
    scale: dict[str, float] | None = None,
    card: dict[str, Any] | None = None,
    beside: str | None = None,
) -> Path:
    """Write the folder. `scale` multiplies a variant's table, so that variants can be told apart.

    `beside` is where the tensors are put, as ONNX external data with that location.
    """
    (folder / "onnx").mkdir(parents=True)
    _tokenizer(pairs).save(str(folder / "tokenizer.json"))
    values = CARD | {"text_columns": ["first", "second"] if pairs else ["text"]} | (card or {})
    (folder / "kdlora.json").write_text(json.dumps(values), encoding="utf-8")
    described = []
    for name in variants:
        quantization = name.partition("-")[2] or "none"
        path = "onnx/model.onnx" if name == "onnx" else f"onnx/model_{quantization}.onnx"
        save_onnx(folder / path, factor=(scale or {}).get(name, 1.0), beside=beside)
        described.append({
            "name": name, "runtime": "onnx", "quantization": quantization, "path": path,
            "size_mb": 0.001, "metric": "accuracy", "score": 0.9,
            "gate": (gates or {}).get(name, "passed"),
        })  # fmt: skip
    seal(folder, {
        "schema": 1, "run_id": values["run_id"], "task": "moods", "max_length": 16, "pad_id": 0,
        "variants": described,
    })  # fmt: skip
    return folder


def seal(folder: Path, artefact: dict[str, Any] | None = None) -> None:
    """Write `export.json` with the checksums of what lies there now."""
    path = folder / "export.json"
    values = artefact or json.loads(path.read_text(encoding="utf-8"))
    values["checksums"] = {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p != path
    }
    path.write_text(json.dumps(values), encoding="utf-8")


def save_quantised(path: Path) -> None:
    """The same model with a product of matrices in it, dynamically quantised to INT8."""
    from onnxruntime.quantization import quantize_dynamic

    save_onnx(path)
    model = onnx.load(str(path))
    spread = np.array([[1.0, 0.21], [-0.13, 0.97]], dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(spread, "spread"))
    model.graph.node[0].output[0] = "found"
    model.graph.node.insert(1, helper.make_node("MatMul", ["found", "spread"], ["rows"]))
    path.write_bytes(model.SerializeToString())
    quantize_dynamic(path, path, op_types_to_quantize=["MatMul"])


def save_onnx(path: Path, *, factor: float = 1.0, beside: str | None = None) -> None:
    """logits = sum(mask * table[ids]) / sum(mask)."""
    table = numpy_helper.from_array(TABLE * np.float32(factor), "table")
    if beside is not None:
        onnx.external_data_helper.set_external_data(table, beside)
        data = table.raw_data
        table.ClearField("raw_data")
        table.data_location = TensorProto.EXTERNAL
        if "/" not in beside:
            (path.parent / beside).write_bytes(data)
    axes = numpy_helper.from_array(np.array([1], dtype=np.int64), "axes")
    last = numpy_helper.from_array(np.array([2], dtype=np.int64), "last")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["rows", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axes"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "axes"], ["count"], keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["logits"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "moods", inputs, [output], [table, axes, last])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def _tokenizer(pairs: bool) -> Tokenizer:
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.enable_padding(length=16)  # what the runtime has to switch off
    return tokenizer
