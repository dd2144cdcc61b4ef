"""Latency and throughput of what is shipped, in turns with the teacher in PyTorch fp32."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.modeling_utils import PreTrainedModel

from kdlora.machine import busy_share
from kdlora.measure.efficiency import merged_size_mb
from kdlora.measure.latency import WARM_UP_ROUNDS, in_turns
from kdlora.models.encoders import load_encoder
from kdlora.models.inspection import max_tokens
from kdlora.models.saved import load_trained
from kdlora.records.artefact import TeacherFacts, Variant, VariantTiming
from kdlora.ship import model_card
from kdlora.ship.export_steps import Work
from kdlora.ship.onnx_runtime import open_session
from kdlora.ship.source import Teacher, find_teacher
from kdlora.vocabulary.task import Task

SHAPES = ((1, 32), (1, 128), (32, 32))  # (batch, tokens): single texts, and many short ones
TEACHER = "teacher"
_REPEATS = {True: (15, 60), False: (5, 15)}  # single texts; batches, which cost far more
_BUDGET_S = 8.0  # for each shape
_BUSY = 0.25  # share of the processors' time above which a reader must be told

Feed = dict[str, np.ndarray]
Call = Callable[[Feed], Any]


@dataclass(frozen=True)
class Timed:
    """Seconds and processor seconds of every pass by model name, for one shape."""

    batch: int
    length: int
    seconds: dict[str, list[float]]
    processor_seconds: dict[str, list[float]]


def measure(
    work: Work, variants: list[Variant], *, timing: bool, threads: int
) -> tuple[TeacherFacts | None, dict[str, list[VariantTiming]]]:
    """What the teacher is, and the timings of every variant by name."""
    teacher = find_teacher(work.source)
    if teacher is None:
        work.limits.append("The teacher was a file of outputs: there is nothing to be faster than.")
    model = _load_teacher(teacher, work.task) if teacher else None
    facts = None
    if teacher is not None and model is not None:
        quality = teacher.record.quality if teacher.record else None
        facts = TeacherFacts(
            name=model_card.shown_name(teacher.encoder),
            run_id=teacher.record.run_id if teacher.record else None,
            size_mb=merged_size_mb(model),
            metric=quality.primary if quality else None,
            score=quality.score if quality else None,
            basis="trained run" if teacher.record else "architecture",
        )
    if not timing:
        return facts, {}
    work.note("timing in turns with the teacher")
    if (busy := busy_share()) > _BUSY:
        work.limits.append(
            f"The machine was {busy:.0%} busy with other work when this was timed: times are long "
            "and their ratios rough. The processor times in `export.json` are the steadier ones."
        )
    calls: dict[str, Call] = {}
    if model is not None:
        calls[TEACHER] = torch_call(model, work.inputs[:2])
    for variant in variants:
        if variant.runtime == "torch":
            student, _ = load_trained(work.folder, attention="sdpa")
            calls[variant.name] = torch_call(student, work.inputs)
        else:
            path = work.folder / variant.path
            calls[variant.name] = onnx_call(path, work.inputs, threads=threads)
    timed_models = [work.model] + ([model] if model is not None else [])
    limits = [limit for m in timed_models if (limit := max_tokens(m.config))]
    timed = time_calls(
        calls,
        vocabulary=min(m.config.vocab_size for m in timed_models),
        longest=min(limits, default=512),
        threads=threads,
        rng=np.random.default_rng(0),
    )
    return facts, {v.name: timings_of(v.name, timed, threads=threads) for v in variants}


def _load_teacher(teacher: Teacher, task: Task) -> PreTrainedModel:
    if teacher.folder is not None:
        model, _ = load_trained(teacher.folder, encoder=teacher.encoder, attention="sdpa")
    else:
        model = load_encoder(teacher.encoder, task, seed=0, attention="sdpa").model
    return model.float().eval()


def torch_call(model: torch.nn.Module, inputs: list[str]) -> Call:
    """A forward pass of a torch model on arrays; wrapping an array as a tensor costs nothing."""
    model.eval()

    def call(feed: Feed) -> Any:
        return model(**{name: torch.from_numpy(feed[name]) for name in inputs})

    return call


def onnx_call(path: Path, inputs: list[str], *, threads: int) -> Call:
    """A run of an ONNX file on arrays."""
    session = open_session(path, threads=threads)
    return lambda feed: session.run(None, {name: feed[name] for name in inputs})


def time_calls(
    calls: Mapping[str, Call],
    *,
    vocabulary: int,
    longest: int,
    threads: int,
    rng: np.random.Generator,
    budget_s: float = _BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
    processor_clock: Callable[[], float] = time.process_time,
) -> list[Timed]:
    """Time all calls in turns at every shape, on random token ids without padding.

    Lengths are cut to `longest`, what the models take. Everything computes with `threads` threads.
    The processor time of a pass, over all threads, does not count the waiting for other programs.
    """
    shapes = dict.fromkeys((batch, min(length, longest)) for batch, length in SHAPES)
    found = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for batch, length in shapes:
                ids = rng.integers(0, vocabulary, (batch, length), dtype=np.int64)
                feed = {
                    "input_ids": ids,
                    "attention_mask": np.ones_like(ids),
                    "token_type_ids": np.zeros_like(ids),
                }

                spent: dict[Call, list[float]] = {call: [] for call in calls.values()}

                def seconds(
                    call: Call, feed: Feed, spent: dict[Call, list[float]] = spent
                ) -> float:
                    busy, started = processor_clock(), clock()
                    call(feed)
                    taken = clock() - started
                    spent[call].append(processor_clock() - busy)
                    return taken

                taken = in_turns(
                    calls,
                    feed,
                    seconds,
                    repeats=_REPEATS[batch == 1],
                    budget_s=budget_s,
                    clock=clock,
                )
                used = {name: spent[call][WARM_UP_ROUNDS:] for name, call in calls.items()}
                found.append(Timed(batch, length, taken, used))
    finally:
        torch.set_num_threads(before)
    return found


def timings_of(name: str, timed: list[Timed], *, threads: int) -> list[VariantTiming]:
    """One model's part of what `time_calls` found, with the teacher's beside it."""
    return [_timing(name, one, threads) for one in timed if name in one.seconds]


def _timing(name: str, timed: Timed, threads: int) -> VariantTiming:
    own = timed.seconds[name]
    p50 = float(np.median(own))
    teacher = timed.seconds.get(TEACHER)
    beside = float(np.median(teacher)) if teacher else None
    return VariantTiming(
        batch=timed.batch,
        length=timed.length,
        latency_p50_ms=1e3 * p50,
        latency_p95_ms=1e3 * float(np.percentile(own, 95)),
        throughput_per_s=timed.batch / p50,
        teacher_latency_p50_ms=None if beside is None else 1e3 * beside,
        teacher_throughput_per_s=None if beside is None else timed.batch / beside,
        ratio=None if beside is None else beside / p50,
        processor_ms=1e3 * _median(timed.processor_seconds, name),
        teacher_processor_ms=1e3 * _median(timed.processor_seconds, TEACHER) if teacher else None,
        repeats=len(own),
        threads=threads,
    )


def _median(seconds: Mapping[str, list[float]], name: str) -> float:
    return float(np.median(seconds[name]))
