"""How much work a run is, before anyone has measured it: rows, tokens and FLOPs.

Everything here is reckoned from names, configs and the beginnings of files, in milliseconds and
without torch. `planning.costs` sets it right by what runs really took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from kdlora.data.augmented import VERSIONS
from kdlora.data.recombined import NEAREST, RANDOM
from kdlora.data.splits import selection_size
from kdlora.data.windows import count_windows
from kdlora.errors import DataError
from kdlora.planning.encoder_shapes import EncoderShape, shape_of
from kdlora.spec.distillation import Distillation
from kdlora.spec.hub_data import stored_splits
from kdlora.spec.run import (
    DistilledRun,
    EmbeddingsRun,
    EmbeddingsTeacherRun,
    EncoderRun,
    Run,
    TaskRef,
    TextsRef,
    TrainedRun,
    ZeroShotTeacherRun,
)
from kdlora.spec.sections import Data, Training
from kdlora.tables.reader import open_table, text_of
from kdlora.training.schedule import steps_of
from kdlora.vocabulary.task import TASKS

_CHARACTERS_A_TOKEN = 4.2  # English text and word pieces
_SPECIAL = 2  # tokens that stand around a text, as [CLS] and [SEP] do
_PADDING = 1.15  # batches of similar length still hold some padding
_UNREADABLE = (1000, 32.0)  # rows and tokens of a file; the check of the plan tells why
_STEPS_OPTIMIZER = 30.0  # bytes that AdamW moves a trained weight and step

# Rows of train and of what is reported, and mean tokens, as the tasks' publishers state them.
_PUBLISHED: dict[str, tuple[int, int, float]] = {
    "cola": (8551, 1043, 11.5),
    "sst2": (67349, 872, 14.0),
    "mrpc": (3668, 408, 53.0),
    "qqp": (363846, 40430, 31.0),
    "stsb": (5749, 1500, 32.0),
    "mnli": (392702, 19647, 40.0),
    "qnli": (104743, 5463, 50.0),
    "rte": (2490, 277, 71.0),
    "wnli": (635, 71, 38.0),
    "hate": (19826, 4957, 27.0),
    "movie-reviews": (10000, 2752, 29.0),
}


@dataclass(frozen=True)
class Rows:
    """Rows of a task's splits, and the mean number of tokens of a text."""

    train: int
    selection: int
    report: int
    tokens: float

    @property
    def all(self) -> int:
        return self.train + self.selection + self.report


@dataclass(frozen=True)
class Workload:
    """What a run has to compute and to keep.

    `flops` are those of the training, as `efficiency.train_flops` counts them; `other_flops` those
    of scoring and of a teacher's labelling.
    """

    flops: float
    other_flops: float
    steps: int
    trained_params: int
    params: int
    activation_mb: float
    vocabulary: int = 0
    labels: int = 0  # numbers of the teachers' logits and ids that this run is the first to need
    states_mb: float = 0.0  # of its teacher, that wait on disk while it trains

    @property
    def optimizer_bytes(self) -> float:
        return self.steps * self.trained_params * _STEPS_OPTIMIZER

    @property
    def memory_mb(self) -> float:
        """Libraries, weights, gradients with AdamW's two moments, activations."""
        return 600 + (4 * self.params + 12 * self.trained_params) / 1e6 + self.activation_mb

    @property
    def disk_mb(self) -> float:
        """What is kept: the trained weights in fp32, the tokenizer, the record."""
        return 4 * self.trained_params / 1e6 + 24e-6 * self.vocabulary + 0.1

    @property
    def labels_mb(self) -> float:
        """What is kept beside its teachers: their logits, in fp32."""
        return 4e-6 * self.labels

    @property
    def passing_mb(self) -> float:
        """What is there while it runs: a checkpoint, twice while a new one is written.

        It holds the trained weights, those of the best step, and AdamW's two moments.
        """
        return 2 * 16 * self.trained_params / 1e6 + self.states_mb


