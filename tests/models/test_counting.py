from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd
import pytest
from transformers import BertConfig, DebertaV2Config, DistilBertConfig, RobertaConfig

from kdlora.errors import ModelError
from kdlora.models.counting import adapter_parameters, expected_trainable
from kdlora.spec.study import Adapter
from kdlora.spec.tasks import TASKS

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
