from __future__ import annotations

import itertools

import pytest

from kdlora.vocabulary.arm import ADAPTATIONS, DEFAULT_ARMS, Arm, parse_arm


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_names_and_arms_are_the_same_thing(adaptation):
    for role, kd in itertools.product(("teacher", "student"), ("none", "kd")):
        arm = Arm(role, adaptation, kd)
        if role == "teacher" and kd == "kd":
            continue
        assert parse_arm(str(arm)) == arm


def test_the_default_arms_can_be_read():
    assert [str(parse_arm(arm)) for arm in DEFAULT_ARMS] == list(DEFAULT_ARMS)


@pytest.mark.parametrize("text", ["", "student", "student/", "boss/fft", "student/given", "/fft"])
def test_no_arm(text):
    with pytest.raises(ValueError, match=r"."):
        parse_arm(text)
