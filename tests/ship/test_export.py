"""One tiny student exported in every form; everything else looks at the folder."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants, metadata_load
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from kdlora.cli.app import app
from kdlora.data.tasks import load_task
from kdlora.errors import DataError, InputError, KdloraError, ModelError
from kdlora.records.artefact import (
    Artefact,
    checksums_of,
    read_artefact,
    verify,
    write_artefact,
)
from kdlora.records.frame import save_plan
from kdlora.records.store import Store
from kdlora.ship import export_steps, model_card
from kdlora.ship.calibration import calibrate_folder
from kdlora.ship.card import Calibration, read_card, write_card
from kdlora.ship.export import export_model
from kdlora.ship.predict import load_predictor
from kdlora.ship.source import check_data, find_source, find_teacher
from kdlora.spec.plan import make_plan
from tests.harness.moods import Corner

FORMS = ("torch", "onnx", "onnx-int8", "onnx-int4")
WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "peft"):
    sys.modules[name] = None
import json
import numpy as np
from pathlib import Path
from kdlora.ship.predict import load_predictor
texts = json.loads(Path(sys.argv[2]).read_text())
for variant in ("onnx", "onnx-int8", "onnx-int4"):
    model = load_predictor(sys.argv[1], variant=variant)
    np.save(f"{sys.argv[3]}/{variant}.npy", model.outputs([texts]))
"""
ONLY_THREE = """
import runpy, sys
for name in ("torch", "transformers", "kdlora", "peft", "onnx"):
    sys.modules[name] = None
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.fixture(scope="module")
def store(corner: Corner, tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A finished study of a teacher and a student distilled from it."""
    study = corner.study(arms=["teacher/fft", "student/kd-lora"])
    plan = make_plan(study)
    store = Store(tmp_path_factory.mktemp("study"))
    store.prepare()
    save_plan(store, study, plan)
    for run in plan.runs:
        if run.role != "baseline":
            shutil.copytree(tiny_study / "runs" / run.run_id, store.folder(run.run_id))
    return store


@pytest.fixture(scope="module")
def student(store: Store) -> str:
    return next(p.name for p in (store.root / "runs").iterdir() if "student" in p.name)


@pytest.fixture(scope="module")
def exported(
    store: Store, student: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Artefact]:
    folder = tmp_path_factory.mktemp("export") / "moods"
    artefact = export_model(
        f"{store.root}:student-kd-lora",
        folder,
        quantize=("none", "int8", "int4"),
        max_drop_points=10,  # one of 120 rows is 0.8 points
    )
    return folder, artefact


@pytest.fixture(scope="module")
def report(store: Store, student: str):
    record = store.read(student)
    return load_task(record.run.task, record.run.data).reports["report"]


def test_the_folder_is_whole(exported: tuple[Path, Artefact], store: Store) -> None:
    folder, artefact = exported
    assert tuple(v.name for v in artefact.variants) == FORMS
    assert read_artefact(folder) == artefact
    verify(folder, artefact)
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert files == {*artefact.checksums, "export.json"}
    assert {"README.md", "example.py", "kdlora.json", "tokenizer.json", "config.json"} <= files
    assert {v.path for v in artefact.variants} <= files
    assert [p.name for p in folder.parent.iterdir()] == ["moods"]
    for path in folder.rglob("*"):  # nothing tells where it was made
        if path.is_file():
            assert str(store.root.parent).encode() not in path.read_bytes(), path.name


def test_the_steps_were_checked(exported: tuple[Path, Artefact]) -> None:
    steps = {p.step: p for p in exported[1].parity}
    assert set(steps) == {
        "merged against adapted", "torch folder reloaded", "onnx against torch",
        "adapter folder against merged",
    }  # fmt: skip
    assert all(p.texts == 64 and p.max_abs_difference <= p.tolerance for p in steps.values())


