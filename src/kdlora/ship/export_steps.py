"""The steps of an export; `ship.export` puts them in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from kdlora.data.batches import Encoded, encode
from kdlora.data.examples import TaskData
from kdlora.data.tasks import load_task
from kdlora.errors import ModelError
from kdlora.models.checkpoints import quiet
from kdlora.models.saved import load_adapted, load_trained, save_tokenizer
from kdlora.records.artefact import (
    FILES,
    Parity,
    Quantization,
    Runtime,
    Trial,
    Variant,
    variant_name,
    written_drop,
)
from kdlora.ship import adapter_folder, model_card
from kdlora.ship import onnx_runtime as runtime
from kdlora.ship.gate import Gate, Verdict, search
from kdlora.ship.onnx_graph import OUTPUT, export_graph, graph_inputs
from kdlora.ship.parity import MERGE_TOLERANCE, ONNX_TOLERANCE, OnnxModel, compare
from kdlora.ship.quantize import INT4, INT8, Settings
from kdlora.ship.source import SourceRun, check_data
from kdlora.spec.encoders import ADAPTER_CONFIG
from kdlora.training.inference import predict
from kdlora.training.precision import Compute
from kdlora.vocabulary.metric import Metric
from kdlora.vocabulary.task import Task

OnNote = Callable[[str], None]

_SETTINGS: dict[Quantization, tuple[Settings, ...]] = {"int8": INT8, "int4": INT4}


@dataclass
class Work:
    """What the steps of one export share."""

    source: SourceRun
    folder: Path  # where the export grows, before it is renamed
    data: TaskData
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    texts: Encoded  # of the report split
    gate: Gate
    inputs: list[str]
    note: OnNote
    parity: list[Parity] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)

    @property
    def task(self) -> Task:
        return self.data.task


def begin(source: SourceRun, folder: Path, max_drop: float | None, note: OnNote) -> Work:
    """Read the data and the model, merge in fp32 and see that merging changed nothing."""
    run = source.run
    note(f"reading task {run.task.name}")
    data = load_task(run.task, run.data)
    check_data(source.record, data.fingerprint)
    note("merging in fp32")
    model, tokenizer = load_trained(source.model_folder, encoder=run.encoder)
    model.eval().requires_grad_(False)
    report = data.reports["report"]
    texts = encode(
        tokenizer, report.texts, max_length=source.card.max_length, windows=source.card.windows
    )
    if not len(texts):
        raise ModelError(f"task '{data.task.name}' has no report row to gate on")
    parity = []
    if (source.model_folder / ADAPTER_CONFIG).is_file():
        adapted = load_adapted(source.model_folder, encoder=run.encoder).eval()
        parity.append(
            compare("merged against adapted", model, adapted, texts, tolerance=MERGE_TOLERANCE)
        )
        del adapted
    note(f"scoring the fp32 student on {len(texts):,} report rows")
    gate = Gate(data.task, report.labels, predict(model, texts, _fp32()), max_drop)
    inputs = graph_inputs(model, tokenizer)
    return Work(source, folder, data, model, tokenizer, texts, gate, inputs, note, parity)


def save_torch(work: Work) -> None:
    """The plain transformers folder, reloaded and compared, and the tokenizer."""
    with quiet():
        work.model.save_pretrained(work.folder)
    save_tokenizer(work.tokenizer, work.folder, max_length=work.source.card.max_length)
    _make_self_contained(work)
    again, _ = load_trained(work.folder)
    work.parity.append(
        compare(
            "torch folder reloaded", work.model, again.eval(), work.texts, tolerance=MERGE_TOLERANCE
        )
    )


def _make_self_contained(work: Work) -> None:
    """Let tokenizer.json pad and cut by itself, and see that it reads texts as in training."""
    path = work.folder / runtime.TOKENIZER
    if not path.is_file():
        raise ModelError(
            f"the tokenizer of {encoder_name(work.source)} has no fast form (tokenizer.json), "
            "without which nothing but transformers can read texts for it"
        )
    tokenizer, card = work.tokenizer, work.source.card
    max_length, windows = card.max_length, card.windows
    reader = runtime.open_tokenizer(path, max_length=max_length, windows=windows)
    reader.enable_padding(
        direction=tokenizer.padding_side,
        pad_id=int(tokenizer.pad_token_id or 0),
        pad_type_id=int(getattr(tokenizer, "pad_token_type_id", 0) or 0),
        pad_token=str(tokenizer.pad_token),
    )
    reader.save(str(path))
    texts = list(work.data.reports["report"].texts)
    pad_id = int(tokenizer.pad_token_id or 0)
    found = runtime.encode(
        runtime.open_tokenizer(path, max_length=max_length, windows=windows),
        texts,
        pad_id=pad_id,
        windows=windows,
    )
    if not (
        np.array_equal(found.offsets, work.texts.offsets)
        and np.array_equal(found.ids, work.texts.ids)
    ):
        raise ModelError(
            "tokenizer.json reads the report split otherwise than the tokenizer that the model was "
            "trained with; its scores would not be those of the run"
        )


def torch_variant(work: Work) -> Variant:
    """The plain transformers folder as a form of the model: the reference of all others."""
    return _variant(work, "torch", "none", work.gate.judge(work.gate.reference))


def onnx_variants(
    work: Work, wanted: list[tuple[Runtime, Quantization]], force: bool
) -> list[Variant]:
    """The fp32 graph, compared with torch, and the quantised forms, gated."""
    work.note("translating to ONNX")
    plain = work.folder / FILES["onnx", "none"]
    plain.parent.mkdir()
    export_graph(work.model, work.inputs, plain)
    session = OnnxModel(plain, work.inputs)
    work.parity.append(
        compare("onnx against torch", work.model, session, work.texts, tolerance=ONNX_TOLERANCE)
    )

    def outputs_of(path: Path) -> np.ndarray:
        opened = runtime.open_session(path)
        return runtime.run(opened, work.texts, inputs=work.inputs, output=OUTPUT)

    variants = [_gated(work, "none", work.gate.judge(outputs_of(plain)), force)]
    for kind, settings in _SETTINGS.items():
        if ("onnx", kind) not in wanted:
            continue
        work.note(f"quantising to {kind.upper()}")

        def tell(trial: Trial, kind: str = kind) -> None:
            work.note(f"{kind}, {trial.settings}: {_figures(work.gate.metric, trial)}")

        target = work.folder / FILES["onnx", kind]
        chosen = search(
            plain, target, settings, gate=work.gate, outputs_of=outputs_of, on_trial=tell
        )
        variants.append(_gated(work, kind, chosen.verdict, force, how=chosen.trials))
    _refuse_failed(work, variants)
    if ("onnx", "none") not in wanted:
        plain.unlink()
        variants = [v for v in variants if v.quantization != "none"]
    return variants


def _refuse_failed(work: Work, variants: list[Variant]) -> None:
    """Raise ModelError with the figures of every trial of the forms that lost too much."""
    problems = []
    for variant in variants:
        if variant.gate != "failed":
            continue
        tried = [f"    {t.settings}: {_figures(work.gate.metric, t)}" for t in variant.how]
        head = (
            f"{variant.name} scores {_number(variant.score)} on {len(work.texts):,} report rows, "
            f"the fp32 student {_number(work.gate.score)}: more than the "
            f"{work.gate.allowed:.4g} {work.gate.metric.drop_unit} allowed"
        )
        problems.append("\n".join([head, *tried]))
    if problems:
        advice = "leave the form out of --quantize, raise --max-drop, or ship it with --force"
        raise ModelError([*problems, f"nothing was written; {advice}"], where="accuracy gate")


def save_adapter(work: Work) -> str | None:
    """The adapter as a plain peft folder, loaded again and compared; None without one."""
    run = work.source.run
    target = work.folder / adapter_folder.FOLDER
    why_not = adapter_folder.write_adapter(work.source.model_folder, target, run.encoder)
    if why_not is not None:
        if (work.source.model_folder / ADAPTER_CONFIG).is_file():
            work.limits.append(f"No `adapter/`: {why_not}.")
        return None
    save_tokenizer(work.tokenizer, target, max_length=work.source.card.max_length)
    adapted = load_adapted(target, encoder=run.encoder).eval()
    work.parity.append(
        compare(
            "adapter folder against merged",
            adapted,
            work.model,
            work.texts,
            tolerance=MERGE_TOLERANCE,
        )
    )
    return adapter_folder.FOLDER


def _gated(
    work: Work,
    quantization: Quantization,
    verdict: Verdict,
    force: bool,
    *,
    how: list[Trial] | None = None,
) -> Variant:
    gate = "passed" if verdict.passed else ("forced" if force else "failed")
    return _variant(work, "onnx", quantization, verdict, gate=gate, how=how or [])


def _variant(
    work: Work, kind: Runtime, quantization: Quantization, verdict: Verdict, **values: Any
) -> Variant:
    path = FILES[kind, quantization]
    return Variant(
        name=variant_name(kind, quantization),
        runtime=kind,
        quantization=quantization,
        path=path,
        size_mb=(work.folder / path).stat().st_size / 1e6,
        metric=work.task.primary,
        score=verdict.score,
        drop_points=verdict.drop_points,
        agreement=verdict.agreement,
        max_abs_difference=verdict.max_abs_difference,
        **values,
    )


def _fp32() -> Compute:
    return Compute(torch.device("cpu"), torch.float32, "eager", "an export is compared in fp32")


def encoder_name(source: SourceRun) -> str:
    return model_card.shown_name(source.run.encoder)


def _figures(metric: Metric, trial: Trial) -> str:
    drop = "no score"
    if trial.drop_points is not None:
        drop = f"drop {written_drop(trial.drop_points, metric.drop_unit)} {metric.drop_unit}"
    return f"{metric.name} {_number(trial.score)}, {drop}, {trial.size_mb:.1f} MB"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
