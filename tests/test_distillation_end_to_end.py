"""Every way to be taught, from the study to the record, on tiny encoders."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax

import kdlora
from kdlora.data.tasks import load_task
from kdlora.distillation import soft_labels
from kdlora.distillation.hidden_states import ABOUT, STATES
from kdlora.engines.local import run_plan
from kdlora.engines.supervisor import EngineOptions
from kdlora.errors import InputError
from kdlora.records.predictions import read_predictions
from kdlora.records.store import Store
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from tests.harness.finished import finished, share_costs
from tests.harness.moods import Corner, sentences, write_csv
from tests.harness.tiny_models import save_tiny_encoder

INSIDE = {"kl": 1.0, "hidden": {"weight": 0.5, "layers": {1: 2}}, "relations": {"heads": 2}}


def study(corner: Corner, **changes):
    """One teacher and the students that `changes` name; short, without baselines."""
    values = {"arms": ["teacher/fft", "student/kd-lora"], "baselines": False, **changes}
    training = {"epochs": 3, "batch_size": 24, "dropout": 0.0, "max_length": 32}
    training |= {"lr": {"fft": 3e-3, "peft": 1e-2}, "precision": "fp32"}
    return corner.study(**{"training": training, **values})


def done(corner, made, folder):
    """The plan of a study, its store, and its records by run."""
    finished(corner, made, folder, workers=2)
    plan, store = make_plan(made), Store(folder)
    return plan, store, {run.run_id: store.read(run.run_id) for run in plan.runs}


@pytest.fixture(scope="module")
def taught(corner, tmp_path_factory):
    """Students of every signal beside one teacher, one of them fully fine-tuned."""
    folder = tmp_path_factory.mktemp("taught")
    write_csv(folder / "extra.csv", review=[*sentences(60, 21)[0], "the film"])
    signals = {
        "logits": {"logit-mse": 0.1, "dkd": {"beta": 2.0}},
        "dist": {"kl": 1.0, "dist": 0.05},
        "inside": INSIDE,
    }
    plan, store, records = done(
        corner,
        study(
            corner,
            arms=["teacher/fft", "student/kd-lora", "student/kd-fft"],
            unlabelled={"moods": str(folder / "extra.csv")},
            distillation={"unlabelled": False},
            variations={
                **{
                    name: {"arm": "student/kd-lora", "distillation": {"signals": value}}
                    for name, value in signals.items()
                },
                "online": {
                    "arm": "student/kd-lora",
                    "distillation": {"signals": INSIDE, "hidden_cache_mb": 0},
                },
                "extra": {"arm": "student/kd-lora", "distillation": {"unlabelled": True}},
            },
        ),
        folder / "out",
    )
    return plan, store, {run.title: records[run.run_id] for run in plan.runs}


def test_all_students_learn(taught):
    _, _, records = taught
    assert len(records) == 8
    for title, record in records.items():
        if title.endswith("[dist]"):
            # At first this tiny student gives all texts one answer, where a correlation is all
            # slope and no direction; `test_losses` shows that dist teaches from answers that vary.
            assert record.facts.nonfinite_steps == 0
            continue
        assert record.quality.score > 0.75, title
        assert not [flag for flag in record.health if flag.severity == "error"], title
    fft, lora = (records[f"student/kd-{name}"] for name in ("fft", "lora"))
    assert fft.efficiency.trainable_params == fft.efficiency.total_params
    assert lora.efficiency.trainable_params < fft.efficiency.trainable_params
    assert fft.agreement.agreement > 0.75


def test_the_record_says_what_taught(taught):
    _, store, records = taught
    assert records["teacher/fft"].facts.teaching is None
    assert records["student/kd-lora"].facts.teaching.signals == ["kl"]
    assert records["student/kd-lora"].facts.teaching.states is None
    logits = records["student/kd-lora[logits]"]
    assert logits.facts.teaching.signals == ["logit-mse", "dkd"]
    inside, online = records["student/kd-lora[inside]"], records["student/kd-lora[online]"]
    assert inside.facts.teaching.signals == ["kl", "hidden", "relations"]
    assert inside.facts.teaching.states == "cached"
    assert online.facts.teaching.states == "computed in every step"
    # 520 train rows of about 8 tokens, 4 states of 32 numbers in two bytes
    data = load_task(inside.run.task, inside.run.data)
    tokens = sum(len(text.split()) + 2 for text in data.train.texts[0])
    assert inside.facts.teaching.states_mb == pytest.approx(tokens * 4 * 32 * 2 / 1e6)
    assert online.efficiency.train_flops > inside.efficiency.train_flops
    # The teacher reads every text once for the states that are kept, and in each of 3 epochs else.
    plain = records["student/kd-lora"].efficiency.train_flops
    once, often = (r.efficiency.train_flops - plain for r in (inside, online))
    assert 2.5 < often / once < 3.5
    assert inside.efficiency.labelling_s > 0
    for name in (STATES, ABOUT):  # used up
        assert not list(store.root.rglob(f"*{name}*"))


def test_projectors_are_not_part_of_the_student(taught, tmp_path):
    """Equal widths need none; wider teachers do, and the student stays what it was."""
    _, _, records = taught
    inside, plain = records["student/kd-lora[inside]"], records["student/kd-lora"]
    assert inside.facts.teaching.projector_params == 0
    assert inside.efficiency.total_params == plain.efficiency.total_params


def test_a_wider_teacher_teaches_through_projectors(corner, tmp_path):
    wide = save_tiny_encoder(tmp_path / "wide", "roberta", width=48, layers=3, seed=5)
    pair = {"name": "wide", "teacher": wide.path, "student": corner.student}
    made = study(
        corner,
        pairs=[pair],
        arms=["teacher/fft", "student/lora", "student/kd-lora"],
        distillation={"signals": {**INSIDE, "hidden": {"layers": {0: 0, -1: 2}}}},
    )
    _, store, found = done(corner, made, tmp_path / "out")
    records = {r.run.title: r for r in found.values()}
    student, alone = records["student/kd-lora"], records["student/lora"]
    assert student.facts.teaching.projector_params == 2 * 32 * 48
    assert student.efficiency.trainable_params == alone.efficiency.trainable_params
    saved = [p.name for p in (store.folder(student.run_id) / "model").iterdir()]
    assert sorted(saved) == sorted(p.name for p in (store.folder(alone.run_id) / "model").iterdir())
    assert student.quality.score > 0.75


def test_unlabelled_texts_are_added_to_distilled_students_alone(taught):
    plan, store, records = taught
    extra, plain = records["student/kd-lora[extra]"], records["student/kd-lora"]
    used = extra.facts.teaching.unlabelled
    assert used["used"] + sum(v for k, v in used.items() if k != "used") == 61
    assert used["used"] >= 58
    assert plain.facts.teaching.unlabelled is None
    assert extra.quality.n["train"] == plain.quality.n["train"]
    rows = extra.quality.n["train"] + used["used"]
    assert extra.facts.planned_steps == 3 * -(-rows // 24)
    assert plain.run_id != extra.run_id
    assert [r.title for r in plan.runs if getattr(r, "unlabelled", ())] == [
        "student/kd-lora[extra]"
    ]
    caches = list(store.folder(extra.run.teacher_run_id).glob("soft_labels*"))
    assert len(caches) == 2


def test_the_unlabelled_files_content_is_part_of_the_distilled_runs_id_alone(corner, tmp_path):
    def ids(text: str) -> dict[str, str]:
        path = write_csv(tmp_path / "extra.csv", review=[text])
        arms = ["teacher/fft", "student/lora", "student/kd-lora"]
        plan = make_plan(study(corner, arms=arms, unlabelled={"moods": [str(path)]}))
        return {run.title: run.run_id for run in plan.runs}

    one, two = ids("a film"), ids("another film")
    plain = {r.title: r.run_id for r in make_plan(study(corner, arms=list(one))).runs}
    assert {title for title in one if one[title] != two[title]} == {"student/kd-lora"}
    assert {title for title in one if one[title] != plain[title]} == {"student/kd-lora"}


def test_an_ensemble_teaches_by_its_mean_and_is_waited_for(corner, tmp_path):
    made = study(corner, distillation={"teacher_seeds": [1, 2]})
    plan, store, records = done(corner, made, tmp_path / "out")
    student = next(r for r in plan.runs if r.role == "student")
    teachers = [r for r in plan.runs if r.role == "teacher"]
    assert [t.seed for t in teachers] == [1, 2]
    assert student.teacher_run_id == teachers[0].run_id
    assert student.teacher_run_ids == tuple(t.run_id for t in teachers) == student.teachers
    assert [cell.arm for cell in plan.cells] == ["teacher/fft", "student/kd-lora"]
    record = records[student.run_id]
    assert record.facts.teaching.teachers == 2
    data = load_task(student.task, student.data)
    labels = [soft_labels.load(store.folder(t.run_id)) for t in teachers]
    mean = np.mean([x.take(data.reports["report"].ids) for x in labels], axis=0)
    outputs, _ = read_predictions(store.folder(student.run_id)).by_split()
    agreed = np.mean(mean.argmax(1) == outputs["report"].argmax(1))
    assert record.agreement.agreement == pytest.approx(agreed)
    truth = data.reports["report"].labels
    predicted = mean.argmax(1)
    f1 = [
        2 * np.sum((predicted == c) & (truth == c)) / (np.sum(predicted == c) + np.sum(truth == c))
        for c in (0, 1)
    ]
    assert record.agreement.teacher_score == pytest.approx(np.mean(f1))


def test_all_seeds_teach_and_no_seed_twice(corner):
    plan = make_plan(study(corner, seeds=[3, 1, 2], distillation={"teacher_seeds": "all"}))
    students = [r for r in plan.runs if r.role == "student"]
    assert {len(r.teachers) for r in students} == {3}
    assert len({r.teachers for r in students}) == 1
    position = {run.run_id: i for i, run in enumerate(plan.runs)}
    assert all(position[t] < position[r.run_id] for r in students for t in r.teachers)
    cells = [(cell.arm, cell.seed) for cell in plan.cells]
    assert len(cells) == len(set(cells)) == 6
    assert len(plan.runs) == 6


def test_a_failed_member_of_an_ensemble_leaves_its_student_undone(corner, tmp_path, monkeypatch):
    plan = make_plan(study(corner, distillation={"teacher_seeds": [1, 2]}))
    store = Store(tmp_path / "out")
    store.prepare()
    second = next(r for r in plan.runs if r.seed == 2)
    folder = store.folder(second.run_id)
    folder.mkdir(parents=True)
    (folder / "spec.json").mkdir()  # cannot be written: the run fails
    status = run_plan(plan, store, EngineOptions(workers=1, threads=1))
    assert status[second.run_id] == "failed"
    assert status[next(r.run_id for r in plan.runs if r.role == "student")] == "skipped"


@pytest.fixture(scope="module")
def answers(corner, tmp_path_factory):
    """What an annotator says of every train text, of half of the report texts and of no other."""
    run = make_plan(study(corner)).runs[0]
    data = load_task(run.task, run.data)
    held = data.reports["report"].take(np.arange(0, 60))
    texts = [*data.train.texts[0], *held.texts[0]]
    truth = np.concatenate([data.train.labels, held.labels])
    rng = np.random.default_rng(0)
    wrong = rng.random(len(truth)) < 0.05
    positive = np.where(wrong, 1 - truth, truth) * 0.8 + 0.1
    path = tmp_path_factory.mktemp("answers") / "answers.csv"
    write_csv(path, review=texts, pos=positive.tolist(), neg=(1 - positive).tolist())
    return path, data, held, wrong


def test_a_file_teaches(corner, answers, tmp_path):
    path, _, held, wrong = answers
    pair = {"name": "file", "student": corner.student}
    pair |= {"teacher_outputs": {"file": str(path), "kind": "probabilities"}}
    made = study(corner, pairs=[pair], arms=["teacher/fft", "student/kd-lora"])
    frame = finished(corner, made, tmp_path / "out").set_index("arm")
    assert list(frame.index) == ["teacher/given", "student/kd-lora"]
    teacher, student = frame.loc["teacher/given"], frame.loc["student/kd-lora"]
    assert teacher["n_report"] == 60
    assert teacher["n_selection"] == 0
    assert teacher["report.accuracy"] == pytest.approx(1 - wrong[-60:].mean())
    assert teacher["teacher"] == "answers.csv"
    assert student["score"] > 0.75
    assert student["n_report"] == 120
    assert np.isnan(student.get("speedup_latency", np.nan))
    store = Store(tmp_path / "out")
    outputs, _ = read_predictions(store.folder(teacher["run_id"])).by_split()
    np.testing.assert_allclose(log_softmax(outputs["report"], axis=1).max(), np.log(0.9), rtol=1e-5)
    # agreement is measured on the report rows that the file holds
    predictions = read_predictions(store.folder(student["run_id"])).frame
    report = predictions[predictions["split"] == "report"].set_index("example_id")
    rows = report.loc[held.ids]["logits"]
    same = [np.argmax(a) == np.argmax(b) for a, b in zip(rows, outputs["report"], strict=True)]
    assert student["agreement"] == pytest.approx(np.mean(same))


def test_rows_of_which_a_file_says_nothing_are_taught_by_their_label(corner, answers, tmp_path):
    path, data, *_ = answers
    lines = path.read_text().splitlines()
    short = tmp_path / "short.csv"
    short.write_text("\n".join([lines[0], *lines[101:]]) + "\n")  # train rows come first
    extra = write_csv(tmp_path / "extra.csv", review=["the film was nice", "a dull dull book"])
    pair = {"name": "file", "student": corner.student}
    pair |= {"teacher_outputs": {"file": str(short), "kind": "probabilities"}}
    notes: list[str] = []
    result = kdlora.run(
        study(corner, pairs=[pair], unlabelled={"moods": str(extra)}),
        out=share_costs(corner, tmp_path / "out"),
        threads=1,
        on_note=notes.append,
    )
    assert set(result.status.values()) == {"done"}
    frame = result.frame.set_index("arm")
    teaching = Store(tmp_path / "out").read(frame.loc["student/kd-lora", "run_id"]).facts.teaching
    assert teaching.unlabelled == {"used": 0, "without_an_answer": 2}
    lost = set(data.train.texts[0]) - {line.partition(",")[0] for line in lines[101:]}
    gone = sum(text in lost for text in data.train.texts[0])
    assert teaching.taught_by_label == gone > 80
    assert frame.loc["student/kd-lora", "score"] > 0.75
    said = f"says nothing of {gone + 2} of {len(data.train) + 2} rows to learn from"
    assert any(said in note for note in notes)


@pytest.mark.parametrize("door", [kdlora.plan, kdlora.run])
def test_a_file_of_other_texts_is_refused_before_anything_runs(corner, tmp_path, door, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = write_csv(tmp_path / "other.csv", review=["something else"], pos=[1], neg=[0])
    pair = {"name": "file", "student": corner.student}
    pair |= {"teacher_outputs": {"file": str(other), "kind": "probabilities"}}
    with pytest.raises(InputError, match=r"answers none of the 5\d\d rows .* word for word"):
        door(study(corner, pairs=[pair]))
    assert [path.name for path in tmp_path.iterdir()] == ["other.csv"]


def test_names_of_classes_teach_as_sure_as_gold_labels_say(corner, answers, tmp_path):
    """Half of what it calls good is bad; what it calls bad is bad."""
    _, data, *_ = answers
    rng = np.random.default_rng(0)

    def said(part) -> list[str]:
        doubtful = (part.labels == 0) & (rng.random(len(part)) < 0.4)
        return [("neg", "pos")[label or int(wrong)] for label, wrong in
                zip(part.labels.tolist(), doubtful, strict=True)]  # fmt: skip

    parts = [data.train, data.selection, data.reports["report"]]
    texts = [text for part in parts for text in part.texts[0]]
    columns = {"review": [*texts, "no idea"], "verdict": [a for p in parts for a in said(p)]}
    columns["verdict"].append("I cannot tell")
    path = write_csv(tmp_path / "answers.csv", **columns)
    outputs = {"file": str(path), "kind": "labels", "label": "verdict"}
    pair = {"name": "file", "student": corner.student, "teacher_outputs": outputs}
    frame = finished(corner, study(corner, pairs=[pair]), tmp_path / "out").set_index("arm")
    store = Store(tmp_path / "out")
    facts = store.read(frame.loc["teacher/given", "run_id"]).facts
    told, found = facts.teacher_file, facts.calibration
    assert told.left_out == {"that name no class": 1}
    assert told.no_class == {"I cannot tell": 1}
    assert (found.method, found.n) == ("answers", len(data.selection))
    negative, positive = found.given_answer
    assert negative[0] > 0.9 > positive[1]
    predicted = read_predictions(store.folder(frame.loc["teacher/given", "run_id"])).by_split()[0]
    shares = {tuple(np.round(np.exp(row), 4)) for row in predicted["report"].tolist()}
    assert shares == {tuple(np.round(row, 4)) for row in found.given_answer}
    # and what the student learnt from is what its teacher's record holds
    assert frame.loc["student/kd-lora", "teacher_score"] == pytest.approx(
        frame.loc["teacher/given", "score"]
    )


def test_answers_alone_make_a_student_of_texts_without_labels(corner, tmp_path):
    """The most common case: a language model's answers, and some labels to hold them against."""
    texts, moods = sentences(900, 31)
    rng = np.random.default_rng(2)
    said = [mood if rng.random() < 0.9 else "cannot tell" for mood in moods]
    write_csv(tmp_path / "texts.csv", review=texts[:600])
    write_csv(tmp_path / "gold.csv", review=texts[600:], mood=moods[600:])
    write_csv(tmp_path / "answers.csv", review=texts, mood=said)
    result = kdlora.distil(
        train=tmp_path / "texts.csv", eval=tmp_path / "gold.csv", text="review", label="mood",
        teacher_outputs=tmp_path / "answers.csv", student=corner.student,
        out=share_costs(corner, tmp_path / "out"), epochs=4, batch_size=24, lr=1e-2,
        max_length=32, threads=1,
    )  # fmt: skip
    assert set(result.status.values()) == {"done"}
    frame = result.frame.set_index("arm")
    student = frame.loc["student/kd-lora"]
    assert student["score"] > 0.8
    assert student["n_train"] == 0
    record = Store(tmp_path / "out").read(student["run_id"])
    lost = said[:600].count("cannot tell")
    assert record.facts.teaching.unlabelled["without_an_answer"] >= lost - 5  # some texts repeat
    assert record.facts.teaching.unlabelled["used"] <= 600 - lost
    assert kdlora.predict(result.student, ["a good great film"])[0]["label"] == "pos"


