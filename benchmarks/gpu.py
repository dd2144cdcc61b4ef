"""Whether a GPU gives what the processor gives, and how fast it trains beside the Trainer.

Losses and gradients of one batch, training that is resumed, a step without a finite gradient, what
a step reads from the device, and a small study whole. Without a GPU the processor stands in for
one: its counts are read late, as a GPU's are, so that all of it but the speed is tried.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from benchmarks import peers
from benchmarks.ours import Ours
from benchmarks.workload import Workload, make_model, make_workload, with_lora
from kdlora.data.batches import collate, on_device
from kdlora.distillation.losses import make_loss
from kdlora.spec.distillation import Distillation
from kdlora.spec.sections import Training
from kdlora.training import loop
from kdlora.training.checkpoint import Paused, Progress
from kdlora.training.forward import make_forward
from kdlora.training.loop import Hooks, Seeds, TrainingData, TrainingSetup, train
from kdlora.training.precision import Compute, ready_for_training
from kdlora.training.schedule import make_schedule
from kdlora.training.step_counts import StepCounts
from kdlora.vocabulary.task import TASKS

CPU = Compute(torch.device("cpu"), torch.float32, "eager", "the processor, to compare with")
# How far apart the same computation may be: sums are taken in another order, bf16 has 8 bits.
LARGEST = {"fp32": 1e-4, "bf16": 3e-2}
SCORES = 0.13  # of a study of 24 report texts: three of them
STAND_IN = "the processor, which stands in for a GPU"


@dataclass(frozen=True)
class Check:
    """One row of the table: what was compared, how far apart it was, and how far it may be."""

    what: str
    found: float
    largest: float
    unit: str = "relative difference"

    @property
    def passed(self) -> bool:
        return math.isfinite(self.found) and self.found <= self.largest


@dataclass(frozen=True)
class Speed:
    """Texts a second of one training, by whom."""

    what: str
    ours: float
    trainer: float
    settings: str


@dataclass(frozen=True)
class Found:
    """All of it; `seconds` is what the whole took."""

    device: str
    checks: tuple[Check, ...]
    speeds: tuple[Speed, ...] = ()
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


@dataclass(frozen=True)
class Setting:
    """What is tried: a device with its number formats, a shape of model and how many texts."""

    device: torch.device
    formats: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    shape: str = "minilm-l3"
    texts: int = 256
    speeds: tuple[tuple[str, bool], ...] = (
        ("minilm-l3", True), ("distilbert", True), ("bert-base", False),
    )  # fmt: skip
    timed_texts: int = 4096

    def compute(self, dtype: torch.dtype) -> Compute:
        return Compute(self.device, dtype, "sdpa", "asked for by the benchmark")


def measure(setting: Setting | None = None, *, study: bool = True) -> Found:
    """Every check, and the speeds where there is a GPU."""
    started = time.perf_counter()
    real = torch.cuda.is_available()
    setting = setting or Setting(torch.device("cuda" if real else "cpu"))
    checks: list[Check] = []
    with as_if_apart(setting.device):
        for dtype in setting.formats:
            checks += same_step(setting, setting.compute(dtype))
        compute = setting.compute(torch.float32)
        checks += [resumed(setting, compute), skipped_step(setting, compute)]
        checks += [reads(setting, compute)] if setting.device.type == "cuda" else []
    if study:
        checks.append(same_study())
    speeds = tuple(speed(s, lora, setting) for s, lora in setting.speeds) if real else ()
    device = torch.cuda.get_device_name() if real else STAND_IN
    return Found(device, tuple(checks), speeds, time.perf_counter() - started)


@contextmanager
def as_if_apart(device: torch.device) -> Iterator[None]:
    """Meanwhile the counts of a processor are read as late as those of a GPU."""

    class Apart(StepCounts):
        def __init__(self, progress: Progress, where: torch.device) -> None:
            super().__init__(progress, where)
            self.at_hand = False

    with mock.patch.object(loop, "StepCounts", Apart if device.type == "cpu" else StepCounts):
        yield


def same_step(setting: Setting, compute: Compute) -> list[Check]:
    """Loss and gradients of one distilled batch on the device, beside the processor in fp32."""
    work = make_workload("movie-reviews", 32)
    there = _gradients(setting.shape, work, compute)
    here = _gradients(setting.shape, work, CPU)
    size = math.sqrt(sum(float(g.square().sum()) for g in here[1].values()))
    apart = math.sqrt(sum(float((there[1][n] - g).square().sum()) for n, g in here[1].items()))
    name = compute.name
    return [
        Check(f"loss of a batch, {name}", abs(there[0] - here[0]) / abs(here[0]), LARGEST[name]),
        Check(f"gradients of a batch, {name}", apart / size, LARGEST[name]),
    ]


def _model(shape: str, compute: Compute) -> nn.Module:
    """LoRA without dropout, its B away from zero, so that every gradient is there."""
    model: nn.Module = make_model(shape, attention=compute.attention)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    config: Any = model.config
    for name in ("attention_probs_dropout_prob", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    model = with_lora(model, shape)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def _gradients(
    shape: str, work: Workload, compute: Compute
) -> tuple[float, dict[str, torch.Tensor]]:
    model = ready_for_training(_model(shape, compute), compute).eval()  # no dropout either way
    rows = np.arange(len(work.texts))
    logits = make_forward(model, compute)(collate(work.texts, rows, compute.device)).float()
    loss = make_loss(TASKS["sst2"], Distillation())(
        logits, on_device(work.labels, compute.device), on_device(work.teacher, compute.device)
    )
    loss.backward()
    found = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), found


def _trained(
    setting: Setting,
    compute: Compute,
    folder: Path,
    *,
    pause_after: int | None = None,
    bad_step: int | None = None,
) -> tuple[nn.Module, Progress]:
    """Two epochs of LoRA; `bad_step` has a loss of NaN."""
    work = make_workload("sst2", setting.texts)
    settings = Training(epochs=2, batch_size=32)
    torch.manual_seed(0)
    model = ready_for_training(
        with_lora(make_model(setting.shape, attention=compute.attention), setting.shape), compute
    )
    plain, steps = make_loss(TASKS["sst2"], Distillation()), iter(range(10_000))

    def loss(*values: Any, **named: Any) -> torch.Tensor:
        made = plain(*values, **named)
        return made * math.nan if next(steps) == bad_step else made

    setup = TrainingSetup(
        loss=loss, evaluate=lambda model: {"accuracy": 0.0}, primary="accuracy", direction=1,
        settings=settings, schedule=make_schedule(len(work.texts), settings, 1e-3),
        compute=compute, seeds=Seeds(order=0, dropout=0),
        hooks=Hooks(earliest_best=2 * -(-len(work.texts) // 32)),  # the last weights are kept
    )  # fmt: skip
    data = TrainingData(work.texts, work.labels, work.teacher)
    progress = train(model, data, setup, folder=folder, pause_after=pause_after)
    return model, progress


def _apart(one: nn.Module, two: nn.Module) -> float:
    """The largest difference of two models' trained weights, relative to the largest of them."""
    pairs = [
        (p.detach().float().cpu(), q.detach().float().cpu())
        for p, q in zip(one.parameters(), two.parameters(), strict=True)
        if p.requires_grad
    ]
    largest = max(float(p.abs().max()) for p, _ in pairs)
    return max(float((p - q).abs().max()) for p, q in pairs) / largest


