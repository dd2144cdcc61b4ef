"""An arm of a study: how it is written, read, ordered and worded.

An arm is a point on the three axes role, adaptation and distillation, perhaps with a label that
tells varied copies of it apart. This module is the only place that knows how an arm is written:

    teacher/fft    student/lora    student/kd-lora    student/kd-lora[rank=8]    baseline/tfidf

Everybody else asks an `Arm`: `Arm.parse` for what a user writes in a study, `Arm.read` for any
text that stands in a column of results.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from kdlora.errors import did_you_mean

# Adaptations. "given" is a teacher that arrives fine-tuned: it is scored, never trained.
# "peft" is any other method of peft, which the adapter section names.
PEFT_VARIANTS = ("lora", "adalora", "dora", "mrlora", "olora", "rslora")
# "frozen" fits the last layer alone.
ADAPTATIONS = ("fft", *PEFT_VARIANTS, "peft", "frozen")
BASELINES = ("majority", "tfidf", "embeddings")
ROLES = ("teacher", "student")  # the encoders of a pair
SEEDLESS = ("given", *BASELINES)  # nothing random: one result serves every seed

# Label of a student without a teacher that takes as many steps as one that learns from texts.
EQUAL_STEPS = "equal-steps"

_DISTILLED = "kd-"  # stands before the adaptation of an arm that is distilled
_ORDER = ("given", *ADAPTATIONS, "embeddings", "tfidf", "majority")
_TITLES = {
    "fft": "full fine-tuning",
    "given": "as given",
    "lora": "LoRA",
    "adalora": "AdaLoRA",
    "dora": "DoRA",
    "mrlora": "MrLoRA",
    "olora": "OLoRA",
    "rslora": "rsLoRA",
    "peft": "PEFT",
    "frozen": "frozen encoder",
}
_BASELINE_TITLES = {
    "majority": "majority or mean",
    "tfidf": "TF-IDF + linear",
    "embeddings": "untrained embeddings + linear",
}
_BASELINE_SHORT = {"majority": "majority", "tfidf": "TF-IDF", "embeddings": "embeddings"}
_IN_SENTENCES = {"fft": "fully fine-tuned", "given": "given", "frozen": "frozen-encoder"}
_SETTINGS = {
    "lr": "learning rate",
    "lr.peft": "learning rate",
    "lr.fft": "learning rate",
    "kd_weight": "KD weight",
    "batch_size": "batch size",
    "max_length": "length",
    "weight_decay": "weight decay",
}


@dataclass(frozen=True)
class Arm:
    """A point on the axes, with a label where it is a varied copy.

    `role` is teacher, student or baseline; `adaptation` one of `ADAPTATIONS`, "given" or a
    baseline's name; `distillation` "none" or "kd". Arms of imported results may hold anything
    else (`read`): a name without a role stands whole in `adaptation`.
    """

    role: str
    adaptation: str
    distillation: str = "none"
    label: str = ""

    @classmethod
    def parse(cls, text: str, *, plain: bool = False) -> Arm:
        """Read what a user wrote; `plain` allows only what a study may list under `arms`.

        That is an arm that is trained or given, and without a label. Raises ValueError that says
        what is known.
        """
        arm = cls.read(text.strip())
        role, name = arm.role, arm.adaptation
        if not role:
            raise ValueError(
                f"'{text}' is no arm: write role/adaptation, such as teacher/fft or student/kd-lora"
            )
        roles = ROLES if plain else (*ROLES, "baseline")
        if role not in roles:
            raise ValueError(f"unknown role '{role}' in arm '{text}'.{did_you_mean(role, roles)}")
        known = BASELINES if role == "baseline" else (*ADAPTATIONS, "given")
        if name not in known:
            raise ValueError(
                f"unknown adaptation '{name}' in arm '{text}'.{did_you_mean(name, known)}"
            )
        if arm.is_distilled and role != "student":
            raise ValueError(
                f"arm '{text}': a {role} is not distilled; write {replace(arm, role='student')}"
            )
        if role == "student" and name == "given":
            raise ValueError(f"arm '{text}': only a teacher can be given already fine-tuned")
        if plain and arm.label:
            raise ValueError(
                f"arm '{text}': an arm without a label is expected here; write {arm.plain}"
            )
        return arm

    @classmethod
    def read(cls, text: object) -> Arm:
        """Read the arm of any result, known or not. Never raises; `str` gives the text back."""
        return _read(str(text))

    def __str__(self) -> str:
        kd = _DISTILLED if self.is_distilled else ""
        label = f"[{self.label}]" if self.label else ""
        return f"{self.role}/{kd}{self.adaptation}{label}" if self.role else self.adaptation + label

    @property
    def is_teacher(self) -> bool:
        return self.role == "teacher"

    @property
    def is_student(self) -> bool:
        return self.role == "student"

    @property
    def is_baseline(self) -> bool:
        """A model that is no encoder: the majority class, or TF-IDF with a linear model."""
        return self.role == "baseline"

    @property
    def is_distilled(self) -> bool:
        return self.distillation == "kd"

    @property
    def is_full(self) -> bool:
        """All weights are fine-tuned."""
        return self.adaptation == "fft"

    @property
    def is_given(self) -> bool:
        """A teacher that arrives fine-tuned."""
        return self.adaptation == "given"

    @property
    def is_frozen(self) -> bool:
        """The encoder stays as it is: only the last layer is fitted."""
        return self.adaptation == "frozen"

    @property
    def has_adapter(self) -> bool:
        """Trained by a PEFT method, known or not."""
        return self.adaptation not in ("fft", "given", "frozen", *BASELINES)

    @property
    def is_seedless(self) -> bool:
        """Nothing about it is random: one result serves every seed."""
        return self.adaptation in SEEDLESS

    @property
    def plain(self) -> Arm:
        """The arm without its label."""
        return replace(self, label="")

    @property
    def slug(self) -> str:
        """The arm as a part of a file's name: ``student-kd-lora``; without the label."""
        return str(self.plain).replace("/", "-", 1)

    def with_label(self, label: str) -> Arm:
        """The copy of this arm that `label` names; an empty label is the arm itself."""
        return replace(self, label=label)

    def with_adaptation(self, adaptation: str) -> Arm:
        """The arm of the same role, distillation and label with another adaptation."""
        return replace(self, adaptation=adaptation)

    def undistilled(self) -> Arm:
        """The same arm, under the same label, trained without a teacher."""
        return replace(self, distillation="none")

    def controls(self) -> tuple[Arm, ...]:
        """The arms without a teacher with which this distilled one is compared to tell its gain.

        The same student, and for an arm that is no copy also the one trained for as many steps.
        """
        alone = self.undistilled()
        return (alone,) if self.label else (alone, alone.with_label(EQUAL_STEPS))

    def serving_controls(self) -> tuple[Arm, ...]:
        """The arms of which any one is enough for this distilled one to have a control.

        Its own controls come first. Those of the arm that a copy varies serve the copy, too: what
        the change adds to the arm is told apart.
        """
        return tuple(dict.fromkeys((*self.controls(), *self.plain.controls())))

    def as_full(self) -> Arm:
        """The same role, distillation and label with all weights fine-tuned."""
        return self.with_adaptation("fft")

    def as_teacher(self) -> Arm:
        """The same adaptation and label on the teacher's encoder, which is not distilled."""
        return replace(self, role="teacher", distillation="none")

    def title(self) -> str:
        """The arm in plain words for a table: "Student, KD-LoRA"."""
        if self.is_baseline:
            name = f"Baseline, {_BASELINE_TITLES.get(self.adaptation, self.adaptation)}"
        elif not self.role:
            name = self.adaptation
        else:
            name = f"{self.role.capitalize()}, {self._joint(' + ')}{self._adaptation_title()}"
        return self._and_label(name)

    def short(self) -> str:
        """The arm for a label in a chart: "student KD-LoRA", "teacher FFT", "TF-IDF"."""
        if self.is_baseline:
            name = _BASELINE_SHORT.get(self.adaptation, self.adaptation)
        elif not self.role:
            name = self.adaptation
        else:
            adaptation = "FFT" if self.is_full else self._adaptation_title()
            name = f"{self.role} {self._joint('-')}{adaptation}"
        return self._and_label(name)

    def phrase(self) -> str:
        """The arm inside a sentence: "the KD-LoRA student", "the fully fine-tuned teacher"."""
        if self.is_baseline:
            name = f"the {self.short()} baseline" if self.adaptation in BASELINES else self.short()
        elif not self.role:
            name = self.adaptation
        elif self.adaptation in _IN_SENTENCES:
            distilled = "distilled, " if self.is_distilled else ""
            name = f"the {distilled}{_IN_SENTENCES[self.adaptation]} {self.role}"
        else:
            name = f"the {self._joint('-')}{self._adaptation_title()} {self.role}"
        return f"{name} ({label_text(self.label)})" if self.label else name

    def sort_key(self) -> tuple[int, bool, int, int, str]:
        """The reading order: teachers, students, baselines; plain before distilled."""
        roles = (*ROLES, "baseline")
        rank = self.label.removeprefix("rank ")
        return (
            roles.index(self.role) if self.role in roles else len(roles),
            self.is_distilled,
            _ORDER.index(self.adaptation) if self.adaptation in _ORDER else len(_ORDER),
            int(rank) if rank.isdecimal() else 0,
            str(self),
        )

    def _adaptation_title(self) -> str:
        return _TITLES.get(self.adaptation, self.adaptation)

    def _joint(self, before_full: str) -> str:
        """ "KD-" of a distilled arm, "KD + " where words and no short name follow."""
        if not self.is_distilled:
            return ""
        return f"KD{before_full if self.is_full else '-'}"

    def _and_label(self, name: str) -> str:
        return f"{name}, {label_text(self.label)}" if self.label else name


