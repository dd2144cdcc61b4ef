"""Mistakes that earlier studies and other tools made, each with a test that fails when it is made.

Numbers are those of the list of users' complaints, letters F those of the earlier study's defects.
`TABLE` names the tests; those that are of no other file's matter follow below it.
"""

from __future__ import annotations

import ast
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from kdlora.data.tasks import load_task
from kdlora.distillation import soft_labels
from kdlora.models import adapters
from kdlora.models.saved import load_trained
from kdlora.recipes import run as recipes
from kdlora.records.frame import load_frame, save_plan
from kdlora.records.predictions import read_predictions
from kdlora.records.store import Store
from kdlora.ship.student import save_students
from kdlora.spec.adapter import Adapter
from kdlora.spec.plan import make_plan
from kdlora.training import inference
from kdlora.training.loop import Hooks, TrainingData
from tests.harness.training import fit, make_model, same

TESTS = Path(__file__).resolve().parent
HERE = Path(__file__).name

# mistake -> the tests that pin it, as file::test
TABLE: dict[str, tuple[str, ...]] = {
    "F1, 1: AdaLoRA's allocator is never called, or for other steps than are planned": (
        "models/test_adalora.py::test_budget_is_reached",
        "models/test_adalora.py::test_without_the_hook_nothing_is_pruned",
        "training/test_loop.py::test_hooks_are_called_once_a_step_whatever_the_micro_batch",
        f"{HERE}::test_adalora_is_allocated_in_a_real_run",
        "measure/test_health.py::test_adalora_not_pruned",
    ),
    "F2: AdaLoRA's orthogonality term is lost, or counted into what chooses the best state": (
        "models/test_adalora.py::test_orthogonality_is_what_peft_adds_to_its_own_loss",
        f"{HERE}::test_adalora_is_allocated_in_a_real_run",
        "training/test_loop.py::test_the_best_evaluation_is_kept_not_the_last",
        f"{HERE}::test_an_extra_term_is_no_part_of_what_is_recorded_or_chosen_by",
    ),
    "F3: MrLoRA's weights of blocks are constant, its scale and rank-stabilising are ignored": (
        "models/test_mrlora.py::test_is_the_sum_of_its_blocks",
        "models/test_mrlora.py::test_with_equal_scales_it_is_lora_of_the_summed_rank",
        "models/test_mrlora.py::test_several_adapters",
        "models/test_adapters.py::test_life_of_an_adapter",
    ),
    "F4, 3: randomly initialised modules stay frozen and are not saved": (
        "models/test_adapters.py::test_a_new_pooler_is_trained_and_saved",
        "models/test_adapters.py::test_life_of_an_adapter",
        "models/test_saved.py::test_an_adapter_without_its_random_pooler_is_refused",
        "measure/test_health.py::test_new_modules_frozen",
    ),
    "F5: full fine-tuning is stored under an adapter's rank, settings drift behind a name": (
        "spec/test_plan.py::test_an_id_changes_only_with_what_affects_the_run",
        f"{HERE}::test_a_result_belongs_to_every_setting_that_made_it",
    ),
    "2: AdaLoRA's schedule does not fit the run, or training stops before its ranks are final": (
        "models/test_adalora.py::test_schedule_fits_every_run",
        "models/test_adalora.py::test_phases",
        "models/test_adalora.py::test_impossible_schedules",
        "training/test_loop.py::test_no_evaluation_before_the_earliest_is_chosen_and_none_stops",
    ),
    "4: modules to save are matched by the ends of their names; a family has no targets": (
        "models/test_adapters.py::test_names_matched_by_their_ends_are_refused",
        "models/test_inspection.py::test_targets",
        "models/test_inspection.py::test_names_of_trained_modules_do_not_overlap",
    ),
    "5: OLoRA and PiSSA change the base weights under other adapters and saved ones": (
        "models/test_adapters.py::test_a_base_model_is_adapted_once",
        "models/test_every_variant_and_family.py::test_a_second_training_is_not_affected_by_the_first",
        "models/test_saved.py::test_adapter_folders_load_with_plain_peft",
        "models/test_saved.py::test_olora_is_saved_as_lora_of_twice_the_rank",
        "models/test_peft_methods.py::test_pissa_is_saved_for_the_base_as_it_was",
    ),
    "6: an unmerged adapter is timed, so adapters look slow": (
        f"{HERE}::test_what_is_timed_and_scored_is_the_merged_model",
        f"{HERE}::test_adapters_have_no_dropout_unless_asked_for",
    ),
    "9: a collapsed model's score of 0 is averaged in without a word": (
        "measure/test_health.py::test_constant_predictions",
        "measure/test_health.py::test_at_or_below_majority",
        "measure/test_health.py::test_a_collapsed_model_end_to_end",
    ),
    "13: the soft loss lacks T squared, is a mean over classes, or its weight is the other one's": (
        "distillation/test_losses.py::test_gradients_keep_their_size_as_the_temperature_grows",
        "distillation/test_losses.py::test_the_loss_is_a_mean_over_examples",
        "distillation/test_losses.py::test_kd_weight_is_the_teachers_share",
    ),
    "16: the teacher's outputs are taken by position, not by example": (
        "distillation/test_soft_labels.py::test_logits_follow_their_example_in_any_order",
        "distillation/test_soft_labels.py::test_an_unknown_example_is_refused",
        "engines/test_local.py::test_a_cache_that_does_not_fit_the_record_stops_the_student",
        f"{HERE}::test_every_student_row_is_taught_by_its_own_teacher_logits",
    ),
    "17: teacher and task count their classes in another order": (
        "distillation/test_soft_labels.py::test_classes_are_matched_by_name",
        "models/test_encoders.py::test_given_outputs_are_put_into_the_task_order",
        "models/test_encoders.py::test_given_names_may_be_spelt_otherwise",
    ),
    "18: a library drops the column by which rows and teacher's outputs are matched": (
        f"{HERE}::test_ids_survive_from_the_file_to_the_predictions",
        "data/test_batches.py::test_an_epoch_holds_every_text_once",
    ),
    "19: label names are lost in merging, or a merged folder attaches its adapter once more": (
        "models/test_adapters.py::test_life_of_an_adapter",
        f"{HERE}::test_a_merged_student_carries_its_labels_and_no_adapter",
    ),
}


