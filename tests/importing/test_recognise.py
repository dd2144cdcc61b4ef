"""What is understood without a mapping: tables of papers, exports of trackers, folders of JSON."""

from __future__ import annotations

import json
import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.errors import InputError
from kdlora.importing.names import arm_named, family_of, metric_named, task_named
from kdlora.importing.results import Imported, import_results, read_results
from kdlora.records.imported import load_imported
from kdlora.records.tidy import StudyFrame
from kdlora.vocabulary.arm import every_plain_arm


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def cells(imported: Imported) -> dict[tuple[str, str], float]:
    rows = imported.frame.itertuples()
    return {(str(r.task), str(r.arm)): r.score for r in rows if r.score == r.score}


LATEX = r"""
\begin{table}[t] % 90 \% of it
\begin{tabular}{l|cc*{2}{c}|c}
\toprule
Method & CoLA & SST-2 & \multicolumn{2}{c|}{MNLI} & Avg \\
       & (MCC) & (Acc) & m & mm & \\
\midrule
FFT & 57.7 & \textbf{92.7} & 84.5$_{\pm 0.2}$ & 84.9 & 80.1 \\
LoRA (r=8) & $56.9 \pm 0.4$ & \underline{92.1} & 83.4 & -- & 79.0 \\
KD-LoRA \textit{(ours)} & 56.3 & 91.9 & 82.0 & 82.4 & 78.0 \\ \bottomrule
\end{tabular}
\end{table}
"""


def test_a_latex_table_of_methods_by_tasks(tmp_path):
    imported = read_results(write(tmp_path, "t.tex", LATEX))
    found = cells(imported)
    assert found["cola", "teacher/lora"] == 0.569
    assert found["sst2", "teacher/fft"] == 0.927
    assert found["mnli", "teacher/fft"] == 0.845
    assert found["mnli-mismatched", "student/kd-lora"] == 0.824
    assert len(found) == 11
    frame = imported.frame.set_index(["task", "arm"])
    assert frame.loc[("mnli-mismatched", "teacher/lora"), "status"] == "missing"
    assert frame.loc[("cola", "teacher/fft"), "metric"] == "matthews"
    assert frame.loc[("cola", "teacher/lora"), "score.as_written"].startswith("56.9 ")
    told = "\n".join(imported.problems)
    assert "'LoRA (r=8)' is teacher/lora" in told
    assert "mnli accuracy" in told  # the head says what CoLA and SST-2 are scored by


def test_a_markdown_table_with_encoders_and_ranks_them_by_family(tmp_path):
    text = (
        "# Results\n\n| Model | Method | RTE | MRPC (F1) |\n|---|:-:|--:|---|\n"
        "| BERT-base | FFT | **70.1 ± 0.5** | 89.0 |\n"
        "| DistilBERT | KD-LoRA | 60.2 (1.1) | 87.5 |\n"
    )
    imported = read_results(write(tmp_path, "README.md", text))
    assert cells(imported)["mrpc", "student/kd-lora"] == 0.875
    assert set(imported.frame["pair"]) == {"bert"}
    assert set(imported.frame.loc[imported.frame["task"] == "mrpc", "metric"]) == {"f1"}
    assert any("pair: assumed" in note for note in imported.problems)


def test_a_table_of_tasks_by_methods_and_its_average_is_no_run(tmp_path):
    text = (
        "Task;FFT;LoRA;KD-LoRA\nRTE;70,1;67,0;60,2\nSST-2;92,7;92,1;91,9\nAverage;81,4;79,6;76,1\n"
    )
    imported = read_results(write(tmp_path, "t.csv", text))
    assert cells(imported)["rte", "student/kd-lora"] == 0.602
    assert len(imported.frame) == 6
    assert imported.aggregates["score"].tolist() == [81.4, 79.6, 76.1]  # of no metric


