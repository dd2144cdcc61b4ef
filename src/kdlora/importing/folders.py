"""Folders of JSON files, one run a folder, as the Hugging Face Trainer and others leave them.

Which run a folder holds is read from its path (by a mapping's pattern, else by the names of tasks,
methods and seeds in it) and from what lies beside the metrics: a Trainer's state, the config of an
adapter, the config of a model.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from kdlora.errors import InputError, Problems
from kdlora.files import real_path
from kdlora.importing.mapping import ROW, Mapping
from kdlora.importing.names import (
    arm_named,
    families_named,
    task_named,
    tokens_of,
    with_students,
)
from kdlora.importing.read import flatten, load_json
from kdlora.importing.trackers import is_lm_eval, lm_eval_table
from kdlora.vocabulary.arm import Arm

STATE, ADAPTER, MODEL = "trainer_state.json", "adapter_config.json", "config.json"
LM_EVAL = ("results_*.json", "results.json")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_SEED = re.compile(r"(?:^|[^a-z0-9])(?:seed|s)[-_=]?(\d{1,9})(?![a-z0-9])", re.IGNORECASE)
_RANK = re.compile(r"(?:^|[^a-z0-9])(?:rank|r)[-_=]?(\d{1,4})(?![a-z0-9])", re.IGNORECASE)
_MOST_FILES = 100_000


def lm_eval_files(folder: Path) -> list[Path]:
    """The files below a folder that lm-evaluation-harness wrote its results into."""
    found = sorted({p for name in LM_EVAL for p in folder.rglob(name) if p.is_file()})
    return [path for path in found if is_lm_eval(_quietly(path))]


def read_lm_eval(folder: Path, files: list[Path]) -> pd.DataFrame:
    """One row a task of each file."""
    return lm_eval_table({p.relative_to(folder).as_posix(): load_json(p) for p in files})


def read_folder(folder: Path, mapping: Mapping) -> tuple[pd.DataFrame, list[str]]:
    """One row a run: its JSON file named in `mapping.files`, and what its place says of it.

    The second value tells what was assumed by the words of paths.

    Where a folder has files of several of these names, those of the first are read; a pattern may
    name several runs of one folder. Checkpoints inside a run are no runs of their own. Raises
    InputError when there is no file, or when some cannot be read (all of them named).
    """
    paths = _run_files(folder, mapping.files)
    if not paths:
        raise InputError(
            f"no {' or '.join(mapping.files)} below {folder}; `files` in a mapping names others"
        )
    pattern = re.compile(mapping.path) if mapping.path else None
    rows: list[dict[str, Any]] = []
    assumed: dict[str, str] = {}
    wrong = Problems(str(folder))
    for path in paths:
        relative = path.relative_to(folder).as_posix()
        # the folder's own name may be part of the pattern when a single run is imported
        place = f"{real_path(folder).name}/{relative}"
        try:
            values = load_json(path)
            if not isinstance(values, dict):
                raise InputError(f"{path.name}: expected an object with metrics")
            beside = _beside(path)
        except InputError as error:
            wrong.add(*(f"{relative}: {p.partition(': ')[2] or p}" for p in error.problems))
            continue
        match = pattern.search(place) if pattern else None
        named = {k: v for k, v in match.groupdict().items() if v is not None} if match else {}
        if match is None:
            named = _named_by(relative if relative != path.name else place)
            if arm := _with_adapter(named.get("strategy"), beside.pop("strategy", None)):
                assumed[relative] = arm
        own = _last_evaluation(values) | flatten(values) if path.name == STATE else flatten(values)
        rows.append({**named, **beside, **own, **(named if match else {}), ROW: relative})
    wrong.raise_any()
    assumed, families = _by_encoders(assumed, rows)
    for row in rows:
        if row[ROW] in assumed:
            row |= {"strategy": assumed[row[ROW]], **families.get(row[ROW], {})}
    told = "; ".join(f"{place} is {arm}" for place, arm in list(assumed.items())[:4])
    more = f" and {len(assumed) - 4} more" if len(assumed) > 4 else ""
    notes = [f"arm: assumed by path ({told}{more}); a mapping with `path` says otherwise"]
    return pd.DataFrame(rows).infer_objects(), notes if assumed else []


def _by_encoders(
    arms: dict[str, str], rows: list[dict[str, Any]]
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The arms with the students that the encoders tell, and the pair of each path where paths
    hold several families and nothing else says a pair."""
    encoders = {row[ROW]: str(row.get("encoder") or "") for row in rows}
    names = {f"{Path(place).with_suffix('')} {encoders[place]}": place for place in arms}
    told = with_students({name: arms[place] for name, place in names.items()})
    silent = not any("pair" in row or "model_family" in row for row in rows)
    families = families_named(names) if silent else {}
    return (
        {names[name]: arm for name, arm in told.items()},
        {names[name]: {"pair": family} for name, family in families.items()},
    )


