"""Every table against the frame it came from."""

from __future__ import annotations

import pytest

from kdlora.evidence.gains import describe as gather
from kdlora.records.tidy import tidy
from kdlora.report.content import (
    answer,
    cost,
    gains,
    methods,
    predictions,
    quality,
    task_by_task,
    trust,
)
from kdlora.report.content.coverage import coverage
from kdlora.report.content.results import results
from kdlora.report.words import DAGGER, arm_name
from tests.harness.studies import ARMS, ENVIRONMENT, PROTOCOL, blank, make_frame, put, with_prefix


def by_row(table, column):
    """{texts of the heading cells: cell of `column`}."""
    place = [c.key for c in table.columns].index(column)
    return {tuple(cell.text for cell in row[: table.heads]): row[place] for row in table.rows}


def test_quality_is_the_mean_over_seeds_with_range_and_count(one_task):
    table = quality.quality(gather(one_task))
    for arm in ARMS:
        scores = one_task.loc[one_task["arm"] == arm, "score"]
        cell = by_row(table, "movie-reviews")[(arm_name(arm),)]
        assert cell.value == pytest.approx(scores.mean())
        assert cell.text == f"{100 * scores.mean():.1f}"
        assert cell.sub == f"{100 * scores.min():.1f} to {100 * scores.max():.1f}, n = 2"
        for seed in (42, 43):
            one = one_task[(one_task["arm"] == arm) & (one_task["seed"] == seed)]["score"].item()
            assert by_row(table, f"seed_{seed}")[(arm_name(arm),)].value == one
    assert by_row(table, "seed_42")[(arm_name("baseline/tfidf"),)].text == "\N{EN DASH}"


def test_quality_marks_flagged_cells_and_averages_shared_blocks(troubled):
    table = quality.quality(gather(troubled))
    key = (arm_name("student/lora"),)
    assert by_row(table, "cola")[key].mark == DAGGER
    assert by_row(table, "rte")[key].mark == ""
    assert by_row(table, "average")[key].mark == DAGGER
    assert any(DAGGER in note for note in table.notes)
    done = troubled[(troubled["arm"] == "student/lora") & (troubled["task"] != "toxicity")]
    shared = {"rte": (42, 43), "cola": (42, 43), "stsb": (42,), "sst2": (42,)}
    means = [
        done[(done["task"] == task) & done["seed"].isin(seeds)]["score"].astype(float).mean()
        for task, seeds in shared.items()
    ]
    assert by_row(table, "average")[key].value == pytest.approx(sum(means) / 4)
    assert by_row(table, "average")[key].sub == "n = 6"


def test_a_flagged_seed_is_marked_beside_the_others(one_task):
    frame = put(one_task, {"arm": "student/lora", "seed": 43}, flags=("never_improved",))
    table = quality.quality(gather(frame))
    key = (arm_name("student/lora"),)
    assert by_row(table, "seed_43")[key].mark == DAGGER
    assert by_row(table, "seed_42")[key].mark == ""


def test_units_and_directions_head_the_columns(troubled):
    columns = {c.key: c.unit for c in quality.quality(gather(troubled)).columns}
    assert columns["toxicity"] == "root mean square error ↓"
    assert columns["rte"] == "accuracy ↑"
    cell = by_row(quality.quality(gather(troubled)), "toxicity")[(arm_name("teacher/fft"),)]
    assert cell.text.startswith("0.2")


def test_the_pair_is_named_only_where_there_are_two(one_task):
    import pandas as pd

    assert quality.quality(gather(one_task)).columns[0].key == "model"
    other = make_frame(pair="bert--distilbert")
    other = with_prefix(other, "other-")
    both = quality.quality(gather(pd.concat([one_task, other])))
    assert [c.key for c in both.columns[:2]] == ["pair", "model"]
    assert len(both.rows) == 14


def test_models_that_share_nothing_stand_apart_in_the_summary(one_task):
    frame = one_task
    for arm, seed in (("student/lora", 42), ("student/kd-lora", 43)):
        frame = blank(frame, {"arm": arm, "seed": seed}, "missing")
    table = answer.summary(gather(frame))
    assert {row[0].sub.split(";")[0] for row in table.rows} <= {
        "1 block of movie-reviews", "2 blocks of movie-reviews",
    }  # fmt: skip
    assert any("stand apart" in note for note in table.notes)
    assert cost.efficiency(gather(frame)) is None
    assert cost.efficiency_by_task(gather(frame)) is not None
    assert len(results(gather(frame)).rows) == 7


