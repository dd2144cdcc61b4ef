"""An ONNX export of a BERT encoder, turned back into the folder that `from_pretrained` reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

_PREFIX = "model.0.auto_model."
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")


def bert_weights(path: Path) -> dict[str, np.ndarray]:
    """The weights of the encoder under their names in transformers.

    Biases, embeddings and norms keep their names in ONNX. The exporter renames the matrices of
    linear layers and stores them transposed, [in, out]; the path of the MatMul node that reads
    one tells which layer it belongs to.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {
        name.removeprefix(_PREFIX): value
        for name, value in tensors.items()
        if name.startswith(_PREFIX)
    }
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            module = node.name.replace("/", ".").partition(_PREFIX)[2].removesuffix(".MatMul")
            weights[f"{module}.weight"] = tensors[node.input[1]].T
    return {name: np.ascontiguousarray(value) for name, value in weights.items()}


def write_bert(weights: dict[str, np.ndarray], like: dict[str, Any], folder: Path) -> None:
    """Write config.json and model.safetensors; what the weights do not tell is as in `like`."""
    from safetensors.numpy import save_file

    layers = {int(match[1]) for name in weights if (match := _LAYER.match(name))}
    vocabulary, hidden = weights["embeddings.word_embeddings.weight"].shape
    config = {
        **{key: value for key, value in like.items() if not key.startswith("_")},
        "architectures": ["BertModel"],
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": weights["encoder.layer.0.intermediate.dense.bias"].shape[0],
        "num_hidden_layers": len(layers),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