def test_tokenizers_that_differ_are_refused_before_anything_runs(corner, tmp_path):
    other = save_tiny_encoder(tmp_path / "other", "bert", seed=7)
    path = tmp_path / "other" / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"film":', '"filmx":'), encoding="utf-8")
    pair = {"name": "p", "teacher": other.path, "student": corner.student}
    for signals in ({"hidden": 1.0}, {"relations": 1.0}):
        with pytest.raises(InputError, match=r"tokenizers of student .* differ on \d+ of \d+ text"):
            kdlora.run(
                study(corner, pairs=[pair], distillation={"signals": signals}),
                out=tmp_path / "out",
            )
    kdlora.plan(study(corner, pairs=[pair]))  # logits need no shared tokenizer


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        ({"hidden": {"layers": {2: 1}}}, "student layer 2: the distilbert encoder has 1"),
        ({"hidden": {"layers": {1: 9}}}, "teacher layer 9: the bert encoder has 2"),
        ({"relations": {"heads": 5}}, "relations.heads: 5 does not divide the widths 32 and 32"),
    ],
)
def test_layers_and_heads_that_are_not_there_are_refused_early(corner, tmp_path, signals, message):
    with pytest.raises(InputError, match=message):
        kdlora.run(study(corner, distillation={"signals": signals}), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_study_file_tells_is_refused_when_planning():
    values = {"name": "s", "tasks": ["stsb"], "seeds": [1, 2]}
    pair = {"name": "p", "teacher": "big", "student": "small"}
    trained = {**pair, "teacher_is_trained": True}

    def problem(**changes) -> str:
        with pytest.raises(InputError) as caught:
            make_plan(make_study({**values, "pairs": [pair], **changes}))
        return str(caught.value)

    assert "signal 'dist' compares class" in problem(distillation={"signals": {"dist": 1.0}})
    variations = {"x": {"arm": "student/kd-lora", "distillation": {"signals": {"dkd": 1}}}}
    assert "student/kd-lora[x] on task 'stsb': signal 'dkd'" in problem(variations=variations)
    kd = {"distillation": {"teacher_seeds": "all"}}
    assert "the one of pair 'p' is not trained here" in problem(pairs=[trained], **kd)
    assert "no task 'rte' in this study" in problem(unlabelled={"rte": "x.csv"})
    assert "task 'stsb', unlabelled: no file at" in problem(unlabelled={"stsb": "nowhere.csv"})
    source = {"file": "x.csv", "text": ["one"]}
    assert "1 text columns (one) where the task has 2" in problem(unlabelled={"stsb": source})
    outputs = {"name": "p", "student": "small"}
    outputs["teacher_outputs"] = {"file": "{task}.csv", "kind": "logits", "id": "key"}
    text = problem(pairs=[outputs], distillation={"signals": {"hidden": 1.0}})
    for part in ("hidden need the teacher's inner states", "stsb.csv", "kind 'logits' of a regr",
                 "needs a task with an id column"):  # fmt: skip
        assert part in text


def test_few_labels_the_rest_without_theirs_and_a_control_of_as_many_steps(corner, tmp_path):
    rates = {"fft": 3e-3, "peft": 1e-2, "head": 2e-2}
    made = study(
        corner,
        arms=["teacher/fft", "student/fft", "student/lora", "student/kd-lora"],
        training={"epochs": 2, "min_steps": 20, "batch_size": 16, "dropout": 0.0,
                  "max_length": 32, "precision": "fp32", "lr": rates},
        data={"max_train": 64, "selection_min": 40},
        unlabelled={"moods": "rest"},
        variations={"equal-steps": {"arm": "student/lora", "training": {"count_texts": True}}},
    )  # fmt: skip
    plan, _, found = done(corner, made, tmp_path)
    records = {record.run.title: record for record in found.values()}
    taught = records["student/kd-lora"]
    used = taught.facts.teaching.unlabelled["used"]
    data = load_task(plan.runs[0].task, plan.runs[0].data)
    assert 300 < used <= len(data.rest)
    assert not set(data.rest.ids) & {*data.train.ids, *data.selection.ids}
    alone = records["student/lora"].facts
    assert (alone.steps, alone.planned_epochs) == (20, 5.0)  # 4 steps an epoch, at least 20
    control = records["student/lora[equal-steps]"].facts
    assert control.steps == taught.facts.steps == 2 * -(-(64 + used) // 16)
    assert records["student/lora[equal-steps]"].quality.n["train"] == 64
    assert "classifier" in " ".join(records["student/fft"].facts.new_modules)
    assert records["student/fft"].run.head_lr == 2e-2