def test_scores_are_those_of_the_shipped_files_without_torch(
    exported: tuple[Path, Artefact], report, tmp_path: Path
) -> None:
    folder, artefact = exported
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps(report.texts[0]))
    arguments = [str(folder), str(texts), str(tmp_path)]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *arguments], check=True, timeout=120)
    exact = load_predictor(folder, variant="torch", precision="fp32").outputs([report.texts[0]])
    for name in FORMS[1:]:
        logits = np.load(tmp_path / f"{name}.npy")
        predicted, variant = logits.argmax(axis=1), artefact.variant(name)
        f1 = [
            2 * np.sum((predicted == c) & (report.labels == c))
            / (np.sum(predicted == c) + np.sum(report.labels == c))
            for c in (0, 1)
        ]  # fmt: skip
        assert variant.score == pytest.approx(np.mean(f1))
        assert variant.agreement == pytest.approx(np.mean(predicted == exact.argmax(axis=1)))
        assert variant.max_abs_difference == pytest.approx(np.abs(logits - exact).max(), abs=1e-5)
        assert variant.gate == "passed"
        before = artefact.variant("torch").score
        assert variant.drop_points == pytest.approx(100 * (before - variant.score))
    assert artefact.variant("onnx").max_abs_difference < 1e-4
    assert artefact.variant("torch").score > 0.8  # it has learnt something


def test_plain_transformers_and_plain_peft_load_it(
    exported: tuple[Path, Artefact], corner: Corner, report
) -> None:
    folder, _ = exported
    texts = report.texts[0][:16]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    base = AutoModelForSequenceClassification.from_pretrained(corner.student, num_labels=2)
    adapted = PeftModel.from_pretrained(base, folder / "adapter").eval()
    with torch.no_grad():
        logits = model(**batch).logits
        torch.testing.assert_close(adapted(**batch).logits, logits, atol=1e-4, rtol=1e-4)
    onnx = load_predictor(folder, variant="onnx")
    np.testing.assert_allclose(onnx.outputs([texts]), logits.numpy(), atol=1e-4)
    assert list(model.config.id2label.values()) == onnx.card.label_names == ["neg", "pos"]


def test_the_example_needs_only_three_packages(exported: tuple[Path, Artefact]) -> None:
    folder, _ = exported
    program = folder / "example.py"
    assert len(program.read_text().splitlines()) <= 20
    done = subprocess.run(
        [sys.executable, "-c", ONLY_THREE, str(program)],
        check=True, timeout=60, capture_output=True, text=True,
    )  # fmt: skip
    answers = [line.split() for line in done.stdout.splitlines()]
    samples = ["A short text to try it on.", "Another one, a little longer than the first."]
    expected = load_predictor(folder, variant="onnx-int8")([samples])
    assert [label for label, _ in answers] == [e["label"] for e in expected]
    for (_, share), one in zip(answers, expected, strict=True):
        assert float(share) == pytest.approx(one["probability"], abs=1e-6)


@pytest.mark.parametrize(
    ("by", "cuts"),  # and where the answer changes by the probability of "pos"
    [
        ({}, [0.5]),
        ({"temperature": 0.4}, [0.5]),
        ({"temperature": 2.5, "threshold": 0.6, "positive": "neg", "metric": "f1"}, [0.4]),
        ({"thresholds": {"neg": 0.3, "pos": 0.7}, "metric": "macro-f1"}, [0.7]),
        ({"temperature": 1.7, "abstention": {"aim": 0.9, "level": 0.95, "cut": 0.7,
                                             "lower_bound": 0.9}}, [0.3, 0.5, 0.7]),
    ],
)  # fmt: skip
def test_every_form_answers_by_the_stored_calibration(
    exported: tuple[Path, Artefact], report, tmp_path: Path, by: dict, cuts: list[float]
) -> None:
    folder = shutil.copytree(exported[0], tmp_path / "export")
    card = read_card(folder).model_copy(update={"calibration": Calibration(n=100, **by)})
    write_card(folder, card)
    sums = {**exported[1].checksums, "kdlora.json": checksums_of(folder)["kdlora.json"]}
    write_artefact(folder, exported[1].model_copy(update={"checksums": sums}))
    texts = [report.texts[0]]
    exact = load_predictor(folder, variant="torch", precision="fp32")(texts)
    for name in FORMS[1:]:
        compared = 0
        found = load_predictor(folder, variant=name)(texts)
        for own, other in zip(exact, found, strict=True):
            share = own["probabilities"]["pos"]
            gap = abs(share - other["probabilities"]["pos"])
            if name == "onnx":
                assert gap < 1e-3
            if gap < min(abs(share - cut) for cut in cuts):
                assert own["label"] == other["label"], name
                compared += 1
        assert compared > 20
    assert ({e["label"] is None for e in exact} == {True, False}) == ("abstention" in by)


