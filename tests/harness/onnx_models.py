"""A small ONNX model, written node by node."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, INNER, WORDS, CLASSES = 64, 256, 500, 3


def small_model(seed: int = 0) -> onnx.ModelProto:
    """Embedding, two equal feed-forward layers (shared as in ALBERT), mean, pooler, head."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    up, down = weight(WIDTH, INNER), weight(INNER, WIDTH)
    table = weight(WORDS, WIDTH) * rng.uniform(0.1, 30, (WORDS, 1)).astype(np.float32)
    table[7] = 0
    weights = {
        "table": table,
        "up1": up,
        "up2": up.copy(),
        "down1": down,
        "down2": down.copy(),
        "pool": weight(WIDTH, WIDTH),
        "pool_bias": weight(WIDTH),
        "head": weight(CLASSES, WIDTH),
        "head_bias": weight(CLASSES),
    }
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["x0"], name="look_up")]
    for i in (1, 2):
        nodes += [
            helper.make_node("MatMul", [f"x{i - 1}", f"up{i}"], [f"h{i}"], name=f"up_{i}"),
            helper.make_node("Tanh", [f"h{i}"], [f"t{i}"], name=f"tanh_{i}"),
            helper.make_node("MatMul", [f"t{i}", f"down{i}"], [f"d{i}"], name=f"down_{i}"),
            helper.make_node("Add", [f"x{i - 1}", f"d{i}"], [f"x{i}"], name=f"add_{i}"),
        ]
    nodes += [
        helper.make_node("ReduceMean", ["x2", "axes"], ["m"], keepdims=0, name="mean"),
        helper.make_node("Gemm", ["m", "pool", "pool_bias"], ["p"], name="pooler", transB=1),
        helper.make_node("Gemm", ["p", "head", "head_bias"], ["logits"], name="head", transB=1),
    ]
    initializers = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    initializers.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "axes"))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        initializers,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
