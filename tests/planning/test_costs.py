"""Cost estimates: closed forms against counted ones, learning against planted truths."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from kdlora.planning import costs
from kdlora.planning.costs import MEASURED, STATED, cost_model, estimate, ridge
from kdlora.planning.encoder_shapes import shape_of
from kdlora.planning.status import totals
from kdlora.planning.workload import Rows, rows_of, text_rows, work_of
from kdlora.records.store import Store
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.run import DistilledRun, EncoderRef, ZeroShotTeacherRun, adapter_of
from tests.harness.records import write_record


def plan(**changes):
    values = {
        "name": "s",
        "tasks": ["rte", "mrpc"],
        "pairs": [{"name": "p", "teacher": "minilm-l6", "student": "minilm-l3"}],
        "arms": ["teacher/fft", "student/fft", "student/lora", "student/dora", "student/kd-lora"],
        "seeds": [1, 2],
        "training": {"epochs": 3},
    }
    return make_plan(make_study({**values, **changes}))


def test_forward_flops_are_those_that_were_counted():
    """`measure.flops` counted these by torch's dispatcher on the packaged encoders, 64 tokens."""
    big, _ = shape_of(EncoderRef(name="minilm-l6", source="package"))
    small, _ = shape_of(EncoderRef(name="minilm-l3", source="package"))
    assert big.forward_flops(64) == 1396999680
    assert small.forward_flops(64) == 698648064
    assert small.forward_flops(64, outputs=1) == 698647296


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "albert", "deberta-v2"])
def test_sizes_are_those_of_the_models_themselves(family, tmp_path):
    import torch
    from transformers import AutoConfig, AutoModel

    extra = {"embedding_size": 16} if family == "albert" else {}
    config = AutoConfig.for_model(
        family, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48,
        vocab_size=99, dim=32, n_layers=3, n_heads=2, hidden_dim=48, **extra,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        truth = sum(p.numel() for p in AutoModel.from_config(config).parameters())
    shape, known = shape_of(EncoderRef(name="x", source="folder", path=str(tmp_path)))
    assert known
    assert shape.params == pytest.approx(truth, rel=0.03)  # poolers and relative positions differ
    units = {"lora": (4, 0), "mrlora": (4 + 2 + 1, 3), "adalora": (6, 6)}  # and weights beside
    for run in plan(ranks=[4], arms=["student/lora", "student/mrlora", "student/adalora"]).runs:
        if (adapter := adapter_of(run)) is not None:
            rank, weights = units[run.adaptation]
            one = sum(rank * (a + b) + weights for a, b in shape.linear_layers)
            expected = one * (1 if family == "albert" else 3)
            assert shape.adapter_params(run.adaptation, adapter) == expected


def test_an_unknown_encoder_is_taken_for_a_base_model():
    shape, known = shape_of(EncoderRef(name="lab/never-heard-of", source="hub"))
    assert not known
    assert shape.layers == 12


def test_without_records_estimates_follow_the_work_and_say_so(tmp_path):
    estimates = estimate(made := plan(), Store(tmp_path))
    assert {e.basis for e in estimates.values()} == {STATED}
    assert all(e.low_s is None for e in estimates.values())
    by_arm = {(r.task.name, r.arm, r.seed): estimates[r.run_id] for r in made.runs}
    assert by_arm["rte", "teacher/fft", 1].seconds > by_arm["rte", "student/fft", 1].seconds
    assert by_arm["rte", "student/fft", 1].flops > by_arm["rte", "student/lora", 1].flops
    assert by_arm["rte", "student/fft", 1] == by_arm["rte", "student/fft", 2]
    twice = estimate(plan(training={"epochs": 6}), Store(tmp_path))
    ratio = sum(e.flops for e in twice.values()) / sum(e.flops for e in estimates.values())
    assert ratio == pytest.approx(2)


def test_a_teachers_labelling_is_paid_once():
    run = next(r for r in plan().runs if isinstance(r, DistilledRun))
    rows = Rows(1000, 100, 100, 20.0)
    paid, free = work_of(run, rows, labels=True), work_of(run, rows)
    teacher, _ = shape_of(run.reference)
    assert paid.other_flops - free.other_flops == pytest.approx(
        1200 * teacher.forward_flops(20 * 1.15)
    )
    assert paid.flops == free.flops


def test_asking_for_entailment_is_a_pass_for_each_class_and_text(tmp_path):
    rows = Rows(1000, 100, 100, 20.0)
    pairs = [
        {"name": name, "student": "minilm-l3",
         "teacher": {"zero_shot": "minilm-l6", "hypothesis": "{}" + "x" * characters}}
        for name, characters in (("short", 40), ("long", 400))
    ]  # fmt: skip
    arms = ["teacher/given", "student/kd-lora"]
    made = plan(pairs=pairs, arms=arms, tasks=["sst2"], seeds=[1])
    teacher = next(r for r in made.runs if isinstance(r, ZeroShotTeacherRun))
    taught = next(r for r in made.runs if isinstance(r, DistilledRun))
    shape, _ = shape_of(EncoderRef(name="minilm-l6", source="package"))
    a_text = 2 * shape.forward_flops((20 + 42 / 4.2 + 1) * 1.15, 3)
    assert work_of(teacher, rows).other_flops == pytest.approx(200 * a_text)
    paid = work_of(taught, rows, labels=True, teacher=teacher)
    free = work_of(taught, rows, teacher=teacher)
    assert paid.other_flops - free.other_flops == pytest.approx(1200 * a_text)
    seconds = {r.pair: e.seconds for r in made.runs if r.role == "student"
               for e in [estimate(made, Store(tmp_path))[r.run_id]]}  # fmt: skip
    assert seconds["long"] > 1.5 * seconds["short"]


def test_done_runs_are_measured_and_their_sisters_learn(tmp_path):
    made, store = plan(), Store(tmp_path)
    one = [r for r in made.runs if r.seed == 1]
    before = estimate(made, store)
    for run in one:
        write_record(store, run, 7 * before[run.run_id].seconds)
    model = cost_model(made, store)
    for run in made.runs:
        found, was = model.estimates[run.run_id], before[run.run_id]
        if run.seed == 1:
            assert found.basis == MEASURED
            assert found.seconds == pytest.approx(7 * was.seconds)
            assert found.peak_memory_mb == 1000.0
        elif run.role != "baseline":
            assert found.basis == f"learnt from {len(one)} runs"
            assert found.low_s < found.seconds < found.high_s
            # the records also say how many rows there really are
            assert found.flops == pytest.approx(1e12, rel=0.25)


def test_what_one_adaptation_takes_longer_is_learnt_for_other_tasks(tmp_path):
    made, store = plan(seeds=[1, 2, 3, 4]), Store(tmp_path)
    before = estimate(made, store)
    for run in made.runs:
        if run.task.name == "rte" and run.role != "baseline":
            slow = 3.0 if run.adaptation == "dora" else 1.0
            write_record(store, run, slow * before[run.run_id].seconds)
    after = estimate(made, store)
    ratio = {r.adaptation: after[r.run_id].seconds / before[r.run_id].seconds
             for r in made.runs if r.task.name == "mrpc"}  # fmt: skip
    assert 2.0 < ratio["dora"] / ratio["lora"] < 3.3


def test_records_of_another_study_teach_too(tmp_path):
    made, other = plan(), plan(tasks=["cola"])
    store = Store(tmp_path / "other")
    for run in other.runs:
        if run.role != "baseline":
            write_record(store, run, 1000.0)
    here = Store(tmp_path / "here")
    assert next(iter(estimate(made, here).values())).basis == STATED
    taught = estimate(made, here, others=[store])
    assert {e.basis for e in taught.values()} == {"learnt from 10 runs"}
    trained = [r.run_id for r in made.runs if r.role != "baseline"]
    assert all(taught[i].seconds > estimate(made, here)[i].seconds for i in trained)


def test_what_a_gpu_took_is_learnt_for_that_gpu(tmp_path, monkeypatch):
    made, other = plan(), plan(tasks=["cola"])
    store, here = Store(tmp_path / "other"), Store(tmp_path / "here")
    for run in other.runs:
        if run.role != "baseline":
            seconds = estimate(other, here)[run.run_id].seconds
            write_record(store, run, seconds / 20, threads=3, gpu="A100")
    monkeypatch.setattr(costs.os, "cpu_count", lambda: 8)

    def model_on(name: str, threads: int | None = None) -> costs.CostModel:
        monkeypatch.setattr(costs, "computes_on", lambda: name)
        return cost_model(made, here, others=[store], threads=threads)

    def seconds_on(name: str) -> float:
        return sum(e.seconds for e in model_on(name, threads=3).estimates.values())

    assert seconds_on("A100") < seconds_on("another") / 1.15
    usual, all_cores = model_on("A100").rate_flops_per_s, model_on("another").rate_flops_per_s
    assert usual == model_on("A100", threads=3).rate_flops_per_s < all_cores


def test_disk_holds_checkpoints_soft_labels_and_the_teachers_states_too(tmp_path):
    rows = Rows(1000, 100, 100, 20.0)
    run = next(r for r in plan().runs if isinstance(r, DistilledRun))
    work = work_of(run, rows, labels=True)
    # weights, the best ones and two moments, all in fp32; the old file stays until the new is whole
    assert work.passing_mb == pytest.approx(2 * 4 * 4 * work.trained_params / 1e6)
    assert work.labels_mb == pytest.approx(1200 * (8 + 4 * 2) / 1e6)
    assert work_of(run, rows).labels_mb == 0
    signals = {"hidden": {"layers": "uniform"}, "relations": 1.0}
    for budget, expected in ((2000, 2 * 20_000 * (3 + 3) * 384 / 1e6), (10, 0.0)):
        kd = {"signals": signals, "hidden_cache_mb": budget}
        inside = next(r for r in plan(distillation=kd).runs if isinstance(r, DistilledRun))
        states = work_of(inside, rows).passing_mb - work.passing_mb
        assert states == pytest.approx(expected)

    made = plan()
    costs_of = estimate(made, Store(tmp_path))
    labelling = [r.arm for r in made.runs if costs_of[r.run_id].labels_mb]
    assert labelling == ["student/kd-lora"] * 4  # the first of each teacher
    found = totals(made, costs_of, 2)
    kept = sum(e.disk_mb + e.labels_mb for e in costs_of.values())
    largest = max(e.passing_mb for e in costs_of.values())
    assert found.disk_mb == pytest.approx(kept + 2 * largest)


def test_damaged_records_teach_nothing(tmp_path):
    made, store = plan(), Store(tmp_path)
    for number, content in enumerate(['{"run": 1}', "{", "[]", "[" * 3000 + "]" * 3000]):
        folder = store.folder(made.runs[number].run_id)
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(content)
    model = cost_model(made, store)
    assert (model.learnt_from, model.off_by) == (0, None)


def test_leave_one_out_is_that_of_leaving_each_one_out():
    rng = np.random.default_rng(0)
    matrix = (rng.random((12, 5)) < 0.5).astype(float)
    target, spread = rng.normal(size=12), np.array([1.0, 0.5, 0.3, 0.3, 0.7])
    fitted = ridge(matrix, target, spread)
    for i in range(12):
        keep = np.arange(12) != i
        kept, wanted = matrix[keep], target[keep]
        precision = kept.T @ kept / fitted.noise**2 + np.diag(1 / spread**2)
        mean = np.linalg.solve(precision, kept.T @ wanted / fitted.noise**2)
        assert fitted.left_out[i] == pytest.approx(target[i] - matrix[i] @ mean)


def test_without_much_data_effects_stay_near_none():
    one = ridge(np.array([[1.0, 1.0]]), np.array([2.0]), np.array([1.0, 0.1]))
    assert one.mean[0] > 50 * one.mean[1] > 0
    assert one.mean.sum() < 2.0


def test_rows_and_lengths_are_read_off_the_files(tmp_path):
    train, held = tmp_path / "train.csv", tmp_path / "dev.csv"
    for path, rows in ((train, 300), (held, 40)):
        lines = ["text,label", *('"some words, and more of them",yes' for _ in range(rows))]
        path.write_text("\n".join(lines) + "\n")
    task = {"name": "own", "train": str(train), "eval": str(held)}
    run = plan(tasks=[task], data={"selection_min": 10}).runs[-1]
    rows = rows_of(run.task, run.data, {})
    assert (rows.train, rows.selection, rows.report) == (270, 30, 40)
    assert 5 < rows.tokens < 12


def test_estimates_of_real_records_are_near(shared: Path):
    """Each of this checkout's own records, estimated from the others of its study."""
    root = Path(__file__).resolve().parents[2] / "results" / "glue-small"
    if not (root / "plan.json").is_file():
        pytest.skip("the study has not been run in this checkout")
    study = json.loads((root / "plan.json").read_text(encoding="utf-8"))["study"]
    model = cost_model(make_plan(make_study({**study, "data_dir": str(shared / "glue")})),
                       Store(root))  # fmt: skip
    assert model.learnt_from >= 40
    assert model.off_by is not None
    assert model.off_by < 1.5
    assert all(math.isfinite(e.seconds) and e.seconds > 0 for e in model.estimates.values())


def test_an_estimate_follows_files_that_change_while_the_process_runs(tmp_path):
    """A notebook plans again after the data was mended and the model was replaced."""
    config = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 16, "vocab_size": 9}
    encoder = EncoderRef(name="x", source="folder", path=str(tmp_path))
    seen = []
    for times in (1, 3):
        (tmp_path / "texts.csv").write_text("text\n" + "a few words\n" * 40 * times, "utf-8")
        layers = {"num_hidden_layers": 2 * times}
        (tmp_path / "config.json").write_text(json.dumps({**config, **layers}), "utf-8")
        rows, _ = text_rows(str(tmp_path / "texts.csv"), ("text",), None)
        seen.append((rows, shape_of(encoder)[0].layers))
    assert seen == [(40, 2), (120, 6)]


def test_steps_follow_the_floor_and_the_texts_that_count(tmp_path):
    rows = Rows(300, 60, 277, 20.0)
    few = plan(training={"min_steps": 200}, tasks=["rte"], seeds=[1]).runs[4]
    assert work_of(few, rows).steps == 200
    exact = plan(training={"epochs": 3}, tasks=["rte"], seeds=[1]).runs[4]
    assert work_of(exact, rows).steps == 30
    assert work_of(few, rows).flops == pytest.approx(work_of(exact, rows).flops * 20 / 3)
    runs = plan(
        tasks=["sst2"], seeds=[1], data={"max_train": 300}, unlabelled={"sst2": "rest"},
        training={"epochs": 2}, arms=["teacher/fft", "student/lora", "student/kd-lora"],
        variations={"equal-steps": {"arm": "student/lora", "training": {"count_texts": True}}},
    ).runs  # fmt: skip
    steps = {run.title: work_of(run, rows_of(run.task, run.data, {})).steps for run in runs}
    assert steps["student/lora"] == 20
    assert (
        steps["student/lora[equal-steps]"] == steps["student/kd-lora"] == 2 * math.ceil(67249 / 32)
    )