SPREADSHEET = (
    "Task;Method;Seed;Accuracy (%);Training time (min);Trainable params (M)\n"
    "RTE;FFT;1;71,5;1,5;109,48\nRTE;LoRA;1;66,1;2,25;0,296\nRTE;KD-LoRA;1;0,65;1.234,5;0,148\n"
)


def test_a_spreadsheet_with_decimal_commas_and_units_in_its_head(tmp_path):
    imported = read_results(write(tmp_path, "lab.csv", SPREADSHEET))
    assert imported.frame["train_s"].tolist() == [90.0, 135.0, 74070.0]
    assert imported.frame["trainable_params"].tolist() == [109_480_000, 296_000, 148_000]
    assert imported.frame["score"].tolist()[:2] == [0.715, 0.661]


def test_a_fraction_among_per_cents_is_in_no_mean_and_named(tmp_path):
    path = write(tmp_path, "lab.csv", SPREADSHEET)
    folder, imported = import_results(path, study="lab", results=tmp_path)
    assert any("'0,65' among per cents" in note for note in imported.problems)
    frame = load_imported(folder)
    assert [bool(flags) for flags in frame["flags"]] == [False, False, True]
    table = StudyFrame.of(frame).table.set_index("arm")
    assert table["score"].notna().to_dict() == {
        "teacher/fft": True, "teacher/lora": True, "student/kd-lora": False,
    }  # fmt: skip
    assert table.loc["student/kd-lora", "as_given.score"] == 0.0065


@pytest.mark.parametrize("name", ["comma", "semicolon", "tab", "bar"])
def test_separators_are_seen(tmp_path, name):
    by = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}[name]
    rows = [
        ["task", "method", "seed", "accuracy"],
        ["rte", "fft", "1", "0.7"],
        ["rte", "lora", "1", "0.6"],
    ]
    path = write(tmp_path, "a.csv", "\n".join(by.join(row) for row in rows) + "\n")
    assert cells(read_results(path)) == {("rte", "teacher/fft"): 0.7, ("rte", "teacher/lora"): 0.6}


WANDB = (
    '"Name","State","Created","Runtime","task_name","method","seed","lora_r","eval/accuracy",'
    '"train/loss"\n'
    '"sun","finished","2024-05-01","120","rte","lora","1","8","0.66","0.5"\n'
    '"moon","crashed","2024-05-01","20","rte","kd-lora","1","8","",""\n'
)


def test_an_export_of_wandb_with_a_crashed_run(tmp_path):
    imported = read_results(write(tmp_path, "wandb.csv", WANDB))
    assert imported.mapping.name == "wandb"
    assert imported.frame["status"].tolist() == ["done", "failed"]
    assert imported.frame["rank"].tolist() == [8, 8]
    assert cells(imported) == {("rte", "teacher/lora"): 0.66}


def test_dictionaries_of_the_api_of_wandb(tmp_path):
    text = (
        ",summary,config,name\n"
        "0,\"{'eval/accuracy': 0.66, 'x': nan}\",\"{'task_name': 'rte', 'peft': 'lora'}\",a\n"
        "1,\"{'eval/accuracy': 0.71}\",\"{'task_name': 'rte', 'method': 'fft'}\",b\n"
    )
    assert cells(read_results(write(tmp_path, "w.csv", text))) == {
        ("rte", "teacher/lora"): 0.66, ("rte", "teacher/fft"): 0.71,
    }  # fmt: skip


def test_exports_of_mlflow_from_python_and_from_the_page(tmp_path):
    api = (
        "run_id,status,metrics.eval_accuracy,params.seed,params.task_name,params.strategy,params.peft\n"
        "a,FINISHED,0.66,1,rte,lora,dora\nb,FAILED,,1,rte,kd-lora,dora\n"
    )
    imported = read_results(write(tmp_path, "api.csv", api))
    assert imported.mapping.name == "mlflow"
    assert imported.frame["arm"].tolist() == ["teacher/dora", "student/kd-dora"]
    assert imported.frame["status"].tolist() == ["done", "failed"]
    page = "Start Time,Run ID,Status,method,task,accuracy\n2024,a,FINISHED,LoRA,mrpc,0.84\n"
    assert cells(read_results(write(tmp_path, "page.csv", page))) == {
        ("mrpc", "teacher/lora"): 0.84
    }


