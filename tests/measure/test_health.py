"""Every flag: raised where it should be, with its numbers, and on a sound run never."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from kdlora.measure.health import find_flags
from kdlora.measure.quality import count_predictions, floor_score, quality
from kdlora.records.record import Agreement, Quality, TrainingFacts
from kdlora.spec.adapter import Adapter
from kdlora.spec.run import (
    BaselineRun,
    EncoderRef,
    GivenTeacherRun,
    Run,
    TaskRef,
    TrainedRun,
)
from kdlora.spec.sections import Data, Training
from kdlora.vocabulary.task import MULTILABEL, REGRESSION, TASKS, Task

SST2, STSB = TASKS["sst2"], TASKS["stsb"]


def run(adaptation: str = "lora", role: str = "student", task: str = "sst2") -> Run:
    reference = TaskRef(name=task, version=1, source="hub")
    common = {"task": reference, "adaptation": adaptation, "seed": 1, "data": Data()}
    if role == "baseline":
        return BaselineRun(**common)
    common |= {"encoder": EncoderRef(name="e", source="hub"), "training": Training()}
    if adaptation == "given":
        return GivenTeacherRun(**common)
    adapter = None if adaptation == "fft" else Adapter()
    return TrainedRun(**common, role=role, lr=1e-4, adapter=adapter)


def sound_quality(**changes: Any) -> Quality:
    values = {
        "primary": "accuracy",
        "direction": 1,
        "splits": {"selection": {"accuracy": 0.8}, "report": {"accuracy": 0.8}},
        "n": {"train": 1000, "selection": 500, "report": 400},
    }
    return Quality.model_validate(values | changes)


def sound_facts(**changes: Any) -> TrainingFacts:
    values = {
        "steps": 100,
        "planned_steps": 100,
        "warmup_steps": 6,
        "new_modules": ["bert.pooler.dense", "classifier"],
        "modules_to_save": ["bert.pooler.dense", "classifier"],
        "adapter_norm": 1.5,
        "rank_pattern": {"layer": 4},
        "micro_batch_size": 32,
    }
    return TrainingFacts.model_validate(values | changes)


def history(scores: list[float | None], losses: list[float], metric: str = "accuracy") -> list:
    return [
        {"step": 10 * i, "epoch": i, "train_loss": loss, "lr": 1e-4, "selection": {metric: score}}
        for i, (score, loss) in enumerate(zip(scores, losses, strict=True), start=1)
    ]


SOUND_AGREEMENT = Agreement(
    teacher_run_id="T", agreement=0.8, lower_bound=0.7, upper_bound=0.9, teacher_score=0.9
)


def flags(task: Task = SST2, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "run": run(),
        "facts": sound_facts(),
        "quality": sound_quality(),
        "agreement": SOUND_AGREEMENT,
        "history": history([0.7, 0.8, 0.79], [0.6, 0.4, 0.3]),
        "floor": 0.51,
        "prediction_counts": {"negative": 150, "positive": 250},
    }
    return {flag.name: flag for flag in find_flags(task=task, **(values | changes))}


@pytest.mark.parametrize("adaptation", ["lora", "adalora", "fft"])
def test_a_sound_run_has_no_flags(adaptation):
    assert flags(run=run(adaptation)) == {}


def only(name: str, severity: str, *numbers: str, **changes: Any) -> None:
    found = flags(**changes)
    assert set(found) == {name}
    assert found[name].severity == severity
    for number in numbers:
        assert number in found[name].detail


def test_constant_predictions():
    counts = {"negative": 0, "positive": 400}
    only("constant_predictions", "error", "400", "'positive'", prediction_counts=counts)
    assert flags(prediction_counts={"negative": 1, "positive": 399}) == {}


def test_constant_predictions_of_a_regression():
    flat = quality(
        STSB,
        {"selection": np.arange(200.0), "report": np.full(50, 2.5)},
        {"selection": np.arange(200.0), "report": np.arange(50.0)},
        n_train=10,
    )
    curve = history([0.1, 0.2], [3.0, 1.0], "pearson")
    found = flags(
        STSB, quality=flat, history=curve, floor=0.0, prediction_counts=None, agreement=None
    )
    assert set(found) == {"constant_predictions", "at_or_below_majority"}
    assert "50" in found["constant_predictions"].detail
    assert "undefined" in found["at_or_below_majority"].detail


def test_at_or_below_majority():
    only("at_or_below_majority", "error", "0.8", "0.85", floor=0.85, agreement=None)
    only("at_or_below_majority", "error", floor=0.8, agreement=None)
    assert flags(floor=None) == {}


def test_the_floor_of_an_error_is_above():
    task = Task("r", REGRESSION, ("t",), (), "rmse")
    scores = {"rmse": 1.2, "pearson": 0.5, "spearman": 0.5}
    block = sound_quality(primary="rmse", direction=-1, splits={"report": scores})
    curve = history([1.5, 1.2], [3.0, 1.0], "rmse")
    same = {"quality": block, "history": curve, "prediction_counts": None, "agreement": None}
    assert flags(task, floor=1.3, **same) == {}
    assert set(flags(task, floor=1.1, **same)) == {"at_or_below_majority"}


def test_the_majority_baseline_is_not_blamed_for_being_itself():
    baseline = run("majority", "baseline")
    nothing = {"facts": TrainingFacts(), "history": [], "agreement": None}
    counts = {"negative": 0, "positive": 400}
    assert flags(run=baseline, floor=0.8, prediction_counts=counts, **nothing) == {}
    tfidf = flags(run=run("tfidf", "baseline"), floor=0.8, prediction_counts=counts, **nothing)
    assert set(tfidf) == {"constant_predictions", "at_or_below_majority"}


def test_stopped_in_warmup():
    only(
        "stopped_in_warmup",
        "error",
        "step 1000 of 227300",
        "22730",
        facts=sound_facts(
            steps=1000, planned_steps=227_300, warmup_steps=22_730, stopped="patience"
        ),
    )
    assert flags(facts=sound_facts(steps=7)) == {}
    assert set(flags(facts=sound_facts(steps=6))) == {"stopped_in_warmup"}


def test_never_improved():
    falling = [0.6, 0.4, 0.3]
    only(
        "never_improved", "warning", "0.7", "step 10", "2 later",
        history=history([0.7, 0.7, 0.65], falling),
    )  # fmt: skip
    assert flags(history=history([None, 0.7, 0.65], falling)) == {}
    assert flags(history=history([0.7], [0.5])) == {}
    assert flags(history=history([0.7, 0.69], falling[1:])) == {}  # chance, at a plateau
    task = Task("r", REGRESSION, ("t",), (), "rmse")
    better_later = history([1.5, 1.2], [3.0, 1.0], "rmse")
    assert "never_improved" not in flags(task, history=better_later)
    assert "never_improved" in flags(
        task, history=history([1.2, 1.5, 1.4], [3.0, 2.0, 1.0], "rmse")
    )


def test_loss_not_falling():
    rising = [0.7, 0.71, 0.72]
    curve = [0.5, 0.6, 0.7]
    only("loss_not_falling", "warning", "0.7", "0.72", history=history(curve, rising))
    # 0.5 % is noise, 2 % is not
    assert "loss_not_falling" in flags(history=history(curve, [0.700, 0.698, 0.6965]))
    assert flags(history=history(curve, [0.700, 0.690, 0.686])) == {}
    # long curves: the mean of each end's third, so that no single lucky record decides
    rising = np.linspace(0.5, 0.9, 9).tolist()
    flat = [0.70, 0.70, 0.70, 0.70, 0.70, 0.70, 0.71, 0.71, 0.68]
    assert set(flags(history=history(rising, flat))) == {"loss_not_falling"}
    falling = [0.70, 0.70, 0.70, 0.70, 0.70, 0.68, 0.66, 0.66, 0.70]
    assert flags(history=history(rising, falling)) == {}


def test_adapter_unchanged():
    only("adapter_unchanged", "error", "100 steps", facts=sound_facts(adapter_norm=0.0))
    assert flags(facts=sound_facts(adapter_norm=None)) == {}
    assert flags(run=run("fft"), facts=sound_facts(adapter_norm=0.0)) == {}


def test_new_modules_frozen():
    head_only = sound_facts(modules_to_save=["classifier"])
    only("new_modules_frozen", "error", "bert.pooler.dense", "trained: classifier", facts=head_only)
    assert flags(run=run("fft"), facts=head_only) == {}
    assert flags(facts=sound_facts(modules_to_save=["pooler", "classifier"])) == {}
    # part of a word is not the module
    assert set(flags(facts=sound_facts(modules_to_save=["pool", "dens", "classifier"]))) == {
        "new_modules_frozen"
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"facts": sound_facts(nonfinite_steps=3)}, "3 times"),
        ({"facts": sound_facts(stopped="nonfinite")}, "step 100"),
        ({"history": history([0.7, 0.8], [0.6, math.nan])}, "1 of 2"),
        (
            {
                "quality": sound_quality(
                    splits={"selection": {"accuracy": None}, "report": {"accuracy": 0.8}}
                )
            },
            "on selection",
        ),
    ],
)
def test_nonfinite(changes, said):
    only("nonfinite", "error", said, **changes)


def test_teacher_below_baseline():
    weak = SOUND_AGREEMENT.model_copy(update={"teacher_score": 0.5})
    only("teacher_below_baseline", "error", "0.5", "0.51", agreement=weak)
    unscored = SOUND_AGREEMENT.model_copy(update={"teacher_score": None})
    assert set(flags(agreement=unscored)) == {"teacher_below_baseline"}


def test_agreement_impossible():
    strange = SOUND_AGREEMENT.model_copy(update={"agreement": 0.168})
    only("agreement_impossible", "error", "0.168", "[0.7, 0.9]", agreement=strange)


def test_adalora_not_pruned():
    unpruned = sound_facts(rank_pattern=None)
    only("adalora_not_pruned", "error", "100 steps", run=run("adalora"), facts=unpruned)
    assert flags(run=run("lora"), facts=unpruned) == {}


def test_short_selection():
    few = sound_quality(n={"train": 500, "selection": 99, "report": 400})
    only("short_selection", "info", "99 rows", quality=few)
    untrained = flags(quality=few, facts=TrainingFacts(stopped="not trained"), history=[])
    assert untrained == {}  # no checkpoint was chosen
    enough = sound_quality(n={"train": 500, "selection": 100, "report": 400})
    assert flags(quality=enough) == {}


def test_memory_retry():
    halved = sound_facts(out_of_memory_retries=2, micro_batch_size=8)
    only("memory_retry", "info", "2 times", "8", facts=halved)


def test_a_run_without_scores_still_tells_what_happened():
    found = flags(
        quality=None,
        agreement=None,
        floor=None,
        prediction_counts=None,
        facts=sound_facts(stopped="nonfinite", steps=3),
        history=[],
    )
    assert set(found) == {"nonfinite", "stopped_in_warmup"}


def test_a_collapsed_model_end_to_end():
    """From outputs to flags: a model that always says the majority class."""
    rng = np.random.default_rng(0)
    train, labels = rng.integers(0, 2, 300), np.repeat([0, 1], [40, 60])
    train[:200] = 1
    outputs = np.tile([0.0, 1.0], (100, 1))
    block = quality(
        SST2,
        {"selection": outputs, "report": outputs},
        {"selection": labels, "report": labels},
        n_train=300,
    )
    found = flags(
        quality=block,
        floor=floor_score(SST2, train, labels),
        prediction_counts=count_predictions(SST2, outputs),
    )
    assert set(found) == {"constant_predictions", "at_or_below_majority"}
    assert "0.6" in found["at_or_below_majority"].detail


def several_labels(outputs: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Flags of a run of three labels whose report split is answered like this."""
    task = Task("own", MULTILABEL, ("t",), ("a", "b", "c"), "mean_average_precision")
    values = {"selection": outputs, "report": outputs}
    block = quality(task, values, dict.fromkeys(values, truth), n_train=100)
    curve = history([0.1, 0.2], [3.0, 1.0], task.primary)
    counts = count_predictions(task, outputs)
    return flags(task, quality=block, history=curve, floor=0.1, prediction_counts=counts)


def test_labels_that_are_never_or_always_answered():
    truth = (np.random.default_rng(0).random((200, 3)) < [0.5, 0.05, 0.5]).astype(int)
    right = 4.0 * truth - 2
    assert several_labels(right, truth) == {}
    one_sided = right + np.array([0, -5, 5])
    found = several_labels(one_sided, truth)
    assert set(found) == {"label_never_predicted", "label_always_predicted"}
    assert {flag.severity for flag in found.values()} == {"warning"}
    assert f"'b' ({truth[:, 1].sum()} rows have it)" in found["label_never_predicted"].detail
    assert "1 of 3 labels is always answered with: 'c'" in found["label_always_predicted"].detail
    constant = several_labels(right + np.array([9, -9, -9]), truth)
    assert set(constant) == {"constant_predictions"}
    assert "all 200 rows" in constant["constant_predictions"].detail
    assert "(a)" in constant["constant_predictions"].detail
