from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, DebertaV2Config, DistilBertConfig, RobertaConfig

from kdlora.errors import ModelError
from kdlora.models.counting import (
    adapter_parameters,
    resolve_budget,
    without_weights,
)
from kdlora.spec.adapter import Adapter
from kdlora.vocabulary.arm import PEFT_VARIANTS
from kdlora.vocabulary.task import TASKS
from tests.harness.counting import expected_trainable

# The study's encoders, teacher and student of each family, from their published configs.
_DEBERTA = {
    "vocab_size": 128100,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "max_relative_positions": -1,
    "pooler_hidden_size": 768,
}
_ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
ENCODERS = {
    "bert": (BertConfig(), DistilBertConfig()),
    "roberta": (RobertaConfig(**_ROBERTA), RobertaConfig(**_ROBERTA, num_hidden_layers=6)),
    "deberta": (
        DebertaV2Config(**_DEBERTA),
        DebertaV2Config(**_DEBERTA | {"num_hidden_layers": 6}),
    ),
}
# There peft trained what ends in "classifier": DeBERTa's random pooler stayed frozen.
TRAINED = {"bert": None, "roberta": None, "deberta": ("classifier",)}


LIKE = {1: TASKS["stsb"], 2: TASKS["sst2"], 3: TASKS["mnli"]}  # tasks by number of outputs


@cache
def _count(family: str, student: bool, variant: str, outputs: int) -> int:
    config = ENCODERS[family][student]
    section = Adapter(rank=8, targets=("query-value",))
    return expected_trainable(config, variant, section, LIKE[outputs], trained=TRAINED[family])


def test_every_run_of_the_reports(shared: Path) -> None:
    """All 742 runs, exact to the parameter, from the configs alone."""
    runs = pd.read_csv(shared / "reference" / "runs.csv")
    mismatches = []
    for run in runs.itertuples():
        student, outputs = run.trained_model == run.student, TASKS[run.task].num_outputs
        count = _count(run.family, student, run.peft, outputs)
        if round(count / 1e6, 6) != round(run.trainable_params_M, 6):
            mismatches.append((run.Index, count, run.trainable_params_M))
    assert len(runs) == 742
    assert not mismatches


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("lora", 8 * 1536),
        ("rslora", 8 * 1536),
        ("olora", 8 * 1536),
        ("dora", 8 * 1536 + 768),
        ("adalora", 12 * 1536 + 12),
        ("mrlora", 15 * 1536 + 4),
    ],
)
def test_one_layer(variant: str, expected: int) -> None:
    assert adapter_parameters(variant, Adapter(rank=8), 768, 768) == expected


def test_options_count() -> None:
    def count(variant: str, **options) -> int:
        return adapter_parameters(variant, Adapter(rank=8, options=options), 10, 20)

    assert count("mrlora", ranks=[3, 3]) == 6 * 30 + 2
    assert count("adalora", init_r=9) == 9 * 31
    assert adapter_parameters("olora", Adapter(rank=50), 10, 20) == 10 * 30


def test_known_totals() -> None:
    bert, distilbert = ENCODERS["bert"]
    section = Adapter(rank=8, targets=("query-value",))
    assert expected_trainable(bert, "lora", section, TASKS["sst2"]) == 296_450
    assert expected_trainable(distilbert, "lora", section, TASKS["sst2"]) == 739_586
    assert expected_trainable(bert, "fft", None, TASKS["sst2"]) == 109_483_778
    # the pooler, where masked language modelling left none: 768 x 768 + 768 more
    with_pooler = expected_trainable(
        bert, "lora", section, TASKS["sst2"], new_modules=("bert.pooler.dense", "classifier")
    )
    assert with_pooler == 296_450 + 590_592
    # kdlora trains DeBERTa's pooler, which the study had left random
    deberta = ENCODERS["deberta"][1]
    assert expected_trainable(deberta, "lora", section, TASKS["sst2"]) == 148_994 + 590_592


def test_the_config_is_not_changed() -> None:
    config = BertConfig()
    expected_trainable(config, "fft", None, TASKS["mnli"])
    assert config.num_labels == 2


