"""All runs of a study as one tidy frame: a row a cell, a column a fact; reports start here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import ValidationError

from kdlora.errors import StoreError
from kdlora.records.contents import HISTORY, read_history, read_sealed, sealed
from kdlora.records.fairness import ASKED, WEIGHTING, asked_of, flag_unequal
from kdlora.records.halving import Stop, stopped_runs
from kdlora.records.imported import TABLE, load_imported
from kdlora.records.record import Record, TaskFacts, recorded_licences, task_facts
from kdlora.records.store import Store, write_json, write_text
from kdlora.records.study_folder import PLAN_FILE, RUNS, STUDY_FILE, find_study
from kdlora.spec.adapter import Adapter
from kdlora.spec.encoders import Pair
from kdlora.spec.halving import Halving, races
from kdlora.spec.plan import Plan
from kdlora.spec.run import (
    DistilledRun,
    EncoderRun,
    Run,
    TrainedRun,
    adapter_of,
    encoder_of,
    read_run,
)
from kdlora.spec.study import Study
from kdlora.vocabulary.arm import labelled, teaching_arm
from kdlora.vocabulary.task import KINDS

_FACTS = (
    "precision",
    "device",
    "attention",
    "steps",
    "planned_steps",
    "stopped",
    "best_step",
    "micro_batch_size",
    "resumed",
)


def save_plan(store: Store, study: Study, plan: Plan) -> None:
    """Keep the study beside its records: a report needs only the folder, a rerun `study.yaml`."""
    write_text(
        store.root / STUDY_FILE,
        yaml.safe_dump(study.located().as_file(), sort_keys=False),
    )
    values = {
        "study": {**study.model_dump(mode="json"), "base_dir": study.base_dir},
        "cells": [vars(cell) for cell in plan.cells],
        "runs": {run.run_id: run.model_dump(mode="json") for run in plan.runs},
    }
    write_json(store.root / PLAN_FILE, sealed(values))


def read_plan(root: Path) -> dict[str, Any]:
    """The saved plan of a study's folder. Raises StoreError when it is no such folder."""
    path = root / PLAN_FILE
    try:
        return read_sealed(path)
    except FileNotFoundError:
        raise StoreError(
            f"{root} holds no study: expected {PLAN_FILE} there. Run `kdlora run study.yaml` or "
            "`kdlora demo` first, or name the folder that its last line printed"
        ) from None
    except (OSError, ValueError) as error:
        raise StoreError(
            f"cannot read {path}: {error}. Records are untouched; `kdlora run` with the study file "
            "writes the plan anew"
        ) from None


# What a plan that lacks something, or holds another kind of thing, makes its reading end with.
_OF_A_PLAN = (KeyError, TypeError, AttributeError, IndexError, ValidationError)


def load_frame(root: str | Path) -> pd.DataFrame:
    """One row per planned cell, done, failed, stopped or missing; columns as `row` gives them.

    `root` is the study's folder, or its name below ``results``. A run shared by several cells
    stands in several rows with the same `run_id`. The flags are those of the records, and those
    of runs that were not trained like the others of their task and pair (`fairness`). A folder of
    imported results gives their rows instead.
    """
    root = find_study(root)
    if (root / TABLE).is_file():
        return load_imported(root)
    plan = read_plan(root)
    try:
        return _planned_frame(root, plan)
    except _OF_A_PLAN as error:  # damaged, or written by hand
        problem = (str(error).splitlines() or ["?"])[0]
        raise StoreError(
            f"{root / PLAN_FILE} is no plan that can be used ({type(error).__name__}: {problem}). "
            "Records are untouched; `kdlora run` with the study file writes the plan anew"
        ) from error


