"""What a step with each variant of LoRA costs beside plain LoRA's."""

from __future__ import annotations

import pytest
import torch
from transformers import DistilBertConfig

from benchmarks import variants, workload
from benchmarks.ours import Ours
from kdlora.models.adapters import allocates_ranks
from kdlora.vocabulary.arm import PEFT_VARIANTS

TINY = DistilBertConfig(dim=32, hidden_dim=64, n_layers=2, n_heads=4)
ROWS = 160  # five steps: AdaLoRA allocates its ranks in them


@pytest.mark.parametrize("variant", PEFT_VARIANTS)
def test_each_variant_trains_its_adapters_on_every_text(monkeypatch, variant):
    monkeypatch.setitem(workload.SHAPES, "distilbert", TINY)
    ours = Ours("distilbert", variant=variant, steps=5)
    before = {n: p.detach().clone() for n, p in ours.model.named_parameters()}
    turn = ours.epoch(workload.make_workload("cola", ROWS))
    assert turn.texts == ROWS
    assert turn.seconds > 0
    moved = {n for n, p in ours.model.named_parameters() if not torch.equal(p, before[n])}
    assert {n for n in moved if "classifier" not in n}  # not the head alone
    assert not any(n.endswith("base_layer.weight") for n in moved)
    assert allocates_ranks(ours.model) == (variant == "adalora")


def test_ratios_are_of_seconds_round_by_round():
    page = variants.as_markdown(
        {
            "measured_at": "2026-01-01", "rows": 64, "repeats": 2, "target": 1.15,
            "machine": {"threads": 2, "instructions": [], "torch": "2", "transformers": "5"},
            "seconds": {"tiny": {"lora": [1.0, 2.0], "dora": [1.5, 2.0], "olora": [1.0, 2.0]}},
        }
    )  # fmt: skip
    assert "| dora | 1.25 (1.00 to 1.50) |" in page
    assert "| olora | 1.00 (1.00 to 1.00) |" in page
    assert "| lora " not in page