HARNESS = {
    "results": {
        "rte": {"alias": "rte", "acc,none": 0.71, "acc_stderr,none": 0.02},
        "cola": {"mcc,none": 0.5, "mcc_stderr,none": "N/A"},
        "glue": {"acc,none": 0.6},
    },
    "group_subtasks": {"glue": ["rte", "cola"], "rte": []},
    "configs": {},
    "n-samples": {"rte": {"original": 277, "effective": 277}},
    "config": {"model_args": "pretrained=org/bert,peft=x/y", "random_seed": 0},
    "model_name": "org/bert",
}


def test_results_of_lm_evaluation_harness_in_a_file_and_in_a_folder(tmp_path):
    path = write(tmp_path, "out/org__bert/results_2024-01-01T10.json", json.dumps(HARNESS))
    for source in (path, tmp_path / "out"):
        imported = read_results(source)
        assert cells(imported) == {("rte", "teacher/lora"): 0.71, ("cola", "teacher/lora"): 0.5}
        assert imported.frame["metric"].tolist() == ["accuracy", "matthews"]
        assert imported.frame["n_report"].tolist()[0] == 277


@pytest.mark.parametrize(
    ("models", "arms", "pairs"),
    [
        (["org/one", "org/two"], ["teacher/given[one]", "teacher/given[two]"], ["models"]),
        (["a/one", "b/one"], ["teacher/given[a-one]", "teacher/given[b-one]"], ["models"]),
        (["bert-fft", "bert-lora"], ["teacher/fft", "teacher/lora"], ["models"]),
        (["bert-lora", "distilbert-lora"], ["teacher/lora", "student/lora"], ["models"]),
        (["bert", "distilbert"], ["teacher/given[bert]", "teacher/given[distilbert]"], ["models"]),
        (["x/bert-fft", "x/roberta-fft"], ["teacher/fft", "teacher/fft"], ["bert", "roberta"]),
        (["my-roberta", "bert-fft", "my-bert"], ["teacher/given", "teacher/fft", "teacher/given"],
         ["roberta", "bert"]),
    ],
)  # fmt: skip
def test_models_of_lm_evaluation_harness_are_compared_and_not_averaged(
    tmp_path, models, arms, pairs
):
    """One pair a model would leave nothing to compare; one arm for all would be their mean."""
    for number, name in enumerate(models):
        scores = {task: {"acc,none": 0.5 + number / 10} for task in ("rte", "boolq")}
        values = HARNESS | {"results": scores, "model_name": name, "config": {}}
        write(tmp_path, f"out/{number}/results_1.json", json.dumps(values))
    frame = read_results(tmp_path / "out").frame
    told = dict(zip(frame["encoder"], frame["arm"], strict=True))
    assert [told[name] for name in models] == arms
    assert [*dict.fromkeys(frame["pair"])] == pairs
    assert not frame.duplicated(["pair", "task", "arm"]).any()
    assert cells(read_results(tmp_path / "out" / "0")) == {
        ("rte", arms[0].partition("[")[0]): 0.5, ("boolq", arms[0].partition("[")[0]): 0.5,
    }  # fmt: skip


