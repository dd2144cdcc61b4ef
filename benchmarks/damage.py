"""Flip bits in, and cut off, every kind of file that is read back, and look what is read then.

What is read must be what was written, or nothing, or one of kdlora's own errors. Then such files
lie in a study that goes on: it must end with the numbers of an undisturbed one.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.tiny_study import tiny_study
from kdlora.data import batches
from kdlora.data.examples import Examples
from kdlora.distillation import soft_labels
from kdlora.distillation.hidden_states import ABOUT, STATES, Online, cache_states
from kdlora.errors import KdloraError
from kdlora.files import CHECKPOINT
from kdlora.measure import shape_cache
from kdlora.models.checkpoints import quiet
from kdlora.models.inner_states import Wanted
from kdlora.models.saved import load_trained
from kdlora.records import halving
from kdlora.records.artefact import Artefact, read_artefact, write_artefact
from kdlora.records.contents import read_history
from kdlora.records.frame import load_frame, save_plan
from kdlora.records.imported import PROVENANCE, TABLE, load_imported, write_imported
from kdlora.records.predictions import read_predictions
from kdlora.records.store import Store
from kdlora.ship.card import (
    Calibration,
    make_card,
    read_calibration,
    read_card,
    write_calibration,
)
from kdlora.ship.student import Merge, save_merged
from kdlora.spec.halving import Race
from kdlora.spec.plan import Plan
from kdlora.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from kdlora.training.forward import make_state_forward
from tests.harness.moods import sentences
from tests.harness.training import CPU, make_model

CUT = 0.25  # of the damages, the rest are flipped bits


@dataclass(frozen=True)
class Kind:
    """A kind of file, and what is understood of it: None where it is not trusted."""

    name: str
    file: Path
    read: Callable[[], Any]
    lease: bool = False  # only who holds the run reads it, and sets it aside


@dataclass
class Tally:
    """What became of the damages to one kind of file."""

    kind: str
    flips: int = 0
    cuts: int = 0
    named: int = 0  # one of kdlora's own errors
    untrusted: int = 0  # read as if it were not there
    unchanged: int = 0  # all that is read is as it was written
    wrong: list[str] = field(default_factory=list)


def damage_all(folder: Path, plan: Plan, done: Store, *, number: int, seed: int) -> list[Tally]:
    """`number` damages, spread over all kinds of files of a copy of the finished study `done`."""
    kinds = list(make_kinds(folder, plan, done))
    return [
        damage(kind, random.Random(f"{seed} {kind.name}"), -(-number // len(kinds)))
        for kind in kinds
    ]


def damage(kind: Kind, rng: random.Random, number: int) -> Tally:
    """Damage the file so often, and look each time; it is whole again afterwards."""
    tally, sound = Tally(kind.name), kind.file.read_bytes()
    expected = kind.read()
    assert expected is not None, kind.name
    for _ in range(number):
        content = harmed(sound, rng)
        tally.cuts += len(content) < len(sound)
        tally.flips += len(content) == len(sound)
        kind.file.write_bytes(content)
        _look(kind, expected, tally)
        aside = kind.file.parent.glob("*.damaged*")
        if not kind.lease and list(aside):
            tally.wrong.append("a reader moved it")
        for path in kind.file.parent.glob("*.damaged*"):
            path.unlink()
        kind.file.write_bytes(sound)
    if kind.read() != expected:
        tally.wrong.append("the sound file is not read any more")
    return tally


def _look(kind: Kind, expected: Any, tally: Tally) -> None:
    try:
        found = kind.read()
    except KdloraError:
        tally.named += 1
    except Exception as error:
        tally.wrong.append(f"{type(error).__name__}: {error}"[:200])
    else:
        if found is None:
            tally.untrusted += 1
        elif found == expected:
            tally.unchanged += 1
        else:
            tally.wrong.append("something else was read, without a word")


def harmed(sound: bytes, rng: random.Random) -> bytes:
    """The content with a bit flipped, or cut off anywhere."""
    if rng.random() < CUT:
        return sound[: rng.randrange(len(sound))]
    content = bytearray(sound)
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def make_kinds(folder: Path, plan: Plan, done: Store) -> Iterator[Kind]:
    """One sound file of each kind below `folder`, made by the code that makes them in a study."""
    store = Store(folder / "study")
    shutil.copytree(done.root, store.root)
    save_plan(store, tiny_study(done.root.parent / "inputs", seeds=1), plan)
    teacher = next(run for run in plan.runs if run.role == "teacher")
    student = plan.runs[-1]
    run_id, own = student.run_id, store.folder(student.run_id)
    frame = load_frame(store.root)
    yield Kind("record", own / "record.json", lambda: _dumped(store.read(run_id)))
    yield Kind("predictions", own / "predictions.parquet", lambda: _table(own))
    yield Kind("learning curve", own / "history.jsonl", lambda: read_history(own) or None)
    yield Kind("plan", store.root / "plan.json", lambda: _rows(load_frame(store.root)))
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        model = store.folder(teacher.run_id) / "model"
        yield Kind(f"model: {name}", model / name, partial(_weights, model))
    adapter = own / "model"
    yield Kind(
        "model: adapter", adapter / "adapter_model.safetensors", lambda: _weights(adapter, student)
    )
    failed = store.read(run_id)
    assert failed is not None
    (store.root / "runs" / "failed").mkdir()
    store.fail(failed.model_copy(update={"run_id": "failed", "status": "failed"}))
    yield Kind(
        "failure",
        store.folder("failed") / "failed.json",
        lambda: _dumped(store.read_failure("failed")),
    )
    yield from _of_teachers(store, teacher.run_id, folder)
    yield from _of_decisions(store)
    yield from _of_training(folder / "training")
    yield from _of_caches(folder / "caches")
    yield from _of_ship(store, own)
    write_imported(folder / "imported", _imported(frame), _PROVENANCE)
    for name in (TABLE, PROVENANCE):
        yield Kind(
            f"import: {name}",
            folder / "imported" / name,
            lambda: _rows(load_imported(folder / "imported")),
        )


def _of_teachers(store: Store, run_id: str, folder: Path) -> Iterator[Kind]:
    place = store.folder(run_id)

    def logits() -> Any:
        try:
            found = soft_labels.load(place)
        except soft_labels.DamagedCache:
            return None
        assert found is not None
        return (found.ids.tolist(), found.logits.tobytes(), found.label_names, found.teacher_run_id,
                found.data_fingerprint, found.teacher_checksum)  # fmt: skip

    yield Kind("a teacher's logits", place / soft_labels.FILE, logits)
    states = folder / "states"
    states.mkdir()
    tokenizer, rows = _tokenizer(store, run_id), _examples(40)
    texts = batches.encode(tokenizer, rows.texts, max_length=12)
    wanted = Wanted((0, 1))
    online = Online(make_state_forward(make_model().eval(), CPU, wanted), texts, CPU.device)

    def cached(teacher: Callable[[], Online]) -> Any:
        found = cache_states(
            teacher, states, texts=texts, ids=rows.ids, features=wanted.features(16), about="a",
            budget_mb=10, device=torch.device("cpu"),
        )  # fmt: skip
        assert found is not None
        return found.values.tobytes(), found.seconds

    cached(lambda: online)

    def again() -> Any:
        def never() -> Online:
            raise LookupError

        try:
            return cached(never)
        except LookupError:  # it asks the teacher again
            return None

    for name in (STATES, ABOUT):
        yield Kind(f"a teacher's states: {name}", states / name, again)


def _of_decisions(store: Store) -> Iterator[Kind]:
    race = Race(
        pair="p", task="t", seed=1, keep=0.5, rungs=(1,), candidates=(("a", "a"), ("b", "b"))
    )
    rungs = {
        run_id: halving.Rung(epoch=1, step=4, metric="accuracy", direction=1, score=score)
        for run_id, score in (("a", 0.25), ("b", 0.5))
    }
    for run_id, rung in rungs.items():
        store.folder(run_id).mkdir()
        halving.write_rung(store, run_id, rung)
    halving.record_decision(
        store, race, halving.decide(race, 1, [(i, i, rung) for i, rung in rungs.items()])
    )
    yield Kind(
        "score at a rung",
        store.folder("a") / "rung-1.json",
        lambda: _dumped(halving.read_rung(store, "a", 1)),
    )
    (path,) = (store.root / halving.FOLDER).iterdir()
    yield Kind("decision", path, lambda: _dumped(halving.read_decision(store.root, race, 1)))


def _of_training(folder: Path) -> Iterator[Kind]:
    folder.mkdir()
    model = make_model()
    trained = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3)
    for parameter in trained.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    best = {name: p.detach().clone() for name, p in trained.items()}
    progress = Progress(step=3, history=[{"step": 3, "selection": {"accuracy": 0.5}}])
    save_checkpoint(folder, progress, trained, best, optimizer, None)

    def state() -> Any:
        found = load_checkpoint(folder, CPU)
        return None if found is None else repr(_plain(found))

    yield Kind("checkpoint", folder / CHECKPOINT, state, lease=True)


def _of_caches(folder: Path) -> Iterator[Kind]:
    def never() -> dict[str, Any]:
        raise LookupError

    def kept(find: Callable[[], dict[str, Any]]) -> Any:
        try:
            return shape_cache.once(folder / "costs", ["a", 1], find)
        except LookupError:
            return None

    kept(lambda: {"flops": 12345.5, "timing": [1.25, 2.5]})
    (path,) = (folder / "costs").iterdir()
    yield Kind("costs of a shape", path, lambda: kept(never))
    ids = np.arange(500, dtype=np.int32) % 9
    offsets = np.arange(0, 501, 5)
    path = folder / "tokens.npz"
    batches._write(path, batches.Encoded(ids, offsets, None, 0, False))

    def tokens() -> Any:
        found = batches._read(path, 100, None)
        return found and (found.ids.tobytes(), found.offsets.tobytes(), found.pad_id)

    yield Kind("tokens", path, tokens)


def _of_ship(store: Store, own: Path) -> Iterator[Kind]:
    write_calibration(own, Calibration(temperature=1.5, threshold=0.4, positive="pos", n=16))
    yield Kind("calibration", own / "calibration.json", lambda: _dumped(read_calibration(own)))
    record, student = store.read(own.name), store.root / "student"
    assert record is not None
    card = make_card(record, own, "by hand", arm="student/kd-lora")
    save_merged(Merge(record, own / "model", student, card), print)
    yield Kind("student: weights", student / "model.safetensors", lambda: _weights(student))
    yield Kind("student: checksums", student / "checksums.json", lambda: _weights(student))
    yield Kind("student: card", student / "kdlora.json", lambda: _dumped(read_card(student)))
    variant = {
        "name": "onnx", "runtime": "onnx", "quantization": "none", "path": "onnx/model.onnx",
        "size_mb": 1.0, "metric": "accuracy", "score": 0.9, "gate": "passed",
    }  # fmt: skip
    made = Artefact.model_validate(
        {"run_id": "r", "task": "t", "max_length": 16, "variants": [variant]}
    )
    export = store.root / "export"
    export.mkdir()
    write_artefact(export, made)
    yield Kind("export", export / "export.json", lambda: _dumped(read_artefact(export)))


def _dumped(model: Any) -> Any:
    return None if model is None else model.model_dump_json()


def _table(folder: Path) -> Any:
    frame = read_predictions(folder).frame
    return [[str(v) for v in row] for row in frame.itertuples(index=False)]


def _rows(frame: pd.DataFrame) -> Any:
    return frame.to_json(orient="records", default_handler=str)


def _weights(folder: Path, run: Any = None) -> Any:
    with quiet():
        model, tokenizer = load_trained(folder, encoder=run.encoder if run is not None else None)
    state = [(name, value.numpy().tobytes()) for name, value in sorted(model.state_dict().items())]
    return state, tokenizer(["good film"])["input_ids"], str(model.config.id2label)


def _plain(value: Any) -> Any:
    """Tensors as bytes, at any depth."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _tokenizer(store: Store, run_id: str) -> Any:
    with quiet():
        return load_trained(store.folder(run_id) / "model")[1]


def _examples(n: int) -> Examples:
    texts, _ = sentences(n, 0)
    ids = np.array([f"{i:016x}" for i in range(n)])
    return Examples(ids=ids, texts=(texts,), labels=np.zeros(n, dtype=np.int64))


def _imported(frame: pd.DataFrame) -> pd.DataFrame:
    kept = frame[["task", "pair", "arm", "seed", "score", "metric", "status", "role"]].copy()
    kept["flags"] = [("a",)] * len(kept)
    return kept


_PROVENANCE: dict[str, Any] = {
    "study": "s", "source": "a.csv", "sha256": "0" * 64, "mapping": {}, "aggregates": 0,
    "kept_columns": [], "problems": [], "imported_at": "2026-01-01",
}  # fmt: skip
