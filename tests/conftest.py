"""Fixtures that many tests share: where real data lies, small encoders, a small learnable task."""

from __future__ import annotations

import fcntl
import functools
import gc
import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for a hub
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # two test workers share the cores, and
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models lose more by threads than they win

import pytest
import vl_convert
from altair.utils import schemapi
from hypothesis import settings

import kdlora
from kdlora.engines import local
from kdlora.report.render import raster
from tests.harness.moods import Corner, sentences, write_csv
from tests.harness.tiny_models import save_tiny_encoder

# How long an example takes says more of the machine than of the code. Each run draws others: half
# as many as Hypothesis would; `--hypothesis-profile thorough` draws twenty times more where a test
# names no number.
settings.register_profile("kdlora", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile("kdlora")

ROOT = Path(__file__).resolve().parent.parent


# Tests that train, start processes or write whole reports: `make quick` leaves them out.
SLOW = (
    "benchmarks/",
    "browser/",
    "choice/test_one_student.py",
    "cli/test_bad_input.py",
    "cli/test_imported.py",
    "cli/test_imported_gaps.py",
    "cli/test_killed_commands.py",
    "cli/test_look.py",
    "cli/test_recommend_command.py",
    "cli/test_run.py",
    "cli/test_track.py",
    "data/checks/test_real_sets.py",
    "data/test_model_doors.py",
    "data/test_model_folder.py",
    "data/test_packaged.py",
    "data/test_stated_facts.py",
    "engines/test_engine.py",
    "engines/test_execution.py",
    "engines/test_halving.py",
    "engines/test_local.py",
    "engines/test_main_module.py",
    "engines/test_ray.py",
    "evidence/test_better_stats.py",
    "evidence/test_diagnosis.py",
    "evidence/test_garbage.py",
    "evidence/test_teacher.py",
    "evidence/test_best.py",
    "mirrors/",
    "models/",
    "recipes/",
    "records/test_environment.py",
    "report/",
    "reproductions/",
    "serve/",
    "ship/",
    "test_adaptations_end_to_end.py",
    "test_api.py",
    "test_distillation_end_to_end.py",
    "test_docs_distillation.py",
    "test_docs_site.py",
    "test_docs_tutorial.py",
    "test_end_to_end.py",
    "test_examples.py",
    "test_examples_serving.py",
    "test_examples_slurm.py",
    "test_fuzz.py",
    "test_known_mistakes.py",
    "test_packaging.py",
    "test_old_studies.py",
    "test_pairings_end_to_end.py",
    "test_python_door.py",
    "test_readme.py",
    "test_regression_end_to_end.py",
    "test_several_labels_end_to_end.py",
    "test_tables_alike.py",
    "test_windows_end_to_end.py",
    "training/",
)


_SLOW_PATHS = {ROOT / "tests" / place for place in SLOW}


def _is_slow(path: Path) -> bool:
    """Whether a file is one of the slow ones, or a folder holds no others."""
    return path in _SLOW_PATHS or not _SLOW_PATHS.isdisjoint(path.parents)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What `make quick` leaves out need not be read."""
    only_quick = config.getoption("markexpr") == "not slow"
    return True if only_quick and _is_slow(collection_path) else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What collecting imports and makes, a million objects, is never looked through for garbage.

    Python would do so again and again while it grows, and transformers' Trainer after each use.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow ones, whole files and folders at a time, and begin with them.

    The quick files come last, so that no worker is left alone with a long one in the end.
    """
    if missing := [place for place in SLOW if not (ROOT / "tests" / place).exists()]:
        raise pytest.UsageError(f"conftest.SLOW names what is not there: {', '.join(missing)}")
    for item in items:
        if _is_slow(item.path):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def _no_pictures() -> Iterator[None]:
    """The PNG and PDF files of a report take half of its time: made only where `pictures` asks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raster, "beside", lambda scales: nullcontext())
        yield


@pytest.fixture(scope="session", autouse=True)
def _drawn_once(once) -> Iterator[None]:
    """Dozens of tests report the same small study, whose charts take half of the time to draw."""
    draw, folder = vl_convert.vegalite_to_svg, once("drawn", Path.mkdir)

    def drawn(spec: dict[str, Any]) -> str:
        path = folder / hashlib.sha256(json.dumps(spec).encode()).hexdigest()
        if not path.exists():
            own = path.with_suffix(f".{os.getpid()}")
            own.write_text(draw(spec), "utf-8")
            own.rename(path)
        return path.read_text("utf-8")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vl_convert, "vegalite_to_svg", drawn)
        yield


@pytest.fixture(scope="session", autouse=True)
def _checked_once() -> Iterator[None]:
    """What Vega-Lite's schema has no objection to once is not compared with it again.

    Reports of one shape have the same marks, scales and axes: a quarter of what making them takes.
    """
    check, sound = schemapi._get_errors_from_spec, set()

    def once(spec: Any, schema: dict[str, Any], rootschema: Any = None) -> Any:
        if len(schema) > 1:  # no mere reference into Vega-Lite's own
            return check(spec, schema, rootschema)
        key = json.dumps(schema), json.dumps(spec)
        errors = () if key in sound else check(spec, schema, rootschema)
        if not errors:
            sound.add(key)
        return errors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schemapi, "_get_errors_from_spec", once)
        yield


@pytest.fixture(scope="session", autouse=True)
def _translations_once() -> Iterator[None]:
    """Torch lists the thousand operators that ONNX knows anew for each export: a tenth of one."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        listed = functools.cache(ONNXRegistry.from_torchlib)
    except (ImportError, AttributeError):  # no onnxscript, or torch has moved it
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(listed))
        yield