TEACHER = Arm("teacher", "fft")
GIVEN_TEACHER = Arm("teacher", "given")
MAJORITY = Arm("baseline", "majority")
TFIDF = Arm("baseline", "tfidf")
EMBEDDINGS = Arm("baseline", "embeddings")
DEFAULT_ARMS = ("teacher/fft", "teacher/lora", "student/fft", "student/lora", "student/kd-lora")


@lru_cache(maxsize=4096)
def _read(text: str) -> Arm:
    base, bracket, rest = text.partition("[")
    label = rest[:-1] if bracket and rest.endswith("]") else ""
    if not label:
        base = text
    role, _, name = base.partition("/")
    if role == base or not role:
        return Arm("", base, label=label)
    kd = name.startswith(_DISTILLED)
    return Arm(role, name.removeprefix(_DISTILLED), "kd" if kd else "none", label)


def wrapped(arm: str) -> str:
    """The text of an arm with its label, where it has one, on a line of its own."""
    one = Arm.read(arm)
    return f"{one.plain}\n[{one.label}]" if one.label else arm


def label_text(label: str) -> str:
    """A label in words: ``temperature=4 lr=0.001`` is "temperature 4, learning rate 0.001"."""
    parts = []
    for part in label.split(" "):
        name, equals, value = part.partition("=")
        parts.append(f"{_SETTINGS.get(name, name)} {value}" if equals else part)
    return (", " if "=" in label else " ").join(parts)


