"""`max_length: auto`: one number a task, from its texts, within what encoders and memory allow."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

import kdlora
from kdlora.api import as_study, check
from kdlora.data.checks.tokens import parse_tokenizer, token_lengths
from kdlora.data.encoder_files import tokenizer_rules
from kdlora.errors import InputError, KdloraError
from kdlora.planning import text_length
from kdlora.planning.distil_study import DistilArguments, distil_study
from kdlora.planning.text_length import _that_fits
from kdlora.planning.workload import activation_mb
from kdlora.records.frame import save_plan
from kdlora.records.store import Store
from kdlora.spec import plan as plan_module
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.resolve import encoder_ref
from kdlora.spec.run import EncoderRun, encoder_of
from kdlora.spec.sections import Training
from tests.harness.moods import Corner, write_csv

found = plan_module._resolved
AUTO = {"max_length": "auto", "epochs": 1, "batch_size": 16}


@pytest.fixture(autouse=True)
def forgetful() -> None:
    text_length._chosen.cache_clear()


def lengths_of(plan) -> set[int]:
    return {run.training.max_length for run in plan.runs if isinstance(run, EncoderRun)}


def texts(folder: Path, words: list[int]) -> str:
    columns = {"review": ["film " * n + f"good {i}" for i, n in enumerate(words)],
               "mood": ["pos", "neg"] * (len(words) // 2)}  # fmt: skip
    return str(write_csv(folder / "long.csv", **columns))


def study(corner: Corner, train: str, **changes):
    task = {"name": "moods", "train": train, "text": "review", "label": "mood"}
    return corner.study(tasks=[task], **{"training": AUTO, **changes})


def test_it_is_the_99th_percentile_rounded_up_and_the_same_for_all_arms(corner, tmp_path) -> None:
    train = texts(tmp_path, [3] * 390 + [30] * 8 + [50] * 2)
    plan = check(study(corner, train))
    tokenizer = parse_tokenizer(tokenizer_rules(encoder_ref(corner.student, ".")))
    long = token_lengths(tokenizer, (["film " * 30 + "good 395"],))[0]
    (length,) = lengths_of(plan)
    assert length == -(-long // 8) * 8
    assert plan.lengths["moods"].tokens == length
    assert f"99 % of the texts to learn from have at most {long} tokens" in (
        plan.lengths["moods"].because
    )


def test_runs_are_those_of_the_number_itself(corner, tmp_path) -> None:
    train = texts(tmp_path, [10] * 400)
    auto = check(study(corner, train))
    (length,) = lengths_of(auto)
    plain = check(study(corner, train, training=AUTO | {"max_length": length}))
    assert [run.run_id for run in auto.runs] == [run.run_id for run in plain.runs]
    assert plain.lengths == {}


def test_a_length_that_nobody_named_is_what_every_encoder_reads_and_is_planned_once(
    corner, tmp_path, monkeypatch
) -> None:
    planned = []
    monkeypatch.setattr(plan_module, "_resolved", lambda study: planned.append(1) or found(study))
    train, unnamed = texts(tmp_path, [10] * 400), {"epochs": 1, "batch_size": 16}
    short = check(study(corner, train, training=unnamed, ranks=[2, 4]))
    assert lengths_of(short) == {66}
    assert planned == [1]
    named = unnamed | {"max_length": 66}
    plain = check(study(corner, train, training=named, ranks=[2, 4]))
    assert [run.run_id for run in short.runs] == [run.run_id for run in plain.runs]
    # what does not fit the shorter windows is told, as if they had been named
    stride = unnamed | {"windows": {"stride": 60}}
    with pytest.raises(InputError, match=r"stride is 60, more than half of max_length \(66\)"):
        check(study(corner, train, training=stride))


def test_an_encoder_reads_no_more_than_it_has_positions_for(corner, tmp_path) -> None:
    plan = check(study(corner, texts(tmp_path, [100] * 400)))
    assert lengths_of(plan) == {66}
    assert "66 tokens, all that" in plan.lengths["moods"].because


def test_memory_is_a_limit_that_is_told(corner, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_length, "memory_mb", lambda: 8.0)
    monkeypatch.setattr(text_length, "visible_gpus", lambda: ())
    plan = check(study(corner, texts(tmp_path, [60] * 400)))
    (length,) = lengths_of(plan)
    teacher = encoder_of(next(run for run in plan.runs if run.role == "teacher"))
    shape = text_length.shape_of(teacher)[0]
    assert length < 66
    assert activation_mb(shape, 16, length) <= 4.0 < activation_mb(shape, 16, 2 * length)
    assert "memory in a batch of 16" in plan.lengths["moods"].because
    monkeypatch.setattr(text_length, "memory_mb", lambda: 1e9)
    assert _that_fits(teacher, 16) == 8192


def test_a_pair_that_is_given_trained_reads_as_far(corner, tmp_path) -> None:
    pair = {"name": "p", "teacher": corner.teacher, "student": corner.student}
    given = study(
        corner, texts(tmp_path, [10] * 400), pairs=[pair | {"teacher_is_trained": True}],
        arms=["teacher/given", "student/kd-lora"],
    )  # fmt: skip
    assert len(lengths_of(check(given))) == 1


def test_plan_run_and_look_say_it(corner, tmp_path) -> None:
    auto = study(corner, texts(tmp_path, [10] * 400), arms=["student/lora"], baselines=False)
    (look,) = kdlora.look(auto)
    (told,) = [f.sentence for f in look.findings if f.name == "max_length"]
    assert told.startswith("max_length: auto is ")


def test_it_is_refused_where_the_data_or_the_tokenizer_is_not_here(corner, tmp_path) -> None:
    pair = {"name": "p", "teacher": corner.teacher, "student": corner.student}
    hub = make_study({"name": "s", "tasks": ["rte"], "training": AUTO, "pairs": [pair]})
    with pytest.raises(InputError, match="auto is for data on this machine; give a number"):
        check(hub)
    with pytest.raises(InputError, match="needs a look at the data"):
        make_plan(study(corner, texts(tmp_path, [10] * 400)))
    pair = {"name": "p", "teacher": corner.teacher, "student": "nobody/has-it"}
    with pytest.raises(InputError, match=r"tokenizer.json of nobody/has-it"):
        check(study(corner, texts(tmp_path, [10] * 400), pairs=[pair]))


def test_the_study_file_keeps_the_word(corner, tmp_path) -> None:
    auto = study(corner, texts(tmp_path, [10] * 400))
    dumped = auto.model_dump(mode="json")
    assert dumped["training"]["max_length"] == "auto"
    again = make_study({**dumped, "base_dir": auto.base_dir})
    assert lengths_of(check(again)) == lengths_of(check(auto))
    for wrong in (0, 7, "all"):
        with pytest.raises(InputError, match="max_length"):
            corner.study(training={"max_length": wrong})


def test_a_length_that_nobody_named_is_what_every_encoder_can_read(corner):
    """The default would be refused for an encoder with fewer positions; a named one still is."""
    values = {
        "name": "short", "tasks": [{"name": "t", "train": corner.train, "text": "review",
                                    "label": "mood"}],
        "pairs": [{"teacher": corner.teacher, "student": corner.student}],
    }  # fmt: skip
    plan = kdlora.plan(values)
    (chosen,) = {run.training.max_length for run in plan.runs if isinstance(run, EncoderRun)}
    assert plan.lengths["t"].tokens == chosen < Training().max_length
    with pytest.raises(InputError, match="positions"):
        kdlora.plan({**values, "training": {"max_length": 128}})


@pytest.mark.parametrize("file", ["config.json", "adapter_config.json"])
def test_a_config_that_cannot_be_read_is_no_traceback(corner, tmp_path, file):
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    (encoder / file).write_text("{broken")
    values = {
        "name": "broken", "tasks": [{"name": "t", "train": corner.train, "text": "review",
                                     "label": "mood"}],
        "pairs": [{"teacher": corner.teacher, "student": str(encoder)}],
    }  # fmt: skip
    with suppress(KdloraError):  # a broken adapter is told by the run, when its base is looked for
        kdlora.plan(values)


@pytest.mark.parametrize("training", [{}, {"epochs": 2}, {"max_length": 40}, AUTO], ids=str)
def test_the_file_that_a_study_leaves_plans_the_same_runs(corner, tmp_path, training):
    """The encoders have fewer positions than the default length."""
    asked = distil_study(
        DistilArguments(
            train=corner.train, text="review", label="mood",
            teacher=corner.teacher, student=corner.student, sections={"training": training},
        )
    )  # fmt: skip
    plan = check(asked)
    save_plan(Store(tmp_path), asked, plan)
    ids = [run.run_id for run in plan.runs]
    assert [run.run_id for run in kdlora.plan(tmp_path / "study.yaml").runs] == ids
    assert [run.run_id for run in check(as_study(asked, name="other")).runs] == ids


def test_a_look_says_auto_only_where_the_study_does(corner):
    shorter = kdlora.look(
        {
            "name": "short", "tasks": [{"name": "t", "train": corner.train, "text": "review",
                                        "label": "mood"}],
            "pairs": [{"teacher": corner.teacher, "student": corner.student}],
        }
    )  # fmt: skip
    (told,) = [f.sentence for f in shorter[0].findings if f.name == "max_length"]
    assert told.startswith("max_length, which nobody named, is ")
    assert "auto" not in told
