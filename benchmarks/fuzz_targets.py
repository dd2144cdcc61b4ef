"""What is fuzzed without torch: readers of strangers' bytes, with sound inputs that they take."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz import Read, Target
from benchmarks.fuzz_models import copy_with, file_in, saved_models
from kdlora.data.model_folder import check_folder
from kdlora.data.own_task import load_own
from kdlora.distillation import soft_labels
from kdlora.importing.mapping import read_mapping
from kdlora.importing.results import read_results
from kdlora.planning import encoder_shapes
from kdlora.planning.workload import text_rows
from kdlora.records.artefact import read_artefact
from kdlora.records.frame import load_frame, load_histories, read_plan
from kdlora.records.halving import read_rung
from kdlora.records.predictions import (
    SplitOutputs,
    read_outputs,
    read_predictions,
    write_predictions,
)
from kdlora.records.record import Record, checksum
from kdlora.records.store import Store
from kdlora.serve.requests import Limits, parse_request
from kdlora.ship.card import read_calibration, read_card
from kdlora.ship.onnx_files import check_onnx
from kdlora.spec.check import make_study, read_study
from kdlora.spec.plan import make_plan
from kdlora.spec.run import EncoderRef
from kdlora.spec.sections import OwnTask
from kdlora.tables.reader import column_problems, open_table

ROOT = Path(__file__).resolve().parent.parent
_ROWS = [
    {"text": f"good film, number {i}", "label": "ab"[i % 2], "score": i / 7, "note": None}
    for i in range(40)
]
_STUDY = {
    "name": "s",
    "tasks": ["cola"],
    "pairs": [{"teacher": "minilm-l6", "student": "minilm-l3"}],
    "arms": ["teacher/fft", "student/lora", "student/kd-lora"],
    "seeds": [1, 2],
    "training": {"epochs": 2, "max_length": 16},
}


def make_targets(folder: Path) -> list[Target]:
    """All of them; `folder` is for the sound files that libraries have to write."""
    folder.mkdir(parents=True, exist_ok=True)
    jsonl = "\n".join(map(json.dumps, _ROWS)).encode()
    csv = _csv(_ROWS, ",")
    parquet = tuple(_parquet(_ROWS, checked) for checked in (True, False, False))
    scores = _csv(_SCORES, ",")
    model, adapter = saved_models(folder)
    own = {"name": "t", "train": "t.csv", "text": "text", "label": "label"}
    studies = [json.dumps(_STUDY | {"tasks": tasks}).encode() for tasks in (["cola"], [own])]
    studies += [text for text in _files("examples/*.yaml") if b"data" not in text]
    mappings = _files("src/kdlora/importing/mappings/*.yaml")
    return [
        Target("tables, CSV", _table("t.csv"), (csv,)),
        Target("tables, TSV", _table("t.tsv"), (_csv(_ROWS, "\t"), _csv(_ROWS, "\t", '"'))),
        Target("tables, JSON lines", _table("t.jsonl"), (jsonl,)),
        Target("tables, Parquet", _table("t.parquet"), parquet),
        Target("own tasks", _own_task, (csv, jsonl), share=0.3),
        Target("study files", _study, tuple(studies), share=0.3),
        Target("records", _record, (_stored(),), share=0.5),
        Target("records, sealed again", _resealed, (_stored(),), share=0.5),
        Target("predictions of runs", _predictions, (_outputs(folder),), share=0.3),
        Target("cached logits", _logits, (_soft_labels(folder),), share=4),
        Target("scores at rungs", _rung, (_RUNG,), share=4),
        Target("plans of studies", _plan, (json.dumps(_saved_plan(folder)).encode(),), share=0.2),
        Target("histories", _history, (_CURVE,), share=4),
        Target("exports", _in_folder("export.json", read_artefact), (_export(),), share=4),
        Target("cards", _card, (_card_text(),), share=4),
        Target("results, CSV", _import("r.csv"), (scores,), share=0.1),
        Target("results, JSON", _import("r.json"), (json.dumps(_SCORES).encode(),), share=0.05),
        Target(
            "results, folders", _import("kd-lora/task_cola_bert_42/x/all_results.json"),
            (_METRICS,), share=0.05,
        ),
        Target("results, Parquet", _import("r.parquet"), (_parquet(_SCORES),), share=0.1),
        Target("mappings", _in_file("m.yaml", read_mapping), tuple(mappings), share=0.3),
        Target("requests", _request, _REQUESTS, share=4),
        Target("configs of encoders", _shape, (file_in(model, "config.json"),), share=4),
        Target(
            "model folders, config", _model_file(model, "config.json"),
            (file_in(model, "config.json"),),
        ),
        Target(
            "model folders, weights", _model_file(model, "model.safetensors"),
            (file_in(model, "model.safetensors"),), share=0.3,
        ),
        Target(
            "model folders, tokenizer", _model_file(model, "tokenizer_config.json"),
            (file_in(model, "tokenizer_config.json"),),
        ),
        Target(
            "adapter folders, config", _model_file(adapter, "adapter_config.json"),
            (file_in(adapter, "adapter_config.json"),),
        ),
        Target(
            "adapter folders, note", _model_file(adapter, "kdlora.json"),
            (file_in(adapter, "kdlora.json"),),
        ),
        Target(
            "adapter folders, weights", _model_file(adapter, "adapter_model.safetensors"),
            (file_in(adapter, "adapter_model.safetensors"),), share=0.3,
        ),
        Target("ONNX files", _in_file("m.onnx", check_onnx), (_onnx(),), share=4),
    ]  # fmt: skip


def _in_file(name: str, read: Callable[[Path], Any]) -> Read:
    def work(content: bytes, folder: Path) -> None:
        (folder / name).write_bytes(content)
        read(folder / name)

    return work


def _in_folder(name: str, read: Callable[[Path], Any]) -> Read:
    def work(content: bytes, folder: Path) -> None:
        (folder / name).write_bytes(content)
        read(folder)

    return work


def _table(name: str) -> Read:
    def read(path: Path) -> None:
        text_rows(str(path), ("text",), None)  # an estimate never raises
        column_problems(path, ["text", "label"])
        for _ in open_table(path).rows():
            pass

    return _in_file(name, read)


def _own_task(content: bytes, folder: Path) -> None:
    name = "t.jsonl" if content[:1] == b"{" else "t.csv"
    (folder / name).write_bytes(content)
    given = {"name": "t", "train": str(folder / name), "text": ["text"], "label": "label"}
    load_own(OwnTask.model_validate(given))


def _study(content: bytes, folder: Path) -> None:
    (folder / "s.yaml").write_bytes(content)
    (folder / "t.csv").write_bytes(_csv(_ROWS, ","))
    make_plan(read_study(folder / "s.yaml"))


def _record(content: bytes, folder: Path) -> None:
    record = Path(folder) / "runs" / "a" / "record.json"
    record.parent.mkdir(parents=True)
    for name in ("record.json", "failed.json", "spec.json"):
        (record.parent / name).write_bytes(content)
    store = Store(folder)
    store.read("a")
    store.read_failure("a")


def _resealed(content: bytes, folder: Path) -> None:
    """The same with a checksum that fits, so that what the record says is looked at."""
    with suppress(ValueError, TypeError, AttributeError, RecursionError):
        values = json.loads(content)
        values["checksum"] = checksum(values)
        content = json.dumps(values).encode("utf-8", "surrogatepass")
    _record(content, folder)
    with Store(folder).lease("a"):
        pass


def _predictions(content: bytes, folder: Path) -> None:
    (folder / "runs" / "a").mkdir(parents=True)
    (folder / "runs" / "a" / "predictions.parquet").write_bytes(content)
    read_outputs(folder, ["a"], "report")
    read_predictions(folder / "runs" / "a").by_split()


def _logits(content: bytes, folder: Path) -> None:
    (folder / soft_labels.FILE).write_bytes(content)
    with suppress(soft_labels.DamagedCache):
        soft_labels.load(folder)


def _rung(content: bytes, folder: Path) -> None:
    (folder / "runs" / "a").mkdir(parents=True)
    (folder / "runs" / "a" / "rung-1.json").write_bytes(content)
    read_rung(Store(folder), "a", 1)


def _plan(content: bytes, folder: Path) -> None:
    (folder / "plan.json").write_bytes(content)
    read_plan(folder)
    load_frame(folder)


def _history(content: bytes, folder: Path) -> None:
    run = folder / "runs" / "a"
    run.mkdir(parents=True)
    (run / "history.jsonl").write_bytes(content)
    load_histories(folder)


def _card(content: bytes, folder: Path) -> None:
    for name in ("kdlora.json", "calibration.json"):
        (folder / name).write_bytes(content)
    read_card(folder)
    read_calibration(folder)


def _import(name: str) -> Read:
    def work(content: bytes, folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        read_results(folder if path.parent != folder else path)

    return work


def _request(content: bytes, folder: Path) -> None:
    columns = 2 if b"[[" in content or b"second" in content else 1
    parse_request(content, columns=columns, limits=Limits(max_text_chars=200, queue=20))


def _shape(content: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    encoder_shapes._read_config.cache_clear()  # two files of one size and one moment are two here
    shape, _ = encoder_shapes.shape_of(EncoderRef(name="m", source="folder", path=str(folder)))
    assert shape.params > 0


def _model_file(model: Path, name: str) -> Read:
    def work(content: bytes, folder: Path) -> None:
        place = copy_with(model, folder, name, content)
        check_folder(place)

    return work


def _files(pattern: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(ROOT.glob(pattern))]


def _csv(rows: Sequence[dict[str, Any]], separator: str, quote: str = "") -> bytes:
    lines = [
        list(rows[0]),
        *([("" if v is None else str(v)) for v in row.values()] for row in rows),
    ]
    escaped = '"' if separator == "," else quote
    return "\n".join(
        separator.join(f"{escaped}{cell}{escaped}" for cell in line) for line in lines
    ).encode()


def _parquet(rows: Sequence[dict[str, Any]], checked: bool = False) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    more = [row | {"list": ["a", None], "at": {"x": 1}} for row in rows]
    pq.write_table(pa.Table.from_pylist(more), buffer, write_page_checksum=checked)
    return buffer.getvalue()


def _stored() -> bytes:
    run = make_plan(make_study(_STUDY)).runs[-1]
    made = Record(run_id=run.run_id, run=run, environment={"python": "3"}).sealed()
    return made.model_dump_json(by_alias=True).encode()


def _outputs(folder: Path) -> bytes:
    ids, labels = np.array([f"{i:016x}" for i in range(8)]), np.arange(8) % 2
    part = SplitOutputs(ids, labels, np.eye(2)[labels])
    write_predictions(folder, {"selection": part, "report": part})
    return (folder / "predictions.parquet").read_bytes()


def _soft_labels(folder: Path) -> bytes:
    ids = np.array([f"{i:016x}" for i in range(8)])
    labels = soft_labels.SoftLabels(ids, np.eye(8, 2, dtype=np.float32), "t", ("a", "b"), "f", "c")
    return soft_labels.save(labels, folder).read_bytes()


def _saved_plan(folder: Path) -> dict[str, Any]:
    plan = make_plan(study := make_study(_STUDY))
    return {
        "study": study.model_dump(mode="json") | {"base_dir": str(folder)},
        "cells": [vars(cell) for cell in plan.cells],
        "runs": {run.run_id: run.model_dump(mode="json") for run in plan.runs},
    }


def _onnx() -> bytes:
    from onnx import TensorProto, helper

    table = helper.make_tensor("table", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    nodes = [helper.make_node("MatMul", ["x", "table"], ["logits"])]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2])
        for name in ("x", "logits")
    )
    graph = helper.make_graph(nodes, "g", [x], [y], [table])
    return helper.make_model(graph).SerializeToString()


def _export() -> bytes:
    variant = {
        "name": "onnx", "runtime": "onnx", "quantization": "none", "path": "onnx/model.onnx",
        "size_mb": 1.0, "metric": "accuracy", "score": 0.9, "gate": "passed",
    }  # fmt: skip
    values = {"schema": 1, "run_id": "r", "task": "t", "max_length": 16, "variants": [variant]}
    return json.dumps(values | {"checksums": {"onnx/model.onnx": "0" * 64}}).encode()


def _card_text() -> bytes:
    values = {
        "run_id": "r", "task": "t", "arm": "student/lora", "seed": 1, "kind": "classification",
        "text_columns": ["text"], "label_names": ["no", "yes"], "max_length": 16,
        "metric": "accuracy", "selection_score": 0.9, "report_score": 0.9, "chosen_because": "",
        "calibration": {"temperature": 1.5, "threshold": 0.4, "positive": "yes", "n": 100},
        "n": 100, "temperature": 1.0,
    }  # fmt: skip
    return json.dumps(values).encode()


_SCORES = [
    {"Task": "CoLA", "BERT FFT": 60.1, "BERT LoRA": 59.4, "BERT KD-LoRA": 57.0},
    {"Task": "RTE", "BERT FFT": 70.3, "BERT LoRA": 71.2, "BERT KD-LoRA": 66.0},
]
_CURVE = b'{"epoch": 1, "loss": 0.5}\n{"epoch": 2, "loss": 0.4}\n'
_RUNG = b'{"epoch": 1, "step": 4, "metric": "accuracy", "direction": 1, "score": 0.25}'
_METRICS = json.dumps(
    {
        "eval_accuracy": 0.9, "eval_loss": 0.3, "epoch": 3.0, "train_runtime": 12.0,
        "log_history": [{"eval_loss": 0.4, "epoch": 1}, {"eval_loss": 0.3, "epoch": 2}],
    }
).encode()  # fmt: skip
_REQUESTS = tuple(
    json.dumps(v).encode()
    for v in (
        {"text": "good film"},
        {"text": "good", "second": "bad"},
        {"texts": ["good", "bad"]},
        {"texts": [["good", "bad"], ["a", "b"]]},
    )
)