@pytest.fixture(scope="session", autouse=True)
def _brief_workers() -> Iterator[None]:
    """Workers that time tiny models briefly and find the modules of their families loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "PRELOADED", [*local.PRELOADED, "tests.harness.brief_workers"])
        yield


_beside = raster.beside


@pytest.fixture(scope="session")
def pictures() -> Callable[[], AbstractContextManager[None]]:
    """`with pictures():` makes the PNG and PDF files of a report too."""

    @contextmanager
    def made() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(raster, "beside", _beside)
            yield

    return made


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real tasks and reference results beside the checkout; skips without it."""
    folder = Path(os.environ.get("KDLORA_SHARED", ROOT.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip(f"real data not found: no {folder}/reference (set KDLORA_SHARED to it)")
    return folder


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`once(name, make)`: a folder that `make` fills, once for all workers of this test run."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        place, made = base / f"once-{name}", base / f"once-{name}.made"
        with (base / f"once-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                make(place)
                made.touch()
        return place

    return folder


@pytest.fixture(scope="session")
def corner(once) -> Corner:
    """Two tiny encoders and a small learnable task in files, to be read and not changed."""
    folder = once("corner", _fill_corner)
    return Corner(
        folder,
        str(folder / "teacher"),
        str(folder / "student"),
        str(folder / "train.csv"),
        str(folder / "dev.csv"),
    )


def _fill_corner(folder: Path) -> None:
    folder.mkdir()
    save_tiny_encoder(folder / "teacher", "bert", layers=2, seed=1)
    save_tiny_encoder(folder / "student", "distilbert", layers=1, seed=2)
    for name, n, seed in (("train", 640, 3), ("dev", 120, 4)):
        texts, moods = sentences(n, seed)
        write_csv(folder / f"{name}.csv", review=texts, mood=moods)


@pytest.fixture(scope="session")
def tiny_study(once, corner: Corner) -> Path:
    """The finished study of `corner.study()`, with its report and student; copy it to change it."""

    def train(folder: Path) -> None:
        result = kdlora.run(corner.study(), out=folder, workers=2, threads=1)
        assert set(result.status.values()) == {"done"}, result.failed

    return once("study", train)
