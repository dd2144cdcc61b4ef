"""The names that a spec may use for adaptations, arms and packaged encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Adaptations. "given" is a teacher that arrives fine-tuned: it is scored, never trained.
# "peft" is any other method of peft, which the adapter section names.
PEFT_VARIANTS = ("lora", "adalora", "dora", "mrlora", "olora", "rslora")
ADAPTATIONS = ("fft", *PEFT_VARIANTS, "peft")
BASELINES = ("majority", "tfidf")
ROLES = ("teacher", "student")

# What a run's status says where it has no result. "stopped": an early decision ended it.
NOT_DONE = ("missing", "failed", "stopped")

# Encoders that come inside packages of the package index (`data.packaged` fetches them).
PACKAGED_ENCODERS = ("minilm-l6", "minilm-l3", "mpnet-base")


@dataclass(frozen=True)
class Arm:
    """A point on the three axes, written ``role/adaptation`` or ``student/kd-adaptation``."""

    role: str
    adaptation: str
    distillation: str = "none"

    def __str__(self) -> str:
        return f"{self.role}/{'kd-' if self.distillation == 'kd' else ''}{self.adaptation}"


def labelled(arm: str, label: str) -> str:
    """A copy of an arm by its label: ``student/kd-lora[best]``; without a label the arm itself."""
    return f"{arm}[{label}]" if label else arm


def split_label(arm: str) -> tuple[str, str]:
    """The arm and the label ("" without one) of a name that `labelled` made."""
    base, bracket, rest = arm.partition("[")
    return (base, rest[:-1]) if bracket and rest.endswith("]") else (arm, "")


def undistilled(arm: str) -> str:
    """The same arm, under the same label, without distillation."""
    return arm.replace("/kd-", "/", 1)


def uncontrolled(arms: Sequence[str]) -> list[str]:
    """Distilled arms whose gain cannot be told: nothing like them is trained without distillation.

    A labelled arm is served by the control of the arm that it varies.
    """
    known = set(arms)
    return [
        arm
        for arm in arms
        if arm.startswith("student/kd-")
        and not {undistilled(arm), undistilled(split_label(arm)[0])} & known
    ]


def parse_arm(text: str) -> Arm:
    """Read an arm's name. Raises ValueError that says what is known."""
    from kdlora.errors import did_you_mean

    role, slash, rest = text.strip().partition("/")
    if not slash:
        raise ValueError(
            f"'{text}' is no arm: write role/adaptation, such as teacher/fft or student/kd-lora"
        )
    if role not in ROLES:
        raise ValueError(f"unknown role '{role}' in arm '{text}'.{did_you_mean(role, ROLES)}")
    kd = rest.startswith("kd-")
    adaptation = rest.removeprefix("kd-")
    known = (*ADAPTATIONS, "given")
    if adaptation not in known:
        raise ValueError(
            f"unknown adaptation '{adaptation}' in arm '{text}'.{did_you_mean(adaptation, known)}"
        )
    if role == "teacher" and kd:
        raise ValueError(f"arm '{text}': a teacher is not distilled; write student/{rest}")
    if role == "student" and adaptation == "given":
        raise ValueError(f"arm '{text}': only a teacher can be given already fine-tuned")
    return Arm(role, adaptation, "kd" if kd else "none")


TEACHER_ARM = "teacher/fft"
DEFAULT_ARMS = ("teacher/fft", "teacher/lora", "student/fft", "student/lora", "student/kd-lora")
