"""Every family and every variant: the shipped graph answers as the adapted model does.

Tracing takes seconds, so each family is traced once, with the weights of one variant. The merged
weights of the next variant are put into that graph: which of its constants holds which weight is
found by content, transposed or not, and each weight that training has changed must be found exactly
once. What is merged is a plain model of the family whatever the variant, and equal to the adapted
one: `test_life_of_an_adapter` holds that for all of both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from kdlora.models.saved import load_trained, save_trained
from kdlora.ship.onnx_graph import OUTPUT, export_graph, graph_inputs
from kdlora.vocabulary.arm import PEFT_VARIANTS
from tests.harness.models import adapt, load, logits, train
from tests.harness.tiny_models import FAMILIES, WORDS, save_tiny_encoder, tiny_batch

TOLERANCE = 1e-4
# Half of the tracing. Layers of the others share weights or positions; BERT stands for those here.
LAYERS = {"distilbert": 1, "roberta": 1, "xlm-roberta": 1}


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def run(session: onnxruntime.InferenceSession, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    feed = {entry.name: batch[entry.name].numpy() for entry in session.get_inputs()}
    return torch.from_numpy(session.run([OUTPUT], feed)[0])


def batches(tokenizer) -> list[dict[str, torch.Tensor]]:
    """One word alone, eight sentences of different length, three long ones."""
    texts = (["film"], None, [" ".join(WORDS[i : i + 45]) for i in (0, 40, 90)])
    return [
        tiny_batch(tokenizer)
        if rows is None
        else dict(
            tokenizer(rows, padding=True, truncation=True, max_length=60, return_tensors="pt")
        )
        for rows in texts
    ]


def put_in(
    graph: onnx.ModelProto, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]
) -> None:
    """Replace the weights `before` by `after` in a graph that was traced with `before`."""
    held: dict[tuple[bytes, tuple[int, ...]], list[tuple[int, bool]]] = {}

    def key(array: np.ndarray) -> tuple[bytes, tuple[int, ...]]:
        return array.tobytes(), array.shape

    for i, tensor in enumerate(graph.graph.initializer):
        values = numpy_helper.to_array(tensor)
        held.setdefault(key(values), []).append((i, False))
        if values.ndim == 2:
            turned = np.ascontiguousarray(values.T)
            held.setdefault(key(turned), []).append((i, True))
    for name, tensor in before.items():
        if torch.equal(tensor, after[name]):
            continue
        values = tensor.numpy()
        ((i, turned),) = held[key(values)]
        new = after[name].numpy()
        node_name = graph.graph.initializer[i].name
        array = np.ascontiguousarray(new.T) if turned else new
        graph.graph.initializer[i].CopyFrom(numpy_helper.from_array(array, node_name))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_variant_answers_the_same_in_onnx(family: str, tmp_path: Path) -> None:
    reference = save_tiny_encoder(tmp_path / "encoder", family, layers=LAYERS.get(family, 2))
    texts = batches(load(reference).tokenizer)
    variants = list(PEFT_VARIANTS)
    place = FAMILIES.index(family)  # all are traced themselves somewhere, and put in elsewhere
    traced: dict[str, torch.Tensor] = {}
    for variant in (variants[(place + i) % len(variants)] for i in range(2)):
        loaded = load(reference)
        model = adapt(loaded, variant)
        train(model, texts[1])
        expected = [logits(model, batch) for batch in texts]
        save_trained(model, loaded.tokenizer, tmp_path / variant, encoder=reference)
        merged, tokenizer = load_trained(tmp_path / variant, encoder=reference)
        weights = {k: v.detach().clone() for k, v in merged.state_dict().items()}
        if not traced:
            inputs = graph_inputs(merged, tokenizer)
            export_graph(merged, inputs, tmp_path / "model.onnx")
            traced = weights
        graph = onnx.load(tmp_path / "model.onnx")
        put_in(graph, traced, weights)
        session = session_of(graph)
        for batch, logits_before in zip(texts, expected, strict=True):
            torch.testing.assert_close(
                run(session, batch),
                logits_before,
                atol=TOLERANCE,
                rtol=0,
                msg=lambda m, v=variant: f"{v}: {m}",
            )
        assert max(float(e.abs().max()) for e in expected) > 100 * TOLERANCE  # not all near 0
    _check_form(tmp_path / "model.onnx", tmp_path, inputs)


def _check_form(path: Path, machine: Path, inputs: list[str]) -> None:
    graph = onnx.load(path)
    assert [entry.name for entry in graph.graph.input] == inputs
    for value in graph.graph.input:
        dims = [axis.dim_param for axis in value.type.tensor_type.shape.dim]
        assert dims == ["batch", "sequence"]
    assert graph.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert b"site-packages" not in path.read_bytes()  # no stack traces of the tracer
    assert str(machine).encode() not in path.read_bytes()
    assert path.stat().st_size < 300_000  # ALBERT's shared layer is there once
