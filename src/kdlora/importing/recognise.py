"""A mapping for tables whose columns say what they are: trackers' exports and tables of papers.

    long    a row a run: `task_name`, `method`, `seed`, `eval/accuracy`, ... under any usual name
    wide    a row a method and a column a task, or a row a task and a column a method

What is assumed on the way (the metric of a task, the pair of an encoder, the role of a method) is
told in sentences. The mapping itself is kept with the import, and can be written into a file and
changed where the assumption is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from kdlora.errors import InputError
from kdlora.importing.mapping import ROW, ColumnMapping, Mapping, Melt, built_in
from kdlora.importing.names import (
    arm_named,
    bracketed,
    families_named,
    family_of,
    metric_named,
    task_named,
    tokens_of,
    with_students,
)
from kdlora.importing.numbers import FACTORS, is_nothing, plain_text, quantity_of
from kdlora.vocabulary.metric import METRICS
from kdlora.vocabulary.task import TASKS

Recognised = tuple[Mapping, list[str]]

# tidy column -> the names that it has elsewhere, the best first
FIELDS: dict[str, tuple[str, ...]] = {
    "task": ("task", "task_name", "dataset", "dataset_name", "glue_task", "finetuning_task"),
    "pair": ("pair", "model_family", "family"),
    "seed": ("seed", "random_seed", "run_seed", "training_seed"),
    "rank": ("rank", "lora_rank", "lora_r", "adapter_rank", "peft_r", "r"),
    "alpha": ("alpha", "lora_alpha"),
    "lr": ("lr", "learning_rate"),
    "batch_size": ("batch_size", "per_device_train_batch_size", "train_batch_size"),
    "epochs": ("epochs", "num_train_epochs", "num_epochs", "epoch"),
    "max_length": ("max_length", "max_seq_length", "max_seq_len"),
    "encoder": ("encoder", "model_name_or_path", "model_name", "model", "backbone", "base_model",
                "base_model_name_or_path"),
    "teacher": ("teacher", "teacher_model", "teacher_name_or_path", "teacher_model_name_or_path"),
    "student": ("student", "student_model", "student_name_or_path", "student_model_name_or_path"),
    "status": ("status", "state"),
    "metric": ("metric", "metric_name"),
    "score": ("score", "metric_value", "primary_metric"),
    "trainable_params": ("trainable_params", "trainable_parameters", "num_trainable_params",
                         "num_trainable_parameters", "n_trainable_params"),
    "total_params": ("total_params", "total_parameters", "num_parameters"),
    "train_s": ("train_s", "train_runtime", "train_time", "training_time", "train_time_s"),
    "train_examples_per_s": ("train_samples_per_second",),
    "train_flops": ("train_flops", "total_flos"),
    "eval_s": ("eval_s", "eval_runtime"),
    "eval_examples_per_s": ("eval_samples_per_second",),
    "peak_memory_mb": ("peak_memory_mb", "peak_memory", "memory", "memory_usage", "max_memory"),
    "size_mb": ("size_mb", "model_size", "model_size_mb", "size"),
    "latency_p50_ms": ("latency_p50_ms", "latency_ms", "latency"),
    "inference_s": ("inference_s", "inference_time"),
    "precision": ("precision", "dtype"),
}  # fmt: skip
# What tells runs of one arm apart.
_SETTINGS = ("task", "pair", "seed", "rank", "alpha", "lr", "batch_size", "epochs", "max_length",
             "encoder", "teacher", "student")  # fmt: skip
METHODS = ("arm", "method", "strategy", "approach", "adaptation", "peft", "peft_type",
           "peft_method", "tuning", "tuning_method", "finetuning", "finetuning_type",
           "fine_tuning", "distillation", "setting")  # fmt: skip
RUN_NAMES = ("name", "run_name", "mlflow_runname")
_TRACKED = re.compile(r"^(?:config|summary|params|metrics|tags|args)[./]", re.IGNORECASE)
# The splits of a metric, the one that is reported first.
_SPLITS = ("report", "test", "predict", "eval", "validation", "val", "dev", "final", "best", "")
_AVERAGE = {"avg", "average", "mean", "score", "overall", "glue"}
_TRAINING = re.compile(r"^(?:train|training)[_/ .]", re.IGNORECASE)


def recognise(table: pd.DataFrame, source: str) -> Recognised:
    """The mapping of a table, and what was assumed for it.

    Raises InputError that says what is missing where the columns do not tell task, arm and score.
    """
    columns = [str(c) for c in table if c != ROW]
    if "tags.kdlora.run_id" in columns or "kdlora.run_id" in columns:
        return built_in("kdlora-mlflow"), []
    for make in (_tasks_across, _methods_across, _long):
        found = make(table, columns)
        if found is not None:
            return found
    shown = ", ".join(sorted(columns)[:30]) or "none"
    raise InputError(
        f"{source}: no known format has these columns: {shown}. Write a mapping file and give it "
        "with --mapping; it says which column is the task, the arm and the score"
    )


def _key(column: str) -> str:
    """A column's name without its tracker's prefix and its unit: "params.lora-r" is lora_r."""
    plain = re.sub(r"\([^()]*\)|\[[^\[\]]*\]", "", plain_text(_TRACKED.sub("", column)))
    return re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")


def _fields(columns: Sequence[str]) -> dict[str, ColumnMapping]:
    """The columns that a usual name tells, each with the unit that stands in its head."""
    keys: dict[str, list[str]] = {}
    for column in columns:
        keys.setdefault(_key(column), []).append(column)
    found = {}
    for target, names in FIELDS.items():
        sources = [column for name in names for column in keys.get(name, ())]
        if not sources:
            continue
        units = [u for source in sources for u in bracketed(source)]
        factors = FACTORS[quantity_of(target)]
        unit = next((u for u in units if u and u in factors), "")
        found[target] = ColumnMapping(source=tuple(sources), unit=unit)
    return found


def _metrics(columns: Sequence[str]) -> dict[str, ColumnMapping]:
    """`report.<metric>` of every metric that has a column, of the split that is reported."""
    found: dict[str, list[tuple[int, str]]] = {}
    units: dict[str, str] = {}
    for column in columns:
        plain = plain_text(_TRACKED.sub("", column))
        if _TRAINING.match(plain):
            continue
        bare = re.sub(r"\([^()]*\)|\[[^\[\]]*\]", "", plain).strip()
        split, rest = "", bare
        if match := re.match(rf"({'|'.join(s for s in _SPLITS if s)})[_/ .]+(.+)$", bare, re.I):
            split, rest = match[1].lower(), match[2]
        part = "report"
        if rest.lower().startswith("mismatched"):  # the second evaluation set of MNLI
            part, rest = "report_mismatched", rest[len("mismatched") :]
        name = f"{part}.{metric}" if (metric := metric_named(rest)) else None
        if name:
            found.setdefault(name, []).append((_SPLITS.index(split), column))
            units |= {name: "percent"} if "%" in bracketed(column) else {}
    return {
        name: ColumnMapping(source=tuple(c for _, c in sorted(sources)), unit=units.get(name, ""))
        for name, sources in found.items()
    }


def _methods_of(
    table: pd.DataFrame, columns: Sequence[str]
) -> tuple[ColumnMapping | None, list[str]]:
    """The arm of each row by the columns that name methods, else by the runs' names; and texts
    that tell none."""
    by_key = {_key(c): c for c in reversed(columns)}
    methods = [by_key[name] for name in METHODS if name in by_key]
    unread: list[str] = []
    for sources in ([methods[:1]] if methods[:1] == ["arm"] else [methods]) + [
        [by_key[name]] for name in (*RUN_NAMES, "model") if name in by_key
    ]:
        if not sources:
            continue
        mapping = ColumnMapping(source=tuple(sources), join=" " if len(sources) > 1 else None)
        texts = _texts(table, sources)
        arms = {text: arm_named(text) for text in texts}
        if arms and all(arms.values()):
            values = {text: str(arm) for text, arm in arms.items()}
            return mapping.model_copy(update={"values": values}), []
        unread = unread or [text for text, arm in arms.items() if not arm]
    return None, unread


def _texts(table: pd.DataFrame, sources: Sequence[str]) -> list[str]:
    """The different texts of some columns put side by side, as a mapping's `join` does."""
    return [text for text in dict.fromkeys(_rows_of(table, sources)) if text]


