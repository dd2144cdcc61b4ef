"""What the hub reads of an export: the base model by its real name, licence, language, data."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from kdlora.records.artefact import Artefact
from kdlora.ship.model_card import metadata
from kdlora.spec.check import make_study
from kdlora.spec.encoders import HUB_NAMES, PACKAGED_ENCODERS, licence_of
from kdlora.spec.plan import make_plan
from kdlora.spec.run import EncoderRef, EncoderRun
from tests.harness.exported import card_of

VARIANT = {
    "name": "onnx", "runtime": "onnx", "quantization": "none", "path": "onnx/model.onnx",
    "size_mb": 1.0, "metric": "accuracy", "score": 0.9, "gate": "passed",
}  # fmt: skip
ARTEFACT = Artefact.model_validate(
    {"run_id": "r", "task": "sst2", "max_length": 16, "variants": [VARIANT]}
)


def metadata_of(encoder: EncoderRef | None = None, tasks: Any = ("sst2",)) -> dict[str, Any]:
    values = {"name": "s", "tasks": list(tasks), "arms": ["teacher/fft", "student/kd-lora"],
              "pairs": [{"teacher": "mpnet-base", "student": "minilm-l3"}]}  # fmt: skip
    run = make_plan(make_study(values)).runs[-1]
    assert isinstance(run, EncoderRun)
    if encoder is not None:
        run = run.model_copy(update={"encoder": encoder})
    return yaml.safe_load(metadata(ARTEFACT, card_of(), run, repository="me/moods"))


def test_a_packaged_encoder_has_its_name_on_the_hub() -> None:
    found = metadata_of()
    assert found["base_model"] == "sentence-transformers/paraphrase-MiniLM-L3-v2"
    assert found["license"] == "apache-2.0"
    assert found["language"] == "en"
    assert found["datasets"] == ["nyu-mll/glue"]
    assert set(HUB_NAMES) == set(PACKAGED_ENCODERS)


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
