"""A saved student as a model of MLflow, which answers there as `kdlora predict` does.

``mlflow.pyfunc.load_model`` takes it, and whatever builds on that: MLflow's registry, evaluation
and scoring server. Its folder ``data`` is the student, which transformers loads by itself.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlora.errors import ModelError, StoreError
from kdlora.extras import need
from kdlora.mirrors import entries
from kdlora.mirrors.mlflow import Experiment, open_experiment, require_mlflow, resolve_uri
from kdlora.records.contents import require_whole_model
from kdlora.records.frame import read_plan
from kdlora.records.record import checksum
from kdlora.ship.answers import Predictor, answer_columns
from kdlora.ship.card import CARD, ModelCard, read_card
from kdlora.ship.named_model import saved_students
from kdlora.spec.fingerprint import hash_file
from kdlora.tables.templates import columns_of

if TYPE_CHECKING:
    import pandas as pd

_CONTENT = "kdlora.content"  # a tag: the hash of all of its files
_SAMPLE = "A short text to try it on."
_NEEDED = ("torch", "transformers", "peft")  # pinned as they are here


@dataclass(frozen=True)
class LoggedStudent:
    """A student in MLflow; `uri` is what ``mlflow.pyfunc.load_model`` takes."""

    folder: Path
    name: str
    uri: str
    added: bool


@dataclass(frozen=True)
class PyfuncStudent:
    """What MLflow calls: rows of texts in, the columns of `kdlora predict` out."""

    predictor: Predictor

    def predict(
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row of answers a row of texts; MLflow has checked the columns by the signature."""
        from kdlora.ship.predict_rows import predict_rows

        found = predict_rows(self.predictor, model_input)
        return found[answer_columns(self.predictor.card)]


def log_students(root: Path, uri: str | None = None) -> list[LoggedStudent]:
    """Log the saved students of a study to its experiment, each as an output of its run's entry.

    The records must have been mirrored before. A student that is there already, of the same files,
    is left; one whose files changed replaces it. `uri` as `mirrors.mlflow.resolve_uri`.

    Raises StoreError where the study saved none, ModelError for a damaged one, InputError when
    mlflow or what loads a student is missing, and whatever MLflow raises.
    """
    require_mlflow()
    need("logging a model", *_NEEDED)
    students = saved_students(root)
    if not students:
        raise StoreError(f"{root} saved no student: finish the study first")
    experiment = open_experiment(resolve_uri(uri, root), read_plan(root)["study"]["name"])
    return [_log(folder, experiment) for folder in students]


def save_model(folder: Path, to: Path) -> None:
    """Write a model of MLflow around a saved student, in a folder that is not there yet.

    The student is loaded and asked once, so that its signature says what it answers. Raises
    ModelError where it cannot be loaded.
    """
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import infer_signature

    student = _load_pyfunc(str(folder))
    card = student.predictor.card
    rows = pd.DataFrame({name: [_SAMPLE] for name in columns_of(card.text_columns)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # counts of tokens may be missing nowhere
        signature = infer_signature(rows, student.predict(rows))
    mlflow.pyfunc.save_model(
        path=str(to),
        loader_module=__name__,
        data_path=str(folder),
        signature=signature,
        input_example=rows,
        pip_requirements=[
            f"kdlora[train]=={version('kdlora')}", *(f"{n}=={version(n)}" for n in _NEEDED),
        ],
        metadata={"task": card.task, "arm": card.arm, "run_id": card.run_id},
    )  # fmt: skip


def _load_pyfunc(path: str) -> PyfuncStudent:
    """What MLflow calls to load the model, by this name."""
    from kdlora.ship.predict import load_predictor

    return PyfuncStudent(load_predictor(path))


def _log(folder: Path, experiment: Experiment) -> LoggedStudent:
    from mlflow.entities import LoggedModelOutput

    card = read_card(folder)
    if card is None:
        raise ModelError(f"{folder / CARD} is no card of a student; save it again")
    require_whole_model(folder)
    name, content = _model_name(card), _content(folder)
    entered = experiment.known(card.run_id).get(card.run_id, [])
    if not entered:
        raise StoreError(f"run {card.run_id} of {folder} has no entry in {experiment.location}")
    before = list(_logged(experiment, card.run_id))
    for old in before:
        whole = str(old.status) == "READY" and old.source_run_id == entered[0].key
        if whole and old.tags.get(_CONTENT) == content:
            return LoggedStudent(folder, name, f"models:/{old.model_id}", added=False)
    client = experiment.client
    made = client.create_logged_model(
        experiment.experiment_id,
        name=name,
        source_run_id=entered[0].key,
        tags={entries.RUN_ID: card.run_id, _CONTENT: content},
        params={"task": card.task, "arm": card.arm, "seed": str(card.seed)},
        model_type="pyfunc",
    )
    with tempfile.TemporaryDirectory() as temporary:
        save_model(folder, Path(temporary) / "model")
        client.log_model_artifacts(made.model_id, str(Path(temporary) / "model"))
    client.log_outputs(entered[0].key, [LoggedModelOutput(made.model_id, step=0)])
    client.finalize_logged_model(made.model_id, "READY")
    for old in before:
        client.delete_logged_model(old.model_id)
    return LoggedStudent(folder, name, f"models:/{made.model_id}", added=True)


def _logged(experiment: Experiment, run_id: str) -> Iterator[Any]:
    """The models of a run that MLflow has, whole or torn."""
    token = None
    while True:
        page = experiment.client.search_logged_models(
            [experiment.experiment_id],
            filter_string=f"tags.`{entries.RUN_ID}` = '{run_id}'",
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _model_name(card: ModelCard) -> str:
    """MLflow takes no / : . % or quote in a model's name."""
    text = f"{card.task} {card.arm} s{card.seed}"
    return "".join("-" if letter in "/:.%\"'" else letter for letter in text)


def _content(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return checksum({p.relative_to(folder).as_posix(): hash_file(p, 64) for p in files})