def test_timings_are_interleaved_with_the_stored_teacher(
    exported: tuple[Path, Artefact], store: Store
) -> None:
    _, artefact = exported
    assert artefact.teacher.run_id.startswith("moods-teacher-fft")
    assert artefact.teacher.basis == "trained run"
    assert artefact.teacher.score == store.read(artefact.teacher.run_id).quality.score
    for variant in artefact.variants:
        assert [(t.batch, t.length) for t in variant.timings] == [(1, 32), (1, 66), (32, 32)]
        for t in variant.timings:
            assert 0 < t.latency_p50_ms <= t.latency_p95_ms
            assert t.ratio == pytest.approx(t.teacher_latency_p50_ms / t.latency_p50_ms)
            assert t.throughput_per_s == pytest.approx(t.batch / t.latency_p50_ms * 1e3)
    first = {t.teacher_latency_p50_ms for v in artefact.variants for t in v.timings[:1]}
    assert len(first) == 1  # one teacher, timed beside all


def test_the_card_says_what_export_json_says(exported: tuple[Path, Artefact]) -> None:
    folder, artefact = exported
    metadata = metadata_load(folder / "README.md")
    assert metadata["pipeline_tag"] == "text-classification"
    assert {"onnx", "int8", "int4", "lora", "knowledge-distillation"} <= set(metadata["tags"])
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == round(artefact.variant("onnx-int8").score, 6)
    text = (folder / "README.md").read_text()
    rows = {
        cells[1].strip(): cells
        for line in text.splitlines()
        if len(cells := line.split("|")) == 10 and "`" in line
    }
    assert set(rows) == set(FORMS)
    for name, cells in rows.items():
        assert float(cells[4]) == pytest.approx(artefact.variant(name).score, abs=1e-4)
        assert f"{artefact.teacher.size_mb / artefact.variant(name).size_mb:.1f}x" in cells[8]
    assert "{" not in text.split("## Use")[0].split("---")[2]
    assert "120 report" in text
    assert "language" not in metadata  # nobody said it
    assert "Its makers did not say in which language" in text
    for block in text.split("\n\n"):  # every table is one block with a head
        lines = block.strip().splitlines()
        if any(line.startswith("|") for line in lines):
            assert lines[1].startswith("|---")
            assert all(line.startswith("|") for line in lines)


