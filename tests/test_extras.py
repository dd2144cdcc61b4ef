"""Extras: the metadata and the code name the same; a missing one is told in one sentence."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kdlora import __version__, extras
from kdlora.cli.app import COMMANDS
from kdlora.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# distribution -> the module that it brings, where they are called differently
MODULES = {
    "scikit-learn": "sklearn", "vl-convert-python": "vl_convert", "Jinja2": "jinja2",
    "prometheus-client": "prometheus_client", "mlflow-skinny": "mlflow", "PyYAML": "yaml",
}  # fmt: skip
# Modules that a command may have loaded only where it needs an extra.
HEAVY = sorted(extras.OF_MODULE)


def name_of(requirement: str) -> str:
    for mark in "[<>=;":
        requirement = requirement.partition(mark)[0]
    return requirement.strip()


def brought_by(extra: str) -> set[str]:
    """Modules of an extra and of those that it includes."""
    found = set()
    for requirement in EXTRAS[extra]:
        if name_of(requirement) == "kdlora":
            inner = requirement.partition("[")[2].partition("]")[0]
            found |= set().union(*(brought_by(one) for one in inner.split(",")))
        else:
            found.add(MODULES.get(name_of(requirement), name_of(requirement)))
    return found


def test_every_module_comes_with_the_extra_that_is_named() -> None:
    for module, extra in extras.OF_MODULE.items():
        assert module in brought_by(extra), module
    users = set(EXTRAS) - {"dev", "docs", "all"}
    needed = set().union(*(brought_by(extra) for extra in users))
    assert needed == set(extras.OF_MODULE)


def test_the_version_is_one() -> None:
    assert PROJECT["version"] == __version__


def in_core(code: str) -> subprocess.CompletedProcess[str]:
    """Python in which only the core is installed: every module of an extra is missing."""
    block = (
        "import importlib.util, sys\n"
        f"missing = {HEAVY!r}\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in missing:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: (\n"
        "    None if name.partition('.')[0] in missing else real(name, *a))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", block + code], capture_output=True, text=True, check=False
    )


def test_the_core_prints_help_and_makes_a_study_file(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    code = f"from kdlora.cli import main\nmain(['init', 'own-data', '--to', {str(path)!r}])"
    done = in_core(code)
    assert done.returncode == 0, done.stderr
    assert path.is_file()
    done = in_core("from kdlora.cli import main\nmain(['--help'])")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [(["demo"], "train"), (["report", "."], "report"), (["serve", "."], "serve"),
     (["run", "glue-small"], "train")],
)  # fmt: skip
def test_a_command_without_its_extra_says_what_to_install(
    arguments: list[str], extra: str, tmp_path: Path
) -> None:
    code = (
        f"import os; os.chdir({str(tmp_path)!r})\nfrom kdlora.cli import main\nmain({arguments!r})"
    )
    done = in_core(code)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert f"pip install 'kdlora[{extra}]'" in line, line


def test_an_import_that_is_a_bug_stays_one() -> None:
    assert extras.what_is_missing(ModuleNotFoundError("x", name="kdlora.nothing")) is None
    assert extras.what_is_missing(ModuleNotFoundError("x", name="numpy.nothing")) is None


def test_all_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name != "ray" else name)
    extras.need("an engine", "ray")
    with pytest.raises(InputError, match=r"a mirror needs mlflow, alembic, which are not"):
        extras.need("a mirror", "mlflow", "alembic")