@pytest.mark.parametrize("mistake", TABLE)
def test_every_named_test_exists(mistake: str) -> None:
    assert TABLE[mistake]
    for place in TABLE[mistake]:
        file, _, name = place.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in found, place


@pytest.fixture(scope="module")
def done(corner, tmp_path_factory):
    """Teacher and two distilled students, trained in this process, and what was called."""
    study = corner.study(
        arms=["teacher/fft", "student/kd-lora", "student/kd-adalora"], baselines=False
    )
    plan, store = make_plan(study), Store(tmp_path_factory.mktemp("done"))
    store.prepare()
    save_plan(store, study, plan)
    calls: Counter = Counter()
    extra, timed = [], []
    with pytest.MonkeyPatch.context() as patch:

        def spy(name: str):
            original = getattr(adapters, name)

            def called(model, *rest):
                result = original(model, *rest)
                calls[current, name] += 1
                if name == "extra_loss" and result is not None:
                    extra.append(result.requires_grad)
                return result

            patch.setattr(adapters, name, called)

        def time_models(models, protocol, **rest):
            timed.append((current, models["model"], protocol.merged))
            return original_time(models, protocol, **rest)

        original_time = inference.time_models
        patch.setattr(inference, "time_models", time_models)
        for name in ("after_step", "extra_loss"):
            spy(name)
        for run in plan.runs:
            current = run.arm
            recipes.run_one(run, store)
    records = {run.arm: store.read(run.run_id) for run in plan.runs}
    return store, records, calls, extra, timed


def test_adalora_is_allocated_in_a_real_run(done) -> None:
    _, records, calls, extra, _ = done
    record = records["student/kd-adalora"]
    facts = record.facts
    assert calls["student/kd-adalora", "after_step"] == facts.steps == facts.planned_steps
    assert len(extra) == calls["student/kd-adalora", "extra_loss"] == facts.steps
    assert all(extra)  # part of what is differentiated
    assert facts.rank_pattern is not None
    kept, layers = sum(facts.rank_pattern.values()), len(facts.targets)
    assert kept <= 4 * layers < 6 * layers  # began with rank 6 a layer, ends with 4 on average
    saved = records["student/kd-adalora"].efficiency.trainable_params
    assert saved > records["student/kd-lora"].efficiency.trainable_params
    assert not [flag for flag in record.health if flag.name == "adalora_not_pruned"]