def every_plain_arm() -> tuple[Arm, ...]:
    """All arms that a study may list, in the order of the axes."""
    return (
        *(Arm("teacher", name) for name in (*ADAPTATIONS, "given")),
        *(Arm("student", name, kd) for kd in ("none", "kd") for name in ADAPTATIONS),
    )


def uncontrolled(arms: Iterable[Any]) -> list[str]:
    """Distilled students whose gain cannot be told: none of their `serving_controls` is there."""
    names = [str(arm) for arm in arms]
    known = set(names)
    return [
        name
        for name in names
        if (arm := Arm.read(name)).is_distilled
        and arm.is_student
        and known.isdisjoint(map(str, arm.serving_controls()))
    ]


def teaching_arm(arms: Iterable[Any], *, given: bool = False) -> Arm:
    """The rule by which a plan lets one of its arms teach: the given teacher, else full
    fine-tuning, else the first teacher arm. Labelled copies never teach.

    `given` says that the pair's teacher arrives fine-tuned. A study without a teacher arm has a
    fully fine-tuned one trained for its students all the same. What did teach stands in the
    records: ask `evidence.teacher` about finished runs.
    """
    if given:
        return GIVEN_TEACHER
    known = [arm if isinstance(arm, Arm) else Arm.read(arm) for arm in arms]
    teachers = [arm for arm in known if arm.is_teacher and not arm.label]
    return TEACHER if TEACHER in teachers or not teachers else teachers[0]


def matching(patterns: Iterable[str], arms: Iterable[str]) -> list[str]:
    """The arms that a pattern names; see `expression`."""
    forms = [expression(pattern) for pattern in patterns]
    return [arm for arm in arms if any(form.fullmatch(arm) for form in forms)]


def expression(pattern: str) -> re.Pattern[str]:
    """What a pattern of names stands for: `*` is anything, brackets are those of a label."""
    return re.compile(re.escape(pattern).replace(r"\*", ".*"), re.DOTALL)


def labelled(arm: str, label: str) -> str:
    """The text of an arm's copy under a label; an empty label gives the arm itself."""
    return str(Arm.read(arm).with_label(label)) if label else arm
