"""A finished model at work: its outputs, and what one forward pass costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from kdlora.data.batches import Encoded, collate, eval_batches
from kdlora.measure.flops import flops_per_length
from kdlora.measure.latency import ModelTiming, TimingProtocol, time_models, timing_conditions
from kdlora.measure.shape_cache import once, shape_of
from kdlora.models.encoders import load_encoder
from kdlora.models.saved import load_trained
from kdlora.spec.run import EncoderRun, GivenTeacherRun
from kdlora.training.forward import Forward, make_forward
from kdlora.training.precision import Compute, ready_for_inference
from kdlora.vocabulary.task import Task

TIMING_S = 4.0  # seconds for timing a model in turns with its reference, once a study and shape
CPU_TOKENS, CPU_TEXTS = 2048, 64  # a batch on a processor: more only pad more and touch more memory
SEQ_LENGTH = 64  # tokens of the texts that latency, throughput and FLOPs are stated for


@torch.inference_mode()
def predict(
    model: nn.Module, texts: Encoded, compute: Compute, *, forward: Forward | None = None
) -> np.ndarray:
    """Outputs of the model for every text, [n, c] float32, in the order of `texts`.

    Of a text that is read in windows they are pooled.
    `forward` is the model's own `make_forward`, where a caller has it already.
    """
    forward = forward or make_forward(model, compute)
    was_training = model.training
    model.eval()
    rows = _of_rows(texts, compute, forward)
    model.train(was_training)
    return texts.pooled(rows)


@torch.inference_mode()
def mean_embeddings(model: nn.Module, texts: Encoded, compute: Compute) -> np.ndarray:
    """Means over the tokens of a classifier's last hidden states, [n, d] float32.

    Of a text that is read in windows it is the mean of theirs.
    """
    base: Any = model

    def mean(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with compute.autocast():
            states = base.base_model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"].unsqueeze(-1).float()
        return (states * mask).sum(1) / mask.sum(1)

    rows = _of_rows(texts, compute, mean)
    return rows if texts.windows is None else texts.windows.mean(rows)


@torch.inference_mode()
def head_inputs(model: nn.Module, layer: nn.Linear, texts: Encoded, compute: Compute) -> np.ndarray:
    """What the last layer of a classifier reads of every text, [n, d] float32.

    Of a text that is read in windows it is the mean of theirs.
    """
    seen: list[torch.Tensor] = []
    watching = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

    def read(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.clear()
        with compute.autocast():
            model(**inputs)
        return seen[-1].float().reshape(len(inputs["input_ids"]), -1)

    try:
        rows = _of_rows(texts, compute, read, width=layer.in_features)
    finally:
        watching.remove()
    return rows if texts.windows is None else texts.windows.mean(rows)


def _of_rows(
    texts: Encoded,
    compute: Compute,
    read: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    *,
    width: int = 1,
) -> np.ndarray:
    """What `read` says of every row, [rows, c] float32; [0, width] where there is none."""
    on_cpu = compute.device.type == "cpu"
    sizes = {"tokens": CPU_TOKENS, "largest": CPU_TEXTS} if on_cpu else {}
    rows: np.ndarray | None = None
    for index in eval_batches(texts.row_lengths, **sizes):
        values = read(collate(texts, index, compute.device)).cpu().numpy()
        if rows is None:
            rows = np.zeros((len(texts.row_lengths), values.shape[1]), dtype=np.float32)
        rows[index] = values
    return np.zeros((0, width), dtype=np.float32) if rows is None else rows


def predict_held_out(
    model: nn.Module, texts: Mapping[str, Encoded], compute: Compute
) -> dict[str, np.ndarray]:
    """Outputs of every split but the train rows, by one forward pass that is made once."""
    forward = make_forward(model, compute)
    return {
        name: predict(model, part, compute, forward=forward)
        for name, part in texts.items()
        if name != "train"
    }


def windows_per_text(texts: Encoded) -> float | None:
    """Windows that a text takes in the mean; None where texts are not read in windows."""
    if texts.windows is None or not len(texts):
        return None
    return float(texts.windows.counts.mean())


def load_finished(
    run: EncoderRun, folder: Path, task: Task, compute: Compute
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The finished model of a run from disk, merged in fp32 and then put into its compute type."""
    model, tokenizer = load_merged(run, folder, task, attention=compute.attention)
    return ready_for_inference(model, compute), tokenizer


