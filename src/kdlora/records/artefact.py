"""An exported folder: what stands in it, how it was made, and whether it is still whole.

    config.json, model.safetensors   plain transformers model (format torch)
    onnx/model.onnx, model_int8.onnx, model_int4.onnx      (format onnx)
    tokenizer.json                   padding and truncation set; all a program needs besides ONNX
    kdlora.json, export.json         the model's card and this module's `Artefact`
    adapter/                         the trained adapter as a plain peft folder
    README.md, example.py            for people

Nothing here needs torch: a program that serves the folder reads it with this module alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdlora.errors import InputError, ModelError, Problems, did_you_mean
from kdlora.files import links_root, real_path
from kdlora.records.contents import read_sealed, sealed
from kdlora.records.record import RelativePath
from kdlora.records.store import write_json, write_text
from kdlora.spec.fingerprint import sha256_of
from kdlora.spec.sections import Windows
from kdlora.vocabulary.metric import PERCENT, POINTS

ARTEFACT = "export.json"
SCHEMA = 1

Runtime = Literal["torch", "onnx"]
Quantization = Literal["none", "int8", "int4"]

FILES: dict[tuple[Runtime, Quantization], str] = {
    ("torch", "none"): "model.safetensors",
    ("onnx", "none"): "onnx/model.onnx",
    ("onnx", "int8"): "onnx/model_int8.onnx",
    ("onnx", "int4"): "onnx/model_int4.onnx",
}
# What to run where nothing was timed, best first.
_PREFERRED = ("onnx-int8", "onnx", "onnx-int4", "torch")


class ArtefactPart(BaseModel):
    """Fields that a later version has added are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class VariantTiming(ArtefactPart):
    """One variant at one shape, in turns with the teacher in PyTorch fp32 in the same process."""

    batch: int
    length: int = Field(description="tokens of every text, without padding")
    latency_p50_ms: float
    latency_p95_ms: float
    throughput_per_s: float = Field(description="texts a second: batch / median time")
    teacher_latency_p50_ms: float | None = None
    teacher_throughput_per_s: float | None = None
    ratio: float | None = Field(None, description="teacher_latency_p50_ms / latency_p50_ms")
    processor_ms: float | None = Field(
        None, description="median processor time of a pass, all threads; waiting not counted"
    )
    teacher_processor_ms: float | None = None
    repeats: int = 0
    threads: int = 1


class Trial(ArtefactPart):
    """One setting of the quantiser and what became of the score with it."""

    settings: str
    score: float | None
    drop_points: float | None
    size_mb: float
    chosen: bool = False


class Variant(ArtefactPart):
    """One runnable file of the folder, measured as shipped."""

    name: str = Field(description="torch, onnx, onnx-int8 or onnx-int4")
    runtime: Runtime
    quantization: Quantization
    path: RelativePath
    size_mb: float = Field(description="MB = 10^6 bytes, weights and graph")
    metric: str
    score: float | None = Field(description="the primary metric on the report split")
    drop_points: float | None = Field(
        None, description="lost against the fp32 student, in `drop_unit`; > 0 is worse"
    )
    agreement: float | None = Field(None, description="share of rows answered as fp32 does")
    max_abs_difference: float | None = Field(None, description="of the logits, against fp32")
    gate: Literal["passed", "failed", "forced", "not applicable"] = "not applicable"
    how: list[Trial] = Field([], description="settings of the quantiser in the order tried")
    timings: list[VariantTiming] = []

    def timing(self, *, batch: int = 1, length: int) -> VariantTiming | None:
        same = (t for t in self.timings if (t.batch, t.length) == (batch, length))
        return next(same, None)

    @property
    def servable(self) -> bool:
        """Whether it may be used without asking again: its accuracy is known to be kept."""
        return self.gate != "failed"


class TeacherFacts(ArtefactPart):
    """The model that the speed-ups and sizes are relative to, in PyTorch fp32."""

    name: str
    run_id: str | None = None
    size_mb: float
    metric: str | None = None
    score: float | None = Field(None, description="None where only its architecture was timed")
    basis: Literal["trained run", "architecture"] = "trained run"


class Parity(ArtefactPart):
    """Largest absolute difference of logits between two forms of one model, on real texts."""

    step: str = Field(description="which two forms were compared")
    max_abs_difference: float
    tolerance: float
    texts: int


