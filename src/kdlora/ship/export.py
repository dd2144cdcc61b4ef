"""A finished run as a folder to deploy: merged, translated, quantised, gated, measured.

Every step is checked before the next begins, every figure is measured on the files that ship, and
the folder appears whole or not at all.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kdlora.errors import InputError, StoreError, did_you_mean
from kdlora.extras import need
from kdlora.files import real_path, whole_folder
from kdlora.machine import processor_name
from kdlora.records.artefact import (
    FILES,
    Artefact,
    Quantization,
    Runtime,
    Variant,
    checksums_of,
    is_artefact,
    write_artefact,
)
from kdlora.records.environment import describe_environment
from kdlora.records.store import write_text
from kdlora.ship import export_steps as steps
from kdlora.ship import export_timing, model_card
from kdlora.ship.card import write_card
from kdlora.ship.card_facts import card_facts
from kdlora.ship.dockerfile import write_dockerfile
from kdlora.ship.onnx_graph import OUTPUT
from kdlora.ship.source import SourceRun, find_source
from kdlora.spec.sections import language_codes

FORMATS: tuple[Runtime, ...] = ("torch", "onnx")
QUANTIZATIONS: tuple[Quantization, ...] = ("none", "int8", "int4")


def export_model(
    source: str | Path,
    to: str | Path,
    *,
    formats: Sequence[str] = FORMATS,
    quantize: Sequence[str] | None = None,
    max_drop_points: float | None = None,
    force: bool = False,
    timing: bool = True,
    threads: int = 1,
    hub_name: str | None = None,
    dockerfile: bool = False,
    languages: Sequence[str] = (),
    on_note: steps.OnNote = lambda text: None,
) -> Artefact:
    """Export a run to the folder `to`, which is replaced if it is an export already.

    Args:
        source: a run's folder, ``STUDY:RUN_ID`` (or the part of an id that is unique), a saved
            student's folder inside its study, or a study, which means its student.
        formats: "torch" (a plain transformers folder), "onnx", or both.
        quantize: forms of the ONNX model: "none" (fp32), "int8", "int4"; default none and int8.
        max_drop_points: what a quantised form may lose on the report split against the fp32
            student, in points of the primary metric; for one that is not shown in points, such
            as the RMSE, in per cent of the student's score. Default half a point, or 1 %.
        force: ship a form that lost more too; it is marked as forced.
        timing: time every form in turns with the teacher, with `threads` threads each.
        hub_name: what its card calls it, for a model that is to be pushed; default the folder.
        dockerfile: write a Dockerfile beside it that serves its ONNX form.
        languages: of its texts, for the card, by the hub's codes; default what the study says.

    Raises InputError for what cannot be asked for, ModelError if a check fails or the gate
    refuses a form, DataError if the report split is not the one the run was scored on.
    """
    if quantize is None:
        quantize = ("none", "int8") if "onnx" in formats else ("none",)
    try:
        spoken = language_codes(languages)
    except ValueError as error:
        raise InputError(f"language {error}") from None
    wanted = _wanted(formats, quantize, max_drop_points, threads)
    found = find_source(source)
    target = Path(to).expanduser().absolute()
    _check_target(target, found)
    with _growing(target) as folder:
        work = steps.begin(found, folder, max_drop_points, on_note)
        steps.save_torch(work)
        variants: list[Variant] = []
        if ("torch", "none") in wanted:
            variants.append(steps.torch_variant(work))
        if any(kind == "onnx" for kind, _ in wanted):
            variants += steps.onnx_variants(work, wanted, force)
        if ("torch", "none") not in wanted:
            (folder / FILES["torch", "none"]).unlink()
        adapter = steps.save_adapter(work)
        teacher, timings = export_timing.measure(work, variants, timing=timing, threads=threads)
        artefact = Artefact(
            run_id=found.record.run_id,
            task=work.task.name,
            encoder=steps.encoder_name(found),
            model_type=work.model.config.model_type,
            parameters=sum(p.numel() for p in work.model.parameters()),
            inputs=work.inputs,
            output=OUTPUT,
            max_length=found.card.max_length,
            windows=found.card.windows,
            pad_id=int(work.tokenizer.pad_token_id or 0),
            report_rows=len(work.texts),
            max_drop_points=work.gate.allowed,
            drop_unit=work.gate.metric.drop_unit,
            variants=[v.model_copy(update={"timings": timings.get(v.name, [])}) for v in variants],
            adapter=adapter,
            parity=work.parity,
            teacher=teacher,
            versions=_versions(),
            machine=_machine(),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if dockerfile:
            write_dockerfile(folder, artefact, tag=target.name)
        return _finish(work, artefact, name=hub_name or target.name, languages=spoken)


def _wanted(
    formats: Sequence[str], quantize: Sequence[str], max_drop: float | None, threads: int
) -> list[tuple[Runtime, Quantization]]:
    """The forms asked for, in the order they are made. Raises InputError with every problem."""
    problems = [f"no format '{f}'.{did_you_mean(f, FORMATS)}" for f in formats if f not in FORMATS]
    problems += [
        f"no quantisation '{q}'.{did_you_mean(q, QUANTIZATIONS)}"
        for q in quantize
        if q not in QUANTIZATIONS
    ]
    if not formats:
        problems.append("name at least one format: torch, onnx")
    if not quantize:
        problems.append("name at least one of none, int8, int4 to quantise to")
    smaller = [q for q in quantize if q in ("int8", "int4")]
    if smaller and formats and "onnx" not in formats:
        problems.append(
            f"{' and '.join(smaller)} are forms of the ONNX model: add onnx to the formats"
        )
    if max_drop is not None and not max_drop >= 0:
        problems.append(f"the allowed drop is {max_drop:g}; expected 0 or more")
    if threads < 1:
        problems.append(f"{threads} threads; expected 1 or more")
    if problems:
        raise InputError(problems)
    if "onnx" in formats:
        need("an export to ONNX", "onnxruntime", "onnxscript", extra="onnx")
    chosen: list[tuple[Runtime, Quantization]] = [("torch", "none")] if "torch" in formats else []
    if "onnx" in formats:
        chosen += [("onnx", q) for q in QUANTIZATIONS if q in quantize]
    return chosen


def _check_target(target: Path, source: SourceRun) -> None:
    if target.is_file():
        raise InputError(f"{target} is a file; name a folder for the export")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if real_path(target) in (source.model_folder, source.model_folder.parent, source.store.root):
        raise InputError(f"{target} is where the run itself lies; name another folder")
    if not is_artefact(target):
        raise InputError(
            f"{target} holds other files than an export, which would be lost; name another folder"
        )


@contextmanager
def _growing(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place once everything in it is done."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(whole_folder(target))
        except OSError as error:
            raise StoreError(f"cannot write to {target.parent}: {error.strerror}") from None
        yield folder


def _finish(
    work: steps.Work, artefact: Artefact, *, name: str, languages: Sequence[str]
) -> Artefact:
    """Card, example and checksums, the last file being `export.json`."""
    card = work.source.card
    write_card(work.folder, card)
    text = model_card.readme(
        artefact, card, work.source.record, repository=name, notes=work.limits,
        facts=card_facts(work.source), languages=languages,
    )  # fmt: skip
    write_text(work.folder / model_card.README, text)
    if (program := model_card.example(artefact, card)) is not None:
        write_text(work.folder / model_card.EXAMPLE, program)
    artefact = artefact.model_copy(update={"checksums": checksums_of(work.folder)})
    write_artefact(work.folder, artefact)
    return artefact


def _versions() -> dict[str, str]:
    found = {k: v for k, v in describe_environment()["versions"].items() if v}
    for name in ("onnx", "onnxruntime", "onnxscript"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def _machine() -> str:
    return f"{processor_name()}, {os.cpu_count()} cores, {platform.system()}"
