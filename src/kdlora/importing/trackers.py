"""What trackers and evaluation tools write, as tables: lm-evaluation-harness, W&B, MLflow."""

from __future__ import annotations

import ast
import json
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdlora.errors import InputError
from kdlora.importing.mapping import ROW
from kdlora.importing.names import (
    arm_named,
    families_named,
    metric_named,
    task_named,
    with_students,
)
from kdlora.tables.reader import require_file
from kdlora.vocabulary.arm import GIVEN_TEACHER, Arm, labelled
from kdlora.vocabulary.task import TASKS

# The metric of lm-evaluation-harness that counts where the task is not known by name.
_USUAL = ("acc", "acc_norm", "mcc", "f1", "exact_match")
_NO_LABEL = re.compile(r"[^\w.+-]+")
_LONGEST = 1 << 20  # characters of a cell that is parsed as a dictionary


def is_lm_eval(values: Any) -> bool:
    """Whether JSON holds the results of lm-evaluation-harness."""
    return (
        isinstance(values, dict)
        and isinstance(values.get("results"), dict)
        and any(isinstance(values.get(k), dict) for k in ("configs", "config", "versions"))
        and all(isinstance(r, dict) for r in values["results"].values())
    )


def lm_eval_table(found: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    """One row a task of each file, by the file's name.

    Models of one family stand in one pair, where all their names tell theirs; else all models do.
    Those that would be one arm of it are told apart by their names, so that they are compared and
    not averaged.
    """
    rows = [row for where, values in found.items() for row in _lm_eval_rows(values, where)]
    models = [f"{row['model_name']} {row.pop('adapter')}".strip() for row in rows]
    arms = {m: row["arm"] for m, row in zip(models, rows, strict=True)}
    students = with_students(arms)  # a model as it is given is nobody's student
    arms = {m: arm if Arm.read(arm).is_given else students[m] for m, arm in arms.items()}
    pairs = _pairs_of(arms)
    alike: dict[tuple[str, str], list[str]] = {}
    for name, arm in arms.items():
        alike.setdefault((pairs[name], arm), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            arms |= {n: labelled(arms[n], label) for n, label in _short_names(names).items()}
    told = [row | {"arm": arms[m], "pair": pairs[m]} for m, row in zip(models, rows, strict=True)]
    return pd.DataFrame(told).infer_objects()


def _pairs_of(names: Iterable[str]) -> dict[str, str]:
    """Model -> the pair that it stands in."""
    several = list(names)
    if len(several) == 1:
        return {several[0]: several[0]}
    return families_named(several) or dict.fromkeys(several, "models")


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Names of models as labels: of paths as many last parts as tell all of them apart."""
    parts = {name: re.split(r"[/\\]", name.strip("/\\")) for name in names}
    for most in range(1, max(map(len, parts.values())) + 1):
        short = {name: _NO_LABEL.sub("-", "-".join(own[-most:])) for name, own in parts.items()}
        if len({*short.values()}) == len(names):
            return short
    return {name: f"model-{number}" for number, name in enumerate(names, 1)}


def _lm_eval_rows(values: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """One row a task of a file; groups of tasks, which sum others up, are left out."""
    config = values.get("config") if isinstance(values.get("config"), dict) else {}
    assert isinstance(config, dict)
    groups = values.get("group_subtasks")
    groups = {g for g, parts in groups.items() if parts} if isinstance(groups, dict) else set()
    name = str(values.get("model_name") or _argument(config, "pretrained") or "model")
    adapter = _argument(config, "peft")
    told = arm_named(f"{name} {adapter}") if adapter else arm_named(name)
    rows = []
    for task, results in values["results"].items():
        metrics: dict[str, Any] = {}
        for key, value in results.items():
            metric, _, _ = str(key).partition(",")
            if isinstance(value, int | float) and not isinstance(value, bool):
                metrics.setdefault(metric, value)
        metrics = {m: v for m, v in metrics.items() if not m.endswith("_stderr")}
        if task in groups or not metrics:
            continue
        row: dict[str, Any] = {
            "lm_eval_task": task_named(task) or task,
            "model_name": name,
            "adapter": adapter,
            "arm": told or str(GIVEN_TEACHER.with_adaptation("lora") if adapter else GIVEN_TEACHER),
            **dict(zip(("metric", "score"), _score_of(task, metrics), strict=True)),
            **{f"lm_eval.{m}": v for m, v in metrics.items()},
            ROW: f"{where}, {task}",
        }
        counts = values.get("n-samples")
        if isinstance(counts, dict) and isinstance(counts.get(task), dict):
            row["n_report"] = counts[task].get("effective")
        shots = values.get("n-shot")
        row["n_shot"] = shots.get(task) if isinstance(shots, dict) else None
        seed = config.get("random_seed")
        row["seed"] = seed if isinstance(seed, int) else None
        rows.append(row)
    if not rows:
        raise InputError(f"{where}: lm-evaluation-harness wrote no scores into it")
    return rows


def _score_of(task: str, metrics: Mapping[str, Any]) -> tuple[str, Any]:
    """The metric that counts and its value."""
    known = TASKS.get(task_named(task) or task)
    names = {metric_named(m) or m: m for m in metrics}
    if known is not None and known.primary in names:
        return known.primary, metrics[names[known.primary]]
    usual = next((m for m in _USUAL if m in metrics), next(iter(metrics)))
    return metric_named(usual) or usual, metrics[usual]


def _argument(config: Mapping[str, Any], name: str) -> str:
    """One of `model_args`, which are a text ("pretrained=a,peft=b") or an object."""
    given = config.get("model_args")
    if isinstance(given, dict):
        return str(given.get(name) or "")
    match = re.search(rf"(?:^|,){name}=([^,]*)", str(given or ""))
    return match[1] if match else ""


def without_dictionaries(table: pd.DataFrame) -> pd.DataFrame:
    """A table of W&B's API whose columns `summary` and `config` hold dictionaries, made flat."""
    if not {"summary", "config"} <= set(table.columns):
        return table
    rows = []
    for row in table.to_dict("records"):
        flat: dict[str, Any] = {}
        for column in ("config", "summary"):
            cell = row.pop(column)
            parsed = _dictionary(cell)
            if parsed is None:
                flat[column] = cell
            else:
                plain = {k: v for k, v in parsed.items() if not isinstance(v, dict | list)}
                flat |= {f"{column}.{k}": v for k, v in plain.items() if not str(k).startswith("_")}
        rows.append({**{str(k): v for k, v in row.items()}, **flat})
    return pd.DataFrame(rows)


def _dictionary(cell: Any) -> dict[str, Any] | None:
    if isinstance(cell, dict):
        return cell
    if not isinstance(cell, str) or len(cell) > _LONGEST or not cell.lstrip().startswith("{"):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(re.sub(r"\bnan\b", "None", cell) if parse is ast.literal_eval else cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return found if isinstance(found, dict) else None
    return None


def read_mlflow_database(path: Path) -> pd.DataFrame:
    """The runs of an MLflow database as `mlflow.search_runs` gives them: params, metrics, tags.

    Nothing is written to it. Raises InputError when it is none, or holds no runs.
    """
    require_file(path)
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            runs = connection.execute(
                "SELECT run_uuid, name, status FROM runs WHERE lifecycle_stage = 'active' "
                "ORDER BY start_time, run_uuid"
            ).fetchall()
            facts = {
                "params.": connection.execute("SELECT run_uuid, key, value FROM params").fetchall(),
                "metrics.": connection.execute(
                    "SELECT run_uuid, key, value FROM latest_metrics WHERE NOT is_nan"
                ).fetchall(),
                "tags.": connection.execute("SELECT run_uuid, key, value FROM tags").fetchall(),
            }
        finally:
            connection.close()
    except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
        raise InputError(f"{path.name} is no readable database of MLflow: {error}") from None
    if not runs:
        raise InputError(f"{path.name} is a database of MLflow without runs")
    rows: dict[str, dict[str, Any]] = {
        run: {"run_id": run, "name": name, "status": status, ROW: f"run {run}"}
        for run, name, status in runs
    }
    for prefix, found in facts.items():
        for run, key, value in found:
            if run in rows:
                rows[run][f"{prefix}{key}"] = value
    return pd.DataFrame(list(rows.values()))


def with_mirrored_flags(table: pd.DataFrame) -> pd.DataFrame:
    """Of kdlora's own mirror: the severities of the flags, in the order of `kdlora.flags`."""
    flags = next((c for c in ("tags.kdlora.flags", "kdlora.flags") if c in table), None)
    if flags is None:
        return table
    severities = []
    for row in table.to_dict("records"):
        names = [n for n in str(row[flags] or "").split(", ") if n and n != "nan"]
        said = [str(row.get(f"{flags.removesuffix('s')}.{n}", "")) for n in names]
        severities.append(", ".join(s.partition(":")[0] or "warning" for s in said))
    return table.assign(**{"kdlora.flag_severities": severities})
