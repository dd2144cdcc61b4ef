"""The one-way flow, and commands that start without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_a_package_imports_only_from_those_before_it():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "demo"], ["plan", "demo", "--json"]])
def test_commands_that_train_nothing_do_not_import_torch(arguments):
    code = (
        "import sys; from kdlora.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'transformers', 'pandas', 'sklearn', 'peft'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), code, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert "HEAVY [] 0" in done.stderr or "HEAVY [] None" in done.stderr, done.stderr


def test_importing_the_package_is_light():
    code = "import sys, kdlora; kdlora.distil; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_public_names_exist():
    import kdlora

    for name in kdlora.__all__:
        assert callable(getattr(kdlora, name))
        # a package of the same name would take the function's place once it is imported
        assert not (Path(kdlora.__file__).parent / name).exists()
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        kdlora.nonsense  # noqa: B018


def test_the_evidence_wing_imports_nothing_that_trains():
    """Every module of it, in one process: a report needs no torch."""
    code = (
        "import importlib, pkgutil, sys\n"
        "for name in ('records', 'importing', 'evidence', 'choice', 'report'):\n"
        "    package = importlib.import_module(f'kdlora.{name}')\n"
        "    for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):\n"
        "        importlib.import_module(module.name)\n"
        "        heavy = {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
        "        assert not heavy, (module.name, heavy)\n"
        "print('kdlora.report.build' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr
