from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

from kdlora.errors import ModelError
from kdlora.models import inspection
from kdlora.models.encoders import load_encoder
from kdlora.spec.run import EncoderRef
from kdlora.vocabulary.task import TASKS
from tests.harness.tiny_models import FAMILIES, FURTHER_FAMILIES, tiny_config

GetEncoder = Callable[[str], EncoderRef]
ALL = [*FAMILIES, *FURTHER_FAMILIES]

# Read off each family's source: its head, and which Linear layers one block has.
HEADS = {
    "bert": ("classifier",),
    "albert": ("classifier",),
    "distilbert": ("pre_classifier", "classifier"),
    "deberta-v2": ("pooler", "classifier"),
    "modernbert": ("head", "classifier"),
    "roberta": ("classifier",),
    "xlm-roberta": ("classifier",),
    "mpnet": ("classifier",),
    "electra": ("classifier",),
}
LINEARS = {"modernbert": 4}  # query, key and value are one matrix; the others have 6
OUTSIDE_BLOCKS = {"bert": 1, "albert": 2, "electra": 1}  # poolers and embedding projections
QUERY_VALUE_ENDS = {
    "distilbert": ("q_lin", "v_lin"),
    "deberta-v2": ("query_proj", "value_proj"),
    "mpnet": ("attn.q", "attn.v"),
    "modernbert": ("attn.Wqkv",),
}


def _model(family: str, **changes):
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(tiny_config(family, **changes))


@pytest.mark.parametrize("family", ALL)
def test_heads(family: str) -> None:
    model = _model(family)
    head = inspection.head_modules(model)
    assert sorted(head) == sorted(HEADS[family])
    inside = {n for n, _ in model.named_parameters() if n.split(".")[0] in head}
    encoder = {
        n for n, _ in model.named_parameters() if n.startswith(model.base_model_prefix + ".")
    }
    assert inside | encoder == {n for n, _ in model.named_parameters()}


@pytest.mark.parametrize("family", ALL)
def test_targets(family: str) -> None:
    model = _model(family)
    head = inspection.head_modules(model)
    blocks = 1 if family == "albert" else 2  # ALBERT's blocks are one, used twice
    everything = inspection.resolve_targets(model, ["all-linear"], head)
    assert len(everything) == blocks * LINEARS.get(family, 6) + OUTSIDE_BLOCKS.get(family, 0)
    assert not any(name.split(".")[0] in head for name in everything)
    ends = QUERY_VALUE_ENDS.get(family, ("query", "value"))
    chosen = inspection.resolve_targets(model, ["query-value"], head)
    assert len(chosen) == blocks * len(ends)
    assert all(name.endswith(ends) for name in chosen)
    by_name = inspection.resolve_targets(model, [end.split(".")[-1] for end in ends], head)
    assert by_name == chosen
    assert inspection.resolve_targets(model, ["query-value", "all-linear"], head) == everything
    assert inspection.resolve_targets(model, [chosen[0]], head) == [chosen[0]]


def test_unknown_family() -> None:
    """Another encoder: its Linear layers can be adapted, but which is the query is unknown."""
    model = _model("bert")
    model.config.model_type = "unheard-of"
    everything = inspection.resolve_targets(model, ["all-linear"], ("classifier",))
    assert len(everything) == 13
    with pytest.raises(ModelError, match="not known for model type 'unheard-of'") as caught:
        inspection.resolve_targets(model, ["query-value"], ("classifier",))
    assert "attention.self.query" in str(caught.value)
    assert "layer.0" not in str(caught.value)


def test_every_unknown_target_is_reported() -> None:
    with pytest.raises(ModelError) as caught:
        inspection.resolve_targets(_model("distilbert"), ["q_linn", "v_lin", "value"], ())
    assert len(caught.value.problems) == 2
    assert "Did you mean 'q_lin'" in str(caught.value)
    with pytest.raises(ModelError, match="'classifier'"):  # it is trained whole, not adapted
        inspection.resolve_targets(_model("bert"), ["classifier"], ("classifier",))


def test_names_of_trained_modules_do_not_overlap() -> None:
    model = _model("roberta")
    new = ("classifier.dense", "classifier.out_proj")
    assert inspection.trained_modules(model, new) == ("classifier",)
    albert = _model("albert")
    assert inspection.trained_modules(albert, ("albert.pooler", "classifier")) == (
        "albert.pooler",
        "classifier",
    )


@pytest.mark.parametrize("family", ALL)
def test_longest_text(family: str, encoder: GetEncoder) -> None:
    """The stated number of tokens works, and one more does not where a number is stated."""
    loaded = load_encoder(encoder(family), TASKS["sst2"], seed=0)
    longest = inspection.max_tokens(loaded.model.config)
    assert longest == {"roberta": 65, "xlm-roberta": 65, "mpnet": 64, "deberta-v2": None}.get(
        family, 66
    )

    def run(length: int) -> torch.Tensor:
        ids = torch.full((1, length), 7)
        return loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits

    loaded.model.eval()
    assert torch.isfinite(run(longest or 100)).all()
    if longest and family != "modernbert":  # its rotary positions have no table to run out of
        with pytest.raises((IndexError, RuntimeError)):
            run(longest + 1)


def test_longest_text_of_published_models() -> None:
    def longest(family: str, **config: object) -> int | None:
        return inspection.max_tokens(CONFIG_MAPPING[family](**config))

    assert longest("bert") == longest("distilbert") == 512
    assert longest("roberta", max_position_embeddings=514) == 512
    assert longest("mpnet", max_position_embeddings=514) == 512


def test_facts_of_the_config() -> None:
    eager_only = {f for f in ALL if not inspection.supports_sdpa(tiny_config(f))}
    assert eager_only == {"deberta-v2", "mpnet"}


@pytest.mark.parametrize("family", ALL)
def test_dropout_is_replaced_wherever_it_is(family: str, encoder: GetEncoder) -> None:
    """With dropout 0 the training mode computes what the evaluation mode does."""
    for dropout, equal in ((0.0, True), (0.5, False)):
        loaded = load_encoder(encoder(family), TASKS["sst2"], seed=0, dropout=dropout)
        ids = torch.arange(5, 25).view(2, 10)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        training = loaded.model.train()(**batch).logits
        evaluation = loaded.model.eval()(**batch).logits
        assert torch.allclose(training, evaluation, atol=1e-6) is equal
