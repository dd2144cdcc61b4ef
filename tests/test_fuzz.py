"""Whatever stands in a study file, a record, foreign results or a request: our own errors only."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz, fuzz_models, fuzz_targets
from kdlora.errors import InputError, KdloraError, ModelError, StoreError
from kdlora.importing.results import read_results
from kdlora.records.artefact import read_artefact
from kdlora.records.record import Record, checksum
from kdlora.records.store import Store
from kdlora.serve.requests import Limits, RequestError, parse_request
from kdlora.ship.card import read_card
from kdlora.spec.check import make_study, read_study
from kdlora.spec.plan import make_plan

ROOT = Path(__file__).resolve().parent.parent
BOUNDED = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def _mappings(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.dictionaries(st.text(max_size=6), values, max_size=3)


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["", " ", "../x", "/etc/passwd", "none", "kd", "lora", "nan", "1e999", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | _mappings(inner),
    max_leaves=6,
)  # fmt: skip


def places(values: Any, at: tuple = ()) -> list[tuple]:
    """Every place in nested lists and mappings."""
    children = (
        values.items() if isinstance(values, dict)
        else enumerate(values) if isinstance(values, list) else ()
    )  # fmt: skip
    return [at, *(place for key, child in children for place in places(child, (*at, key)))]


@st.composite
def damaged(draw: st.DrawFn, originals: list[Any]) -> Any:
    """One of the originals with up to four values replaced, removed, or put where none was."""
    values = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        *way, last = draw(st.sampled_from(places(values)[1:] or [("new",)]))
        inside = values
        for key in way:
            inside = inside[key]
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace":
            inside[last] = draw(junk)
        elif action == "remove":
            del inside[last]
        elif isinstance(inside, dict):
            inside[draw(st.sampled_from(["seeds", "x", "name", "grid"]))] = draw(junk)
        else:
            inside.append(draw(junk))
        if not isinstance(values, dict) or not values:
            break
    return values


@cache
def studies() -> list[Any]:
    files = [
        *(ROOT / "examples").glob("*.yaml"),
        *(ROOT / "src/kdlora/spec/presets").glob("*.yaml"),
    ]
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(files)]


@cache
def record() -> dict[str, Any]:
    values = next(one for one in studies() if one["name"] == "movie-reviews")
    run = make_plan(make_study(values)).runs[-1]
    made = Record(run_id=run.run_id, run=run, environment={"python": "3"}).sealed()
    return made.model_dump(mode="json", by_alias=True)


@BOUNDED
@given(st.data())
def test_studies(data: st.DataObject) -> None:
    values = data.draw(damaged(studies()))
    with suppress(InputError):
        make_plan(make_study(values))


@BOUNDED
@given(
    st.binary(max_size=200)
    | st.text(alphabet="{}[]:-&*!|>%@`\"'\n \t#,abc01.~", max_size=80).map(str.encode)
)
def test_study_files(tmp_path: Path, content: bytes) -> None:  # fmt: skip
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with suppress(InputError):
        read_study(path)


@pytest.mark.parametrize(
    "text",
    [
        "&a [*a, *a]",
        "tasks: &a [*a]",
        "[" * 5000,
        "a: " * 3,
        "{1: 2, [a]: 3}",
        "!!python/object/apply:os.system ['true']",
        "name: 2026-13-45",
        "seeds: 1" + "0" * 5000,
    ],
)
def test_hard_study_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        read_study(path)


@BOUNDED
@given(st.data(), st.booleans())
def test_records(tmp_path: Path, data: st.DataObject, sealed: bool) -> None:
    values = data.draw(damaged([record()]))
    if sealed:
        with suppress(ValueError, TypeError):
            values["checksum"] = checksum(values)
    folder = tmp_path / "runs" / record()["run_id"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").write_text(json.dumps(values), encoding="utf-8")
    with suppress(KdloraError):
        Store(tmp_path).read(folder.name)
        Store(tmp_path).read_failure(folder.name)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 200_000, b"[]", b"null", b"1" * 9999])
def test_hard_json_files(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    for name in ("record.json", "failed.json", "export.json", "kdlora.json"):
        (folder / name).write_bytes(content)
    assert Store(tmp_path).read_failure("a") is None
    assert Store(tmp_path).read("a") is None
    with pytest.raises(StoreError):
        read_card(folder)
    with pytest.raises(ModelError):
        read_artefact(folder)


_CELLS = st.sampled_from(["cola", "fft", "lora", "kd-lora", "42", "0.83", "83", "bert", "nan", ""])
_HEADS = ("task", "strategy", "peft", "seed", "accuracy", "f1", "family", "train_s", "rank", "")


@BOUNDED
@given(
    st.lists(st.sampled_from(_HEADS), min_size=1, max_size=8),
    st.lists(st.lists(_CELLS | st.text(max_size=8), max_size=9), max_size=6),
    st.sampled_from([",", "\t", ";"]),
    st.sampled_from([None, "runs-742", "glue-scores", "kd-matrix", "efficiency-by-rank"]),
)
def test_imports(
    tmp_path: Path, head: list[str], rows: list[list[str]], separator: str, mapping: str | None
) -> None:
    path = tmp_path / "runs.csv"
    lines = [separator.join(row) for row in [head, *rows]]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    with suppress(KdloraError):
        read_results(path, mapping)


@BOUNDED
@given(st.data())
def test_imports_of_a_real_table(tmp_path: Path, shared: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["runs.csv", "kd_matrix_004.csv", "paper_table_1.csv"]))
    lines = (shared / "reference" / name).read_bytes().split(b"\n")[:12]
    content = bytearray(b"\n".join(lines))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=5))
    path = tmp_path / name
    path.write_bytes(content)
    with suppress(KdloraError):
        read_results(path)


@BOUNDED
@given(
    st.binary(max_size=200)
    | junk.map(lambda v: json.dumps(v).encode())
    | st.fixed_dictionaries(
        {}, optional={"text": junk, "second": junk, "texts": st.lists(junk, max_size=4) | junk}
    ).map(lambda v: json.dumps(v).encode()),
    st.sampled_from([1, 2]),
)
def test_requests(raw: bytes, columns: int) -> None:
    limits = Limits(max_text_chars=8, queue=3)
    try:
        texts = parse_request(raw, columns=columns, limits=limits)
    except RequestError as error:
        assert 400 <= error.status < 500  # noqa: PT017
        assert error.problems  # noqa: PT017
        assert all(len(problem) < 500 for problem in error.problems)  # noqa: PT017
    else:
        assert len(texts) == columns
        assert 1 <= len(texts[0]) == len(texts[-1]) <= limits.queue
        for column in texts:
            assert all(isinstance(text, str) and len(text) <= 8 for text in column)
            assert all(text.encode() is not None for text in column)  # no half characters


def test_numbers_beyond_json() -> None:
    for raw in (b'{"text": NaN}', b'{"text": 1e999}', json.dumps({"text": math.inf}).encode()):
        with pytest.raises(RequestError):
            parse_request(raw, columns=1, limits=Limits())


def test_a_small_fuzz_of_every_reader(tmp_path: Path) -> None:
    """`python -m benchmarks fuzz` in small: the kept inputs, and some of the usual ones."""
    tallies = fuzz.measure(tmp_path, inputs=500, keep=tmp_path / "found")
    assert len(tallies) > 20
    assert fuzz.faults(tallies) == [], sorted((tmp_path / "found").rglob("*.txt"))
    assert all(t.inputs == t.taken + t.refused > 0 for t in tallies)
    assert sum(t.taken for t in tallies) > 50
    assert sum(t.refused for t in tallies) > 150


def test_the_fuzz_sees_tracebacks_hangs_and_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(content: bytes, folder: Path) -> None:
        if content == b"slow":
            time.sleep(5)
        if content == b"kept":
            raise ZeroDivisionError
        assert content == b"sound"

    target = fuzz.Target("bad", bad, (b"sound",))
    monkeypatch.setattr(fuzz, "GROUPS", ("benchmarks.fuzz_targets",))
    monkeypatch.setattr(fuzz_targets, "make_targets", lambda folder: [target])
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path / "corpus")
    monkeypatch.setattr(fuzz, "WAIT_S", 0.1)
    (tmp_path / "corpus" / "bad").mkdir(parents=True)
    for name in ("kept", "slow"):
        (tmp_path / "corpus" / "bad" / name).write_bytes(name.encode())
    (tally,) = fuzz.measure(tmp_path, inputs=2, keep=tmp_path / "found")
    assert (tally.inputs, tally.tracebacks, tally.hangs) == (2, 1, 1)
    assert fuzz.faults([tally]) == ["bad: 1 tracebacks, 1 hangs"]
    assert {p.read_bytes() for p in (tmp_path / "found" / "bad").glob("?")} == {b"kept", b"slow"}
    piece = {"seed": 0, "machine": "m", "date": "d", "minutes": 1, "targets": [vars(tally)]}
    found = fuzz.summed([piece, piece])
    assert "| bad | 4 | 0 | 0 | 2 | 2 |" in fuzz.page(found, [piece, piece])


@pytest.mark.parametrize("how", ["ends", "stops"])
def test_the_fuzz_outlives_what_no_exception_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A reader that ends the process, or keeps it for ever, is the fault of one input."""

    def deadly(content: bytes, folder: Path) -> None:
        if content == b"kept":
            os._exit(3) if how == "ends" else os.kill(os.getpid(), signal.SIGSTOP)

    targets = [fuzz.Target("deadly", deadly, (b"sound",)), fuzz.Target("good", len_of, (b"sound",))]
    monkeypatch.setattr(fuzz, "GROUPS", ("benchmarks.fuzz_targets",))
    monkeypatch.setattr(fuzz_targets, "make_targets", lambda folder: targets)
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path / "corpus")
    monkeypatch.setattr(fuzz, "WAIT_S", 0.5)
    (tmp_path / "corpus" / "deadly").mkdir(parents=True)
    (tmp_path / "corpus" / "deadly" / "a").write_bytes(b"kept")
    tallies = fuzz.watched(tmp_path, inputs=8, seed=1, keep=tmp_path / "found")
    assert [(t.name, t.inputs, t.hangs) for t in tallies] == [("deadly", 1, 1), ("good", 4, 0)]
    assert (tmp_path / "found" / "deadly" / "1").read_bytes() == b"kept"


