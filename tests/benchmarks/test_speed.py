"""The arithmetic and the contenders of the benchmarks; nothing here is timed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import peers, speed, step, workload
from benchmarks.ours import Ours
from benchmarks.turns import ratio


def test_ratios_are_taken_round_by_round():
    """A machine twice as slow in the second round changes no ratio."""
    found = ratio([1.0, 2.0, 1.0], [3.0, 6.0, 5.0])
    assert (found.median, found.least, found.most, found.rounds) == (3.0, 3.0, 5.0, 3)


@pytest.mark.parametrize("profile", list(workload.LENGTHS))
def test_texts_have_the_lengths_of_their_task(profile):
    lengths = workload.make_workload(profile, 4000).texts.lengths
    deciles = np.percentile(lengths, range(0, 101, 10))
    assert np.abs(deciles - workload.LENGTHS[profile]).max() <= 3


def group(name="student", peer_s=0.04):
    return {
        "name": name,
        "title": "KD-LoRA training",
        "measured_at": "2026-01-01T00:00:00+00:00",
        "machine": {"threads": 2, "instructions": [], "torch": "2", "transformers": "5"},
        "repeats": 1,
        "seconds_per_unit": {"kdlora": [0.01], "peer": [peer_s], "products alone": [0.007]},
        "target": {"peer": 2.5},
        "ratios": {
            "peer": {"median": 4.0, "least": 3.5, "most": 4.5, "rounds": 1},
            "products alone": {"median": 0.7, "least": 0.6, "most": 0.8, "rounds": 1},
        },
    }


def test_a_group_that_is_measured_again_leaves_the_others_as_they_were(tmp_path):
    speed.write({"measures": [group("teacher"), group("student")]}, tmp_path)
    speed.write({"measures": [group("student", peer_s=0.05)]}, tmp_path)
    kept = json.loads((tmp_path / "speed.json").read_text())["measures"]
    assert kept == [group("student", peer_s=0.05), group("teacher")]
    assert "| peer | 20.0 |" in (tmp_path / "speed.md").read_text()


def test_the_table_names_every_contender_its_ratio_and_its_target():
    results = {"measures": [group()]}
    table = speed.as_markdown(results)
    assert "| kdlora | 100.0 |" in table
    assert "| peer | 25.0 | 4.0 x as fast | 3.5 - 4.5 | 2.5 x |" in table
    assert "| products alone | 142.9 | at 70% of their rate | 60% - 80% | 60 % |" in table


def test_every_operation_of_a_step_counts_once(tiny, monkeypatch):
    monkeypatch.setattr(step, "SHAPES", (("distilbert", True),))
    found = step.measure()
    shares = found["shares"]["distilbert"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["products of attention"] > 0
    assert shares["layer norms"] > 0
    assert step.group_of("aten::native_layer_norm_backward") == "layer norms"
    assert step.group_of("aten::addmm_").startswith("small products")
    assert shares["optimizer and clipping"] > 0
    assert "| GELU | " in step.as_markdown(found)


@pytest.fixture
def tiny(monkeypatch):
    from transformers import DistilBertConfig

    config = DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64)
    monkeypatch.setitem(workload.SHAPES, "distilbert", config)


def test_operations_are_shared_where_that_is_asked_for(tiny, monkeypatch):
    from benchmarks.contenders import training
    from kdlora.models.fused import team

    monkeypatch.setattr(team, "LEAST", 1)
    made = []
    monkeypatch.setattr(team.Team, "__init__", lambda self, size: made.append(size))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        training("ours-shared", "distilbert", "cola", 1)()
    finally:
        torch.set_num_threads(before)
    assert not made
    assert team.LEAST > 1


def test_the_peers_predictions_are_of_every_text(tiny):
    peer = peers.reports_recipe("distilbert", lora=False)
    trainer = peer.trainer(workload.make_workload("cola", 40))
    assert len(trainer.predict(trainer.train_dataset).predictions) == 40


@pytest.mark.parametrize("make", [peers.reports_recipe, peers.trainer_at_its_best, Ours])
def test_every_contender_trains_the_same_weights(tiny, make):
    """Adapters and head move, the base does not, and a round reports a positive time."""
    contender = make("distilbert")
    model = contender.model
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    seconds = contender.seconds_per_example(workload.make_workload("cola", 160), 3)
    assert seconds > 0
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert all("lora_" in n or "modules_to_save" in n for n in moved)
    assert any("lora_B" in n for n in moved)


def test_the_peers_loss_is_the_usual_one(tiny):
    """Against kdlora's own loss on the same logits."""
    from kdlora.distillation.losses import make_loss
    from kdlora.spec.distillation import Distillation
    from kdlora.spec.tasks import TASKS

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 2, generator=generator)
    teacher = torch.randn(8, 2, generator=generator)
    labels = torch.randint(0, 2, (8,), generator=generator)

    class Fixed(torch.nn.Module):
        def forward(self, **_: object) -> object:
            return type("Out", (), {"logits": logits})

    inputs = {"teacher": teacher, "labels": labels}
    trainer = object.__new__(peers.DistillingTrainer)
    theirs = peers.DistillingTrainer.compute_loss(trainer, Fixed(), inputs)
    kd = Distillation(temperature=peers.TEMPERATURE, kd_weight=peers.KD_WEIGHT)
    ours = make_loss(TASKS["sst2"], kd)(logits, labels, teacher)
    torch.testing.assert_close(theirs, ours)