def _rows_of(table: pd.DataFrame, sources: Sequence[str]) -> list[str]:
    """The text of some columns put side by side in each row."""
    rows = table[[s for s in sources if s in table]].astype(object).to_numpy()
    return [
        " ".join(
            str(int(c)) if isinstance(c, float) and c.is_integer() else str(c)
            for c in row if not is_nothing(c)
        )
        for row in rows
    ]  # fmt: skip


def _unknown_arms(unread: Sequence[str]) -> InputError:
    listed = ", ".join(repr(text) for text in list(unread)[:8])
    more = f" and {len(unread) - 8} more" if len(unread) > 8 else ""
    return InputError(
        f"which arms are these: {listed}{more}? A mapping file says it, under `arm: {{from: "
        "COLUMN, values: {...}}`, each as role/adaptation, such as teacher/fft or student/kd-lora"
    )


def _pairs(table: pd.DataFrame, fields: dict[str, ColumnMapping]) -> list[str]:
    """Fill in `pair` by the encoders' families where there are several encoders and no pair."""
    if "pair" in fields or "encoder" not in fields:
        return []
    source = fields["encoder"].source
    encoders = _texts(table, [next(s for s in source if s in table)])
    families = {encoder: family_of(encoder) for encoder in encoders}
    if len(encoders) < 2:
        return []
    fields["pair"] = ColumnMapping(source=source, values=families, keep=True)
    told = "; ".join(f"{encoder} is {family}" for encoder, family in list(families.items())[:8])
    return [f"pair: assumed to be the encoder's family ({told}); map `pair` to say otherwise"]