def resumed(setting: Setting, compute: Compute) -> Check:
    """Training that was paused and went on, beside one that was not."""
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / part for part in ("whole", "parts")]
        for folder in folders:
            folder.mkdir()
        whole, _ = _trained(setting, compute, folders[0])
        with suppress(Paused):
            _trained(setting, compute, folders[1], pause_after=3)
        parts, progress = _trained(setting, compute, folders[1])
    assert progress.resumed == 1
    return Check("resumed beside uninterrupted training", _apart(whole, parts), 1e-6)


def skipped_step(setting: Setting, compute: Compute) -> Check:
    """How many steps were not skipped, or skipped in vain, where one has no finite gradient."""
    with tempfile.TemporaryDirectory() as name:
        model, progress = _trained(setting, compute, Path(name), bad_step=2)
    finite = all(bool(torch.isfinite(p).all()) for p in model.parameters())
    return Check(
        "steps without a finite gradient that were not skipped",
        abs(progress.nonfinite_steps - 1) if finite else math.inf,
        0,
        "steps",
    )


def reads(setting: Setting, compute: Compute) -> Check:
    """How often a step waits for the device, by torch's own count.

    transformers looks once a forward pass whether a mask hides anything; nothing else may.
    """
    seen: list[str] = []
    step = loop._step

    def watched(*arguments: Any) -> None:
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step(*arguments)
        torch.cuda.set_sync_debug_mode("default")
        seen.extend(str(w.message) for w in caught if "synchroniz" in str(w.message))

    with mock.patch.object(loop, "_step", watched), tempfile.TemporaryDirectory() as name:
        _, progress = _trained(setting, compute, Path(name))
    return Check("waits for the device in a step", len(seen) / progress.step, 1.0, "a step")