def trainer_folder(folder: Path) -> Path:
    state = {
        "log_history": [
            {"eval_accuracy": 0.6, "step": 5},
            {"loss": 0.1},
            {"eval_accuracy": 0.7, "step": 10},
            {"eval_accuracy": 0.65, "step": 15},
        ],
        "best_global_step": 10,
    }
    for run in ("rte-fft-seed1", "rte-lora-seed1", "kd/rte-lora-seed1"):
        result = {"epoch": 3.0, "eval_accuracy": 0.65, "train_runtime": 12.5}
        write(folder, f"{run}/all_results.json", json.dumps(result))
        write(folder, f"{run}/eval_results.json", json.dumps({"eval_accuracy": 0.1}))
        write(folder, f"{run}/trainer_state.json", json.dumps(state))
        write(folder, f"{run}/checkpoint-15/trainer_state.json", json.dumps(state))
    adapter = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_dora": True}
    write(folder, "rte-lora-seed1/adapter_config.json", json.dumps(adapter))
    write(folder, "sst2-fft-seed2/trainer_state.json", json.dumps(state))
    write(folder, "qnli-fft-s3/checkpoint-5/trainer_state.json", json.dumps(state))
    write(folder, "qnli-fft-s3/checkpoint-15/trainer_state.json", json.dumps(state))
    return folder


def test_a_folder_of_the_trainer_says_by_names_and_configs_what_its_runs_are(tmp_path):
    imported = read_results(trainer_folder(tmp_path / "out"))
    assert cells(imported) == {
        ("rte", "teacher/fft"): 0.65, ("rte", "teacher/dora"): 0.65,
        ("rte", "student/kd-lora"): 0.65, ("sst2", "teacher/fft"): 0.7,
        ("qnli", "teacher/fft"): 0.7,
    }  # fmt: skip
    frame = imported.frame.set_index(["task", "arm"])
    assert frame.loc[("rte", "teacher/dora"), "rank"] == 8
    assert frame.loc[("rte", "teacher/fft"), "epoch_scores"] == (0.6, 0.7, 0.65)
    assert frame.loc[("qnli", "teacher/fft"), "seed"] == 3
    assert any("assumed by path" in note for note in imported.problems)


def test_patterns_of_names_find_several_runs_in_a_folder(tmp_path):
    for seed in (1, 2):
        values = {"task": "rte", "arm": "teacher/lora", "seed": seed, "acc": 0.6 + seed / 100}
        write(tmp_path, f"out/results_{seed}.json", json.dumps(values))
    mapping = write(
        tmp_path, "m.yaml",
        "name: own\nfiles: ['results_*.json']\narm: arm\n"
        "columns: {task: task, seed: seed, report.accuracy: acc}\n",
    )  # fmt: skip
    frame = read_results(tmp_path / "out", mapping).frame
    assert frame["score"].tolist() == [0.61, 0.62]


def test_an_arm_of_two_columns_and_a_state_that_failed(tmp_path):
    path = write(
        tmp_path, "a.csv",
        "data,how,r,acc,end\nrte,KD,8,0.6,ok\nrte,KD,16,0.61,ok\nrte,FT,,0.7,ok\nrte,FT,,,oom!\n",
    )  # fmt: skip
    text = (
        "name: own\ncolumns:\n  task: data\n  report.accuracy: acc\n"
        "  status: {from: end, values: {ok: done, 'oom!': failed}}\n"
        "arm:\n  from: [how, r]\n  join: '/'\n"
        "  values: {KD/8: student/kd-lora, KD/16: 'student/kd-lora[rank 16]', FT: teacher/fft}\n"
    )
    imported = read_results(path, write(tmp_path, "m.yaml", text))
    assert imported.frame["arm"].tolist() == [
        "student/kd-lora", "student/kd-lora[rank 16]", "teacher/fft", "teacher/fft",
    ]  # fmt: skip
    assert imported.frame["status"].tolist() == ["done", "done", "done", "failed"]
    assert not any(imported.frame["flags"])
    quoting = text.replace("  join: '/'\n", "").replace("[how, r]", "how")
    quoting = quoting.replace("KD/8: student/kd-lora, KD/16: 'student/kd-lora[rank 16]'",
                              "KD: 'student/kd-lora[rank {r}]'")  # fmt: skip
    imported = read_results(path, write(tmp_path, "q.yaml", quoting))
    assert imported.frame["arm"].tolist()[:2] == [
        "student/kd-lora[rank 8]", "student/kd-lora[rank 16]",
    ]  # fmt: skip
    broken = text.replace("ok: done, ", "").replace("FT: teacher/fft", "FT: fft")
    with pytest.raises(InputError) as error:
        read_results(path, write(tmp_path, "b.yaml", broken))
    assert len(error.value.problems) == 2
    assert "'ok' is no state" in str(error.value)
    assert "which arm these are: 'fft'" in str(error.value)


