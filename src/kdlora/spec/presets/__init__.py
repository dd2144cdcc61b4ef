"""Studies that ship with kdlora: YAML files, each with a first line that says what it is for."""

from __future__ import annotations

from pathlib import Path

from kdlora.errors import InputError, did_you_mean

FOLDER = Path(__file__).parent


def preset_names() -> list[str]:
    """All presets, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def preset_path(name: str) -> Path | None:
    """The file of a preset, or None."""
    return FOLDER / f"{name}.yaml" if name in preset_names() else None


def read_preset(name: str) -> str:
    """A preset's text. Raises InputError that names the presets there are."""
    path = preset_path(name)
    if path is None:
        raise InputError(f"no preset '{name}'.{did_you_mean(name, preset_names())}")
    return path.read_text(encoding="utf-8")


def summary(name: str) -> str:
    """What a preset is for, in one line: its first comment."""
    return read_preset(name).partition("\n")[0].lstrip("# ")
