"""Smaller weights: INT8 with dynamically quantised activations, and block-wise INT4.

INT8 is the fast form: products of 8-bit integers, one scale per output channel of a weight and one
per row of an embedding table. INT4 is the small one: weights in blocks with a scale each, products
in higher precision. The settings are tried in a fixed order until the score is kept (`ship.gate`).
Nothing here needs torch.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from kdlora.files import scratch_folder

Part = Literal["head", "feed-forward outputs", "embeddings"]

_SMALL = 4096  # weights with fewer elements are not worth an error in them


@dataclass(frozen=True)
class Settings:
    """One way to quantise a graph; `keep` names the parts that stay in fp32."""

    bits: Literal[8, 4]
    per_channel: bool = True
    block: int = 32
    symmetric: bool = True
    embedding_bits: Literal[8, 4] = 8
    keep: tuple[Part, ...] = ()

    def __str__(self) -> str:
        if self.bits == 8:
            words = ["per channel" if self.per_channel else "per tensor"]
        else:
            words = [f"blocks of {self.block}", "symmetric" if self.symmetric else "asymmetric"]
            words += ["8-bit embeddings"] if self.embedding_bits == 8 else []
        return ", ".join(words + [f"{part} in fp32" for part in self.keep])


# Every next one gives up a little size or speed for accuracy.
INT8 = (
    Settings(8),
    Settings(8, per_channel=False),
    Settings(8, keep=("head",)),
    Settings(8, keep=("head", "feed-forward outputs")),
    Settings(8, keep=("head", "feed-forward outputs", "embeddings")),
)
INT4 = (
    Settings(4, embedding_bits=4),
    Settings(4, symmetric=False, embedding_bits=4),
    Settings(4, block=16, symmetric=False, embedding_bits=4),
    Settings(4, block=16, symmetric=False),
    Settings(4, block=16, symmetric=False, keep=("head",)),
    Settings(4, block=16, symmetric=False, keep=("head", "feed-forward outputs")),
)


def quantize(source: Path, target: Path, settings: Settings) -> None:
    """Write the ONNX file `source` with quantised weights to `target`."""
    model = onnx.load(source)
    del model.graph.value_info[:]  # the quantiser stumbles over shapes that a tracer has noted
    for i, node in enumerate(model.graph.node):  # parts are kept by their names
        node.name = node.name or f"{node.op_type}_{i}"
    if "embeddings" not in settings.keep and settings.embedding_bits == 8:
        quantize_rows(model)
    with _own_scratch(target) as scratch, _silent():
        model = _int8(model, settings, scratch) if settings.bits == 8 else _int4(model, settings)
    share_equal_weights(model)
    onnx.save_model(model, target)


def quantize_rows(model: onnx.ModelProto) -> None:
    """Store embedding tables in INT8 with one scale a row: q = round(w / s), s = max |w| / 127.

    A looked-up row is cast and multiplied by its scale, in plain ONNX operators.
    """
    tables = {t.name: t for t in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in model.graph.node:
        name = node.input[0] if node.op_type == "Gather" else ""
        if name not in tables or not _is_table(node, tables[name]):
            nodes.append(node)
            continue
        codes, scales = f"{name}_row_codes", f"{name}_row_factors"
        if name not in done:
            done.add(name)
            weight = numpy_helper.to_array(tables[name])
            scale = np.abs(weight).max(axis=1, keepdims=True) / 127
            scale[scale == 0] = 1
            rounded = np.round(weight / scale).astype(np.int8)
            model.graph.initializer.append(numpy_helper.from_array(rounded, codes))
            model.graph.initializer.append(
                numpy_helper.from_array(scale.astype(np.float32), scales)
            )
        out = node.output[0]
        nodes += [
            helper.make_node("Gather", [codes, node.input[1]], [f"{out}_row_codes"], axis=0),
            helper.make_node(
                "Cast", [f"{out}_row_codes"], [f"{out}_row_cast"], to=onnx.TensorProto.FLOAT
            ),
            helper.make_node("Gather", [scales, node.input[1]], [f"{out}_row_factor"], axis=0),
            helper.make_node("Mul", [f"{out}_row_cast", f"{out}_row_factor"], [out]),
        ]
    _replace_nodes(model, nodes)
    _drop_unused(model)


def share_equal_weights(model: onnx.ModelProto) -> None:
    """Store initializers of equal content once: ALBERT's layers share theirs."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    same: dict[str, str] = {}
    kept: list[onnx.TensorProto] = []
    names: set[str] = set()
    for tensor in model.graph.initializer:
        if tensor.name in names:
            continue
        names.add(tensor.name)
        key = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        if len(tensor.raw_data) > 64 and key in first:
            same[tensor.name] = first[key]
        else:
            first[key] = tensor.name
            kept.append(tensor)
    if len(kept) == len(model.graph.initializer):
        return
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = same.get(name, name)
    kept = [_copy(tensor) for tensor in kept]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _int8(model: onnx.ModelProto, settings: Settings, scratch: Path) -> onnx.ModelProto:
    """Weights from -64 to 64, so that the score that the gate has seen holds on every machine.

    A processor without VNNI adds two products of an activation (0 to 255) and a weight in 16 bits,
    which the whole range of 8 bits overflows.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = scratch / "model.onnx"
    quantize_dynamic(
        model,
        path,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=settings.per_channel,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=_kept_nodes(model, settings),
    )
    found = onnx.load(path)
    del found.graph.value_info[:]
    return found


def _int4(model: onnx.ModelProto, settings: Settings) -> onnx.ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    if "head" not in settings.keep:
        _gemm_as_matmul(model)
    tables = settings.embedding_bits == 4 and "embeddings" not in settings.keep
    config = DefaultWeightOnlyQuantConfig(
        block_size=settings.block,
        is_symmetric=settings.symmetric,
        accuracy_level=4,  # activations in INT8 where the processor multiplies those
        op_types_to_quantize=("MatMul", "Gather") if tables else ("MatMul",),
    )
    weights = {t.name: t for t in model.graph.initializer}
    small = [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gather")
        and any(
            name in weights
            and (np.prod(weights[name].dims) < _SMALL or weights[name].data_type != _FLOAT)
            for name in node.input[:2]
        )
    ]
    quantizer = MatMulNBitsQuantizer(
        model,
        algo_config=config,
        nodes_to_exclude=_kept_nodes(model, settings) + small,
    )
    quantizer.process()
    found: onnx.ModelProto = quantizer.model.model
    _drop_unused(found)
    return found


_FLOAT = onnx.TensorProto.FLOAT


def _kept_nodes(model: onnx.ModelProto, settings: Settings) -> list[str]:
    """Names of the nodes of the parts that stay in fp32.

    The head (and a pooler) are the layers that see one vector a text: the exporter makes them
    Gemm. A feed-forward output is a product that narrows.
    """
    weights = {t.name: t.dims for t in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        dims = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        narrows = dims is not None and len(dims) == 2 and dims[0] > dims[1]
        if node.op_type == "Gemm" and "head" in settings.keep:
            kept += [node.name, f"{node.name}_MatMul"]  # what the INT8 quantiser makes of it first
        elif narrows and "feed-forward outputs" in settings.keep:
            kept.append(node.name)
    return kept


def _gemm_as_matmul(model: onnx.ModelProto) -> None:
    """Large plain Gemm nodes as MatMul and Add, which is what the 4-bit quantiser knows."""
    weights = {t.name: t for t in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "Gemm" else None
        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        plain = values.get("alpha", 1.0) == values.get("beta", 1.0) == 1.0
        if weight is None or not plain or values.get("transA") or np.prod(weight.dims) < _SMALL:
            nodes.append(node)
            continue
        name, out = weight.name, node.output[0]
        if values.get("transB"):
            name += "_transposed"
            if name not in weights:
                turned = np.ascontiguousarray(numpy_helper.to_array(weight).T)
                weights[name] = numpy_helper.from_array(turned, name)
                model.graph.initializer.append(weights[name])
        biased = len(node.input) > 2 and bool(node.input[2])
        product = f"{out}_product" if biased else out
        nodes.append(
            helper.make_node("MatMul", [node.input[0], name], [product], name=f"{node.name}_matmul")
        )
        if biased:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [out]))
    _replace_nodes(model, nodes)
    _drop_unused(model)


def _is_table(node: onnx.NodeProto, tensor: onnx.TensorProto) -> bool:
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    large = len(tensor.dims) == 2 and np.prod(tensor.dims) >= _SMALL
    return bool(large and axis == 0 and tensor.data_type == _FLOAT)


def _replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _drop_unused(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    kept = [_copy(t) for t in model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _copy(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """A tensor of its own: emptying a list of protobuf messages empties what is in it."""
    return onnx.TensorProto.FromString(tensor.SerializeToString())


@contextmanager
def _own_scratch(target: Path) -> Iterator[Path]:
    """A folder beside the target that ONNX Runtime, too, makes its temporary files in.

    It makes them wherever `tempfile` says: in the system's folder those of a process that is killed
    would lie for ever, as large as the model.
    """
    before = tempfile.tempdir
    with scratch_folder(target) as folder:
        tempfile.tempdir = str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = before


@contextmanager
def _silent() -> Iterator[None]:
    """No advice to preprocess, which the exporter has done, and no word on rows of zeros."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with np.errstate(invalid="ignore", divide="ignore"):
            yield
    finally:
        logging.disable(before)