def _with_encoders(
    table: pd.DataFrame, fields: dict[str, ColumnMapping], arm: ColumnMapping
) -> ColumnMapping:
    """The arms where the encoder's column tells students from teachers, too, and the pairs where
    the methods' names hold families."""
    encoder = next((s for s in fields["encoder"].source if s in table), "") if (
        "encoder" in fields) else ""  # fmt: skip
    if not encoder:
        values = with_students(arm.values)
        if "pair" not in fields and (families := families_named(values)):
            fields["pair"] = arm.model_copy(update={"values": families, "keep": True})
        return arm.model_copy(update={"values": values})
    own = [s for s in arm.source if s in table]
    sources = (*own, encoder)
    both = dict(zip(_rows_of(table, sources), _rows_of(table, own), strict=True))
    arms = {text: arm.values.get(name, name) for text, name in both.items() if name}
    values = with_students(arms)
    if values == arms:
        return arm
    return arm.model_copy(update={"source": sources, "join": " ", "values": values})


def _require_rows_apart(
    table: pd.DataFrame, fields: dict[str, ColumnMapping], arm: ColumnMapping
) -> None:
    settings = [s for f in _SETTINGS if f in fields for s in fields[f].source if s in table]
    texts = _rows_of(table, arm.source)
    arms = [arm.values.get(text, text) for text in texts]
    _require_apart(zip(texts, arms, _rows_of(table, settings), strict=True))


def _require_apart(methods: Iterable[tuple[str, str, str]]) -> None:
    """Raise InputError where methods of different names would be averaged as one and the same.

    A method's name, its arm, and what else tells its runs apart.
    """
    named: dict[tuple[str, str], dict[str, None]] = {}
    for text, arm, place in methods:
        if text:
            named.setdefault((arm, place), {})[text] = None
    alike = {arm: list(texts) for (arm, _), texts in named.items() if len(texts) > 1}
    if alike:
        told = "; ".join(f"{' and '.join(map(repr, t))} as {a}" for a, t in alike.items())
        raise InputError(
            f"methods that their names tell apart would be read as the same: {told}. A mapping "
            "file says what they are, under `arm: {from: COLUMN, values: {...}}`, such as "
            "student/lora or teacher/lora[rank 16]"
        )


