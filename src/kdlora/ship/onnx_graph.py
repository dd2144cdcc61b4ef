"""From a merged torch model to one ONNX file with dynamic batch and length."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from kdlora.errors import ModelError
from kdlora.models.checkpoints import quiet
from kdlora.ship.quantize import share_equal_weights

OUTPUT = "logits"
_KNOWN = ("input_ids", "attention_mask", "token_type_ids")
_AXES = ("batch", "sequence")
_LARGEST_MB = 2000  # a protobuf file holds no more; no encoder that is meant here comes near


class _Logits(nn.Module):
    """A classifier that takes its inputs by position and gives nothing but logits."""

    def __init__(self, model: PreTrainedModel, inputs: list[str]) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.inputs, values, strict=True))).logits


def graph_inputs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What a text is given to the model as: what the tokenizer makes and the model takes."""
    taken = inspect.signature(model.forward).parameters
    made = {"input_ids", "attention_mask", *tokenizer.model_input_names}
    return [name for name in _KNOWN if name in made and name in taken]


def export_graph(model: PreTrainedModel, inputs: list[str], path: Path) -> None:
    """Write the model as one ONNX file, inputs int64 [batch, sequence], output [batch, labels].

    The model should compute attention "eager": its graph is the smaller one. Weights that several
    layers share are stored once. Raises ModelError where torch cannot translate the model.
    """
    size_mb = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6
    if size_mb > _LARGEST_MB:
        raise ModelError(
            f"the model has {size_mb:.0f} MB of weights and an ONNX file holds {_LARGEST_MB} MB; "
            "export it with --format torch"
        )
    # Two rows of different length: ones and equal numbers would be taken for constants.
    ids = torch.randint(5, 9, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    dynamic = torch.export.Dim.DYNAMIC
    axes = tuple({0: dynamic, 1: dynamic} for _ in inputs)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), _silent():
            program = torch.onnx.export(
                _Logits(model, inputs).eval(),
                tuple(values[name] for name in inputs),
                dynamo=True,
                dynamic_shapes=(axes,),
                input_names=inputs,
                output_names=[OUTPUT],
                verbose=False,
            )
    except Exception as error:  # torch.export raises whatever the traced code raises
        detail = " ".join(str(error).split())[:300]
        raise ModelError(
            f"a {model.config.model_type} model cannot be translated to ONNX: {detail}"
        ) from None
    finally:
        model.train(was_training)
    assert program is not None
    graph = program.model_proto
    tidy(graph)
    onnx.save_model(graph, path)


def tidy(model: onnx.ModelProto) -> None:
    """Name the axes, store equal weights once, drop shapes and notes that only tracing needed."""
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, _AXES, strict=False):
            if not axis.HasField("dim_value"):
                axis.dim_param = name
    for node in model.graph.node:
        node.ClearField("metadata_props")  # stack traces with the paths of this machine
        node.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    for holder in (model, model.graph):
        holder.ClearField("metadata_props")
    del model.graph.value_info[:]
    share_equal_weights(model)


@contextmanager
def _silent() -> Iterator[None]:
    """No notes of the exporter about operators of packages that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