def load_merged(
    run: EncoderRun, folder: Path, task: Task, *, attention: str = "eager"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The finished model of a run in fp32: as given, or as saved and merged."""
    if isinstance(run, GivenTeacherRun):
        loaded = load_encoder(run.encoder, task, seed=0, attention=attention, given=True)
        return loaded.model, loaded.tokenizer
    return load_trained(folder / "model", encoder=run.encoder, attention=attention)


def inference_costs(
    run: EncoderRun, task: Task, merged: nn.Module, compute: Compute, *, folder: Path | None = None
) -> dict[str, Any]:
    """Latency, throughput and FLOPs of the merged model, interleaved with the teacher's encoder.

    Time does not depend on the weights' values. So the reference is the teacher's architecture as
    it comes, which gives every arm its speed-up without waiting for a teacher run; and with
    `folder` the numbers are kept there for every run whose merged model has this shape. The keys
    are fields of `records.record.Efficiency`.
    """
    reference = run.reference if run.reference != run.encoder else None

    def load_reference() -> nn.Module:
        assert reference is not None
        loaded = load_encoder(reference, task, seed=0, attention=compute.attention)
        return ready_for_inference(loaded.model, compute)

    known = [reference.model_dump(mode="json") if reference else None, task.num_outputs]
    others = {"reference": load_reference} if reference else {}
    timings = _timed(merged, compute, folder, known, others)
    own = timings["model"]
    beside = timings.get("reference", own)
    costs = _own_costs(merged, own, compute, folder)
    if run.reference is None:  # a teacher that is no model of the task: nothing to be faster than
        return costs
    return costs | {
        "reference": run.reference.name,
        "reference_latency_p50_ms": beside.p50_ms,
        "reference_throughput_per_s": beside.throughput_per_s,
        "speedup_latency": beside.p50_ms / own.p50_ms,
        "speedup_throughput": own.throughput_per_s / beside.throughput_per_s,
    }


def costs_alone(
    model: nn.Module, compute: Compute, *, folder: Path | None = None, passes: int | None = None
) -> dict[str, Any]:
    """Latency, throughput and FLOPs of a model that is timed beside no other one.

    `passes` is how often it reads a text, where it is no classifier that reads it once.
    """
    timed = model if passes is None else _Repeated(model, passes)
    timings = _timed(timed, compute, folder, ["alone"], {})
    found = _own_costs(timed, timings["model"], compute, folder)
    if passes is not None:
        found["protocol"] |= {"passes_per_text": passes}
    return found


class _Repeated(nn.Module):
    """Reads each text so often: with a sentence for each class, or both texts of a pair."""

    def __init__(self, model: nn.Module, passes: int) -> None:
        super().__init__()
        self.model, self.passes = model, passes
        self.config = model.config

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        rows = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self.model(**{k: v.repeat_interleave(self.passes, 0) for k, v in rows.items()})

    def extra_repr(self) -> str:
        """Read by `measure.shape_cache.shape_of`: two numbers of passes are two shapes."""
        return f"passes={self.passes}"


def _own_costs(
    model: nn.Module, timing: ModelTiming, compute: Compute, folder: Path | None
) -> dict[str, Any]:
    flops = flops_per_length(model, backward=False, device=compute.device, folder=folder)
    return {
        "forward_flops": flops.flops(1, SEQ_LENGTH),
        "latency_p50_ms": timing.p50_ms,
        "latency_p95_ms": timing.p95_ms,
        "throughput_per_s": timing.throughput_per_s,
        "protocol": timing.protocol,
    }


def _timed(
    model: nn.Module,
    compute: Compute,
    folder: Path | None,
    known: list[Any],
    others: Mapping[str, Callable[[], nn.Module]],
) -> dict[str, ModelTiming]:
    """The timing of "model" in turns with others, which `known` tells apart; kept in `folder`."""

    def find() -> dict[str, Any]:
        models = {"model": model} | {name: load() for name, load in others.items()}
        protocol = TimingProtocol(
            seq_length=SEQ_LENGTH,
            device=compute.device,
            dtype=compute.dtype,
            merged=True,
            budget_s=TIMING_S,
        )
        timings = time_models(models, protocol, rng=np.random.default_rng(0))
        return {name: asdict(timing) for name, timing in timings.items()}

    key = ["timing", shape_of(model), *known, timing_conditions(compute.device)]
    timings = {name: ModelTiming(**values) for name, values in once(folder, key, find).items()}
    for timing in timings.values():
        timing.protocol["measured"] = "once for all runs of this shape" if folder else "in this run"
    return timings
