"""How an arm is written, read, ordered and worded."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.vocabulary.arm import (
    ADAPTATIONS,
    BASELINES,
    DEFAULT_ARMS,
    Arm,
    every_plain_arm,
    label_text,
    uncontrolled,
)

labels = st.text(max_size=12)
planned = st.builds(
    lambda arm, label: arm.with_label(label),
    st.sampled_from([*every_plain_arm(), *(Arm("baseline", name) for name in BASELINES)]),
    labels.filter(lambda text: text == text.strip()),
)


@given(planned)
def test_what_is_written_is_read_back_as_the_same_arm(arm):
    assert Arm.parse(str(arm)) == arm
    assert Arm.read(str(arm)) == arm


@given(st.one_of(st.text(), st.floats(), st.none(), st.text(alphabet="a/[]-kd", max_size=9)))
def test_any_text_of_a_column_can_be_read_and_is_given_back_as_it_was(text):
    arm = Arm.read(text)
    assert str(arm) == str(text)
    assert str(arm.plain.with_label(arm.label)) == str(text)
    for worded in (arm.title(), arm.short(), arm.phrase(), arm.slug):
        assert isinstance(worded, str)
    assert arm.sort_key() == arm.sort_key()
    assert not arm.undistilled().is_distilled
    assert arm.as_teacher().is_teacher
    assert arm.as_full().is_full


def test_the_default_arms_can_be_read():
    assert [str(Arm.parse(arm, plain=True)) for arm in DEFAULT_ARMS] == list(DEFAULT_ARMS)


@pytest.mark.parametrize("arm", every_plain_arm(), ids=str)
def test_an_arm_that_a_study_may_list_has_no_label_and_is_no_baseline(arm):
    assert Arm.parse(str(arm), plain=True) == arm
    with pytest.raises(ValueError, match="without a label"):
        Arm.parse(str(arm.with_label("rank=8")), plain=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "write role/adaptation"),
        ("student", "write role/adaptation"),
        ("/fft", "write role/adaptation"),
        ("student/", "unknown adaptation ''"),
        ("boss/fft", "unknown role 'boss'"),
        ("baseline/majority", "unknown role 'baseline'"),
        ("student/lorra", "Did you mean 'lora'"),
        ("student/given", "only a teacher"),
        ("teacher/kd-lora", "write student/kd-lora"),
        ("student/kd-", "unknown adaptation ''"),
    ],
)
def test_what_is_no_arm_is_refused_with_what_is_known(text, says):
    with pytest.raises(ValueError, match=r".") as error:
        Arm.parse(text, plain=True)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("arm", "title", "short", "phrase"),
    [
        ("teacher/fft", "Teacher, full fine-tuning", "teacher FFT", "the fully fine-tuned teacher"),
        ("teacher/given", "Teacher, as given", "teacher as given", "the given teacher"),
        ("student/kd-lora", "Student, KD-LoRA", "student KD-LoRA", "the KD-LoRA student"),
        ("student/rslora", "Student, rsLoRA", "student rsLoRA", "the rsLoRA student"),
        ("student/kd-fft", "Student, KD + full fine-tuning", "student KD-FFT",
         "the distilled, fully fine-tuned student"),
        ("baseline/tfidf", "Baseline, TF-IDF + linear", "TF-IDF", "the TF-IDF baseline"),
        ("baseline/majority", "Baseline, majority or mean", "majority", "the majority baseline"),
        ("student/kd-lora[rank=8]", "Student, KD-LoRA, rank 8", "student KD-LoRA, rank 8",
         "the KD-LoRA student (rank 8)"),
        ("ours", "ours", "ours", "ours"),
    ],
)  # fmt: skip
def test_an_arm_in_words(arm, title, short, phrase):
    read = Arm.read(arm)
    assert (read.title(), read.short(), read.phrase()) == (title, short, phrase)


def test_no_two_arms_that_a_study_may_list_are_worded_alike():
    arms = [*every_plain_arm(), *(Arm("baseline", name) for name in BASELINES)]
    for worded in (Arm.title, Arm.short, Arm.phrase):
        assert len({worded(arm) for arm in arms}) == len(arms)


def test_a_label_in_words_spells_its_settings_out():
    assert label_text("temperature=4 lr=0.001") == "temperature 4, learning rate 0.001"
    assert label_text("best of all") == "best of all"


def test_arms_are_read_from_teacher_to_baseline_and_plain_before_distilled():
    shuffled = ["x", "baseline/majority", "student/kd-lora", "student/lora[rank 16]", "student/fft",
                "student/lora[rank 8]", "student/lora", "baseline/tfidf", "teacher/lora",
                "teacher/given", "teacher/fft"]  # fmt: skip
    assert sorted(shuffled, key=lambda arm: Arm.read(arm).sort_key()) == [
        "teacher/given", "teacher/fft", "teacher/lora", "student/fft", "student/lora",
        "student/lora[rank 8]", "student/lora[rank 16]", "student/kd-lora", "baseline/tfidf",
        "baseline/majority", "x",
    ]  # fmt: skip


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_the_neighbours_of_an_arm_keep_its_label(adaptation):
    for role, kd in itertools.product(("teacher", "student"), ("none", "kd")):
        arm = Arm(role, adaptation, kd, "rank=8")
        assert arm.undistilled() == Arm(role, adaptation, "none", "rank=8")
        assert arm.as_full() == Arm(role, "fft", kd, "rank=8")
        assert arm.as_teacher() == Arm("teacher", adaptation, "none", "rank=8")
        assert arm.plain == Arm(role, adaptation, kd)


def test_a_distilled_arm_is_controlled_by_the_same_arm_or_by_what_it_varies():
    arms = ["student/kd-lora", "student/kd-lora[a]", "student/kd-fft", "student/lora"]
    assert uncontrolled(arms) == ["student/kd-fft"]
    assert uncontrolled(["student/kd-lora[a]", "student/lora[a]"]) == []


@pytest.mark.parametrize("arm", ["student/kd-lora", "student/kd-lora[a]", "student/kd-fft"])
def test_any_arm_that_serves_as_a_control_is_enough(arm):
    distilled = Arm.read(arm)
    assert uncontrolled([arm]) == [arm]
    for control in distilled.serving_controls():
        assert uncontrolled([arm, control]) == []
    assert set(distilled.controls()) <= set(distilled.serving_controls())
    others = {str(one) for one in every_plain_arm()} - set(map(str, distilled.serving_controls()))
    assert arm in uncontrolled({arm, *others})