def _with_adapter(named: str | None, adapter: str | None) -> str | None:
    """The arm that a path names, with the method that the adapter's config states."""
    if named is None or adapter is None:
        return named or adapter
    return str(Arm.read(named).with_adaptation(Arm.read(adapter).adaptation))


def _run_files(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """The files of the runs: of each run's folder those of the first name that is there."""
    best: dict[Path, tuple[tuple[int, int], list[Path]]] = {}
    for order, name in enumerate(names):
        for path in sorted(folder.rglob(name))[:_MOST_FILES]:
            if not path.is_file():
                continue
            run, checkpoint = path.parent, 0
            if (match := _CHECKPOINT.fullmatch(run.name)) and run != folder:
                run, checkpoint = run.parent, int(match[1])
            # results beside the checkpoints count before those of the last checkpoint
            rank = (order if not checkpoint else len(names) + order, -checkpoint)
            known, found = best.get(run, (rank, []))
            if rank < known:
                best[run] = (rank, [path])
            elif rank == known:
                best[run] = (rank, [*found, path])
    return sorted(
        (path for _, found in best.values() for path in found), key=lambda p: (p.parent, p.name)
    )


def _quietly(path: Path) -> Any:
    try:
        return load_json(path)
    except InputError:
        return None


def _beside(path: Path) -> dict[str, Any]:
    """What other files of a run's folder say: the curve, the adapter, the encoder and the task."""
    found: dict[str, Any] = {}
    state = path.with_name(STATE)
    if path.name != STATE and state.is_file():
        values = load_json(state)
        if isinstance(values, dict):
            curve = {
                "log_history": values.get("log_history"),
                "total_flos": values.get("total_flos"),
            }
            found |= flatten({k: v for k, v in curve.items() if v is not None})
    model = _object(path.with_name(MODEL))
    task = model.get("finetuning_task")
    found |= {"encoder": model.get("_name_or_path"), "task": task}
    adapter = _object(path.with_name(ADAPTER))
    if adapter:
        found |= {
            "strategy": _peft_arm(adapter),
            "rank": adapter.get("r"),
            "alpha": adapter.get("lora_alpha"),
            "encoder": adapter.get("base_model_name_or_path") or found["encoder"],
        }
    return {k: v for k, v in found.items() if v not in (None, "")}


def _object(path: Path) -> dict[str, Any]:
    values = load_json(path) if path.is_file() else {}
    return values if isinstance(values, dict) else {}


def _peft_arm(adapter: dict[str, Any]) -> str:
    """The arm of an adapter's config; that it was distilled stands in no config."""
    method = str(adapter.get("peft_type") or "peft").lower()
    if method == "lora":
        for name, is_it in (
            ("dora", adapter.get("use_dora")),
            ("rslora", adapter.get("use_rslora")),
            ("olora", str(adapter.get("init_lora_weights")).lower() == "olora"),
        ):
            method = name if is_it else method
    return str(Arm("teacher", method))


def _named_by(relative: str) -> dict[str, Any]:
    """Task, arm, seed and rank as the words of a path say them."""
    words = tokens_of(relative)
    pairs = [f"{a}-{b}" for a, b in pairwise(words)]
    task = next((t for word in (*pairs, *words) if (t := task_named(word))), None)
    arm = arm_named(str(Path(relative).parent)) or arm_named(str(Path(relative).with_suffix("")))
    found: dict[str, Any] = {"task": task, "strategy": arm}
    for name, pattern in (("seed", _SEED), ("rank", _RANK)):
        match = pattern.search(relative)
        found[name] = match[1] if match else None
    return {k: v for k, v in found.items() if v is not None}


def _last_evaluation(state: dict[str, Any]) -> dict[str, Any]:
    """The scores of a Trainer's state: at its best checkpoint where it names one, else the last."""
    entries = [
        e for e in state.get("log_history") or ()
        if isinstance(e, dict) and any(str(k).startswith("eval_") for k in e)
    ]  # fmt: skip
    if not entries:
        return {}
    checkpoint = _CHECKPOINT.search(str(state.get("best_model_checkpoint") or ""))
    best = state.get("best_global_step") or (int(checkpoint[1]) if checkpoint else None)
    chosen = next((e for e in entries if e.get("step") == best), entries[-1])
    return {k: v for k, v in chosen.items() if str(k).startswith("eval_") or k == "epoch"}