def same_study() -> Check:
    """The largest difference of scores of a study here and on the processor alone."""
    scores = [_study_scores(hidden) for hidden in (False, True)]
    apart = max(abs(scores[0][run] - scores[1][run]) for run in scores[0])
    return Check("scores of a small study", apart, SCORES, "difference")


def _study_scores(hidden: bool) -> dict[str, float]:
    """Run id -> score, by a process of its own, from which GPUs are hidden or not."""
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ""} if hidden else {})}
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _study() -> dict[str, float]:
    from benchmarks.tiny_study import ARMS, tiny_plan
    from kdlora.engines.local import run_plan
    from kdlora.engines.supervisor import EngineOptions
    from kdlora.records.store import Store

    with tempfile.TemporaryDirectory() as name:
        plan = tiny_plan(Path(name) / "inputs", runs=len(ARMS))
        store = Store(Path(name) / "study")
        store.prepare()
        run_plan(plan, store, EngineOptions(workers=1))
        records = {run.run_id: store.read(run.run_id) for run in plan.runs}
    return {
        run: record.quality.score
        for run, record in records.items()
        if record is not None and record.quality is not None and record.quality.score is not None
    }


def speed(shape: str, lora: bool, setting: Setting) -> Speed:
    """An epoch of kdlora's and of the Trainer's, in turns, each the faster of two after one."""
    work = make_workload("sst2", setting.timed_texts)
    ours = Ours(shape, lora=lora)
    theirs = peers.trainer_at_its_best(shape, lora, make_workload("sst2", 512))
    rates: dict[str, list[float]] = {"ours": [], "trainer": []}
    for turn in range(3):
        for name, one in (("ours", ours), ("trainer", theirs)):
            made = one.epoch(work)
            if turn:
                rates[name].append(made.texts / made.seconds)
    how = "LoRA" if lora else "full fine-tuning"
    return Speed(f"{shape}, {how}", max(rates["ours"]), max(rates["trainer"]), theirs.settings)


def page(found: Found) -> str:
    """The table."""
    lines = [
        f"# What a GPU gives beside the processor: {found.device}",
        "",
        f"`python -m benchmarks gpu`, {found.seconds:.0f} s, torch {torch.__version__}.",
        "",
        "| check | found | at most | in | |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {c.what} | {c.found:.2g} | {c.largest:.2g} | {c.unit} | "
        f"{'passed' if c.passed else '**failed**'} |"
        for c in found.checks
    ]
    if found.speeds:
        heads = ("training", "kdlora, texts/s", "Trainer, texts/s", "times as fast", "Trainer's")
        lines += ["", f"| {' | '.join(heads)} |", "|---|---|---|---|---|"]
        lines += [
            f"| {s.what} | {s.ours:,.0f} | {s.trainer:,.0f} | {s.ours / s.trainer:.2f} | "
            f"{s.settings} |"
            for s in found.speeds
        ]
    else:
        lines += ["", "No GPU was found: the processor stood in for one, and nothing was timed."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(json.dumps(_study()))
