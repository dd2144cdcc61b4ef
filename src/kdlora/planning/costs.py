"""What the runs of a plan will cost, learnt from the records that there are.

A run's work is computed in closed form (`planning.workload`) and becomes a first guess by a stated
rate. Records then say by which factor such guesses are off: the logarithm of the ratio is the sum
of an effect of the machine, the role, the adaptation, the task and so on, each drawn towards none
as far as data are lacking (ridge regression, Hoerl and Kennard 1970, with the penalty of a normal
prior), and of what the same settings took under other seeds. With no record the guess stands.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from kdlora.json_files import read_json_object
from kdlora.machine import computes_on
from kdlora.planning.workload import Rows, Workload, rows_key, rows_of, work_of
from kdlora.records.contents import changed_files
from kdlora.records.record import casts_doubt, checksum
from kdlora.records.store import Store
from kdlora.records.study_folder import RUNS
from kdlora.spec.plan import Plan
from kdlora.spec.run import (
    DistilledRun,
    EmbeddingsTeacherRun,
    EncoderRun,
    Run,
    TrainedRun,
    ZeroShotTeacherRun,
    adapter_of,
    encoder_of,
    read_run,
)

MEASURED = "measured run"
STATED = "from FLOPs and a stated rate"

_OVERHEAD_S = 4.0  # loading, building, saving and timing the model, beside its training
_RATES = {"bf16": 300e9, "fp32": 100e9}  # FLOP/s of one thread that trains an encoder
_THREADS_HELP = 0.7  # doubling the threads makes a run 2^0.7 times as fast
_MEMORY_BYTES_S = 10e9
_MOST_RECORDS = 3000  # to learn from; more teach nothing new

# Standard deviations of the effects, in the logarithm: how far a guess may be off for that reason.
_SPREAD = {
    "all": 1.2,
    "study": 0.3,  # whatever else the machine did meanwhile
    "processor": 0.7,
    "threads": 0.3,
    "precision": 0.5,
    "encoder": 0.3,
    "task": 0.3,
    "role": 0.2,
    "distillation": 0.2,
    "adaptation": 0.5,
}
_SPREAD_OF_SETTINGS = 0.15
_NOISE = 0.25
_Q90 = 1.2816  # of the normal distribution: between this many deviations lie 80 %

QUANTITIES = ("seconds", "flops", "peak_memory_mb", "disk_mb")


@dataclass(frozen=True)
class CostEstimate:
    """What one run costs: measured if it is done, learnt where records allow, else reckoned.

    `seconds` are wall-clock, from a run's start to its record; `flops` those of its training.
    `low_s` and `high_s` hold four of five runs; they are None where nothing was learnt.
    `disk_mb` is what the run itself keeps, `labels_mb` the logits that it is the first to ask of
    its teachers, and `passing_mb` what lies there only while it runs.
    """

    seconds: float
    flops: float
    peak_memory_mb: float
    disk_mb: float
    basis: str
    low_s: float | None = None
    high_s: float | None = None
    labels_mb: float = 0.0
    passing_mb: float = 0.0


@dataclass(frozen=True)
class CostRecord:
    """One record as the cost model sees it; a quantity that was not measured is NaN."""

    run: Run
    values: tuple[float, ...]  # in the order of QUANTITIES
    factors: Mapping[str, str]
    rows: Rows | None
    paid_labels: bool
    flagged: bool


@dataclass(frozen=True)
class CostModel:
    """Estimates of a plan, and how far to trust them.

    `off_by` is the factor within which half of all records lie when each is estimated from the
    others (leave-one-out); None with fewer than five.
    """

    estimates: dict[str, CostEstimate]
    observed: dict[str, CostRecord]
    learnt_from: int
    off_by: float | None
    rate_flops_per_s: float
    notes: tuple[str, ...] = ()


def estimate(plan: Plan, store: Store, *, others: Sequence[Store] = ()) -> dict[str, CostEstimate]:
    """Run id -> what it costs; `others` are further studies whose records teach."""
    return cost_model(plan, store, others=others).estimates


def cost_model(
    plan: Plan, store: Store, *, others: Sequence[Store] = (), threads: int | None = None
) -> CostModel:
    """Learn from the records of `store` and `others`, and estimate every run of the plan.

    Args:
        threads: of each worker; default as most records of this machine had, else all cores.
    """
    planned = {run.run_id: run for run in plan.runs}
    own = {o.run.run_id: o for o in observations(store, planned)}
    taught = [*own.values(), *(o for other in others for o in observations(other, planned))]
    taught = taught[:: math.ceil(len(taught) / _MOST_RECORDS) or 1]
    known = {rows_key(o.run.task, o.run.data): o.rows for o in taught if o.rows is not None}
    processor = computes_on()
    threads = threads or _usual_threads(taught, processor) or os.cpu_count() or 1
    guesses = _Guesses(known, {o.run.run_id: o.run for o in taught} | planned)
    fitted = _fit(taught, guesses)
    here = {"study": str(store.root), "processor": processor, "threads": str(threads)}

    labellers, closely = _labellers(plan), bool(fitted.of_settings)
    estimates: dict[str, CostEstimate] = {}
    answers: dict[tuple[Any, ...], CostEstimate] = {}
    for run_id, run in planned.items():
        labels = run_id in labellers
        key = (*_equal_costs(run, closely=closely), labels, guesses.asked(run))
        if key not in answers:
            factors = {**_factors(run), **here}
            work = guesses.work(run, labels=labels)
            answers[key] = replace(
                fitted.estimate(run, factors, _first_guess(work, factors)),
                labels_mb=work.labels_mb,
                passing_mb=work.passing_mb,
            )
        estimates[run_id] = answers[key]
        if run_id in own:
            estimates[run_id] = _measured(own[run_id], answers[key])
    return CostModel(
        estimates=estimates,
        observed=own,
        learnt_from=len(taught),
        off_by=fitted.off_by,
        rate_flops_per_s=_rate("auto", threads),
    )


def observations(store: Store, planned: Mapping[str, Run] | None = None) -> Iterator[CostRecord]:
    """The records of a study's folder; damaged ones teach nothing and are passed over.

    `planned` saves reading the settings of runs that are at hand already.
    """
    folder = store.root / RUNS
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    for name in names:
        try:
            values = read_json_object(folder / name / "record.json")
            if values["checksum"] != checksum(values):
                continue
            if changed_files(values.get("files", {}), folder / name, models=False):
                continue
            run = (planned or {}).get(name) or read_run(values["run"])
            yield _observed(run, values, str(store.root))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError):
            continue


def _observed(run: Run, record: dict[str, Any], study: str) -> CostRecord:
    costs, facts, environment = record["efficiency"], record["facts"], record["environment"]
    wall = datetime.fromisoformat(record["finished_at"]) - datetime.fromisoformat(
        record["started_at"]
    )
    spent = [costs.get(name) or 0.0 for name in ("train_s", "eval_s", "labelling_s")]
    seconds = max(wall.total_seconds(), sum(spent), 0.1)
    if facts.get("resumed"):  # it says when it began last, and what it trained in all
        seconds = sum(spent) + _OVERHEAD_S
    values = (
        seconds,
        costs.get("train_flops") or math.nan,
        costs.get("peak_memory_mb") or math.nan,
        (costs.get("saved_mb") or math.nan) + 0.1,
    )
    factors = {
        **_factors(run),
        "study": study,
        "processor": str(environment.get("gpu") or environment.get("processor")),
        "threads": str(environment.get("threads")),
        "precision": str(facts.get("precision") or "auto"),
    }
    n = (record.get("quality") or {}).get("n") or {}
    rows = None
    more_texts = isinstance(run, DistilledRun) and bool(run.unlabelled)
    if n and costs.get("train_tokens_per_s") and not more_texts:
        tokens = costs["train_tokens_per_s"] / costs["train_examples_per_s"]
        report = sum(count for split, count in n.items() if split.startswith("report"))
        rows = Rows(n["train"], n["selection"], report, tokens)
    flagged = any(casts_doubt(flag.get("severity")) for flag in record.get("health") or ())
    return CostRecord(run, values, factors, rows, (costs.get("labelling_s") or 0) > 0.5, flagged)


def _measured(observed: CostRecord, otherwise: CostEstimate) -> CostEstimate:
    """What was measured; what was not (a baseline has no FLOPs) as it is estimated."""
    numbers = {
        name: getattr(otherwise, name) if math.isnan(value) else value
        for name, value in zip(QUANTITIES, observed.values, strict=True)
    }
    kept = {"labels_mb": otherwise.labels_mb, "passing_mb": otherwise.passing_mb}
    return CostEstimate(**numbers, basis=MEASURED, **kept)


@dataclass
class _Guesses:
    """The work of runs, by the rows that records know of and the files tell."""

    known: Mapping[str, Rows]
    runs: Mapping[str, Run]  # by their ids
    _rows: dict[tuple[int, int], Rows] = field(default_factory=dict)

    def work(self, run: Run, *, labels: bool) -> Workload:
        key = (id(run.task), id(run.data))
        if key not in self._rows:
            self._rows[key] = rows_of(run.task, run.data, self.known)
        teacher = self.runs.get(run.teachers[0]) if run.teachers else None
        return work_of(run, self._rows[key], labels=labels, teacher=teacher)

    def asked(self, run: Run) -> tuple[str, str] | None:
        """What decides the work of a teacher that is no classifier, as `run` is or has one."""
        teacher = self.runs.get(run.teachers[0]) if run.teachers else run
        if isinstance(teacher, EmbeddingsTeacherRun):
            return teacher.embeddings.title, ""
        if not isinstance(teacher, ZeroShotTeacherRun):
            return None
        return teacher.entailment.title, teacher.zero_shot.hypothesis


def _first_guess(work: Workload, factors: Mapping[str, str]) -> np.ndarray:
    """What a run costs in the order of QUANTITIES, before anything is learnt."""
    threads = int(factors["threads"]) if factors["threads"].isdigit() else 1
    rate = _rate(factors["precision"], threads)
    return np.array([_seconds(work, rate), work.flops, work.memory_mb, work.disk_mb])


def _seconds(work: Workload, rate: float) -> float:
    overhead = _OVERHEAD_S if work.params else 1.0
    computing = (work.flops + work.other_flops) / rate
    return overhead + computing + work.optimizer_bytes / _MEMORY_BYTES_S


def _rate(precision: str, threads: int) -> float:
    if precision not in _RATES:
        precision = "bf16" if _has_fast_bf16() else "fp32"
    return _RATES[precision] * threads**_THREADS_HELP


@lru_cache(maxsize=1)
def _has_fast_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _factors(run: Run) -> dict[str, str]:
    """The properties of a run by which guesses are put right."""
    adapter, encoder = adapter_of(run), encoder_of(run)
    return {
        "all": "",
        "role": run.role,
        "adaptation": f"{run.adaptation} {adapter.method if adapter else ''}",
        "distillation": run.distillation,
        "task": run.task.name,
        "encoder": encoder.title if encoder else "",
        "precision": run.training.precision if isinstance(run, EncoderRun) else "",
    }


def _equal_costs(run: Run, *, closely: bool) -> tuple[Any, ...]:
    """Equal for runs of one plan that are estimated alike: they share these objects.

    `closely`: all settings count, not only those that make work.
    """
    if not isinstance(run, EncoderRun):
        return (run.role, run.adaptation, id(run.task), id(run.data))
    kd, texts = (run.kd, run.unlabelled) if isinstance(run, DistilledRun) else (None, ())
    counted = run.counted if isinstance(run, TrainedRun) else ()
    parts = (run.task, run.data, run.encoder, adapter_of(run), kd, run.reference)
    key = (run.role, run.adaptation, len(run.teachers), texts, counted, *map(id, parts))
    training = run.training
    if closely:
        return (*key, id(training))
    return (
        *key,
        training.epochs,
        training.min_steps,
        training.batch_size,
        training.micro_batch_size,
        training.max_length,
        training.windows,
        training.precision,
        training.evals_per_epoch,
    )


def _settings(run: Run) -> str:
    """The same for runs that were read from records."""
    return run.model_dump_json(
        include={"task", "role", "adaptation", "data", "encoder", "training", "adapter", "kd"}
    )


def _labellers(plan: Plan) -> set[str]:
    """The students that compute their teachers' logits: the first of each teacher."""
    first: dict[str, str] = {}
    for run in plan.runs:
        for teacher in run.teachers:
            first.setdefault(teacher, run.run_id)
    return set(first.values())