def test_unknown_option() -> None:
    with pytest.raises(ModelError, match="no option 'rank'"):
        expected_trainable(BertConfig(), "lora", Adapter(options={"rank": 3}), TASKS["sst2"])


def _adapter_size(variant: str, rank: int, layers: int = 2) -> int:
    """Closed form on query and value of so many layers of the narrow encoder."""
    d = NARROW.hidden_size
    per_layer = {
        "lora": rank * 2 * d,
        "rslora": rank * 2 * d,
        "dora": rank * 2 * d + d,
        "olora": min(rank, d) * 2 * d,
        "adalora": -(-3 * rank // 2) * (2 * d + 1),
        "mrlora": sum(halves := [rank >> i for i in range(rank.bit_length())]) * 2 * d
        + len(halves),
    }
    return 2 * layers * per_layer[variant]


NARROW = BertConfig(
    vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
)


def _resolved(variant: str, budget: int, **section) -> int | None:
    adapter = Adapter(budget=budget, targets=("query-value",), **section)
    found = resolve_budget(NARROW, variant, adapter, TASKS["mnli"])
    assert found.budget is None
    return found.rank


@settings(deadline=None, max_examples=25)
@given(variant=st.sampled_from(PEFT_VARIANTS), budget=st.integers(300, 30_000))
def test_a_budget_gives_the_largest_rank_within_it(variant: str, budget: int) -> None:
    rank = _resolved(variant, budget)
    assert rank is not None
    assert _adapter_size(variant, rank) <= budget
    if variant == "olora" and rank == 16:  # more than the layers' own rank changes nothing
        assert _adapter_size("olora", 17) == _adapter_size("olora", 16)
    else:
        assert _adapter_size(variant, rank + 1) > budget


@pytest.mark.parametrize("variant", PEFT_VARIANTS)
def test_the_smallest_budget_is_stated(variant: str) -> None:
    least = _adapter_size(variant, 1)
    assert _resolved(variant, least) == 1
    with pytest.raises(ModelError, match=f"of rank 1, has {least:,}") as caught:
        _resolved(variant, least - 1)
    assert f"{least - 1:,} trainable parameters are too few for {variant} on 4 layers" in str(
        caught.value
    )


def test_a_budget_counts_no_head_and_no_new_pooler() -> None:
    adapter = Adapter(budget=100_000, targets=("query-value",))
    bert = ENCODERS["bert"][0]
    counted = expected_trainable(bert, "lora", adapter, TASKS["sst2"])
    assert counted == 2 * 12 * 2 * 2 * 768 + 1538  # rank 2, and the head
    everywhere = Adapter(budget=1_000_000)
    alone = resolve_budget(NARROW, "lora", everywhere, TASKS["sst2"])
    beside = resolve_budget(
        NARROW, "lora", everywhere, TASKS["sst2"], new_modules=("bert.pooler.dense",)
    )
    assert alone.rank is not None
    assert beside.rank is not None
    assert beside.rank > alone.rank  # the pooler trains whole and needs no adapter


def test_a_rank_needs_no_resolving() -> None:
    adapter = Adapter(rank=3)
    assert resolve_budget(NARROW, "lora", adapter, TASKS["sst2"]) is adapter


@pytest.mark.parametrize(
    ("variant", "options"), [("adalora", {"init_r": 9}), ("mrlora", {"ranks": [3]})]
)
def test_a_budget_beside_an_option_that_sets_the_size(variant: str, options: dict) -> None:
    with pytest.raises(ModelError, match="both set the adapter's size"):
        _resolved(variant, 10_000, options=options)


def test_budgets_need_no_weights() -> None:
    """BERT-large's would take over a gigabyte."""
    large = BertConfig(
        hidden_size=1024, num_hidden_layers=24, intermediate_size=4096, num_attention_heads=16
    )
    adapter = Adapter(budget=1_000_000, targets=("query-value",))
    assert resolve_budget(large, "lora", adapter, TASKS["sst2"]).rank == 1_000_000 // (48 * 2048)
    model = without_weights(large, TASKS["sst2"])
    assert {p.device.type for p in model.parameters()} == {"meta"}
