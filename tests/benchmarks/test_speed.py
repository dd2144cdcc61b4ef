"""The arithmetic and the contenders of the benchmarks; nothing here is timed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import padding, peers, products, results, speed, step, turns, workload
from benchmarks.ours import Ours
from benchmarks.turns import ratio
from kdlora.models.fused.forward import fuse


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
    assert "| peer | 20.0 | " in (tmp_path / "speed.md").read_text()


def test_the_table_names_every_contender_its_ratio_and_its_target():
    results = {"measures": [group()]}
    table = speed.as_markdown(results)
    assert "| kdlora | 100.0 |" in table
    assert "| peer | 25.0 |  | 4.0 x as fast | 3.5 - 4.5 |  | 2.5 x |" in table
    assert "| products alone | 142.9 |  | at 70% of their rate | 60% - 80% | | 60 % |" in table


def in_rounds(monkeypatch, **texts):
    """What is kept of a group whose contenders did so many texts."""

    def turns_of(contenders, repeats):
        each_s = {"kdlora": 1.0, speed.BEST: 2.0}
        return {
            who: [turns.Turn(each_s.get(who, 0.5), texts.get("texts", 512), held, "eager, bf16")]
            for who, held in zip(contenders, (1024, 1024, 1024, 1024, 2048), strict=True)
        }

    monkeypatch.setattr(speed, "in_turns", turns_of)
    return speed.measure(["student"], 1)


def test_the_table_has_what_batches_held_and_a_ratio_without_it(tiny, monkeypatch):
    table = speed.as_markdown(in_rounds(monkeypatch))
    assert "of 512 texts, 29.6 tokens each)" in table
    peer = f"| {speed.BEST} (eager, bf16) | 256.0 | 4.0 | 2.0 x as fast | 2.0 - 2.0 | 1.00 x |"
    assert peer in table


def test_a_contender_that_leaves_texts_out_is_refused(tiny, monkeypatch):
    with pytest.raises(RuntimeError, match=r"on 512 texts.*'kdlora': 500,"):
        in_rounds(monkeypatch, texts=500)


@pytest.mark.parametrize(
    ("profile", "steps", "grouped", "share"),
    [
        ("movie-reviews", 16, True, 1.17),
        ("sst2", 8, True, 1.59),
        ("movie-reviews", 16, False, 1.14),
    ],
)
def test_ratios_of_first_steps_are_corrected_by_what_those_held(profile, steps, grouped, share):
    """sst2: kdlora's eight steps held 8.6 tokens a text and its epoch 15.1."""
    assert padding.first_steps(profile, steps, grouped=grouped) == pytest.approx(share, abs=0.02)


def test_an_old_group_says_what_it_was_and_what_it_is_over_whole_epochs():
    old = group("student-sst2")
    for part in ("ratios", "seconds_per_unit"):
        old[part][speed.BEST] = old[part]["peer"]
    table = speed.as_markdown({"measures": [old]})
    assert "then 4.0 x as fast, now 2.5 x" in table
    assert "Groups marked" in table
    assert "Groups marked" not in speed.as_markdown({"measures": [group("labelling")]})


def test_the_contenders_of_a_group_do_the_same_texts_once(tiny, monkeypatch):
    """Each by its own batching; what kdlora and the best Trainer pad differs by a few percent."""
    monkeypatch.setitem(workload.SHAPES, "minilm-l3", workload.SHAPES["distilbert"])
    monkeypatch.setitem(workload.SHAPES, "bert-base", workload.SHAPES["distilbert"])
    work = workload.make_workload("sst2", 160)
    real = work.texts.lengths.sum()
    found = {name: make("distilbert", True).epoch(work) for name, make in peers.PEERS.items()}
    found["ours"] = Ours("distilbert").epoch(work)
    found["products"] = products.timed(
        products.products_of("distilbert", trains="adapters"),
        products.training_batches("sst2", 160),
    )
    assert {turn.texts for turn in found.values()} == {160}
    assert found["ours"].padded_tokens == found["products"].padded_tokens >= real
    assert found["reports_recipe"].padded_tokens == 160 * peers.MAX_LENGTH
    best = found["trainer_at_its_best"].padded_tokens
    assert found["ours"].padded_tokens == pytest.approx(best, rel=0.06)
    assert found["online_teacher"].padded_tokens > 1.5 * best  # random batches