def _usual_threads(observed: Iterable[CostRecord], processor: str) -> int | None:
    found = Counter(
        int(o.factors["threads"])
        for o in observed
        if o.factors["processor"] == processor and o.factors["threads"].isdigit()
    )
    return found.most_common(1)[0][0] if found else None


@dataclass(frozen=True)
class _Effects:
    """One quantity's ridge regression: mean and covariance of the effects, and the noise."""

    mean: np.ndarray
    covariance: np.ndarray
    noise: float
    left_out: np.ndarray  # residuals, each from the other records


@dataclass(frozen=True)
class _Fitted:
    """All quantities' effects by level, and what each setting deviates beyond them."""

    columns: dict[tuple[str, str], int]
    effects: dict[str, _Effects]
    of_settings: dict[str, tuple[float, int]]  # sum of the seconds' residuals, and their number
    n: int

    @property
    def off_by(self) -> float | None:
        if self.n < 5 or "seconds" not in self.effects:
            return None
        return float(np.exp(np.median(np.abs(self.effects["seconds"].left_out))))

    def estimate(self, run: Run, factors: Mapping[str, str], guess: np.ndarray) -> CostEstimate:
        row = _row(factors, self.columns)
        unknown = sum(_SPREAD[p[0]] ** 2 for p in factors.items() if p not in self.columns)
        numbers: dict[str, float] = {}
        low = high = None
        for number, name in enumerate(QUANTITIES):
            value = float(guess[number])
            if name in self.effects:
                effects = self.effects[name]
                shift = float(row @ effects.mean)
                variance = unknown + float(row @ effects.covariance @ row) + effects.noise**2
                if name == "seconds":
                    extra, spread = self._deviation(run, effects.noise)
                    shift, variance = shift + extra, variance + spread
                    reach = math.exp(_Q90 * math.sqrt(variance))
                    low, high = value * math.exp(shift) / reach, value * math.exp(shift) * reach
                value *= math.exp(shift)
            numbers[name] = value
        basis = f"learnt from {self.n} runs" if self.effects else STATED
        return CostEstimate(**numbers, basis=basis, low_s=low, high_s=high)

    def _deviation(self, run: Run, noise: float) -> tuple[float, float]:
        """What runs of these very settings took beyond the effects, and its variance."""
        total, n = self.of_settings.get(_settings(run), (0.0, 0)) if self.of_settings else (0.0, 0)
        prior = _SPREAD_OF_SETTINGS**2
        return total / (n + noise**2 / prior), prior / (1 + n * prior / noise**2)