def test_the_fuzz_goes_on_with_other_inputs_where_it_was_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece is a line with a seed of its own; one that was not written whole is none."""
    (tmp_path / "noted.py").write_text(NOTED.format(seen=str(tmp_path / "seen")))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(fuzz, "GROUPS", ("noted",))
    monkeypatch.setattr(fuzz, "PIECE", 30)
    lines = tmp_path / "lines.jsonl"
    folders = {"keep": tmp_path / "kept", "lines": lines, "out": tmp_path / "out"}
    assert fuzz.run(60, only=(), **folders) == []
    with lines.open("a", encoding="utf-8") as file:
        file.write('{"seed": 2, "targ')
    assert fuzz.run(30, only=(), **folders) == []
    assert [piece["seed"] for piece in fuzz.pieces_in(lines)] == [0, 1, 2]
    page = (tmp_path / "out" / "fuzz.md").read_text(encoding="utf-8")
    assert "90 inputs in 3 pieces" in page
    tried = (tmp_path / "seen").read_text().split()
    assert len({line for line in tried if bytes.fromhex(line) != b"sound of some length"}) > 80
    sums = fuzz.summed(fuzz.pieces_in(lines))
    assert 10 < sums[0].process_mb < 200  # a process of its own, whatever is loaded here
    assert f"{sums[0].process_mb:,.0f} MB at most" in page
    sums[0].process_mb = 501.0
    assert fuzz.faults(sums) == ["noted: the process took 501 MB"]


NOTED = """
from benchmarks.fuzz import Target

def note(content, folder):
    with open({seen!r}, "ab") as file:
        file.write(content.hex().encode() + b"\\n")

def make_targets(folder):
    return [Target("noted", note, (b"sound of some length",))]
"""


def test_readers_without_torch_do_not_load_it(tmp_path: Path) -> None:
    """The memory of a process is that of what its readers need."""
    fuzz_models.save_models(tmp_path)
    code = (
        "import sys; from pathlib import Path; from benchmarks import fuzz, fuzz_targets; "
        "here = Path(); fuzz_targets.saved_models = lambda f: (here / 'model', here / 'adapter'); "
        "made = fuzz._make_group(fuzz.GROUPS[0], here / 'sound'); "
        "[t.read(t.sound[0], fuzz._emptied(here / 'work')) for t in made]; "
        "print({'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "set()"


def len_of(content: bytes, folder: Path) -> None:
    len(content)