def _planned_frame(root: Path, plan: dict[str, Any]) -> pd.DataFrame:
    store = Store(root)
    damaged: dict[str, str] = {}
    pairs = {pair["name"]: Pair.model_validate(pair) for pair in plan["study"]["pairs"]}
    teachers = {  # who teaches by the plan; `evidence.teacher` knows who did
        name: str(teaching_arm(plan["study"]["arms"], given=pair.arrives_trained))
        for name, pair in pairs.items()
    }
    stops = stopped_runs(root, races(_halving(plan), plan["cells"]))
    records: dict[str, Record | None] = {}
    facts: dict[str, TaskFacts | None] = {}
    rows = []
    for cell in plan["cells"]:
        run_id = cell["run_id"]
        if run_id not in records:
            record = store.read(run_id) or store.read_failure(run_id)
            records[run_id] = record
            if record is None and (files := store.damage(run_id)):
                damaged[run_id] = f"damaged, so not counted: {', '.join(p.name for p in files)}"
            facts[run_id] = task_facts(record, store.folder(run_id)) if record else None
        run = read_run(plan["runs"][run_id])
        rows.append(
            {
                "study": plan["study"]["name"],
                **row(run, records[run_id], stops.get(run_id), facts[run_id]),
                **({"error": damaged[run_id]} if run_id in damaged else {}),
                "arm": labelled(run.arm, cell.get("label", "")),
                "label": cell.get("label", ""),
                "pair": cell["pair"],
                "teacher": pairs[cell["pair"]].teacher,
                "teacher_arm": teachers[cell["pair"]],
                "student": pairs[cell["pair"]].student_title,
                "source": str(store.folder(run_id) / "record.json"),
                ASKED: asked_of(run),
            }
        )
    return flag_unequal(pd.DataFrame(rows)).drop(columns=ASKED, errors="ignore")


def _halving(plan: dict[str, Any]) -> tuple[Halving, ...]:
    return tuple(Halving.model_validate(h) for h in plan["study"].get("halving", ()))


def row(
    run: Run, record: Record | None, stop: Stop | None = None, facts: TaskFacts | None = None
) -> dict[str, Any]:
    """The facts of one run, flat. Missing ones are absent, and so NaN in the frame.

    `stop` tells of an early decision against a run that has no record: it is "stopped". `facts`
    say what its task is.
    """
    values: dict[str, Any] = {
        "run_id": run.run_id,
        "task": run.task.name,
        "role": run.role,
        "adaptation": run.adaptation,
        "distillation": run.distillation,
        "arm": run.title,
        "base_arm": run.arm,
        "seed": run.seed,
        "encoder": encoder.title if (encoder := encoder_of(run)) else None,
        "teacher_run_id": next(iter(run.teachers), None),
        "teacher_run_ids": run.teachers,
        "lr": run.lr if isinstance(run, TrainedRun) and run.adaptation != "frozen" else None,
        "max_train": run.data.max_train,
        "status": record.status if record else "missing",
        "error": record.error if record else None,
        "flags": tuple(flag.name for flag in record.health) if record else (),
        "flag_details": tuple(flag.detail for flag in record.health) if record else (),
        "flag_severities": tuple(flag.severity for flag in record.health) if record else (),
    }
    if adapter := adapter_of(run):
        values |= _adapter(adapter, record)
    if isinstance(run, EncoderRun):
        stepless = run.adaptation == "frozen"
        for name in ("max_length",) if stepless else ("batch_size", "epochs", "max_length"):
            values[name] = getattr(run.training, name)
        if (windows := run.training.windows) is not None:
            values["windows"] = windows.title
        if record is not None and record.facts.planned_epochs is not None:
            values["epochs"] = round(record.facts.planned_epochs, 1)
    if isinstance(run, TrainedRun):
        values |= WEIGHTING | run.training.weighting
        if run.head_lr is not None:
            values["head_lr"] = run.head_lr
    if isinstance(run, DistilledRun):
        values |= {"temperature": run.kd.temperature, "kd_weight": run.kd.kd_weight}
        values |= {"signals": "+".join(run.kd.signals.names), "n_teachers": len(run.teachers)}
        taught = record.facts.teaching if record else None
        if taught is not None and taught.unlabelled is not None:
            values["n_unlabelled"] = taught.unlabelled["used"]
    if stop is not None and (record is None or record.status != "done"):
        values |= {"status": "stopped", "error": str(stop), "stopped_epoch": stop.epoch}
        values |= {"rung_score": stop.score, "rung_metric": stop.metric}
        return values
    if record is None or record.quality is None:
        return values

    quality, training = record.quality, record.facts
    licences = recorded_licences(record)
    values |= {"licence": licences.get("encoder"), "data_licence": licences.get("data")}
    if facts is not None:
        values |= {
            "task_kind": facts.kind,
            "label_names": facts.label_names,
            "positive_class": facts.positive,
        }
        if KINDS[facts.kind].numeric and isinstance(run, TrainedRun):
            # records from before a target was standardised do not say so
            scaled = training.target_scale is not None
            values["target"] = "standardised" if scaled else "in its own unit"
    values |= {
        "metric": quality.primary,
        "direction": quality.direction,
        "score": quality.score,
        "selection_score": quality.splits["selection"].get(quality.primary),
        "n_train": quality.n["train"],
        "n_selection": quality.n["selection"],
        "n_report": quality.n["report"],
        "per_class_f1": quality.per_class_f1,
        "per_label": {name: one.model_dump() for name, one in quality.per_label.items()},
        "confusion": quality.confusion,
    }
    for split, metrics in quality.splits.items():
        values |= {f"{split}.{name}": value for name, value in metrics.items()}
    values |= {k: v for k, v in record.efficiency.model_dump().items() if v is not None}
    if folded := training.cross_validation:
        values |= {"cv_folds": folded.folds, "cv_rows": folded.rows, "cv_right": folded.right}
    if record.agreement:
        shared = record.agreement
        values |= {
            "agreement": shared.agreement,
            "agreement_per_label": {
                name: one.model_dump() for name, one in shared.per_label.items()
            },
            "kappa": shared.kappa,
            "agreement_chance": shared.chance,
            "agreement_lower": shared.lower_bound,
            "agreement_upper": shared.upper_bound,
            "teacher_score": shared.teacher_score,
            "teacher_pearson": shared.pearson,
        }
    values |= {name: getattr(training, name) for name in _FACTS}
    values |= {
        "environment": record.environment,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
    }
    return values


