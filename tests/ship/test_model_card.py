"""What the hub reads of an export: the base model by its real name, licence, language, data."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kdlora.errors import InputError
from kdlora.records.artefact import Artefact
from kdlora.records.record import Quality, Record, recorded_licences
from kdlora.ship.answers import answers
from kdlora.ship.card import Calibration
from kdlora.ship.model_card import example, metadata, readme, with_calibration
from kdlora.spec.check import make_study
from kdlora.spec.encoders import HUB_NAMES, PACKAGED_ENCODERS, licence_of
from kdlora.spec.plan import make_plan
from kdlora.spec.run import EncoderRef, EncoderRun
from tests.harness.exported import card_of, logits_of, save_exported

VARIANT = {
    "name": "onnx", "runtime": "onnx", "quantization": "none", "path": "onnx/model.onnx",
    "size_mb": 1.0, "metric": "accuracy", "score": 0.9, "gate": "passed",
}  # fmt: skip
ARTEFACT = Artefact.model_validate(
    {"run_id": "r", "task": "sst2", "max_length": 16, "variants": [VARIANT]}
)


def metadata_of(
    encoder: EncoderRef | None = None, tasks: Any = ("sst2",), languages: Any = ()
) -> dict[str, Any]:
    values = {"name": "s", "tasks": list(tasks), "arms": ["teacher/fft", "student/kd-lora"],
              "pairs": [{"teacher": "mpnet-base", "student": "minilm-l3"}]}  # fmt: skip
    run = make_plan(make_study(values)).runs[-1]
    assert isinstance(run, EncoderRun)
    if encoder is not None:
        run = run.model_copy(update={"encoder": encoder})
    record = Record(run_id=run.run_id, run=run)
    told = metadata(ARTEFACT, card_of(), record, repository="me/moods", languages=languages)
    return yaml.safe_load(told)


def test_a_packaged_encoder_has_its_name_on_the_hub() -> None:
    found = metadata_of()
    assert found["base_model"] == "sentence-transformers/paraphrase-MiniLM-L3-v2"
    assert found["license"] == "apache-2.0"
    assert found["language"] == "en"
    assert found["datasets"] == ["nyu-mll/glue"]
    assert set(HUB_NAMES) == set(PACKAGED_ENCODERS)


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Any]:
    """A task of own rows."""
    train = tmp_path / "t.csv"
    train.write_text("text,label\n" + "".join(f"film {i},{i % 2}\n" for i in range(40)))
    return {"name": "moods", "train": str(train), "text": "text", "label": "label"}


def test_the_language_is_what_the_study_or_the_user_says_and_never_guessed(own: Any) -> None:
    assert "language" not in metadata_of(tasks=[own])
    assert metadata_of(tasks=[own | {"language": "de"}])["language"] == "de"
    assert metadata_of(tasks=[own | {"language": ["de", "fr"]}])["language"] == ["de", "fr"]
    assert metadata_of(tasks=[own | {"language": "de"}], languages=["fr"])["language"] == "fr"


def test_a_data_set_of_the_hub_is_named_with_its_revision() -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    task = {"hub": "fancyzhx/ag_news", "train": "train", "eval": "test", "revision": revision}
    found = metadata_of(tasks=[task])
    assert found["datasets"] == ["fancyzhx/ag_news"]
    (result,) = found["model-index"][0]["results"]
    assert result["dataset"]["type"] == "fancyzhx/ag_news"
    assert result["dataset"]["split"] == "test"
    assert result["dataset"]["revision"] == revision


def test_of_own_files_no_data_set_is_claimed(own: Any) -> None:
    found = metadata_of(tasks=[own])
    assert "datasets" not in found
    (result,) = found["model-index"][0]["results"]
    assert "split" not in result["dataset"]


@pytest.mark.parametrize(
    ("encoder", "base", "licence"),
    [
        (EncoderRef(name="roberta-base", source="hub"), "roberta-base", "mit"),
        (EncoderRef(name="someone/theirs", source="hub"), "someone/theirs", "unknown"),
        (EncoderRef(name="/home/a/minilm-l3", source="folder", path="/home/a/minilm-l3"), None,
         "unknown"),
        (EncoderRef(name="minilm-l3", source="folder", path="/home/a/minilm-l3"), None, "unknown"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_said_to_be_unknown(
    encoder: EncoderRef, base: str | None, licence: str
) -> None:
    found = metadata_of(encoder)
    assert (found.get("base_model"), found["license"]) == (base, licence)
    assert "/home" not in str(found)


def test_licences_are_of_whole_names() -> None:
    assert licence_of("bert-base-uncased") == licence_of("google-bert/bert-base-cased")
    assert licence_of("microsoft/deberta-v3-small") == "mit"
    assert licence_of("someone/bert-base-uncased") == licence_of(None) == "unknown"


TEXTS = ["good good film", "bad dull good", "dull film film", "bad film good"]
BY_PROBABILITY = {"cut": 0.6, "aim": 0.9, "level": 0.95, "lower_bound": 0.91}


@pytest.mark.parametrize(
    "by",
    [
        None,
        {"temperature": 0.25},
        {"threshold": 0.3, "positive": "negative"},
        {"threshold": 0.7, "positive": "positive", "temperature": 2.0},
        {"thresholds": {"negative": 0.8, "positive": 0.2}},
        {
            "abstention": BY_PROBABILITY,
            "temperature": 0.5,
            "threshold": 0.2,
            "positive": "positive",
        },
    ],
)
def test_the_example_answers_as_the_model_does(by: Any, tmp_path: Path) -> None:
    card = card_of(calibration=by and Calibration(n=1, **by))
    save_exported(tmp_path / "shipped", card=card.model_dump(mode="json"))
    program = example(ARTEFACT, card)
    assert program is not None
    samples = re.search(r"encode_batch\((.*)\)", program)
    assert samples is not None
    path = tmp_path / "shipped" / "example.py"
    path.write_text(program.replace(samples[1], repr(TEXTS)))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True)
    said = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    found = answers(np.stack([logits_of(text) for text in TEXTS]), card)
    assert [label for label, _ in said] == [str(a["label"]) for a in found]
    assert [float(p) for _, p in said] == pytest.approx([a["probability"] for a in found], abs=1e-5)


def test_a_readme_says_its_calibration_once_and_nothing_without_one() -> None:
    by = Calibration(n=1, thresholds={"negative": 0.8, "positive": 0.2}, metric="macro-f1")
    once = with_calibration("# moods\n\n## Forms\n", card_of(calibration=by))
    assert "negative 0.8000, positive 0.2000" in once
    assert with_calibration(once, card_of(calibration=by)) == once
    cleared = with_calibration(once, card_of())
    assert "thresholds" not in cleared
    assert cleared.index("calibration") < cleared.index("## Forms")


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        ("---\nlicense: mit\ntags: [a]\n---\n# A model\n", "mit"),
        ("---\nlicense: [mit]\n---\n", "unknown"),
        ("---\nlicense: |\n  do what\n  you want\n---\n", "unknown"),
        ("---\n: {\n---\n", "unknown"),
        ("# license: mit\n", "unknown"),
        ("---\n" + "[" * 5000 + "\n---\n", "unknown"),
        ("---\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicense: mit\n---\n" + "\N{EURO SIGN}" * 65_536, "mit"),  # of three bytes each
        (None, "unknown"),
    ],
)
def test_a_folder_states_its_licence_in_its_readme(
    tmp_path: Path, readme: str | None, licence: str
) -> None:
    if readme is not None:
        (tmp_path / "README.md").write_bytes(readme.encode())
    found = metadata_of(EncoderRef(name="mine", source="folder", path=str(tmp_path)))
    assert found["license"] == licence


def test_the_licence_of_own_data_is_recorded_and_changes_no_run_id(own: Any) -> None:
    values = {"name": "s", "pairs": [{"teacher": "mpnet-base", "student": "minilm-l3"}]}
    plans = [make_plan(make_study(values | {"tasks": [own | more]}))
             for more in ({}, {"licence": "cc-by-4.0"})]  # fmt: skip
    assert [r.run_id for r in plans[0].runs] == [r.run_id for r in plans[1].runs]
    run = plans[1].runs[-1]
    record = Record(run_id=run.run_id, run=run)
    assert recorded_licences(record) == {"encoder": "apache-2.0", "data": "cc-by-4.0"}
    then = record.model_copy(update={"licences": {"encoder": "mit", "data": "unknown"}})
    assert recorded_licences(then)["encoder"] == "mit"  # what was stated when it was trained
    with pytest.raises(InputError, match="identifier"):
        make_study(values | {"tasks": [own | {"licence": "My own licence"}]})


def test_a_language_changes_no_run_id_and_is_a_code(own: Any) -> None:
    values = {"name": "s", "pairs": [{"teacher": "mpnet-base", "student": "minilm-l3"}]}
    plans = [make_plan(make_study(values | {"tasks": [own | more]}))
             for more in ({}, {"language": "de"})]  # fmt: skip
    assert [r.run_id for r in plans[0].runs] == [r.run_id for r in plans[1].runs]
    for wrong, told in (("German", "expected a code such as en"), (False, "YAML reads no")):
        with pytest.raises(InputError, match=told):
            make_study(values | {"tasks": [own | {"language": wrong}]})


def test_names_of_classes_are_shown_and_not_obeyed_by_markdown() -> None:
    name, shown = "naïve <b>|*x*", r"naïve \<b\>\|\*x\*"
    card = card_of(label_names=[name, "other"])
    by = Calibration(thresholds={name: 0.5, "other": 0.5}, metric="macro_f1", n=9)
    text = with_calibration("# moods\n\n## Forms\n", card.model_copy(update={"calibration": by}))
    assert f"best by macro_f1: {shown} 0.5000, other 0.5000" in text
    told = readme(ARTEFACT, card, record_of(name), repository="moods", notes=[])
    assert f"- output: {shown}, other\n" in told
    assert f"F1 by class: {shown} 0.500" in told
    assert name not in told


def record_of(name: str) -> Record:
    """A run's record whose one class is called so."""
    values = {"name": "s", "tasks": ["sst2"], "arms": ["teacher/fft", "student/kd-lora"],
              "pairs": [{"teacher": "mpnet-base", "student": "minilm-l3"}]}  # fmt: skip
    run = make_plan(make_study(values)).runs[-1]
    quality = Quality(
        primary="accuracy", direction=1, splits={"report": {"accuracy": 0.5}}, n={"report": 9},
        per_class_f1={name: 0.5},
    )  # fmt: skip
    return Record(run_id=run.run_id, run=run, quality=quality)
