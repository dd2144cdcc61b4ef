"""What people call tasks, metrics, methods and encoders, read as the names that are used here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache

from kdlora.importing.numbers import plain_text
from kdlora.vocabulary.arm import ADAPTATIONS, BASELINES, MAJORITY, ROLES, TFIDF, Arm
from kdlora.vocabulary.metric import metric_called
from kdlora.vocabulary.task import GLUE

_TASKS = {name: name for name in GLUE} | {
    "sst": "sst2",
    "sts": "stsb",
    "stsbenchmark": "stsb",
    "mnlim": "mnli",
    "mnlimatched": "mnli",
    "mnlimm": "mnli-mismatched",
    "mnlimismatched": "mnli-mismatched",
}
_FULL = {"fft", "ft", "full", "finetune", "finetuned", "finetuning", "tuned", "tuning", "tune"}
_DISTILLED = {"kd", "distil", "distill", "distilled", "distillation", "distilling"}
# PEFT methods that are not trained here, but stand in tables of others; mrlora-rs is a variant of
# the published trainings.
_OTHER_METHODS = {
    "bitfit", "adapter", "adapters", "houlsby", "pfeiffer", "ia3", "prefix", "prompt", "qlora",
    "vera", "pissa", "loftq", "loha", "lokr", "boft", "oft", "mrlora-rs",
}  # fmt: skip
_METHODS = {*ADAPTATIONS, *_OTHER_METHODS} - {"fft", "peft"}
_FAMILIES = ("modernbert", "deberta", "roberta", "electra", "albert", "mpnet", "minilm", "bert")
# Encoders that were made small of a larger one: DistilBERT, TinyBERT, MiniLM, bert-small, ...
_COMPRESSED = re.compile(
    r"(?:distil|tiny|mobile)(?:ro|de)?bert|minilm|(?:bert|electra)(?:v3)?x?(?:tiny|mini|small)"
)
_BRACKETS = re.compile(r"\(([^()]*)\)|\[([^\[\]]*)\]")


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def tokens_of(text: str) -> list[str]:
    """The words of a name, in lower case: "KD-LoRA (r=8)" is kd, lora, r, 8."""
    return [t for t in re.split(r"[^a-z0-9]+", plain_text(text).lower()) if t]


@lru_cache(maxsize=4096)
def task_named(text: str) -> str | None:
    """The GLUE task that a name means: "SST-2", "MNLI-mm" or "glue/rte"; None for others."""
    plain = _BRACKETS.sub("", plain_text(text)).strip()
    letters = _letters(plain.lower().removeprefix("glue"))
    return _TASKS.get(letters)


@lru_cache(maxsize=4096)
def metric_named(text: str) -> str | None:
    """The metric that a name means, such as "MCC" or "F1"; None for others."""
    return metric_called(plain_text(text))


def bracketed(text: str) -> list[str]:
    """What stands in brackets behind a name: the metric of "CoLA (MCC)", the unit of "Time [s]"."""
    return [(a or b).strip() for a, b in _BRACKETS.findall(plain_text(text))]


@lru_cache(maxsize=4096)
def arm_named(text: str) -> str | None:
    """The arm that a method's name means; None where the name does not tell.

    "student/kd-lora" is itself, "KD-LoRA" student/kd-lora, "FFT" and "Full fine-tuning"
    teacher/fft, "DoRA" teacher/dora. A method without a role is taken for the teacher's encoder
    unless it distils.
    """
    arm = Arm.read(text.strip())
    if arm.role in (*ROLES, "baseline") and arm.adaptation:
        return str(arm)
    words = _joined(tokens_of(text))
    known = set(words)
    if known & set(BASELINES) or {"tf", "idf"} <= known:
        return str(MAJORITY if MAJORITY.adaptation in known else TFIDF)
    methods = list(dict.fromkeys(word for word in words if word in _METHODS))
    special = [m for m in methods if m != "lora"] or methods
    distilled = bool(known & _DISTILLED)
    if len(special) > 1 or not (special or distilled or known & _FULL):
        return None
    adaptation = special[0] if special else "fft"
    student = distilled or "student" in known
    role = "student" if student else "teacher"
    return str(Arm(role, adaptation, "kd" if distilled else "none"))


def _joined(words: list[str]) -> list[str]:
    """Words with the methods that are written in two: rs-LoRA is rslora."""
    found: list[str] = []
    for word in words:
        before = found[-1] if found else ""
        for name in (f"{before}{word}", f"{before}-{word}"):
            if before and name in _METHODS:
                found[-1] = name
                break
        else:
            found.append(word)
    return found


def is_compressed(text: str) -> bool:
    """Whether a name speaks of an encoder that is a small one of its family: DistilBERT."""
    return _COMPRESSED.search(_letters(text)) is not None


def with_students(arms: Mapping[str, str]) -> dict[str, str]:
    """Text -> arm, where methods on the compressed encoder are the student's.

    "DistilBERT LoRA" beside "BERT LoRA" is student/lora. Where no text names another encoder, the
    compressed one is what a teacher is, as of methods without an encoder.
    """
    small = {text for text in arms if is_compressed(text)}
    if len(small) == len(arms):
        return dict(arms)

    def read(text: str) -> str:
        arm = Arm.read(arms[text])
        stated = {"teacher", "teachers"} & set(tokens_of(text))
        is_student = text in small and arm.role == "teacher" and not stated
        return str(replace(arm, role="student")) if is_student else arms[text]

    return {text: read(text) for text in arms}


def family_of(encoder: str) -> str:
    """The family of an encoder: "bert" of bert-base-uncased and of DistilBERT; else its name."""
    letters = _letters(encoder)
    return next((name for name in _FAMILIES if name in letters), encoder)


def families_named(texts: Iterable[str]) -> dict[str, str]:
    """Text -> family, where every one of several names holds one and they differ; else nothing."""
    plain = {text: " ".join(tokens_of(text)) for text in texts}
    families = {text: family_of(name) for text, name in plain.items()}
    known = all(families[text] != plain[text] for text in families)
    return families if known and len(set(families.values())) > 1 else {}