def _adapter(adapter: Adapter, record: Record | None) -> dict[str, Any]:
    """The adapter's settings; a budget's rank is known once the run has resolved it."""
    values: dict[str, Any] = {"targets": ",".join(adapter.targets)}
    if adapter.method is not None:
        rank = adapter.config.get("r")
        return {
            **values,
            "method": adapter.method,
            "rank": rank if isinstance(rank, int) else None,
            "adapter_params": record.facts.adapter_params if record else None,
        }
    if adapter.budget is not None:
        values["budget"] = adapter.budget
        if record and record.facts.adapter_rank:
            adapter = adapter.at_rank(record.facts.adapter_rank)
    if adapter.rank is not None:
        values |= {"rank": adapter.rank, "alpha": adapter.alpha_value}
    if record:
        values["adapter_params"] = record.facts.adapter_params
    return values


def positive_place(rows: pd.DataFrame) -> int | None:
    """Where the class that a task asks about stands among its classes, as its records say."""
    found = _positive(rows)
    return None if found is None else found[1]


def positive_class(rows: pd.DataFrame) -> str | None:
    """The class that a task asks about, as its records say."""
    found = _positive(rows)
    return None if found is None else found[0]


def _positive(rows: pd.DataFrame) -> tuple[str, int] | None:
    for row in rows.to_dict("records"):
        names, positive = row.get("label_names"), row.get("positive_class")
        if isinstance(names, tuple) and positive in names:
            return str(positive), names.index(positive)
    return None


def load_histories(root: str | Path) -> dict[str, list[dict[str, Any]]]:
    """Learning curves by run id: one row an evaluation of the selection split."""
    folders = (path.parent for path in sorted((Path(root) / RUNS).glob(f"*/{HISTORY}")))
    curves = {folder.name: read_history(folder) for folder in folders}
    return {run_id: curve for run_id, curve in curves.items() if curve}