def _row(factors: Mapping[str, str], columns: Mapping[tuple[str, str], int]) -> np.ndarray:
    row = np.zeros(len(columns))
    for pair in factors.items():
        if pair in columns:
            row[columns[pair]] = 1.0
    return row


def _fit(observed: Sequence[CostRecord], guesses: _Guesses) -> _Fitted:
    if not observed:
        return _Fitted({}, {}, {}, 0)
    columns: dict[tuple[str, str], int] = {}
    for one in observed:
        for pair in one.factors.items():
            columns.setdefault(pair, len(columns))
    matrix = np.array([_row(o.factors, columns) for o in observed])
    spread = np.array([_SPREAD[name] for name, _ in columns])
    guessed = np.array(
        [_first_guess(guesses.work(o.run, labels=o.paid_labels), o.factors) for o in observed]
    )
    measured = np.array([o.values for o in observed])
    effects: dict[str, _Effects] = {}
    for number, name in enumerate(QUANTITIES):
        good = np.isfinite(measured[:, number]) & (measured[:, number] > 0)
        good &= guessed[:, number] > 0
        if good.any():
            ratio = np.log(measured[good, number] / guessed[good, number])
            effects[name] = ridge(matrix[good], ratio, spread)
    of_settings: dict[str, tuple[float, int]] = {}
    if "seconds" in effects:
        residuals = np.log(measured[:, 0] / guessed[:, 0]) - matrix @ effects["seconds"].mean
        for one, residual in zip(observed, residuals, strict=True):
            total, n = of_settings.get(_settings(one.run), (0.0, 0))
            of_settings[_settings(one.run)] = (total + float(residual), n + 1)
    return _Fitted(columns, effects, of_settings, len(observed))


def ridge(matrix: np.ndarray, target: np.ndarray, spread: np.ndarray) -> _Effects:
    """Effects [p] of the columns of `matrix` [n, p] on `target` [n], each N(0, spread^2) before.

    The noise is first assumed, then taken from the leave-one-out residuals (by their median, since
    a run beside other work may take any time); those residuals are exact, by the hat matrix.
    """
    noise = _NOISE
    for last in (False, True):
        covariance = np.linalg.inv(matrix.T @ matrix / noise**2 + np.diag(1 / spread**2))
        mean = covariance @ matrix.T @ target / noise**2
        leverage = np.einsum("ij,jk,ik->i", matrix, covariance, matrix) / noise**2
        left_out = (target - matrix @ mean) / np.maximum(1 - leverage, 1e-9)
        if not last and len(target) >= 5:
            noise = float(np.clip(1.4826 * np.median(np.abs(left_out)), 0.03, 1.0))
    return _Effects(mean, covariance, noise, left_out)