def work_of(run: Run, rows: Rows, *, labels: bool = False, teacher: Run | None = None) -> Workload:
    """The work of a run on so many rows.

    Args:
        labels: whether it also runs the teacher over all texts.
        teacher: its teacher where that is no classifier; others are known by `reference`.
    """
    if isinstance(run, ZeroShotTeacherRun):
        asking = asking_flops(run, rows.tokens) * (rows.selection + rows.report)
        known = shape_of(run.entailment)[0]
        return Workload(0.0, asking, 0, 0, known.params, 0.0)
    if isinstance(run, EmbeddingsRun | EmbeddingsTeacherRun):
        read = _embedding_flops(run, rows.tokens) * rows.all
        return Workload(0.0, read, 0, 0, shape_of(run.encoder)[0].params, 0.0, 0)
    if not isinstance(run, EncoderRun):  # baselines, and teachers that are files
        return Workload(0.0, 0.0, 0, 0, 0, 0.0)
    shape, _ = shape_of(run.encoder)
    outputs = _outputs(run)
    training = run.training
    added = _texts(run, run.unlabelled if isinstance(run, DistilledRun) else ())
    n = rows.train + sum(more for more, _ in added)
    mean = (rows.train * rows.tokens + sum(more * each for more, each in added)) / max(n, 1)
    windows, tokens = _windows(mean * _PADDING, training)
    forward = windows * shape.forward_flops(tokens, outputs)
    held_out = rows.selection + rows.report
    if not isinstance(run, TrainedRun):  # a teacher that is given
        return Workload(0.0, forward * held_out, 0, 0, shape.params, 0.0, shape.vocabulary)

    if run.adaptation == "frozen":  # every text once, and a last layer that costs nothing
        head = shape.width * outputs
        read = forward * (n + held_out)
        return Workload(0.0, 2 * read, 0, head, shape.params, 0.0, shape.vocabulary)
    trained = _trained_params(run, shape)
    # Backward goes by the inputs and, where they train, by the weights.
    step = 3 * forward if run.adapter is None else 2 * forward + 6 * trained * tokens * windows
    kd = run.kd if isinstance(run, DistilledRun) else None
    matches = kd is not None and kd.signals.match_states
    of_teacher = 0.0
    if isinstance(teacher, ZeroShotTeacherRun):
        of_teacher = asking_flops(teacher, mean)
    elif isinstance(teacher, EmbeddingsTeacherRun):
        of_teacher = _embedding_flops(teacher, mean)
    elif run.reference is not None and (labels or matches):
        of_teacher = windows * shape_of(run.reference)[0].forward_flops(tokens, outputs)
    if matches:
        step += of_teacher
    batch = min(training.batch_size, training.micro_batch_size or training.batch_size)
    counted = sum(more for more, _ in _texts(run, run.counted))
    per_epoch, steps = steps_of(n, training, counted=counted)
    epochs = steps / per_epoch
    scored = rows.selection * epochs * training.evals_per_epoch + held_out
    labelled = (n + held_out) * len(run.teachers) if labels else 0
    states_mb = 0.0
    if kd is not None and matches and run.reference is not None:
        states_mb = _states_mb(
            kd, shape, shape_of(run.reference)[0], n * windows * tokens / _PADDING
        )
    if kd is not None and kd.start == "teacher":  # a copy of what it starts from
        states_mb += 4 * shape.params / 1e6
    return Workload(
        flops=step * n * epochs,
        other_flops=scored * forward + labelled * of_teacher,
        steps=steps,
        trained_params=trained,
        params=shape.params,
        activation_mb=activation_mb(shape, batch, tokens),
        vocabulary=shape.vocabulary,
        labels=labelled * (outputs + 2),  # an id is as long as two numbers
        states_mb=states_mb,
    )


def _embedding_flops(run: EmbeddingsRun | EmbeddingsTeacherRun, tokens: float) -> float:
    """What an encoder computes that reads a text, or both of a pair, once."""
    windows, length = _windows(tokens * _PADDING, run.training)
    return windows * shape_of(run.encoder)[0].forward_flops(length, _outputs(run))


def asking_flops(teacher: ZeroShotTeacherRun, tokens: float) -> float:
    """What a teacher computes that reads a text with a sentence for each class."""
    shape, _ = shape_of(teacher.entailment)
    sentence = len(teacher.zero_shot.hypothesis) / _CHARACTERS_A_TOKEN + 1
    windows, length = _windows((tokens + sentence) * _PADDING, teacher.training)
    return _outputs(teacher) * windows * shape.forward_flops(length, 3)


def _windows(tokens: float, training: Training) -> tuple[float, float]:
    """In how many windows a text of so many tokens is read, and their tokens; cut, it is one."""
    length = min(tokens, training.max_length)
    if training.windows is None:
        return 1.0, length
    of_one = np.array([tokens])
    count = count_windows(of_one, training.max_length, training.windows, special=_SPECIAL)
    return float(count[0]), length


def activation_mb(shape: EncoderShape, batch: int, tokens: float) -> float:
    """What a training step keeps of a batch for its backward pass, in fp32."""
    values = tokens * (16 * shape.width + 3 * shape.inner) + shape.heads * tokens**2
    return 4e-6 * batch * shape.layers * values