@pytest.mark.parametrize("on_hub", [False, True])
def test_the_code_of_the_card_works_as_printed(
    exported: tuple[Path, Artefact], store: Store, on_hub: bool, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder, artefact = exported
    card = (folder / "README.md").read_text()
    if on_hub:
        card = model_card.readme(
            artefact, read_card(folder), store.read(artefact.run_id), repository="me/moods",
            notes=[],
        )  # fmt: skip
        commit = "0123456789abcdef" * 2 + "01234567"
        repository = tmp_path / "hub" / "models--me--moods"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        shutil.copytree(folder, repository / "snapshots" / commit)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.chdir(tmp_path)
    else:
        monkeypatch.chdir(folder.parent)
    codes = dict(re.findall(r"```(bash|python)\n(.*?)```", card, re.S))
    program = codes["bash"].strip().splitlines()[-1].removeprefix("python ")
    assert program == "moods/example.py"
    assert (folder.parent / program).is_file()
    assert ("hf download me/moods --local-dir moods" in codes["bash"]) == on_hub
    exec(codes["python"], {})
    (expected,) = load_predictor(folder, variant="torch", precision="fp32")(
        [["A short text to try it on."]]
    )
    shown = ast.literal_eval(capsys.readouterr().out)
    assert shown == pytest.approx(expected["probabilities"], abs=1e-5)


def test_a_study_means_its_student_wherever_a_model_is_named(
    tiny_study: Path, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    shutil.copytree(tiny_study, study)
    run_id = read_card(study / "student").run_id
    assert find_source(study).record.run_id == run_id
    assert load_predictor(study).card == load_predictor(study / "student").card
    assert load_predictor(f"{study}:{run_id}").card.run_id == run_id
    path, _ = calibrate_folder(study, temperature=True, threshold=None)
    assert path == study / "student" / "kdlora.json"


def test_a_form_that_loses_too_much_is_refused_with_its_figures(
    exported: tuple[Path, Artefact], store: Store, student: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole = export_steps.runtime.run
    graph = exported[0] / "onnx" / "model.onnx"  # of this student: translating takes seconds
    monkeypatch.setattr(
        export_steps, "export_graph", lambda model, inputs, path: shutil.copyfile(graph, path)
    )

    def spoilt(session, encoded, *, inputs, output):
        """What the quantised graphs answer, upside down."""
        found = whole(session, encoded, inputs=inputs, output=output)
        integers = any("Integer" in n for n in _operators(session))
        return -found if integers else found

    def _operators(session) -> list[str]:
        content = Path(session._model_path).read_bytes()
        return ["MatMulInteger"] if b"MatMulInteger" in content else []

    monkeypatch.setattr(export_steps.runtime, "run", spoilt)
    run = store.folder(student)
    arguments = ["export", str(run), "--to", str(tmp_path / "out"), "--quantize", "int8"]
    done = CliRunner().invoke(app, [*arguments, "--no-timing", "--max-drop", "10"])
    assert isinstance(done.exception, ModelError)
    message = str(done.exception)
    for settings in export_steps.INT8:
        assert str(settings) in message
    assert "--force" in message
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.iterdir()) == []

    done = CliRunner().invoke(app, [*arguments, "--no-timing", "--force", "--json"])
    assert done.exit_code == 0
    forced = json.loads(done.stdout)
    (torch_form, int8) = forced["variants"]  # fp32 ONNX was not asked for
    assert (torch_form["name"], int8["gate"]) == ("torch", "forced")
    assert len(int8["how"]) == len(export_steps.INT8)
    assert sum(trial["chosen"] for trial in int8["how"]) == 1
    assert not (tmp_path / "out" / "onnx" / "model.onnx").exists()


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"formats": ("onxx",)}, ["Did you mean 'onnx'"]),
        ({"quantize": ("int9", "none")}, ["Did you mean 'int"]),
        ({"formats": ("torch",), "quantize": ("int8",)}, ["add onnx"]),
        (
            {"formats": (), "quantize": (), "max_drop_points": -1, "threads": 0},
            ["at least one format", "none, int8, int4", "0 or more", "1 or more"],
        ),
        ({"max_drop_points": float("nan")}, ["0 or more"]),
    ],
)
def test_what_cannot_be_asked_for(changes: dict, messages: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        export_model(tmp_path, tmp_path / "out", **changes)
    assert len(caught.value.problems) == len(messages)
    for message in messages:
        assert message in str(caught.value)


def test_other_folders_are_not_overwritten(store: Store, student: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="other files"):
        export_model(store.folder(student), tmp_path)
    with pytest.raises(InputError, match="the run itself"):
        export_model(store.folder(student), store.folder(student))
    with pytest.raises(InputError, match="is a file"):
        export_model(store.folder(student), tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_run_is_found_by_folder_by_id_and_by_part(store: Store, student: str) -> None:
    for given in (
        store.folder(student),
        f"{store.root}:{student}",
        f"{store.root}:{student[-12:]}",
    ):
        assert find_source(given).record.run_id == student
    teacher = find_teacher(find_source(store.folder(student)))
    assert teacher.record.run.role == "teacher"
    own = find_teacher(find_source(f"{store.root}:teacher"))
    assert own.record.run_id == teacher.record.run_id


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere", "no run at nowhere"),
        ("{root}:studnet-kd", "Did you mean|Known"),
        ("{root}:moods", "fits 2 runs"),
        ("{root}", "RUN_ID"),
        ("nostudy:x", "no study"),
    ],
)
def test_what_is_no_run_says_what_was_expected(store: Store, given: str, message: str) -> None:
    with pytest.raises(KdloraError, match=message):
        find_source(given.format(root=store.root))


def test_other_rows_than_the_runs_are_refused(store: Store, student: str) -> None:
    record = store.read(student)
    check_data(record, record.environment["data_fingerprint"])
    with pytest.raises(DataError, match="fingerprint"):
        check_data(record, "0123456789abcdef")
