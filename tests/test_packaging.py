"""The wheel and the sdist hold all that kdlora reads, and say what they are."""

from __future__ import annotations

import email
import importlib.util
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import kdlora

ROOT = Path(__file__).resolve().parent.parent
BUILD = (
    "import sys; from setuptools import build_meta; "
    "print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both, made of a copy of what git knows, so that nothing lies about from before."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True,
        check=False,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("this is no checkout of git, from which a release is made")
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    found = {}
    for kind in ("wheel", "sdist"):
        done = subprocess.run(
            [sys.executable, "-c", BUILD, f"build_{kind}", str(out)], cwd=source,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found[kind] = out / done.stdout.strip().splitlines()[-1]
    return found


@pytest.fixture(scope="module")
def wheel(built: dict[str, Path]) -> zipfile.ZipFile:
    return zipfile.ZipFile(built["wheel"])


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def test_the_wheel_holds_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    held = set(wheel.namelist())
    source = ROOT / "src"
    wanted = {
        path.relative_to(source).as_posix()
        for package in ("kdlora", "kdlora_reproductions")
        for path in (source / package).rglob("*")
        if path.is_file() and path.suffix not in (".pyc",)
    }
    assert len(wanted) > 300
    assert wanted <= held, wanted - held
    packages = {name.partition("/")[0] for name in held if ".dist-info" not in name}
    assert packages == {"kdlora", "kdlora_reproductions"}


def test_the_metadata_say_what_it_is(metadata: Message) -> None:
    assert metadata["Version"] == kdlora.__version__
    assert metadata["Author"] == "The kdlora developers"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    classifiers = metadata.get_all("Classifier") or []
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.11"} <= set(classifiers)
    assert not [
        c for c in classifiers if "OS Independent" in c or "Windows" in c
    ]  # engines need forkserver
    assert "knowledge distillation" in (metadata["Keywords"] or "")
    assert metadata["Summary"]
    core = [r for r in metadata.get_all("Requires-Dist") or [] if "extra ==" not in r]
    assert not [r for r in core if r.startswith(("torch", "transformers", "pandas", "scipy"))]


def test_the_page_of_the_package_needs_no_checkout(metadata: Message) -> None:
    text = str(metadata.get_payload())
    assert text.startswith("# kdlora\n")
    assert "the source distribution" in text
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert all(target.startswith(("https://", "#")) for target in targets), targets
    assert "docs/tutorial.md" in text


def test_with_a_public_address_the_links_lead_there() -> None:
    spec = importlib.util.spec_from_file_location("kdlora_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    readme = "# k\n[a](docs/a.md#b) ![p](docs/p.svg) [c](https://c.org) [d](#d)\n"
    assert made.description(readme, "1.2", "https://host/k/") == (
        "# k\n[a](https://host/k/blob/v1.2/docs/a.md#b) ![p](https://host/k/raw/v1.2/docs/p.svg) "
        "[c](https://c.org) [d](#d)\n"
    )
    without = made.description(readme, "1.2")
    assert "a (docs/a.md#b)" in without
    assert "docs/p.svg" not in without
    assert "[c](https://c.org) [d](#d)" in without


def test_the_metadata_name_no_address_that_is_not_there(metadata: Message) -> None:
    """The project has no public repository: none is named until there is one."""
    assert metadata.get_all("Project-URL") is None
    assert metadata["Home-page"] is None


def test_the_wheel_runs_outside_the_checkout(built: dict[str, Path], tmp_path: Path) -> None:
    """Unpacked by itself, with the libraries of this environment."""
    place = tmp_path / "site"
    with zipfile.ZipFile(built["wheel"]) as packed:
        packed.extractall(place)
    code = (
        f"import sys; sys.path = [p for p in sys.path if p not in ({str(ROOT / 'src')!r}, '')]\n"
        f"sys.path.insert(0, {str(place)!r})\n"
        "import kdlora; print(kdlora.__file__)\n"
        "from kdlora.cli import main; main(['init', 'own-data', '--to', 'study.yaml'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(str(place))
    assert (tmp_path / "study.yaml").is_file()


def test_the_sdist_holds_what_a_build_needs(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    needed = {"pyproject.toml", "README.md", "LICENSE", "src/kdlora/py.typed"}
    assert needed <= names
    assert "src/kdlora/report/templates/report.html.j2" in names
    assert {"setup.py", "docs/tutorial.md", "examples/tutorial.ipynb", "CHANGELOG.md"} <= names