def _roles(arm: ColumnMapping) -> list[str]:
    told = "; ".join(f"{text!r} is {a}" for text, a in list(arm.values.items())[:8] if text != a)
    return (
        [f"arm: assumed by name ({told}); `arm: values:` of a mapping says otherwise"]
        if told
        else []
    )


def _kind(columns: Sequence[str]) -> str:
    """Which tool wrote a table, for its name."""
    if any(c.startswith(("params.", "metrics.")) for c in columns) or {
        "Run ID", "Start Time", "Status"} <= set(columns):  # fmt: skip
        return "mlflow"
    if {"Name", "State"} <= set(columns) or any(c.startswith("summary.") for c in columns):
        return "wandb"
    return "table"


def _long(table: pd.DataFrame, columns: list[str]) -> Recognised | None:
    """A row a run."""
    fields, metrics = _fields(columns), _metrics(columns)
    arm, unread = _methods_of(table, columns)
    if not metrics and "score" not in fields:
        return None
    if arm is None and not unread:
        return None
    if arm is None:
        raise _unknown_arms(unread)
    for name in ("name", "model"):  # a column cannot be two things
        if name in map(_key, arm.source) and "encoder" in fields:
            left = tuple(s for s in fields["encoder"].source if s not in arm.source)
            fields["encoder"] = fields["encoder"].model_copy(update={"source": left})
            if not left:
                del fields["encoder"]
    arm = _with_encoders(table, fields, arm)
    _require_rows_apart(table, fields, arm)
    notes = [*_roles(arm), *_pairs(table, fields)]
    of_task, fixed, told = _metric_of_tasks(table, fields, metrics)
    mapping = Mapping(
        name=_kind(columns),
        about="recognised by its columns",
        columns={**fields, **metrics},
        arm=arm,
        metric_of_task=of_task,
        set=fixed,
        teacher_run=tuple(k for k in ("pair", "task", "seed") if k in fields),
    )
    return mapping, [*notes, *told]


def _metric_of_tasks(
    table: pd.DataFrame, fields: dict[str, ColumnMapping], metrics: dict[str, ColumnMapping]
) -> tuple[dict[str, str], dict[str, str | int | float | bool], list[str]]:
    """The metric of each task that is not known by name, or of the whole table."""
    names = [c.removeprefix("report.") for c in metrics if c.startswith("report.")]
    usual = sorted(names, key=list(METRICS).index)
    if "metric" in fields:
        values = {
            text: metric_named(text) or text for text in _texts(table, fields["metric"].source[:1])
        }
        fields["metric"] = fields["metric"].model_copy(update={"values": values})
        return {}, {}, []
    if "task" not in fields:
        told = (
            f"metric: {usual[0]} is taken for the score; set `metric` in a mapping to say otherwise"
        )
        return {}, {"metric": usual[0]} if usual else {}, [told] if len(usual) > 1 else []
    tasks = _texts(table, [s for s in fields["task"].source if s in table][:1])
    values = {text: task_named(text) or text for text in tasks}
    fields["task"] = fields["task"].model_copy(update={"values": values})
    unknown = [name for name in values.values() if name not in TASKS]
    if not unknown or not usual:
        return {}, {}, []
    told = (
        f"metric: {usual[0]} is taken for the score of {', '.join(unknown[:8])}; `metric_of_task` "
        "says otherwise"
    )
    return dict.fromkeys(unknown, usual[0]), {}, [told] if len(usual) > 1 else []