def _states_mb(
    kd: Distillation, student: EncoderShape, teacher: EncoderShape, tokens: float
) -> float:
    """The teacher's inner states of so many tokens in half precision, if they may wait on disk."""
    signals, states = kd.signals, 0
    if signals.hidden is not None:
        layers = signals.hidden.layers
        if isinstance(layers, dict):
            states += len(set(layers.values()))
        else:
            states += 1 if layers == "last" else min(student.layers, teacher.layers)
    if signals.relations is not None:
        states += len(set("".join(signals.relations.pairs)))
    size_mb = 2 * tokens * states * teacher.width / 1e6
    return size_mb if size_mb <= kd.hidden_cache_mb else 0.0


def _outputs(run: Run) -> int:
    task, own = TASKS.get(run.task.name), run.task.own
    if own is not None:
        return max(2, len(set(own.class_names.values() or own.label_columns)))
    return task.num_outputs if task else 2


def _trained_params(run: TrainedRun, shape: EncoderShape) -> int:
    head = shape.width * _outputs(run) + shape.width**2  # a dense layer or a new pooler before it
    if run.adapter is None:
        return shape.params + head
    return shape.adapter_params(run.adaptation, run.adapter) + head


def rows_of(task: TaskRef, data: Data, known: Mapping[str, Rows]) -> Rows:
    """Rows and lengths of a task: as records know them, else from its files, else as published.

    `known` is by `rows_key`.
    """
    if found := known.get(rows_key(task, data)):
        return found
    train, report, tokens = _raw_rows(task)
    if report == 0:  # own data without a held-out file: a fifth of it
        report = train // 5
        train -= report
    chosen = selection_size(train, data)
    left = train - chosen
    return Rows(min(left, data.max_train or left), chosen, report, tokens)


def rows_key(task: TaskRef, data: Data) -> str:
    """Two runs with the same key read the same rows."""
    return f"{task.name} {task.version} {task.fingerprint} {data.model_dump_json()}"


def _raw_rows(task: TaskRef) -> tuple[int, int, float]:
    """Rows of train and report, and mean tokens."""
    if task.own is not None:
        own, files = task.own, {"train": task.own.train, "eval": task.own.eval}
        if own.hub is not None:
            files |= {part: str(path) for part, path in stored_splits(own).items()}
        train, tokens = _look(str(files["train"]), own.text)
        return train, _look(str(files["eval"]), own.text)[0] if own.eval else 0, tokens
    if task.folder is not None:
        splits = TASKS[task.name].reports.values()
        train, tokens = _look(str(Path(task.folder) / "train.tsv"), None)
        found = [_look(str(Path(task.folder) / f"{split}.tsv"), None)[0] for split in splits]
        return train, sum(found), tokens
    return _PUBLISHED[task.name]


def _texts(run: EncoderRun, sources: Sequence[TextsRef]) -> list[tuple[int, float]]:
    """Rows of unlabelled texts and their mean tokens, source by source."""
    found = []
    for source in sources:
        if source.is_rest:
            free = run.data.model_copy(update={"max_train": None})
            whole = rows_of(run.task, free, {})
            rest = max(0, whole.train - (run.data.max_train or whole.train))
            found.append((min(rest, source.max_rows or rest), whole.tokens))
        elif source.is_recombined or source.is_augmented:
            train = rows_of(run.task, run.data, {})
            made = (NEAREST + RANDOM if source.is_recombined else VERSIONS) * train.train
            found.append((min(made, source.max_rows or made), train.tokens))
        else:
            found.append(text_rows(source.file, source.text, source.max_rows))
    return found


def text_rows(file: str, columns: tuple[str, ...], most: int | None) -> tuple[int, float]:
    """Rows of a file of unlabelled texts, and their mean tokens."""
    rows, tokens = _look(file, columns)
    return min(rows, most or rows), tokens


def _look(file: str, columns: tuple[str, ...] | None) -> tuple[int, float]:
    """Rows of a file and mean tokens of its texts; remembered while size and time stay the same.

    `columns` are the texts; None means all but the last, as in a folder of known tasks.
    """
    try:
        stat = Path(file).stat()
    except OSError:
        return _UNREADABLE
    return _sampled(file, columns, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _sampled(
    file: str, columns: tuple[str, ...] | None, size: int, mtime_ns: int
) -> tuple[int, float]:
    """Rows and mean tokens, from the file's size and its beginning."""
    try:
        table = open_table(Path(file), quoting=columns is not None)
        names = columns or table.columns[:-1]
        rows, share = table.sample(names)
    except DataError:
        return _UNREADABLE
    if not rows:
        return 1, 32.0
    # the two texts of a pair are read as one
    characters = sum(len(" ".join(map(text_of, values))) for _, values in rows) / len(rows)
    return max(1, round(len(rows) / share)), characters / _CHARACTERS_A_TOKEN + 2.5
