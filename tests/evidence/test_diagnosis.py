"""Diagnosis: every known defect of the 742 runs from their raw columns, and each check alone."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlora.evidence.diagnosis import degenerate_kinds, diagnose, epochs_table
from kdlora.evidence.diagnosis.fidelity import (
    agreement_table,
    expected_agreement,
    teacher_accuracy_range,
)
from kdlora.evidence.diagnosis.public_facts import SHAPES, adapter_parameters, shape_of
from kdlora.evidence.diagnosis.setup import device_counts, tokens_per_example, training_rows
from kdlora.importing.results import read_results
from kdlora.records.plausible import agreement_bounds, impossible_values
from tests.harness.evidence_frames import grid
from tests.harness.studies import make_frame

INFERRED = ("degenerate", "n_gpus_inferred", "effective_batch", "seq_len_inferred",
            "selection_epoch_by_eval_loss", "best_metric_epoch", "best_epoch_metric",
            "last_epoch_metric", "final_matches_epoch")  # fmt: skip


@pytest.fixture(scope="module")
def raw(shared) -> pd.DataFrame:
    return pd.read_csv(shared / "reference" / "runs.csv")


@pytest.fixture(scope="module")
def runs(shared) -> pd.DataFrame:
    """The imported trainings without any column that somebody inferred from the others."""
    frame = read_results(shared / "reference" / "runs.csv").frame
    return frame.drop(columns=list(INFERRED))


@pytest.fixture(scope="module")
def found(runs):
    return {f.name: f for f in diagnose(runs)}


@pytest.fixture(scope="module")
def truth(shared) -> dict:
    return json.loads((shared / "reference" / "better_stats.json").read_text())


def test_the_105_degenerate_runs_exactly(raw, runs, found):
    assert degenerate_kinds(runs).notna().tolist() == raw["degenerate"].notna().tolist()
    finding = found["degenerate_runs"]
    assert (finding.n, finding.severity) == (105, "error")
    assert set(finding.rows) == set(runs.loc[raw["degenerate"].notna(), "run_id"])
    assert finding.evidence["by_task"] == {
        "wnli": 57, "rte": 19, "mrpc": 15, "cola": 9, "stsb": 4, "mnli": 1
    }  # fmt: skip
    assert found["uninformative_task"].evidence["rows"] == 71


def test_devices_batches_and_lengths(raw, runs, found):
    assert device_counts(runs).tolist() == raw["n_gpus_inferred"].tolist()
    assert tokens_per_example(runs).tolist() == raw["seq_len_inferred"].tolist()
    official = {"mnli": 392702, "qqp": 363846, "qnli": 104743, "sst2": 67349, "cola": 8551,
                "stsb": 5749, "mrpc": 3668, "rte": 2490, "wnli": 635}  # fmt: skip
    assert dict(zip(runs["task"], training_rows(runs), strict=True)) == official
    devices = found["batch_mixture"].evidence
    assert devices["devices_by_strategy"] == {
        "student/kd-peft": {2: 6, 4: 264},
        "teacher/fft": {2: 81},
        "teacher/peft": {2: 19, 4: 372},
    }
    assert devices["effective_batch"] == {"128": 636, "64": 106}
    tokens = found["length_mixture"].evidence
    assert tokens["tokens_by_strategy"] == {
        "student/kd-peft": {128: 225, 512: 45},
        "teacher/fft": {128: 32, 512: 49},
        "teacher/peft": {128: 318, 512: 73},
    }
    assert tokens["only_longest"] == ["bert teacher/lora"]
    assert tokens["by_pair"]["deberta"] == {"128": 238}
    low, high = (tokens["reserved_mb"][f"teacher/peft, {n} tokens"] for n in (128, 512))
    assert low < 2500 < 6000 < high


def test_selection_worse_than_chance(raw, runs, found, truth):
    expected = truth["checkpoint_selection_bug"]["kd-lora"]
    finding = found["selection_worse_than_chance"]
    evidence = finding.evidence
    assert finding.n == expected["n"] == evidence["runs"]
    assert evidence["picked_best"] == pytest.approx(
        expected["selected_epoch_is_best_metric_epoch"], abs=1e-6
    )
    assert evidence["forfeited"] == pytest.approx(expected["mean_metric_forfeited"], abs=1e-6)
    assert evidence["median_correlation_loss_score"] == pytest.approx(
        expected["median_within_run_corr_evalloss_metric"], abs=1e-5
    )
    assert evidence["share_positive_correlation"] == pytest.approx(
        expected["share_positive_corr"], abs=1e-5
    )
    assert evidence["chance"] == pytest.approx(1 / 3)
    assert evidence["p_below_chance"] < 1e-9
    assert evidence["left_out"] == ["mrlora"]
    assert evidence["mean_reported"] == pytest.approx(0.7061, abs=5e-5)
    assert evidence["mean_last_epoch"] == pytest.approx(0.7268, abs=5e-5)
    fft = found["selection_by_chance"].evidence
    assert fft["picked_best"] == pytest.approx(
        truth["checkpoint_selection_bug"]["fft"]["selected_epoch_is_best_metric_epoch"], abs=1e-6
    )
    table = epochs_table(runs)
    assert table["selected"].tolist() == raw["selection_epoch_by_eval_loss"].tolist()
    assert table["best"].tolist() == raw["best_metric_epoch"].tolist()
    assert (~table["matched"]).tolist() == (raw["final_matches_epoch"] == "none").tolist()


def test_three_kd_runs_score_zero_only_because_of_the_choice(runs, found):
    rows = runs.set_index("run_id").loc[list(found["degenerate_by_selection"].rows)]
    rows = rows[(rows["pair"] == "roberta") & (rows["task"] == "cola")]
    rows = rows[rows["distillation"] == "kd"]
    assert len(rows) == 3
    assert rows["adaptation"].eq("adalora").all()
    assert rows["epoch_scores"].map(lambda s: 0.31 < s[-1] < 0.35).all()


def test_final_scores_of_no_epoch(found, truth):
    share = found["final_matches_no_epoch"].evidence["by_variant"]
    expected = truth["mrlora_reload_bug"]
    assert share == {
        "student/kd-peft mrlora": {
            "unmatched": expected["kd-lora"]["final_eval_matches_no_epoch"],
            "runs": expected["kd-lora"]["n"],
        },
        "teacher/peft mrlora": {
            "unmatched": expected["lora"]["final_eval_matches_no_epoch"],
            "runs": expected["lora"]["n"],
        },
    }
    (row,) = found["other_epoch_kept"].rows
    assert row.startswith("qnli-student-kd-rslora-s42")
    assert found["selected_on_report_split"].n == 742 - 61


def test_speeds_parameters_and_what_is_absent(runs, found):
    speed = found["bimodal_throughput"].evidence
    assert (speed["noisy"], speed["configurations"]) == (29, 224)
    assert speed["largest_ratio"] == pytest.approx(4.06, abs=0.01)
    assert 1.9 < speed["fast_median"] / speed["slow_median"] < 2.1
    rank = found["rank_contradicted"]
    assert (rank.n, rank.evidence["in_effect"], rank.evidence["fitting_runs"]) == (113, 12, 548)
    assert set(runs.set_index("run_id").loc[list(rank.rows), "adaptation"]) == {"adalora"}
    assert found["student_trains_more"].evidence["bert"] > 2.2
    assert found["no_control_arm"].n == 270
    assert found["not_recorded"].evidence["columns"] == ["precision", "device"]
    assert "parameters_contradict_shape" not in found
    assert "identical_across_seeds" not in found  # equal accuracies there have other losses


def test_speeds_are_compared_between_runs_that_read_as_many_tokens() -> None:
    """Arms that read texts whole, cut or in windows are no repeats of one another."""
    frame = make_frame(arms=("teacher/fft", "student/lora"), seeds=(1, 2), baselines=False)
    whole = frame[frame["arm"] == "student/lora"].assign(arm="student/lora[whole]", max_length=512)
    whole["run_id"] += "-whole"
    speeds = {"teacher/fft": 50.0, "student/lora": 100.0, "student/lora[whole]": 12.0}
    both = pd.concat([frame, whole], ignore_index=True)
    both["train_examples_per_s"] = both["arm"].map(speeds)
    assert "bimodal_throughput" not in {f.name for f in diagnose(both)}
    both.loc[both["seed"] == 2, "train_examples_per_s"] *= 2
    (finding,) = [f for f in diagnose(both) if f.name == "bimodal_throughput"]
    assert finding.evidence["configurations"] == finding.evidence["noisy"] == 3


def test_the_findings_need_no_inferred_column(shared, found):
    frame = read_results(shared / "reference" / "runs.csv").frame
    assert [f.name for f in diagnose(frame)] == list(found)


def test_errors_come_first(found):
    order = [f.severity for f in found.values()]
    assert order == sorted(order, key=["error", "warning", "info"].index)
    assert all(json.dumps(f.to_dict()) for f in found.values())


def test_impossible_agreements_of_the_matrix(shared):
    frame = read_results(shared / "reference" / "kd_matrix_004.csv").frame
    found = {f.name: f for f in diagnose(frame)}
    finding = found["agreement_forces_bad_teacher"]
    assert (finding.n, finding.severity) == (4, "error")
    stated = pd.read_csv(shared / "reference" / "kd_matrix_004.csv")
    assert list(finding.evidence["teacher_max"].values()) == pytest.approx(
        stated["teacher_acc_max_if_thr_0_5"].tolist(), abs=1e-12
    )
    assert "2 of 4 below guessing" in finding.sentence


def test_published_parameters_against_shape(shared):
    frame = read_results(shared / "reference" / "paper_table_2.csv").frame
    (finding,) = [f for f in diagnose(frame) if f.name == "parameters_contradict_shape"]
    ratios = finding.evidence["ratio_to_query_value"]
    assert all(7.9 < ratio < 10.3 for ratio in ratios)
    table = read_results(shared / "reference" / "paper_table_1.csv").frame
    assert {f.name: f for f in diagnose(table)}["degenerate_runs"].evidence["by_task"] == {
        "wnli": 7
    }


def tidy(n: int = 6, **columns) -> pd.DataFrame:
    """n healthy runs: two seeds of three arms, unless told otherwise."""
    arms = ["teacher/fft", "teacher/lora", "student/kd-lora"]
    frame = pd.DataFrame(
        {
            "run_id": [f"r{i}" for i in range(n)],
            "arm": [arms[i % 3] for i in range(n)],
            "role": [arms[i % 3].split("/")[0] for i in range(n)],
            "adaptation": ["fft" if i % 3 == 0 else "lora" for i in range(n)],
            "distillation": ["kd" if i % 3 == 2 else "none" for i in range(n)],
            "pair": "p",
            "task": "moods",
            "seed": [i // 3 for i in range(n)],
            "metric": "accuracy",
            "direction": 1,
            "score": np.linspace(0.71, 0.79, n),
            "flags": [()] * n,
            "status": "done",
        }
    )
    return frame.assign(**columns)


def names(frame: pd.DataFrame) -> dict:
    return {f.name: f for f in diagnose(frame)}


def test_a_healthy_study_has_only_its_missing_control():
    assert set(names(tidy())) == {"no_control_arm"}
    control = tidy(1, arm="student/lora", role="student", adaptation="lora", run_id="c", seed=9,
                   score=0.6)  # fmt: skip
    assert names(pd.concat([tidy(), control])) == {}
    assert names(pd.concat([tidy(), control.assign(arm="student/lora[equal-steps]")])) == {}
    other = pd.concat([tidy(), control.assign(arm="student/lora[other]")])
    assert "for lora:" in names(other)["no_control_arm"].sentence


def test_own_majority_baseline_marks_degenerate_runs():
    frame = tidy(task="mine")
    frame.loc[1, "score"] = 0.6
    floor = tidy(1, arm="baseline/majority", role="baseline", adaptation="majority", task="mine",
                 score=0.6, run_id="floor")  # fmt: skip
    finding = names(pd.concat([frame, floor], ignore_index=True))["degenerate_runs"]
    assert finding.rows == ("r1",)


@pytest.mark.parametrize(
    ("task", "metric", "score", "kind"),
    [
        ("cola", "matthews", 0.0, "zero matthews"),
        ("cola", "matthews", 0.01, None),
        ("stsb", "pearson", -0.29, "near-zero correlation"),
        ("stsb", "pearson", 0.31, None),
        ("rte", "accuracy", 146 / 277, "one class"),
        ("rte", "accuracy", 131 / 277, "one class"),
        ("rte", "accuracy", 147 / 277, None),
        ("mnli", "accuracy", 3123 / 9815, "one class"),
        ("unheard-of", "accuracy", 146 / 277, None),
    ],
)
def test_kinds_of_degenerate_scores(task, metric, score, kind):
    # seven decimals more than a printed table has, so that no rounding is assumed
    frame = tidy(2, task=task, metric=metric, score=[score, 0.7123456789])
    found = degenerate_kinds(frame).iloc[0]
    assert (None if pd.isna(found) else found) == kind


def test_class_shares_hold_for_the_official_split_only():
    frame = tidy(2, task="rte", score=[146 / 277, 0.7123456789], n_report=[500, 500])
    assert degenerate_kinds(frame).isna().all()
    assert degenerate_kinds(frame.assign(n_report=277)).notna().tolist() == [True, False]


def test_a_run_shared_by_two_pairs_counts_once():
    frame = tidy(task="rte", score=[146 / 277, *np.linspace(0.7123456, 0.8, 5)])
    both = pd.concat([frame, frame.iloc[:1].assign(pair="q")], ignore_index=True)
    finding = names(both)["degenerate_runs"]
    assert finding.sentence.startswith("1 of 6 runs")


def test_flags_of_runs_are_gathered_with_their_severity():
    flags = [("collapsed", "odd"), ("odd",), (), (), (), ("impossible:score",)]
    levels = [("error", "info"), ("info",), (), (), (), ("error",)]
    details = [("all one class", "hm"), ("hm",), (), (), (), ("x",)]
    found = names(tidy(flags=flags, flag_severities=levels, flag_details=details))
    assert (found["flag:collapsed"].severity, found["flag:collapsed"].n) == ("error", 1)
    assert (found["flag:odd"].severity, found["flag:odd"].n) == ("info", 2)
    assert "all one class" in found["flag:collapsed"].sentence
    assert not any(name.startswith("flag:impossible") for name in found)


def test_a_baseline_may_have_few_parameters_and_an_encoder_may_not():
    """A linear model on 384 features trains 770; an encoder with 770 counts them in thousands."""
    frame = pd.DataFrame(
        {"arm": ["baseline/embeddings", "student/lora"], "role": ["baseline", "student"],
         "trainable_params": [770, 480_000]}
    )  # fmt: skip
    assert impossible_values(frame) == []
    (found,) = impossible_values(frame.assign(role="student"))
    assert (found.column, found.rows) == ("trainable_params", (0,))
    for adaptation in ("frozen", "given"):  # a last layer, or a linear model on embeddings
        alone = frame.assign(role="student", adaptation=[adaptation, "lora"])
        assert impossible_values(alone) == []


@pytest.mark.parametrize("column", ["size_mb", "train_s", "latency_p50_ms", "trainable_params"])
def test_a_cost_of_nothing_is_impossible_of_what_was_trained_alone(column):
    frame = grid(lambda *_: 0.8, tasks=["t0"], seeds=[1]).assign(**{column: 0.0})
    (found,) = impossible_values(frame)
    assert (found.column, found.rows) == (column, (0, 1))
    assert "cannot be 0" in found.sentence
    assert impossible_values(frame.assign(role="baseline", adaptation="majority")) == []
    frozen = impossible_values(frame.assign(adaptation="frozen"))
    assert bool(frozen) == (column in ("size_mb", "latency_p50_ms"))


@pytest.mark.parametrize("column", ["train_s", "latency_p50_ms", "train_flops", "energy_j"])
def test_a_cost_beyond_all_sense_is_impossible(column):
    frame = grid(lambda *_: 0.8, tasks=["t0"], seeds=[1]).assign(**{column: [1e300, 1e3]})
    (found,) = impossible_values(frame)
    assert (found.column, found.rows) == (column, (0,))
    assert impossible_values(frame.assign(**{column: 1e3})) == []


def test_impossible_values_are_errors():
    found = names(tidy(score=[0.7, 0.8, np.nan, 75.0, 0.7, np.inf], train_s=[1, -1, 1, 1, 1, 1]))
    problems = [f for f in diagnose(tidy(train_s=[1, -1, 1, 1, 1, 1])) if f.severity == "error"]
    assert [p.evidence["column"] for p in problems] == ["train_s"]
    assert found["impossible_value"].severity == "error"


def test_copied_scores():
    frame = tidy(12, score=np.round(np.linspace(0.611, 0.793, 12), 4) + 1e-7)
    assert "identical_across_seeds" not in names(frame)
    same = frame.assign(score=frame["score"].where(frame["arm"] != "teacher/lora", 0.7654321))
    finding = names(same)["identical_across_seeds"]
    assert (finding.n, finding.severity) == (4, "warning")
    rng = np.random.default_rng(1)  # on 277 texts two of some seeds agree in every other study
    few = tidy(12, score=rng.binomial(277, 0.7, 12) / 277)
    few.loc[few.index[few["arm"] == few["arm"].iloc[0]][:2], "score"] = 0.7003610108303249
    assert names(few)["identical_across_seeds"].severity == "info"
    assert "by chance" in names(few)["identical_across_seeds"].sentence
    # with losses that differ, equal scores are a coincidence
    assert "identical_across_seeds" not in names(same.assign(final_loss=np.arange(12.0)))
    assert names(same.assign(final_loss=1.0))["identical_across_seeds"].severity == "error"
    assert "identical_across_seeds" not in names(same.assign(selection_score=np.arange(12.0)))
    twin = frame.copy()
    kd, plain = twin["arm"] == "student/kd-lora", twin["arm"] == "teacher/lora"
    twin.loc[kd, "score"] = twin.loc[plain, "score"].to_numpy()
    assert names(twin)["identical_arms"].evidence == {"equal": 4, "cells": 4}


def test_settings_that_differ_between_arms():
    found = names(tidy(batch_size=[32, 16] * 3, max_length=64, precision="bf16", device="cpu"))
    assert found["setting_varies"].evidence["column"] == "batch_size"  # within every arm
    by_arm = tidy(max_length=[512, 128, 128] * 2)
    finding = names(by_arm)["setting_differs"]
    assert finding.evidence["by_arm"]["teacher/fft"] == ["512"]
    assert "not_recorded" not in found
    assert "not_recorded" in names(tidy(train_s=1.0))


def epochs(selected_is_best: bool, n: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    scores = [tuple(np.sort(0.6 + 0.2 * rng.random(3)).tolist()) for _ in range(n)]
    falling, rising = (0.9, 0.6, 0.3), (0.3, 0.6, 0.9)
    losses = [falling if selected_is_best else rising] * n
    final = [s[2] if selected_is_best else s[0] for s in scores]
    return tidy(n, score=final, epoch_scores=scores, epoch_losses=losses,
                final_loss=0.3)  # fmt: skip


def test_selection_by_a_loss_that_misleads_and_one_that_works():
    bad = [f for f in diagnose(epochs(False)) if f.name == "selection_worse_than_chance"]
    assert {f.evidence["median_correlation_loss_score"] > 0.9 for f in bad} == {True}
    assert all(f.evidence["picked_best"] == 0 for f in bad)
    assert len(bad) == 3
    good = names(epochs(True))
    assert not any(name.startswith("selection_") for name in good)
    assert good["selected_on_report_split"].n == 30
    elsewhere = epochs(True).assign(selection_score=0.7)
    assert "selected_on_report_split" not in names(elsewhere)


def test_best_follows_the_direction_of_the_metric():
    frame = tidy(1, metric="rmse", direction=-1, score=0.5, epoch_scores=[(0.9, 0.5, 0.7)],
                 epoch_losses=[(0.8, 0.3, 0.5)], final_loss=0.3)  # fmt: skip
    table = epochs_table(frame)
    assert table["best"].tolist() == [2]
    assert table["correlation"].iloc[0] < -0.9
    assert table["matched_epoch"].tolist() == [2]


@settings(max_examples=30, deadline=None)
@given(st.integers(50, 5000), st.integers(1, 8), st.integers(8, 64), st.integers(1, 5))
def test_devices_are_recovered_from_steps(n, devices, batch, passes):
    frame = tidy(3, train_steps=passes * np.ceil(n / (batch * devices)), batch_size=batch,
                 epochs=passes, n_train=n)  # fmt: skip
    g = device_counts(frame).iloc[0]
    # the smallest number that explains the steps; several may, when an epoch has few steps
    assert g <= devices
    assert np.ceil(n / (batch * g)) == np.ceil(n / (batch * devices))


def test_tokens_follow_from_flops_and_shape():
    shape = shape_of("bert-base-uncased")
    flops = 6 * 12 * 12 * 768**2 * 3 * 1000
    frame = tidy(3, encoder=["bert-base-uncased", "google/bert-base-uncased", "somebody/else"],
                 train_flops=[flops * 128, flops * 256, flops], epochs=3, n_train=1000)  # fmt: skip
    assert shape.block_parameters() == 12 * 12 * 768**2
    assert tokens_per_example(frame).iloc[:2].tolist() == [128, 256]
    assert np.isnan(tokens_per_example(frame).iloc[2])


def test_parameter_counts_of_every_variant():
    shape = SHAPES["bert-base-uncased"]
    assert adapter_parameters(shape, "lora", 8) + shape.head(2) == 296_450
    assert adapter_parameters(shape, "dora", 8) + shape.head(2) == 314_882
    assert adapter_parameters(shape, "adalora", 12) + shape.head(2) == 444_194
    assert adapter_parameters(shape, "mrlora", 8) + shape.head(2) == 554_594
    assert (
        adapter_parameters(SHAPES["distilbert-base-uncased"], "lora", 8)
        + SHAPES["distilbert-base-uncased"].head(2)
        == 739_586
    )
    assert adapter_parameters(shape, "pissa-x", 8) is None


@given(st.floats(0.01, 0.99), st.floats(0, 1), st.integers(2, 5))
def test_the_range_of_the_teacher_inverts_the_bounds(a_s, g, classes):
    low, high = teacher_accuracy_range(a_s, g, classes)
    if low > high:  # no teacher gives this agreement
        for a_t in np.linspace(0, 1, 101):
            lower, upper = agreement_bounds(a_s, float(a_t), classes)
            assert not lower <= g <= upper
        return
    for a_t in np.linspace(0, 1, 101):
        lower, upper = agreement_bounds(a_s, float(a_t), classes)
        inside = low - 1e-9 <= a_t <= high + 1e-9
        assert inside == (lower - 1e-9 <= g <= upper + 1e-9)


def test_agreement_with_a_known_teacher():
    frame = tidy(3, agreement=[0.2, 0.75, 0.9], teacher_accuracy=[0.8, 0.8, np.nan], n_classes=2,
                 score=[0.83, 0.83, 0.83])  # fmt: skip
    table = agreement_table(frame)
    assert table["outside"].tolist()[:2] == [True, False]
    found = names(frame)
    assert found["agreement_impossible"].rows == ("r0",)
    assert found["teacher_unchecked"].rows == ("r2",)
    assert expected_agreement(0.8, 0.9) == pytest.approx(0.74)


def test_the_teachers_accuracy_is_that_of_its_own_run():
    frame = tidy(
        3, agreement=[np.nan, 0.9, 0.9], n_classes=2, metric="matthews", score=[0.6, 0.5, 0.5],
        teacher_run_id=[None, "r0", "elsewhere"], **{"report.accuracy": [0.8, 0.75, 0.75]},
    )  # fmt: skip
    table = agreement_table(frame)
    assert table["a_t"].tolist()[0] == 0.8
    assert names(frame)["teacher_unchecked"].rows == ("r2",)
    ensemble = agreement_table(frame.assign(n_teachers=[1, 2, 1]))
    assert np.isnan(ensemble["a_t"].tolist()[0])


def test_a_constant_baseline_needs_no_correlation():
    frame = tidy(3, metric="pearson", score=[np.nan, 0.7, 0.8], role=["baseline", *["student"] * 2])
    assert "impossible_value" not in names(frame.assign(adaptation=["majority", "fft", "fft"]))
    assert "impossible_value" in names(frame.assign(adaptation=["tfidf", "fft", "fft"]))


def garbage() -> list[pd.DataFrame]:
    whole = tidy(
        batch_size=32, epochs=3, train_steps=100, train_s=1.0, train_examples_per_s=10.0,
        train_flops=1e12, encoder="bert-base-uncased", rank=8, trainable_params=296_450,
        agreement=0.9, n_classes=2, epoch_scores=[(0.1, 0.2)] * 6, epoch_losses=[(1.0, 0.5)] * 6,
        final_loss=0.5,
    )  # fmt: skip
    frames = [whole, whole.iloc[:1], whole.iloc[:0], whole.assign(status="missing")]
    mixed = pd.Series([np.nan, np.inf, -1e308, 0.0, "text", None], dtype=object)
    frames += [whole.assign(**{c: mixed}) for c in whole.columns if c != "flags"]
    frames.append(whole.assign(**{c: mixed for c in whole.columns if c != "flags"}))
    frames += [whole.drop(columns=c) for c in whole.columns]
    frames.append(whole.assign(epoch_scores=[(np.nan, 1.0)] * 6))
    frames.append(whole.assign(epoch_losses=[(1.0,)] * 6))
    frames.append(whole.assign(flags=None))
    frames.append(pd.DataFrame({"score": [1, 2]}))
    frames.append(pd.DataFrame({"x": []}))
    return frames


def test_garbage_gives_findings_or_nothing_never_a_traceback():
    with np.errstate(all="ignore"):
        for frame in garbage():
            for finding in diagnose(frame):
                assert finding.sentence.endswith(".")
                json.dumps(finding.to_dict())
