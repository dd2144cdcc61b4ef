"""The names that a spec may use for adaptations, arms and packaged encoders."""

from __future__ import annotations

from dataclasses import dataclass

# Adaptations. "given" is a teacher that arrives fine-tuned: it is scored, never trained.
PEFT_VARIANTS = ("lora", "adalora", "dora", "mrlora", "olora", "rslora")
ADAPTATIONS = ("fft", *PEFT_VARIANTS)
BASELINES = ("majority", "tfidf")
ROLES = ("teacher", "student")

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