def test_summary_in_numbers(one_task):
    table = answer.summary(gather(one_task))
    student, teacher = (arm_name(a) for a in ("student/kd-lora", "teacher/fft"))
    score = by_row(table, "score")
    kept = by_row(table, "retained")[(student,)]
    assert kept.value == pytest.approx(score[(student,)].value / score[(teacher,)].value)
    assert by_row(table, "trainable_params")[(student,)].text == "591 k"
    assert by_row(table, "size_mb")[(arm_name("baseline/majority"),)].text == "\N{EN DASH}"


def test_results_keep_a_row_for_what_has_no_result(one_task):
    frame = blank(one_task, {"arm": "student/lora", "seed": 42}, "failed", "x")
    frame = blank(frame, {"arm": "student/lora", "seed": 43}, "missing")
    cell = by_row(results(gather(frame)), "score")[(arm_name("student/lora"),)]
    assert cell.text == "\N{EN DASH}"


def test_effects_list_every_seed_and_split_by_task(one_task, troubled):
    table = gains.effects(gather(one_task))
    each = by_row(table, "each")[("Distillation",)].text.replace("\N{NO-BREAK SPACE}", " ")
    assert each.startswith("seed 42: ")
    assert "; seed 43: " in each
    assert gains.effects_by_task(gather(one_task)) is None
    over_tasks = gains.effects(gather(troubled))
    assert by_row(over_tasks, "tasks")[("Distillation",)].value == 4
    assert by_row(over_tasks, "mean")[("Distillation",)].mark == DAGGER
    assert by_row(over_tasks, "unflagged")[("Distillation",)].value < 0.02
    by_task = gains.effects_by_task(gather(troubled))
    assert {row[0].text for row in by_task.rows} == {"rte", "cola", "stsb", "sst2", "toxicity"}


def test_costs_in_their_units(one_task):
    table = cost.efficiency(gather(one_task))
    key = (arm_name("student/fft"),)
    assert by_row(table, "forward_flops")[key].text == "0.690"
    assert by_row(table, "forward_flops")[key].value == pytest.approx(0.69e9)
    assert by_row(table, "peak_memory_mb")[key].text == "861"
    assert "energy_j" not in {c.key for c in table.columns}  # nobody could measure it


def test_costs_of_one_run_that_was_not_measured_are_left_out_of_the_mean(troubled):
    table = cost.efficiency_by_task(gather(troubled))
    cell = by_row(table, "latency_p50_ms")[("rte", arm_name("teacher/lora"))]
    assert cell.value == pytest.approx(5.12)
    slow = put(troubled, {"task": "rte", "arm": "student/fft", "seed": 43}, train_s=43.5)
    table = cost.efficiency_by_task(gather(slow))
    cell = by_row(table, "train_s")[("rte", arm_name("student/fft"))]
    assert cell.value == pytest.approx((33.5 + 43.5) / 2)


def test_coverage_counts_everything(troubled):
    table = coverage(tidy(troubled))
    total = by_row(table, "all")[("All",)]
    assert total.text == "58 of 60"
    assert dict(total.extra) == {
        "done": 58, "planned": 60, "failed": 1, "missing": 1, "flagged": 1, "unscored": 1,
        "stopped": 0,
    }  # fmt: skip
    assert by_row(table, "stsb")[(arm_name("student/fft"),)].sub == "1 missing"
    assert not table.folded


def test_shared_blocks_say_what_is_left_out(one_task, troubled):
    assert trust.shared(gather(one_task)) is None
    table = trust.shared(gather(troubled))
    assert by_row(table, "seeds")[("sst2",)].text == "42"
    assert by_row(table, "left_out")[("sst2",)].text == "43"
    assert "root mean square error" in by_row(table, "left_out")[("toxicity",)].sub


def test_flags_in_full_and_the_worst_first(one_task, troubled):
    assert trust.flags(tidy(one_task)) is None
    assert trust.flags_by_name(tidy(one_task)) is None
    rows = trust.flags(tidy(troubled)).rows
    assert [row[4].text for row in rows] == ["error", "warning"]
    assert rows[0][0].text == "cola-student-lora-s43-0a1b2c3d4e5f"
    assert rows[0][6].text == "all 1,043 report rows are predicted 'acceptable'"


def test_flags_are_counted_by_run(troubled):
    frame = put(troubled, {"task": "rte", "arm": "student/lora"}, flags=("never_improved",))
    frame = put(frame, {"task": "rte", "arm": "student/fft"}, flags=("resumed",),
                flag_severities=("info",))  # fmt: skip
    counts = by_row(trust.flags_by_name(tidy(frame)), "runs")
    assert counts[("never_improved",)].value == 3
    assert counts[("resumed",)].value == 2
    assert counts[("any warning or error",)].value == 3