def test_arms_that_no_name_tells_are_asked_for(tmp_path):
    path = write(tmp_path, "a.csv", "task,method,accuracy\nrte,proposal A,0.6\nrte,LoRA,0.5\n")
    with pytest.raises(InputError, match=r"which arms are these: 'proposal A'\? A mapping"):
        read_results(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tex", "no table", "holds 0 tables"),
        ("a.tex", LATEX + LATEX, "holds 2 tables"),
        ("a.md", "| a | b |\n|---|---|\n| 1 | 2 | 3 |\n", "row 1 of the table has 3 cells"),
        ("a.db", "no database", "no readable database of MLflow"),
        ("a.json", "[" * 3000 + "]" * 3000, "no readable table"),
        ("a.json", "false", "expected a list of objects"),
    ],
)
def test_what_cannot_be_understood_is_said(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message):
        read_results(write(tmp_path, name, text))


@given(st.text(max_size=40))
def test_names_of_anything_never_raise(text):
    for read in (arm_named, task_named, metric_named, family_of):
        read(text)


def test_every_arm_that_a_study_may_list_is_read_as_itself():
    assert {"teacher/fft", "student/kd-lora"} <= {str(arm) for arm in every_plain_arm()}
    for arm in every_plain_arm():
        assert arm_named(str(arm)) == str(arm)


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("FFT", "teacher/fft"),
        ("Full fine-tuning", "teacher/fft"),
        ("Fine-tuned", "teacher/fft"),
        ("LoRA", "teacher/lora"),
        ("KD-LoRA (ours)", "student/kd-lora"),
        ("Student LoRA", "student/lora"),
        ("distilled DoRA", "student/kd-dora"),
        ("lora adalora", "teacher/adalora"),
        ("rs-LoRA", "teacher/rslora"),
        ("lora mrlora-rs", "teacher/mrlora-rs"),
        ("KD", "student/kd-fft"),
        ("TF-IDF + SVM", "baseline/tfidf"),
        ("DistilBERT", None),
        ("LoRA vs DoRA vs OLoRA", None),
    ],
)
def test_methods_as_papers_call_them(text, arm):
    assert arm_named(text) == arm


@given(st.binary(max_size=200), st.sampled_from([".csv", ".json", ".tex", ".md", ".db", ".jsonl"]))
def test_no_bytes_raise_anything_but_an_input_error(tmp_path_factory, content, ending):
    path = tmp_path_factory.mktemp("any") / f"a{ending}"
    path.write_bytes(content)
    with suppress(InputError):
        read_results(path)


def test_a_database_of_another_program_is_refused(tmp_path):
    path = tmp_path / "a.db"
    sqlite3.connect(path).execute("CREATE TABLE runs (x)").connection.close()
    with pytest.raises(InputError, match="no readable database of MLflow"):
        read_results(path)


def arms_of(imported) -> dict[str, float]:
    """Arm and pair of the runs of one task -> score."""
    frame = imported.frame
    pairs = frame["pair"] if "pair" in frame else [""] * len(frame)
    return dict(zip(zip(frame["arm"], pairs, strict=True), frame["score"], strict=True))


