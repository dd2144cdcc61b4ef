"""Colours and shapes of arms, for charts, pages and the terminal alike.

Colours are told apart by people who see few, shapes in grey. The HTML replaces the light ones by
CSS variables, so that the same drawing serves the light and the dark page.
"""

from __future__ import annotations

from kdlora.vocabulary.arm import Arm

# Every colour of pages and charts: name -> (light, dark). No two light ones are equal.
COLOURS: dict[str, tuple[str, str]] = {
    "page": ("#f6f7f8", "#121518"),
    "card": ("#ffffff", "#1a1e23"),
    "ink": ("#1d2329", "#e8eaed"),
    "muted": ("#59636e", "#a3adb8"),
    "line": ("#d5d9de", "#363d46"),
    "grid": ("#eceef0", "#282e35"),
    "accent": ("#0b5cad", "#7db8f5"),
    "warn": ("#8a4b00", "#f0b35c"),
    "teacher": ("#12355b", "#b4cbe6"),
    "student": ("#2a86c7", "#4aa8e8"),
    "kd": ("#cf4a0a", "#ff8c4f"),
    "baseline": ("#7a7f86", "#8f969e"),
}
SHAPES = {
    "fft": "square", "given": "square", "lora": "circle", "adalora": "triangle-up",
    "dora": "cross", "mrlora": "diamond", "olora": "triangle-down", "rslora": "triangle-right",
    "tfidf": "triangle-left", "majority": "triangle-left",
    "embeddings": "triangle-left", "frozen": "triangle-left",
}  # fmt: skip


def light(name: str) -> str:
    return COLOURS[name][0]


def kind_of(arm: str) -> str:
    """Which of the four colours an arm has."""
    one = Arm.read(arm)
    return "kd" if one.is_distilled else one.role if one.role in COLOURS else "baseline"


def shape_of(arm: str) -> str:
    return SHAPES.get(Arm.read(arm).adaptation, "circle")
