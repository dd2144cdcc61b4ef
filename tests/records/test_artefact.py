from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from kdlora.errors import InputError, ModelError
from kdlora.records.artefact import (
    Artefact,
    Variant,
    VariantTiming,
    checksums_of,
    is_artefact,
    read_artefact,
    rewrite,
    variant_name,
    verify,
    write_artefact,
)
from tests.harness.kills import killed_at_every_change


def variant(name: str, *, gate: str = "passed", ms: float | None = None, **changes) -> Variant:
    runtime, _, quantization = name.partition("-")
    timing = {"batch": 1, "length": 32, "latency_p95_ms": 9.0, "throughput_per_s": 1.0}
    return Variant(
        name=name,
        runtime=runtime,
        quantization=quantization or "none",
        path=changes.pop("path", f"onnx/{name}.onnx"),
        size_mb=1.0,
        metric="accuracy",
        score=0.9,
        gate=gate,
        timings=[VariantTiming(latency_p50_ms=ms, **timing)] if ms else [],
    )


def artefact(*variants: Variant, **changes) -> Artefact:
    return Artefact(run_id="r", task="t", max_length=64, variants=list(variants), **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"graph")
    (tmp_path / "kdlora.json").write_text("{}")
    write_artefact(tmp_path, artefact(variant("onnx"), checksums=checksums_of(tmp_path)))
    return tmp_path


def test_what_is_written_is_read_again_and_verifies(folder: Path) -> None:
    assert is_artefact(folder)
    found = read_artefact(folder)
    assert found.variant("onnx").quantization == "none"
    assert found.checksums["onnx/model.onnx"] == hashlib.sha256(b"graph").hexdigest()
    assert set(found.checksums) == {"onnx/model.onnx", "kdlora.json"}
    verify(folder, found)
    assert json.loads((folder / "export.json").read_text())["schema"] == 1


def test_an_export_is_whole_wherever_the_writing_of_its_files_is_ended(folder: Path) -> None:
    """Old or new, each file: a calibration that is stopped leaves a model that answers."""
    old = {name: (folder / name).read_text() for name in ("onnx/model.onnx", "export.json")}
    texts = {"onnx/model.onnx": "new", "README.md": "more"}

    def write() -> None:
        rewrite(folder, read_artefact(folder), texts)

    def look(n: int) -> None:
        artefact = read_artefact(folder)
        verify(folder, artefact)
        assert (folder / "onnx/model.onnx").read_text() in (old["onnx/model.onnx"], "new")
        for name, text in old.items():
            (folder / name).write_text(text)
        (folder / "README.md").unlink(missing_ok=True)

    assert killed_at_every_change(write, look) > 8
    write()
    artefact = read_artefact(folder)
    assert artefact.changing == {}
    assert artefact.checksums["README.md"] == hashlib.sha256(b"more").hexdigest()
    verify(folder, artefact)
    (folder / "onnx/model.onnx").write_text("other")
    with pytest.raises(ModelError, match="is not what was exported"):
        verify(folder, artefact)


def test_a_changed_file_a_missing_one_and_a_link_are_found_together(folder: Path) -> None:
    found = read_artefact(folder)
    (folder / "onnx" / "model.onnx").write_bytes(b"Graph")
    (folder / "kdlora.json").unlink()
    with pytest.raises(ModelError) as caught:
        verify(folder, found)
    assert len(caught.value.problems) == 2
    verify(folder, found, only=())
    with pytest.raises(ModelError, match="not among the checksums"):
        verify(folder, found, only=("config.json",))
    outside = folder.parent / f"{folder.name}-outside"
    outside.write_bytes(b"{}")
    (folder / "kdlora.json").symlink_to(outside)
    with pytest.raises(ModelError, match="leads out of the folder"):
        verify(folder, found, only=("kdlora.json",))


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "c:\\x", "", "a\\b"])
def test_paths_stay_in_the_folder(path: str) -> None:
    with pytest.raises(ValidationError):
        variant("onnx", path=path)
    with pytest.raises(ValidationError):
        artefact(variant("onnx"), checksums={path: "0"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[]", "no JSON object"),
        (b'{"schema": 9}', "newer kdlora"),
        (b'{"run_id": 1}', "problems"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"run_id": "r", "task": "t", "max_length": 0, "variants": []}', "max_length"),
        (
            b'{"run_id": "r", "task": "t", "max_length": 1, "variants": [], "pad_id": 9999999999}',
            "pad_id",
        ),
    ],
)
def test_a_damaged_description_is_one_clear_error(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "export.json").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_artefact(tmp_path)


def test_without_a_description_it_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="kdlora export"):
        read_artefact(tmp_path)


def test_the_best_variant_is_the_fastest_that_kept_its_accuracy() -> None:
    slow, fast = variant("onnx-int8", ms=3.0), variant("onnx", ms=2.0)
    assert artefact(slow, fast).best_variant() == fast
    assert artefact(slow, variant("onnx", ms=2.0, gate="failed")).best_variant() == slow
    assert artefact(slow, variant("onnx", ms=2.0, gate="forced")).best_variant().name == "onnx"
    assert artefact(variant("onnx"), variant("onnx-int8")).best_variant().name == "onnx-int8"
    # one without a timing must not win by lacking it, nor lose
    assert artefact(variant("torch", ms=1.0), variant("onnx-int8")).best_variant().name != "torch"
    assert artefact(variant("torch", ms=1.0), fast).best_variant(torch=False) == fast
    with pytest.raises(InputError, match="without torch"):
        artefact(variant("torch")).best_variant(torch=False)


def test_an_unknown_variant_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'onnx-int8'"):
        artefact(variant("onnx"), variant("onnx-int8")).variant("onnx-in8")


def test_names() -> None:
    assert variant_name("onnx", "int4") == "onnx-int4"
    assert variant_name("torch", "none") == "torch"


def test_it_needs_no_torch() -> None:
    code = "import sys, kdlora.records.artefact; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