def test_a_method_on_the_compressed_encoder_is_the_students_and_families_are_pairs(tmp_path):
    wide = "Method,SST-2,RTE\nBERT LoRA,92.1,70.5\nDistilBERT LoRA,90.1,60.5\n"
    frame = read_results(write(tmp_path, "w.csv", wide)).frame
    assert frame["arm"].tolist() == ["teacher/lora", "student/lora"] * 2
    families = "Method,SST-2,RTE\nBERT FFT,92.7,71.5\nRoBERTa FFT,94.1,75.0\n"
    frame = read_results(write(tmp_path, "f.csv", families)).frame
    assert frame["pair"].tolist() == ["bert", "roberta"] * 2
    long = (
        "model,task,method,seed,acc\nbert-base-uncased,sst2,LoRA,1,0.91\n"
        "distilbert-base-uncased,sst2,LoRA,1,0.89\n"
    )
    assert arms_of(read_results(write(tmp_path, "l.csv", long))) == {
        ("teacher/lora", "bert"): 0.91, ("student/lora", "bert"): 0.89,
    }  # fmt: skip
    for other, arm in (("DistilBERT LoRA", "student/lora"), ("TinyBERT by KD", "student/kd-fft")):
        across = f"Task,BERT LoRA,{other}\nRTE,70.1,61.0\nSST-2,92.7,90.1\n"
        frame = read_results(write(tmp_path, "a.csv", across)).frame
        assert frame["arm"].tolist() == ["teacher/lora", "teacher/lora", arm, arm]


def test_a_folder_tells_students_by_their_encoders_and_scores_by_patterns(tmp_path):
    for encoder, score in (("bert-base", 0.7), ("distilbert", 0.6)):
        text = json.dumps({"eval_accuracy": score})
        write(tmp_path, f"out/rte_{encoder}_lora_seed1/all_results.json", text)
        write(tmp_path, f"flat/results_rte_{encoder}_lora_seed1.json", text)
    for folder in ("out", "flat"):
        found = cells(read_results(tmp_path / folder))
        assert found == {("rte", "teacher/lora"): 0.7, ("rte", "student/lora"): 0.6}


def test_different_methods_are_never_read_as_one(tmp_path):
    wide = "Method,SST-2,RTE\nLoRA (r=8),92.1,70.5\nLoRA (r=16),92.3,70.9\n"
    long = "task,method,seed,acc\nrte,LoRA (r=8),1,0.705\nrte,LoRA (r=16),1,0.709\n"
    across = "Task,LoRA (r=8),LoRA (r=16)\nRTE,70.5,70.9\nSST-2,92.1,92.3\n"
    for name, text in (("w.csv", wide), ("l.csv", long), ("a.csv", across)):
        with pytest.raises(InputError, match=r"'LoRA \(r=8\)' and 'LoRA \(r=16\)' as teacher/lora"):
            read_results(write(tmp_path, name, text))
    ranks = "task,method,rank,seed,acc\nrte,LoRA 8,8,1,0.705\nrte,LoRA 16,16,1,0.709\n"
    assert (
        len(read_results(write(tmp_path, "r.csv", ranks)).frame) == 2
    )  # the rank tells them apart


@pytest.mark.parametrize(
    ("cell", "state"),
    [("-", "missing"), ("n/a", "missing"), ("OOM", "failed"), ("out of memory", "failed")],
)
def test_a_cell_without_a_score_says_how_its_run_ended(tmp_path, cell, state):
    text = f"task,method,seed,acc\nrte,FFT,1,71.5\nrte,LoRA,1,{cell}\n"
    imported = read_results(write(tmp_path, "s.csv", text))
    assert imported.frame["status"].tolist() == ["done", state]
    assert not any("although" in note or "not a number" in note for note in imported.problems)
    assert f"status: 1 row {state}; in no mean" in imported.problems
    told = "task,method,seed,state,acc\nrte,FFT,1,finished,0.7\nrte,LoRA,1,finished,\n"
    accuracy_of_cola = "task,method,seed,acc\nrte,FFT,1,0.7\ncola,FFT,1,0.8\n"
    for text in (told, accuracy_of_cola):
        notes = read_results(write(tmp_path, "t.csv", text)).problems
        assert any("has no score although it is done" in note for note in notes)