@pytest.mark.parametrize("kind", ["ours", "loop", "pipeline"])
def test_labelling_counts_every_text(tiny, monkeypatch, kind):
    from benchmarks.contenders import labelling

    run = labelling(kind, "distilbert", "cola", 40)
    assert (run().texts, run().texts) == (40, 40)


@pytest.mark.parametrize("name", list(speed.MEASURES))
def test_all_of_a_group_are_given_the_same_texts(name):
    group = speed.MEASURES[name]
    given = {(c.arguments["profile"], c.arguments["rows"]) for c in group.contenders.values()}
    assert given == {(group.profile, group.rows)}


def test_achieved_and_possible_rates_stand_beside_their_ratio():
    made = {**group(), "flops_per_unit": 1e9}
    table = speed.as_markdown({"measures": [made]})
    assert "at 70% of their rate, 100 of 143 GFLOP/s | 60% - 80%" in table


def test_aims_belong_to_machines_with_fast_bf16():
    made = group()
    assert "| aimed at, with fast bf16 |" in speed.as_markdown({"measures": [made]})
    made["machine"]["instructions"] = ["amx_bf16", "avx2"]
    table = speed.as_markdown({"measures": [made]})
    assert "| aimed at |" in table
    assert "(amx_bf16, avx2; bf16; torch 2" in table
    made["machine"]["precision"] = "fp32"
    assert "(b) compute in fp32" in speed.as_markdown({"measures": [made]})


def test_numbers_of_two_processors_do_not_share_a_file(tmp_path):
    theirs = group("teacher")
    theirs["machine"]["instructions"] = ["amx_bf16", "avx2"]
    speed.write({"measures": [theirs]}, tmp_path)
    before = (tmp_path / "speed.json").read_text()
    ours = group("student")
    ours["machine"]["instructions"] = ["avx2"]
    with pytest.raises(results.OtherMachine, match=r"avx2$"):
        speed.write({"measures": [ours]}, tmp_path)
    assert (tmp_path / "speed.json").read_text() == before
    results.write_results(tmp_path, "step", {"machine": theirs["machine"]})
    with pytest.raises(results.OtherMachine, match="amx_bf16"):
        results.expect_same_machine(tmp_path, "step", ours["machine"])
    results.expect_same_machine(tmp_path, "step", theirs["machine"])
    results.expect_same_machine(tmp_path, "cell", ours["machine"])  # nothing there yet


@pytest.mark.parametrize("flags", [{"avx2"}, {"avx2", "amx_bf16"}])
def test_the_best_trainer_computes_in_what_is_fast(tiny, monkeypatch, flags):
    """bf16 that the processor only emulates would flatter kdlora."""
    from kdlora.training import precision

    monkeypatch.setattr(precision, "cpu_flags", lambda: flags)
    fast = "amx_bf16" in flags
    formats = []
    made = peers.Peer.epoch
    monkeypatch.setattr(
        peers.Peer, "epoch", lambda self, work: formats.append(self.settings) or made(self, work)
    )
    peers.trainer_at_its_best("distilbert", work=workload.make_workload("cola", 32))
    assert {"bf16" in settings for settings in formats} == ({True, False} if fast else {False})
    assert {settings.split(",")[0] for settings in formats} == {"eager", "sdpa"}
    assert "bf16" not in peers.reports_recipe("distilbert").changes
    assert turns.machine()["precision"] == ("bf16" if fast else "fp32")