class Artefact(ArtefactPart):
    """What `export.json` holds."""

    schema_version: int = Field(SCHEMA, alias="schema")
    run_id: str
    task: str
    encoder: str = ""
    model_type: str = ""
    parameters: int | None = None
    inputs: list[str] = Field(["input_ids", "attention_mask"], description="of the ONNX graphs")
    output: str = "logits"
    max_length: int = Field(ge=1)
    windows: Windows | None = Field(
        None, description="how longer texts are read, outside of the graphs; None: they are cut"
    )
    pad_id: int = Field(0, ge=0, lt=2**31)
    report_rows: int | None = None
    max_drop_points: float = Field(0.5, description="in `drop_unit`")
    drop_unit: str = Field(
        POINTS,
        description="of drops: points, or % of the fp32 student's score where its metric is not in "
        "them (up to 0.2.0 that metric's own unit)",
    )
    variants: list[Variant]
    adapter: RelativePath | None = None
    parity: list[Parity] = []
    teacher: TeacherFacts | None = None
    checksums: dict[RelativePath, str] = Field({}, description="path in the folder -> SHA-256")
    changing: dict[RelativePath, str] = Field(
        {}, description="the same of files that are about to be written anew: either is whole"
    )
    versions: dict[str, str] = {}
    machine: str = ""
    created_at: str = ""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    def variant(self, name: str) -> Variant:
        """The variant of that name. Raises InputError."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = did_you_mean(name, (v.name for v in self.variants))
        raise InputError(f"no variant '{name}' in this export.{known}")

    def best_variant(self, *, torch: bool = True) -> Variant:
        """The fastest variant whose accuracy is known to be kept, by its first timing at batch 1.

        Without timings the usual order of speed: INT8, fp32 ONNX, INT4, torch. `torch` False
        leaves out what needs it. Raises InputError if nothing is left.
        """
        usable = [v for v in self.variants if v.servable and (torch or v.runtime != "torch")]
        if not usable:
            held = ", ".join(v.name for v in self.variants) or "nothing"
            raise InputError(
                f"this export holds {held}: nothing that runs without torch and has passed the "
                "accuracy gate. Export again with --format onnx, or name the variant"
            )
        rank = {name: i for i, name in enumerate(_PREFERRED)}

        def key(variant: Variant) -> tuple[float, int]:
            singles = [t.latency_p50_ms for t in variant.timings if t.batch == 1]
            return (singles[0] if timed else 0.0, rank.get(variant.name, len(rank)))

        timed = all(any(t.batch == 1 for t in v.timings) for v in usable)
        return min(usable, key=key)


def variant_name(runtime: Runtime, quantization: Quantization) -> str:
    """The name of a variant: ``onnx-int8``, or just ``onnx`` where nothing is quantised."""
    return runtime if quantization == "none" else f"{runtime}-{quantization}"


def written_drop(drop: float | None, unit: str) -> str:
    """A drop as a table shows it: two decimals of points and per cents, four of another unit."""
    return "" if drop is None else f"{drop:.{2 if unit in (POINTS, PERCENT) else 4}f}"


def is_artefact(folder: Path) -> bool:
    """Whether the folder says that it was exported."""
    return (Path(folder) / ARTEFACT).is_file()


def read_artefact(folder: Path) -> Artefact:
    """Read `export.json`. Raises ModelError where there is none that can be used."""
    path = Path(folder) / ARTEFACT
    try:
        values = read_sealed(path)
    except FileNotFoundError:
        raise ModelError(f"no {ARTEFACT} in {folder}; make one with `kdlora export`") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    schema = values.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise ModelError(
            f"{path} was written by a newer kdlora (schema {schema}, this one knows {SCHEMA}); "
            "upgrade kdlora"
        )
    try:
        return Artefact.model_validate(values)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc'])) or 'content'}: {e['msg']}" for e in error.errors()
        ]
        raise ModelError(problems[:10], where=str(path)) from None


def write_artefact(folder: Path, artefact: Artefact) -> None:
    """Write `export.json`; the rest of the folder must stand already."""
    write_json(folder / ARTEFACT, sealed(artefact.model_dump(mode="json", by_alias=True)))


def rewrite(folder: Path, artefact: Artefact, texts: Mapping[str, str]) -> None:
    """Write texts of an export anew. It is whole at every moment, stopped wherever it may be."""
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    write_artefact(folder, artefact.model_copy(update={"changing": sums}))
    for name, text in texts.items():
        write_text(folder / name, text)
    sums = {**artefact.checksums, **sums}
    write_artefact(folder, artefact.model_copy(update={"checksums": sums, "changing": {}}))


def checksums_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder` but `export.json` itself, by its relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ARTEFACT)
    return {p.relative_to(folder).as_posix(): sha256_of(p) for p in files}


def verify(folder: Path, artefact: Artefact, *, only: tuple[str, ...] | None = None) -> None:
    """Compare the files with their checksums. Raises ModelError with all that differ.

    `only` names the paths to look at (those that are about to be loaded); default all.
    """
    root, inside = real_path(folder), links_root(Path(folder))
    problems = Problems(str(folder))
    for name in artefact.checksums if only is None else only:
        expected, path = artefact.checksums.get(name), root / name
        if expected is None:
            problems.add(f"{name} is not among the checksums of {ARTEFACT}")
        elif not path.is_file():
            problems.add(f"{name} is missing")
        elif not real_path(path).is_relative_to(inside):
            problems.add(f"{name} is a link that leads out of the folder")
        elif sha256_of(path) not in (expected, artefact.changing.get(name)):
            problems.add(f"{name} is not what was exported (SHA-256 differs)")
    problems.raise_any(ModelError)
