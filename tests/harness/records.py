"""Records without a training."""

from __future__ import annotations

import json
from pathlib import Path

from kdlora.machine import processor_name
from kdlora.records.contents import sealed
from kdlora.records.frame import save_plan
from kdlora.records.record import Agreement, Efficiency, Flag, Quality, Record, TrainingFacts
from kdlora.records.store import Store
from kdlora.spec.plan import make_plan
from kdlora.spec.run import DistilledRun, Run
from kdlora.spec.study import Study


def record_of(run: Run, accuracy: float = 0.75) -> Record:
    """A finished run, as far as a mirror looks."""
    splits = {"selection": {"accuracy": 0.8, "mcc": None}, "report": {"accuracy": accuracy}}
    kd = isinstance(run, DistilledRun)
    return Record(
        run_id=run.run_id,
        run=run,
        facts=TrainingFacts(steps=20, planned_steps=20, device="cpu", precision="fp32"),
        quality=Quality(primary="accuracy", direction=1, splits=splits, n={"train": 576}),
        agreement=Agreement(teacher_run_id=run.teachers[0], agreement=0.9) if kd else None,
        efficiency=Efficiency(train_s=1.5, trainable_params=1234),
        health=[Flag(name="barely_trained", severity="warning", detail="20 steps")] if kd else [],
        environment={"versions": {"torch": "2.13.0"}, "commit": "abc"},
        started_at="2026-01-02T03:04:05+00:00",
        finished_at="2026-01-02T03:05:05+00:00",
    )


HISTORY = [
    {"step": 10, "epoch": 1.0, "train_loss": 0.7, "lr": 1e-3, "selection": {"accuracy": 0.6}},
    {"step": 20, "epoch": 2.0, "train_loss": 0.5, "lr": 5e-4, "selection": {"accuracy": 0.8}},
]


def half_done_study(spec: Study, root: Path) -> tuple[Store, dict[str, Run]]:
    """A study whose teacher and one student are done, and another failed; its runs by arm."""
    plan, store = make_plan(spec), Store(root)
    store.prepare()
    save_plan(store, spec, plan)
    arms = {str(run.arm): run for run in plan.runs}
    for arm in ("teacher/fft", "student/kd-lora"):
        folder = store.begin(arms[arm])
        (folder / "history.jsonl").write_text("".join(json.dumps(h) + "\n" for h in HISTORY))
        store.finish(record_of(arms[arm]))
    broken = arms["student/lora"]
    store.begin(broken)
    store.fail(record_of(broken).model_copy(
        update={"status": "failed", "error": "no memory", "quality": None}))  # fmt: skip
    return store, arms


def write_record(
    store: Store,
    run,
    seconds: float,
    *,
    flops: float = 1e12,
    threads: int = 1,
    gpu: str | None = None,
):
    """A whole record that says little but what a run took."""
    folder = store.folder(run.run_id)
    folder.mkdir(parents=True)
    record = Record(
        run_id=run.run_id,
        run=run,
        facts=TrainingFacts(precision="bf16"),
        environment={"processor": processor_name(), "threads": threads, "gpu": gpu},
        efficiency=Efficiency(
            train_s=seconds, train_flops=flops, peak_memory_mb=1000.0, saved_mb=3.0,
            train_tokens_per_s=500.0, train_examples_per_s=10.0,
        ),
        quality=Quality(
            primary="accuracy", direction=1, splits={},
            n={"train": 900, "selection": 100, "report": 50},
        ),
        started_at="2026-01-01T00:00:00+00:00",
        finished_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    values = record.model_dump(mode="json", by_alias=True)
    (folder / "record.json").write_text(json.dumps(sealed(values)), encoding="utf-8")