@pytest.mark.parametrize("trains", ["adapters", "everything", "nothing"])
def test_the_products_are_those_of_kdloras_step(tiny, monkeypatch, trains):
    """Counted at the packed or plain products of a real pass, in which nothing else is as wide."""
    from kdlora.models.fused import ops
    from kdlora.models.fused.packed import Packed

    lora = trains == "adapters"
    model = workload.make_model("distilbert", attention="eager")
    if lora:
        model = workload.with_lora(model, "distilbert")
    model.requires_grad_(trains == "everything" and not lora)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = trains == "everything" or (lora and "lora_" in name)
    done = []
    monkeypatch.setattr(Packed, "forward", noted(Packed.forward, done))
    monkeypatch.setattr(Packed, "backward", noted(Packed.backward, done))
    plain = ops.matmul
    monkeypatch.setattr(
        ops, "matmul", lambda x, w: done.append(2 * len(x) * w.numel()) or plain(x, w)
    )
    batch = products.Batch(4, 6)
    ids = torch.ones(batch.texts, batch.length, dtype=torch.long)
    with torch.set_grad_enabled(trains != "nothing"):
        logits = fuse(model, torch.float32)({"input_ids": ids, "attention_mask": ids})
    if trains != "nothing":
        logits.sum().backward()
    needed = products.products_of("distilbert", trains=trains, dtype=torch.float32)
    counted = sum(p.flops(batch) for p in needed)
    if trains == "everything":  # weights' gradients are products of torch's own
        counted -= sum(p.flops(batch) // 3 for p in needed)
    assert sum(done) == counted
    assert products.timed(needed, [batch, batch]).texts == 2 * batch.texts


def noted(product, done):
    def call(self, x, **arguments):
        done.append(2 * len(x) * self.weight.numel())
        return product(self, x, **arguments)

    return call


def test_every_operation_of_a_step_counts_once(tiny, monkeypatch):
    monkeypatch.setattr(step, "SHAPES", (("distilbert", True),))
    found = step.measure()
    shares = found["shares"]["distilbert"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["products of attention"] > 0
    assert shares["layer norms"] > 0
    assert step.group_of("aten::native_layer_norm_backward") == "layer norms"
    assert step.group_of("aten::addmm_") == step.SMALL
    assert step.group_of("aten::mm", [[700, 768], [768, 8]]) == step.SMALL  # an adapter
    assert step.group_of("aten::mm", [[1, 700], [700, 768]]) == step.SMALL  # a bias' gradient
    assert step.group_of("aten::mm", [[768, 32], [32, 3072]]) == step.WIDE  # a weight's
    assert step.group_of("aten::addmm", [[768], [700, 3072], [3072, 768]]) == step.WIDE
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
        training("ours-shared", "distilbert", "cola", 64)()
    finally:
        torch.set_num_threads(before)
    assert not made
    assert team.LEAST > 1


def test_the_peers_predictions_are_of_every_text(tiny):
    peer = peers.reports_recipe("distilbert", lora=False)
    trainer = peer.trainer(workload.make_workload("cola", 40))
    assert len(trainer.predict(trainer.train_dataset).predictions) == 40


@pytest.mark.parametrize("make", [peers.reports_recipe, Ours])
def test_every_contender_trains_the_same_weights(tiny, make):
    """Adapters and head move, the base does not, and a round reports a positive time."""
    contender = make("distilbert")
    model = contender.model
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    assert contender.epoch(workload.make_workload("cola", 160)).seconds > 0
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert all("lora_" in n or "modules_to_save" in n for n in moved)
    assert any("lora_B" in n for n in moved)


def test_the_peers_loss_is_the_usual_one(tiny):
    """Against kdlora's own loss on the same logits."""
    from kdlora.distillation.losses import make_loss
    from kdlora.spec.distillation import Distillation
    from kdlora.vocabulary.task import TASKS

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