def _tasks_across(table: pd.DataFrame, columns: list[str]) -> Recognised | None:
    """A row a method, a column a task."""
    tasks = {c: name for c in columns if (name := task_named(c))}
    if len(tasks) < 2:
        return None
    others = [c for c in columns if c not in tasks]
    fields = _fields(others)
    arm, unread = _methods_of(table, others)
    if arm is None and not unread:
        texts = [c for c in others if not pd.api.types.is_numeric_dtype(table[c])]
        unread = _texts(table, texts[:1])
        arms = {text: arm_named(text) for text in unread}
        if arms and all(arms.values()):
            arm = ColumnMapping(source=(texts[0],), values={t: str(a) for t, a in arms.items()})
    if arm is None:
        raise _unknown_arms(unread)
    fields.pop("task", None)
    if "encoder" in fields and set(fields["encoder"].source) & set(arm.source):
        del fields["encoder"]
    twice = [name for name in dict.fromkeys(tasks.values()) if list(tasks.values()).count(name) > 1]
    if twice:
        raise InputError(f"several columns are scores of {', '.join(twice)}: a mapping says which")
    metrics = _stated_metrics(tasks)
    arm = _with_encoders(table, fields, arm)
    _require_rows_apart(table, fields, arm)
    notes = [*_roles(arm), *_pairs(table, fields), *_assumed_metrics(tasks, metrics)]
    names = "|".join(re.escape(c) for c in tasks)
    return Mapping(
        name="paper-table",
        about="a row a method, a column a task",
        melt=Melt(columns=f"^(?P<across>{names})$", value="printed"),
        columns={
            **fields,
            "task": ColumnMapping(source=("across",), values=tasks),
            "score": ColumnMapping(source=("printed",)),
        },
        arm=arm,
        metric_of_task=metrics,
    ), notes


def _methods_across(table: pd.DataFrame, columns: list[str]) -> Recognised | None:
    """A row a task, a column a method."""
    down = next((c for c in columns if _key(c) in FIELDS["task"]), columns[0] if columns else None)
    if down is None:
        return None
    named = {text: task_named(text) for text in _texts(table, [down])}
    arms = with_students({
        c: arm for c in columns if c != down and (arm := arm_named(c)) and _key(c) not in METHODS
    })  # fmt: skip
    if sum(map(bool, named.values())) < 2 or len(arms) < 2:
        return None
    left = [text for text, name in named.items() if not name and _AVERAGE & {*tokens_of(text)}]
    tasks = {text: name or text for text, name in named.items() if text not in left}
    metrics = _stated_metrics(tasks)
    families = {c: family_of(" ".join(tokens_of(c))) for c in arms}
    known = {c: f for c, f in families.items() if f != " ".join(tokens_of(c))}
    _require_apart((c, arm, known.get(c, "")) for c, arm in arms.items())
    fields = {
        "task": ColumnMapping(source=(down,), values=tasks),
        "score": ColumnMapping(source=("printed",)),
    }
    if len(known) == len(arms):
        fields["pair"] = ColumnMapping(source=("across",), values=known, keep=True)
    named_by = ColumnMapping(source=("across",), values=arms)
    notes = [*_roles(named_by), *_assumed_metrics(tasks, metrics)]
    if left:
        notes.append(f"task: {', '.join(map(repr, left[:8]))} set apart as rows that sum others up")
    names = "|".join(re.escape(c) for c in arms)
    return Mapping(
        name="paper-table",
        about="a row a task, a column a method",
        melt=Melt(columns=f"^(?P<across>{names})$", value="printed"),
        aggregates={down: tuple(left)} if left else {},
        columns=fields,
        arm=named_by,
        metric_of_task=metrics,
    ), notes


def _stated_metrics(tasks: dict[str, str]) -> dict[str, str]:
    """Task -> metric, as a name such as "MRPC (F1)" says, or as is usual."""
    found = {name: task.primary for name, task in TASKS.items()}
    found["mnli-mismatched"] = "accuracy"
    for text, name in tasks.items():
        said = next((m for part in bracketed(text) if (m := metric_named(part))), None)
        found |= {name: said} if said else {}
    return {name: found[name] for name in tasks.values() if name in found}


def _assumed_metrics(tasks: dict[str, str], metrics: dict[str, str]) -> list[str]:
    open_ = [
        name
        for text, name in tasks.items()
        if name in metrics and not any(metric_named(part) for part in bracketed(text))
    ]
    told = ", ".join(f"{name} {metrics[name]}" for name in open_)
    note = f"metric: assumed where the table does not say ({told}); `metric_of_task` says otherwise"
    return [note] if told else []
