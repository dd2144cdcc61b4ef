"""The card of a saved model, `kdlora.json`: what it answers, how, and where it came from.

Light on purpose: a program that serves an ONNX model reads the card with neither pandas nor torch.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdlora.errors import ModelError, StoreError
from kdlora.records.contents import read_sealed, sealed
from kdlora.records.record import KindName, Record, task_facts
from kdlora.records.store import Store, json_text, write_json, write_text
from kdlora.spec.run import EncoderRun
from kdlora.spec.sections import Windows
from kdlora.vocabulary.task import KINDS, Kind

CARD = "kdlora.json"
CALIBRATION = "calibration.json"  # beside the record of a run


class Fit(BaseModel):
    """How good probabilities and answers are on one split."""

    n: int
    nll: float = Field(description="cross-entropy in nats")
    ece: float = Field(description="expected calibration error, 15 bins")
    accuracy: float = Field(description="of several labels: texts with exactly their labels")
    score: float | None = Field(None, description="the metric that the threshold maximises")


class AnsweredRows(BaseModel):
    """How many rows of a split are answered, and how right those answers are."""

    n: int
    answered: int
    accuracy: float | None = Field(None, description="of the answers given; none where none is")


class Abstention(BaseModel):
    """From which probability of its answer on a model gives it, and what is promised of it."""

    aim: float = Field(gt=0, lt=1, description="accuracy that the answers given reach")
    level: float = Field(gt=0, lt=1, description="probability that they do")
    cut: float = Field(ge=0, le=1, description="answers of a probability above it are given")
    lower_bound: float = Field(description="of the accuracy, on the selection split")
    splits: dict[str, AnsweredRows] = {}

    def reason(self, probability: float) -> str:
        """Why an answer of this probability is withheld."""
        return (
            f"a probability of {probability:.3f} is not above {self.cut:.3f}, from which on "
            f"answers are right {100 * self.aim:g} % of the time"
        )


class Calibration(BaseModel):
    """What is done to a model's logits before it answers, and what that changed.

    Probabilities are softmax(logits / temperature). With two classes and a threshold, `positive` is
    answered exactly where its probability reaches the threshold; with thresholds, the class whose
    probability exceeds its own by most times is. With an abstention an answer is given only where
    its probability is above the cut.

    Where a text may have several labels, probabilities are sigmoid(logits / temperature), and with
    thresholds each label is answered exactly where its probability reaches its own.
    """

    model_config = ConfigDict(extra="ignore")

    temperature: float | None = Field(None, gt=0)
    threshold: float | None = Field(None, ge=0, le=1)
    positive: str | None = None
    thresholds: dict[str, float] | None = Field(
        None, description="by class; they sum to 1. Of several labels a text, of each by itself"
    )
    metric: str | None = Field(None, description="what the threshold or thresholds maximise")
    abstention: Abstention | None = None
    chosen_on: Literal["selection"] = "selection"
    n: int = Field(description="rows it was chosen on")
    before: dict[str, Fit] = Field({}, description="split -> as the model came")
    after: dict[str, Fit] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that it names."""
        return (*([self.positive] if self.positive else []), *(self.thresholds or ()))


class ModelCard(BaseModel):
    """What `kdlora predict` needs to know of a model folder, and where the model came from."""

    model_config = ConfigDict(extra="ignore")

    run_id: str
    task: str
    arm: str
    seed: int
    kind: KindName
    text_columns: list[str] = Field(min_length=1)
    label_names: list[str] = Field(description="in the order of the outputs; none for numbers")
    positive: str | None = Field(None, description="the class that the task asks about")
    max_length: int = Field(ge=1)
    windows: Windows | None = Field(
        None, description="how longer texts are read; None: their end is not"
    )
    metric: str
    selection_score: float | None
    report_score: float | None
    chosen_because: str
    calibration: Calibration | None = None
    kdlora: str = version("kdlora")

    @property
    def answers(self) -> Kind:
        """How outputs become answers."""
        return KINDS[self.kind]

    @property
    def how_long(self) -> str:
        """How much of a text the model reads, as a part of a sentence."""
        if self.windows is None:
            return f"up to {self.max_length} tokens, longer texts are cut"
        return (
            f"in up to {self.windows.max_windows} windows of {self.max_length} tokens, whose "
            f"logits are pooled by their {'maximum' if self.windows.pooling == 'max' else 'mean'}"
        )

    @property
    def num_outputs(self) -> int:
        return max(len(self.label_names), 1)


def make_card(
    record: Record, folder: Path, why: str, *, arm: str, calibration: Calibration | None = None
) -> ModelCard:
    """The card of a run's model, its classes as the record has them; `folder` is the run's own.

    Raises ModelError where an old record and all that lies beside it do not name the classes.
    """
    run, quality, facts = record.run, record.quality, task_facts(record, folder)
    assert quality is not None
    assert isinstance(run, EncoderRun)
    if facts is None:
        raise ModelError(
            f"{folder}: nothing that is stored names the classes of task '{run.task.name}' in the "
            "order of the model's outputs. Run the study again"
        )
    return ModelCard(
        run_id=record.run_id,
        task=run.task.name,
        arm=arm,
        seed=run.seed,
        kind=facts.kind,
        text_columns=list(facts.text_columns),
        label_names=list(facts.label_names),
        positive=facts.positive,
        max_length=run.training.max_length,
        windows=run.training.windows,
        metric=quality.primary,
        selection_score=quality.splits["selection"].get(quality.primary),
        report_score=quality.score,
        chosen_because=why,
        calibration=calibration,
    )


def renewed(card: ModelCard, store: Store) -> ModelCard:
    """A saved student's card with its classes as the run's record has them.

    Cards of earlier versions named only the classes that the report split holds.
    """
    record = store.read(card.run_id)
    facts = task_facts(record, store.folder(card.run_id)) if record is not None else None
    if facts is None:
        return card
    names = {"label_names": list(facts.label_names), "positive": facts.positive}
    return card.model_copy(update={"kind": facts.kind, **names})


def read_calibration(folder: Path) -> Calibration | None:
    """What `kdlora calibrate` kept in a run's folder, or None. Raises StoreError if damaged."""
    return _read(folder / CALIBRATION, Calibration, "calibrate the run again")


def read_card(folder: Path) -> ModelCard | None:
    """The card of a saved model, or None where there is none that can be read.

    Raises StoreError for a damaged one: without it the model would answer otherwise.
    """
    return _read(folder / CARD, ModelCard, "save or export the model again")


def card_text(card: ModelCard) -> str:
    """What `kdlora.json` holds."""
    return json_text(sealed(card.model_dump(mode="json")))


def write_card(folder: Path, card: ModelCard) -> None:
    write_text(folder / CARD, card_text(card))


def write_calibration(folder: Path, made: Calibration) -> None:
    write_json(folder / CALIBRATION, sealed(made.model_dump(mode="json")))


Part = TypeVar("Part", bound=BaseModel)


def _read(path: Path, kind: type[Part], mend: str) -> Part | None:
    try:
        values = read_sealed(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be used: {error}; {mend}") from None
    try:
        return kind.model_validate(values)
    except ValidationError:  # an adapter's note of the same name, or somebody else's file
        return None