def test_failures_keep_their_error(one_task, troubled):
    assert trust.unfinished(tidy(one_task)) is None
    errors = by_row(trust.unfinished(tidy(troubled)), "error")
    assert "tried to allocate 512 MB" in errors[("sst2-student-kd-lora-s43-0a1b2c3d4e5f",)].text
    assert errors[("stsb-student-fft-s43-0a1b2c3d4e5f",)].text == "\N{EN DASH}"


def test_settings_show_every_value_of_an_arm(one_task):
    frame = put(one_task, {"arm": "student/lora", "seed": 43}, rank=8)
    cells = by_row(trust.settings(tidy(frame)), "rank")
    assert cells[(arm_name("student/lora"),)].text == "16, 8"
    assert cells[(arm_name("student/fft"),)].text == "\N{EN DASH}"
    assert (arm_name("baseline/tfidf"),) not in cells
    given = make_frame(arms=("teacher/given", "student/kd-lora"))
    cells = by_row(trust.settings(tidy(given)), "encoder")
    assert set(cells) == {(arm_name("student/kd-lora"),)}


def test_rows_of_each_split(one_task):
    table = trust.splits(tidy(one_task))
    assert [c.text for c in table.rows[0][2:]] == ["9,577", "1,064", "2,111", "5f0c9a31d2e47b86"]


def test_conditions_say_whose_value_it_is(one_task):
    cells = by_row(methods.conditions(tidy(one_task)), "value")
    assert cells[("seq length",)].text == "64"
    assert cells[("merged",)].text == "yes"
    assert cells[("texts",)].text == "report split (TF-IDF)"
    frame = put(one_task, {"arm": "student/lora"}, protocol={**PROTOCOL, "threads": 4})
    threads = by_row(methods.conditions(tidy(frame)), "value")[("threads",)].text
    assert "4 (student LoRA)" in threads
    assert "2 (teacher FFT" in threads
    arms = ("teacher/fft", "teacher/lora", "student/fft")
    for repeats, arm in zip((12, 7, 30), arms, strict=True):
        own = {**PROTOCOL, "repeats": repeats, "interleaved": ["model", "reference"]}
        frame = put(frame, {"arm": arm}, protocol=own)
    cells = by_row(methods.conditions(tidy(frame)), "value")
    assert cells[("repeats",)].text == "7 to 40"
    assert cells[("interleaved",)].text.startswith("model, reference (")


def test_environment_is_flat(one_task):
    cells = by_row(methods.environment(tidy(one_task)), "value")
    assert cells[("torch",)].text == ENVIRONMENT["versions"]["torch"]
    assert cells[("commit",)].text == ENVIRONMENT["commit"]
    assert ("gpu",) not in cells


def test_agreement_stands_between_its_bounds(one_task):
    table = predictions.agreement_table(tidy(one_task))
    assert len(table.rows) == 2
    for row in table.records():
        assert row["lower"] <= row["agreement"] <= row["upper"]
    assert (
        predictions.agreement_table(tidy(make_frame(arms=("teacher/fft", "student/fft")))) is None
    )


def test_every_metric_with_its_direction(one_task):
    table = task_by_task.metrics(tidy(one_task))
    units = {c.key: c.unit for c in table.columns}
    assert (units["accuracy"], units["ece"]) == ("↑", "↓")
    assert by_row(table, "ece")[(arm_name("student/fft"),)].text == "0.041"


def test_f1_of_each_class(one_task):
    table = task_by_task.per_class(tidy(one_task))
    scores = one_task.loc[one_task["arm"] == "student/fft", "score"]
    cell = by_row(table, "student/fft")[("positive",)]
    assert cell.value == pytest.approx(scores.mean() + 0.008)


def test_every_run_is_listed_once(troubled):
    table = methods.runs(tidy(troubled))
    ids = [row[0].text for row in table.rows]
    assert sorted(ids) == sorted(set(troubled["run_id"]))
    flagged = by_row(table, "score")[("cola-student-lora-s43-0a1b2c3d4e5f",)]
    assert (flagged.text, flagged.mark) == ("0.0", DAGGER)


def test_the_csv_has_unrounded_values_and_blanks(one_task):
    records = quality.quality(gather(one_task)).records()
    majority = next(r for r in records if r["model"] == "baseline/majority")
    assert majority["seed_42"] is None
    student = next(r for r in records if r["model"] == "student/lora")
    scores = one_task.loc[one_task["arm"] == "student/lora", "score"]
    assert student["movie-reviews"] == pytest.approx(scores.mean(), abs=1e-12)
    assert (student["movie-reviews.low"], student["movie-reviews.n"]) == (scores.min(), 2)
