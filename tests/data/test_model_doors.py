"""Whichever door a stranger's model folder comes through, it is checked before it is opened."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import kdlora
from kdlora.cli.app import app
from kdlora.errors import KdloraError
from kdlora.models.checkpoints import read_config, read_encoder, read_tokenizer
from kdlora.models.encoders import load_encoder
from kdlora.models.saved import load_trained, save_trained
from kdlora.ship.predict import load_predictor
from kdlora.spec.run import EncoderRef
from tests.harness.hostile import HARM, many_layers
from tests.harness.models import MNLI, adapt, load
from tests.harness.moods import Corner
from tests.harness.tiny_models import WORDS, save_tiny_encoder

NAMES = {"num_labels": 2, "id2label": {0: "neg", 1: "pos"}, "label2id": {"neg": 0, "pos": 1}}
TEXTS = [" ".join(WORDS[i : i + 5]) for i in range(60)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, and beside it an adapter that was trained on it."""
    place = tmp_path_factory.mktemp("sound")
    reference = save_tiny_encoder(place / "model", head=True, **NAMES)
    loaded = load(reference)
    save_trained(adapt(loaded, "lora"), loaded.tokenizer, place / "adapter", encoder=reference)
    return place


def reference_of(folder: Path) -> EncoderRef:
    return EncoderRef(name=str(folder), source="folder", path=str(folder))


def predict(folder: Path, corner: Corner) -> None:
    load_predictor(folder)


def read_the_config(folder: Path, corner: Corner) -> None:
    read_config(str(folder))


def read_the_tokenizer(folder: Path, corner: Corner) -> None:
    read_tokenizer(str(folder))


def read_the_encoder(folder: Path, corner: Corner) -> None:
    read_encoder(str(folder))


def train_on(folder: Path, corner: Corner) -> None:
    load_encoder(reference_of(folder), MNLI, seed=0)


def take_as_teacher(folder: Path, corner: Corner) -> None:
    load_encoder(reference_of(folder), MNLI, seed=0, given=True)


def put_an_adapter_on(folder: Path, corner: Corner) -> None:
    load_trained(folder.parent / "adapter", encoder=reference_of(folder))


def trim_in_python(folder: Path, corner: Corner) -> None:
    kdlora.trim_vocabulary(folder, TEXTS, folder.parent / "small")


def trim_by_command(folder: Path, corner: Corner) -> None:
    corpus = folder.parent / "corpus.txt"
    corpus.write_text("\n".join(TEXTS), encoding="utf-8")
    given = ["trim", str(folder), "--corpus", str(corpus), "--to", str(folder.parent / "small")]
    done = CliRunner().invoke(app, given)
    if isinstance(done.exception, KdloraError):
        raise done.exception
    assert done.exit_code == 2


def study(ask: Callable[..., object] = kdlora.plan, **pair: object) -> Callable[..., None]:
    """A door: the plan of a study of one pair, whose teacher is the folder unless it is named."""

    def door(folder: Path, corner: Corner) -> None:
        corpus = folder.parent / "corpus.txt"
        corpus.write_text("\n".join(TEXTS), encoding="utf-8")
        values = {"name": "p", "teacher": str(folder), "student": corner.student} | pair
        if "teacher" in pair:
            values |= {"teacher": corner.teacher, "student": str(folder)}
        ask(corner.study(pairs=[values], arms=ARMS, base_dir=str(folder.parent)))

    return door


ARMS = ["teacher/fft", "student/kd-lora"]
CUT = {"from": "teacher", "vocabulary": {"corpus": "corpus.txt", "keep": 1.0}}
STUDIES = {
    "study's teacher": study(),
    "study's student": study(teacher="sound"),
    "study's cut layers": study(student={"from": "teacher", "layers": [0]}),
    "study's cut vocabulary": study(student=CUT),
    "study's given teacher": study(teacher_is_trained=True),
}


def distil(folder: Path, corner: Corner) -> None:
    rows = {"train": corner.train, "text": "review", "label": "mood"}
    kdlora.distil(teacher=folder, student=corner.student, **rows)


DOORS = {
    door.__name__.replace("_", " "): door
    for door in (
        predict, read_the_config, read_the_tokenizer, read_the_encoder, train_on, take_as_teacher,
        put_an_adapter_on, trim_in_python, trim_by_command,
    )
} | STUDIES  # fmt: skip


@pytest.fixture
def place(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what is sound; commands are called in an empty folder beside it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("KDLORA_CACHE", str(tmp_path / "cache"))
    return shutil.copytree(sound, tmp_path / "given")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_every_door_refuses_what_harms(
    place: Path, corner: Corner, harm: Callable[[Path], None], door: str
) -> None:
    harm(place / "model")
    began = time.monotonic()
    with pytest.raises(KdloraError) as told:
        DOORS[door](place / "model", corner)
    assert time.monotonic() - began < 20
    assert HARM[harm] in str(told.value)
    assert str(place / "model") in str(told.value)
    assert not (place / "small").exists()
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("run", [distil, study(kdlora.run, student=CUT)], ids=["distil", "run"])
def test_a_run_tells_of_a_harmful_teacher_once(
    place: Path, corner: Corner, run: Callable[..., None]
) -> None:
    """Plans, and the models that are looked at after them, find the same."""
    many_layers(place / "model")
    with pytest.raises(KdloraError) as told:
        run(place / "model", corner)
    assert str(told.value).count(HARM[many_layers]) == 1
    assert not list(Path.cwd().iterdir())