def test_an_extra_term_is_no_part_of_what_is_recorded_or_chosen_by(tmp_path) -> None:
    """A term without a gradient that falls from step to step: nothing may come out otherwise."""
    left = iter(range(1000, 0, -1))

    def extra(model: nn.Module) -> torch.Tensor:
        return next(left) + 0.0 * next(model.parameters()).sum()

    def trained(hooks: Hooks):
        scores = iter([0.5, 0.9, 0.7])
        model = make_model()
        progress = fit(
            model, tmp_path, evaluate=lambda model: {"accuracy": next(scores)}, hooks=hooks
        )
        return progress, model

    (plain, one), (with_term, two) = trained(Hooks()), trained(Hooks(extra_loss=extra))
    assert next(left) == 1000 - plain.step  # it was asked for once a step
    assert [row["train_loss"] for row in plain.history] == [
        row["train_loss"] for row in with_term.history
    ]
    assert plain.best_step == with_term.best_step == 12
    assert with_term.best_score == 0.9
    assert same(one, two)


def test_every_student_row_is_taught_by_its_own_teacher_logits(done, tmp_path, monkeypatch) -> None:
    """The cache's order is not the rows' order: what reaches the loss follows the ids."""
    store, records, *_ = done
    run = records["student/kd-lora"].run
    assert run.teacher_run_id is not None
    shutil.copytree(store.root, tmp_path / "copy")
    copy = Store(tmp_path / "copy")
    shutil.rmtree(copy.folder(run.run_id))
    truth = soft_labels.load(copy.folder(run.teacher_run_id))
    assert truth is not None
    order = np.random.default_rng(0).permutation(len(truth.ids))
    shuffled = replace(truth, ids=truth.ids[order], logits=truth.logits[order])
    soft_labels.save(shuffled, copy.folder(run.teacher_run_id))
    seen = []

    def stop(model: nn.Module, training: TrainingData, *rest, **options) -> None:
        seen.append(training)
        raise InterruptedError

    monkeypatch.setattr(recipes, "train", stop)
    with pytest.raises(InterruptedError):
        recipes.run_one(run, copy)
    data = load_task(run.task, run.data)
    by_id = dict(zip(truth.ids, truth.logits, strict=True))
    expected = np.stack([by_id[i] for i in data.train.ids])
    assert len(np.unique(expected, axis=0)) > len(expected) // 2  # else positions would not show
    np.testing.assert_array_equal(seen[0].teacher.numpy(), expected)
    np.testing.assert_array_equal(seen[0].labels.numpy(), data.train.labels)


def test_what_is_timed_and_scored_is_the_merged_model(done) -> None:
    _, records, _, _, timed = done
    # Models of one shape are timed once, and an unmerged adapter would be a shape of its own.
    assert {arm for arm, _, _ in timed} <= set(records)
    assert len({record.efficiency.size_mb for record in records.values()}) <= len(timed)
    for _, model, merged in timed:
        assert merged
        assert not any(isinstance(module, BaseTunerLayer) for module in model.modules())
    assert all(record.efficiency.protocol["merged"] for record in records.values())


def test_adapters_have_no_dropout_unless_asked_for() -> None:
    """DoRA computes the layer twice where there is dropout before A."""
    assert Adapter().dropout == 0


def test_a_result_belongs_to_every_setting_that_made_it(done) -> None:
    store, records, *_ = done
    full = records["teacher/fft"].run
    assert full.adapter is None
    assert "rank" not in str(full.identity())
    for record in records.values():
        assert store.folder(record.run_id).name == record.run.run_id


def test_ids_survive_from_the_file_to_the_predictions(done) -> None:
    store, records, *_ = done
    run = records["student/kd-lora"].run
    data = load_task(run.task, run.data)
    table = read_predictions(store.folder(run.run_id)).frame
    for split in ("selection", "report"):
        part = data.split(split)
        ids = list(table.loc[table["split"] == split, "example_id"])
        assert ids == list(part.ids)
        assert len(set(ids)) == len(ids)


def test_a_merged_student_carries_its_labels_and_no_adapter(done) -> None:
    store, _, *_ = done
    folder, card = save_students(load_frame(store.root), store)[0]
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors"} <= names
    assert not any("adapter" in name for name in names)
    model, _ = load_trained(folder)
    assert model.config.id2label == {0: "neg", 1: "pos"} == dict(enumerate(card.label_names))
    run = store.folder(card.run_id) / "model"
    restored, tokenizer = load_trained(run)
    batch = tokenizer(["a good film", "a bad one"], padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, restored(**batch).logits)
