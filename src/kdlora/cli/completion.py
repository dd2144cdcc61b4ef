"""What a shell may complete: packaged models, presets, arms, tasks, beside files and folders.

`kdlora --install-completion` sets it up; each function is given the word so far.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kdlora.spec.encoders import PACKAGED_ENCODERS
from kdlora.spec.presets import preset_names
from kdlora.vocabulary.arm import ADAPTATIONS, every_plain_arm
from kdlora.vocabulary.task import TASKS

_STUDIES = (".yaml", ".yml")


def encoders(incomplete: str) -> list[str]:
    """Packaged encoders, and folders."""
    return _beginning(incomplete, PACKAGED_ENCODERS) + _paths(incomplete, ())


def presets(incomplete: str) -> list[str]:
    """Studies that ship with kdlora."""
    return _beginning(incomplete, preset_names())


def studies(incomplete: str) -> list[str]:
    """Presets, study files, and folders."""
    return presets(incomplete) + _paths(incomplete, _STUDIES)


def tables_and_studies(incomplete: str) -> list[str]:
    """Files of labelled rows, presets, study files, and folders."""
    from kdlora.tables.formats import is_table_name

    tables = [path for path in _found(incomplete) if path.is_file() and is_table_name(path)]
    return studies(incomplete) + [_shown(incomplete, path) for path in tables]


def adaptations(incomplete: str) -> list[str]:
    """How an encoder is adapted."""
    return _beginning(incomplete, ADAPTATIONS)


def arm_names(incomplete: str) -> list[str]:
    """Arms of a study."""
    return _beginning(incomplete, map(str, every_plain_arm()))


def runs(incomplete: str) -> list[str]:
    """Tasks and arms, by which runs are chosen, also after ``task=`` and ``arm=``."""
    field, equals, part = incomplete.rpartition("=")
    known = {"task": [*TASKS], "arm": [str(arm) for arm in every_plain_arm()]}
    words = known.get(field, [] if equals else [*TASKS, *known["arm"], "task=", "arm="])
    return [f"{field}{equals}{word}" for word in _beginning(part, words)]


def _beginning(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    """Folders, and files with one of these endings."""
    return [
        _shown(incomplete, path) + ("/" if path.is_dir() else "")
        for path in _found(incomplete)
        if path.is_dir() or path.suffix in suffixes
    ]


def _found(incomplete: str) -> list[Path]:
    """What lies where the word so far points to; hidden files only where it begins with a dot."""
    folder, start = _folder(incomplete)
    try:
        names = sorted(Path(folder or ".").expanduser().iterdir())
    except OSError:
        return []
    return [
        path
        for path in names
        if path.name.startswith(start) and (start.startswith(".") or path.name[0] != ".")
    ]


def _shown(incomplete: str, path: Path) -> str:
    return _folder(incomplete)[0] + path.name


def _folder(incomplete: str) -> tuple[str, str]:
    """The folder of a path as it was written, with its slash, and the beginning of a name."""
    folder, slash, start = incomplete.rpartition("/")
    return folder + slash, start
