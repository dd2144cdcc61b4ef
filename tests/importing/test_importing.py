"""Foreign results in the tidy frame: units, provenance, impossible values, clear errors."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.errors import InputError
from kdlora.evidence.scores import usable_runs
from kdlora.importing.mapping import Mapping, built_in, built_in_names, read_mapping
from kdlora.importing.numbers import to_numbers
from kdlora.importing.read import ROW, read_table
from kdlora.importing.results import import_results, read_results
from kdlora.records.imported import load_imported, read_provenance, write_imported
from kdlora.records.plausible import as_fractions
from kdlora.report.words import scale_of
from kdlora.vocabulary.metric import METRICS

OWN = """
name: lab
columns:
  task: dataset
  pair: family
  seed: seed
  score: {from: acc, unit: percent}
  metric: {from: measure, values: {acc: accuracy}}
  trainable_params: {from: params_M, unit: M}
  peak_memory_mb: {from: memory, unit: MB}
  train_s: {from: minutes, unit: min}
arm: {from: method, values: {FT: teacher/fft, "*": "student/kd-{method}"}}
set: {precision: fp32}
"""


@pytest.fixture
def lab(tmp_path: Path) -> tuple[Path, Path]:
    """A CSV of somebody's results and the mapping that explains it."""
    table = pd.DataFrame(
        {
            "dataset": ["rte", "rte", "rte"],
            "family": ["bert"] * 3,
            "seed": [1, 1, 2],
            "acc": ["71.5 %", "66.1", "65.0"],
            "measure": ["acc"] * 3,
            "params_M": [109.483778, 0.29645, 0.29645],
            "memory": ["1.5 GB", "463.5MB", "463500000 B"],
            "minutes": [2.0, 1.0, 0.5],
            "method": ["FT", "lora", "lora"],
            "our note": ["a", "b", "c"],
        }
    )
    table.to_csv(tmp_path / "lab.csv", index=False)
    (tmp_path / "lab.yaml").write_text(OWN, encoding="utf-8")
    return tmp_path / "lab.csv", tmp_path / "lab.yaml"


def test_columns_units_arms_and_unknown_columns(lab):
    imported = read_results(*lab)
    frame = imported.frame
    assert frame["arm"].tolist() == ["teacher/fft", "student/kd-lora", "student/kd-lora"]
    assert frame["role"].tolist() == ["teacher", "student", "student"]
    assert frame["distillation"].tolist() == ["none", "kd", "kd"]
    assert frame["adaptation"].tolist() == ["fft", "lora", "lora"]
    assert frame["score"].tolist() == [0.715, 0.661, 0.65]
    assert frame["report.accuracy"].tolist() == [0.715, 0.661, 0.65]
    assert frame["trainable_params"].tolist() == [109483778, 296450, 296450]
    assert frame["peak_memory_mb"].tolist() == [1500.0, 463.5, 463.5]
    assert frame["train_s"].tolist() == [120.0, 60.0, 30.0]
    assert frame["direction"].tolist() == [1, 1, 1]
    assert frame["precision"].tolist() == ["fp32"] * 3
    assert frame["our note"].tolist() == ["a", "b", "c"]
    assert imported.kept == ("our note",)
    assert imported.problems == ()
    assert frame["run_id"].is_unique
    assert "row 2" in frame["source"].iloc[1]
    assert "lab.csv" in frame["source"].iloc[1]


def test_what_is_imported_is_loaded_unchanged(lab, tmp_path):
    csv, yaml = lab
    folder, imported = import_results(csv, study="theirs", results=tmp_path, mapping=yaml)
    loaded = load_imported(folder)
    assert loaded["study"].unique().tolist() == ["theirs"]
    for column in imported.frame:
        expected, got = imported.frame[column], loaded[column]
        assert got.astype(object).where(got.notna(), None).tolist() == (
            expected.astype(object).where(expected.notna(), None).tolist()
        ), column
    note = read_provenance(folder)
    import hashlib

    assert note.sha256 == hashlib.sha256(csv.read_bytes()).hexdigest()
    assert (note.source, note.rows) == ("lab.csv", 3)
    assert note.mapping["columns"]["score"]["unit"] == "percent"
    assert str(tmp_path) not in (folder / "imported.json").read_text()


def test_an_altered_or_half_written_import_is_refused(lab, tmp_path):
    csv, yaml = lab
    folder, _ = import_results(csv, study="theirs", results=tmp_path, mapping=yaml)
    with pytest.raises(InputError, match="imported already"):
        import_results(csv, study="theirs", results=tmp_path, mapping=yaml)
    import_results(csv, study="theirs", results=tmp_path, mapping=yaml, replace=True)
    frame = pd.read_parquet(folder / "imported.parquet")
    frame["score"] = 0.99
    frame.to_parquet(folder / "imported.parquet")
    with pytest.raises(InputError, match="changed after the import"):
        load_imported(folder)
    (folder / "imported.json").unlink()
    with pytest.raises(InputError, match=r"imported\.json is missing"):
        load_imported(folder)


def test_impossible_values_are_named_and_flagged_never_dropped(lab, tmp_path):
    csv, yaml = lab
    table = pd.read_csv(csv).astype(object)
    table["acc"] = ["715", "66", ""]
    table["minutes"] = [-2.0, 1.0, "soon"]
    table["params_M"] = [0.0000005, 0.29645, 0.29645]
    table.to_csv(csv, index=False)
    imported = read_results(csv, yaml)
    assert len(imported.frame) == 3
    text = "\n".join(imported.problems)
    assert "train_s: cannot be negative (1 row," in text
    assert "'soon' is not a number" in text
    assert "score: accuracy lies in [0, 1]" in text
    assert "status: 1 row missing; in no mean" in text  # its score is empty
    assert "trainable parameters" in text
    flags = imported.frame["flags"]
    assert {"impossible:score", "impossible:train_s"} <= set(flags.iloc[0])
    assert flags.iloc[1] == flags.iloc[2] == ()


def with_scores(lab, values, unit=""):
    """The lab's files with other scores, of which the mapping states `unit` or none."""
    csv, yaml = lab
    stated = f"{{from: acc, unit: {unit}}}" if unit else "{from: acc}"
    yaml.write_text(OWN.replace("{from: acc, unit: percent}", stated), encoding="utf-8")
    pd.read_csv(csv).assign(acc=values).to_csv(csv, index=False)
    return csv, yaml


def test_per_cents_become_fractions_once_by_the_range_of_their_metric_and_a_note_says_so(lab):
    imported = read_results(*with_scores(lab, [71.5, 66.1, 65.0]))
    for column in ("score", "report.accuracy"):
        assert imported.frame[column].tolist() == [0.715, 0.661, 0.65]
    (note,) = imported.problems
    assert note.startswith("score: accuracy lies in [0, 1]")
    assert "unit: percent" in note
    assert set(imported.frame["flags"]) == {()}


def test_a_stated_unit_holds_whatever_the_scores_are(lab):
    fraction = read_results(*with_scores(lab, [71.5, 66.1, 65.0], "fraction"))
    assert fraction.frame["score"].tolist() == [71.5, 66.1, 65.0]
    assert fraction.frame["report.accuracy"].tolist() == [71.5, 66.1, 65.0]
    assert set(fraction.frame["flags"]) == {("impossible:score",)}


def test_one_impossible_score_among_fractions_stays_and_is_flagged(lab):
    imported = read_results(*with_scores(lab, [0.715, 1.2, 0.65]))
    assert imported.frame["score"].tolist() == [0.715, 1.2, 0.65]
    assert [bool(flags) for flags in imported.frame["flags"]] == [False, True, False]


@pytest.mark.parametrize("name", METRICS)
def test_every_bounded_metric_is_read_as_per_cent_where_it_is_and_no_other(name):
    rng = np.random.default_rng(0)
    per_cent = pd.DataFrame({"metric": name, "score": rng.uniform(40, 90, 6)})
    found, notes = as_fractions(per_cent, {})
    bounded = np.isfinite(METRICS[name].high)
    assert found["score"].tolist() == pytest.approx(per_cent["score"] / (100 if bounded else 1))
    assert bool(notes) == bounded
    again, none = as_fractions(found, {})
    assert again["score"].tolist() == found["score"].tolist()
    assert not none
    for values in (rng.uniform(0, 1, 6), [0.5], [0.9, 0.8, 120.0], [250.0]):
        left, none = as_fractions(pd.DataFrame({"metric": name, "score": values}), {})
        assert left["score"].tolist() == list(values)
        assert not none


def test_an_import_of_old_that_kept_per_cents_is_read_as_fractions(lab, tmp_path):
    csv, yaml = with_scores(lab, [71.5, 66.1, 65.0])
    folder, imported = import_results(csv, study="old", results=tmp_path, mapping=yaml)
    as_then = imported.frame.assign(
        **{column: 100 * imported.frame[column] for column in ("score", "report.accuracy")}
    )
    as_then["flags"] = pd.Series([("impossible:score", "odd")] * 3, as_then.index, dtype=object)
    facts = read_provenance(folder).model_dump(by_alias=True)
    write_imported(folder, as_then, facts)
    loaded = load_imported(folder)
    assert loaded["score"].tolist() == [0.715, 0.661, 0.65]
    assert loaded["report.accuracy"].tolist() == [0.715, 0.661, 0.65]
    assert set(loaded["flags"]) == {("odd",)}


def test_a_study_of_per_cents_is_shown_in_one_unit_everywhere(lab, tmp_path):
    csv, yaml = with_scores(lab, [71.5, 66.1, 65.0])
    folder, _ = import_results(csv, study="theirs", results=tmp_path, mapping=yaml)
    frame = load_imported(folder)
    usable, _ = usable_runs(frame)
    assert usable["value"].tolist() == pytest.approx([71.5, 66.1, 65.0])
    assert set(usable["unit"]) == {"points"}
    scale = scale_of("accuracy")
    assert [scale.write(value) for value in frame["score"]] == ["71.5", "66.1", "65.0"]
    assert scale.unit == "points"


def test_wide_table_of_scores(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(
        "Task,X/Y FFT,X/Y LoRA,X/Y KD-LoRA\nCoLA,57.7,56.9,56.3\nScore,57.7,56.9,56.3\n"
    )
    imported = read_results(path)
    frame = imported.frame
    assert imported.mapping.name == "glue-scores"
    assert frame["score"].tolist() == [0.577, 0.569, 0.563]
    assert frame["arm"].tolist() == ["teacher/fft", "teacher/lora", "student/kd-lora"]
    assert frame["task"].unique().tolist() == ["cola"]
    assert frame["metric"].unique().tolist() == ["matthews"]
    assert imported.aggregates["score"].tolist() == [0.577, 0.569, 0.563]
    assert imported.problems == ()


def test_full_fine_tuning_repeated_under_every_rank_is_one_row(tmp_path):
    path = tmp_path / "costs.csv"
    path.write_text(
        "Model,Method,Rank 8,Rank 16,Memory Usage,Inference Time\n"
        "BERT-base,FFT,110M,110M,1332.0MB,6.10s\nBERT-base,LoRA,2.9M,5.9M,463.5MB,6.22s\n"
    )
    frame = read_results(path).frame
    fft = frame[frame["arm"] == "teacher/fft"]
    assert len(fft) == 1
    assert np.isnan(fft["rank"].iloc[0])
    lora = frame[frame["arm"] == "teacher/lora"]
    assert lora["rank"].tolist() == [8, 16]
    assert lora["trainable_params"].tolist() == [2.9e6, 5.9e6]
    assert lora["peak_memory_mb"].tolist() == [463.5, 463.5]


def test_folder_of_trainer_metrics(tmp_path):
    history = [
        {"epoch": 1.0, "eval_loss": 0.6, "eval_accuracy": 0.70, "eval_f1": 0.81, "step": 10},
        {"epoch": 1.0, "loss": 0.5},
        {"epoch": 2.0, "eval_loss": 0.5, "eval_accuracy": 0.75, "eval_f1": 0.83, "step": 20},
    ]
    for seed, accuracy in ((1, 0.75), (2, 0.70)):
        folder = tmp_path / "out" / "kd-lora" / f"task_mrpc_bert_{seed}" / "peft_dora_16_0.05_8"
        folder.mkdir(parents=True)
        values = {"eval": {"eval_accuracy": accuracy, "eval_f1": 0.8, "eval_loss": 0.5},
                  "train": {"train_runtime": 12.5, "train_samples_per_second": 800.0},
                  "total_flos": 1e15, "log_history": history, "comment": "x"}  # fmt: skip
        (folder / "metrics.json").write_text(json.dumps(values))
        (folder / "all_results.json").write_text(json.dumps({"eval_accuracy": 0.1}))
    os.mkfifo(tmp_path / "out" / "pipe.json")  # what is no file is passed over, and not waited for
    (tmp_path / "out" / "folder.json").mkdir()
    imported = read_results(tmp_path / "out")
    frame = imported.frame.sort_values("seed").reset_index(drop=True)
    assert len(frame) == 2  # metrics.json wins over all_results.json of the same run
    assert frame["arm"].unique().tolist() == ["student/kd-dora"]
    assert frame["task"].unique().tolist() == ["mrpc"]
    assert frame["seed"].tolist() == [1, 2]
    assert frame["score"].tolist() == [0.75, 0.70]
    assert frame["report.f1"].tolist() == [0.8, 0.8]
    assert frame["train_s"].tolist() == [12.5, 12.5]
    assert frame["epoch_scores"].iloc[0] == (0.70, 0.75)  # of accuracy, not of F1
    assert frame["epoch_losses"].iloc[0] == (0.6, 0.5)
    assert frame["comment"].tolist() == ["x", "x"]
    folder, _ = import_results(tmp_path / "out", study="hf", results=tmp_path)
    assert load_imported(folder)["epoch_scores"].iloc[0] == (0.70, 0.75)


def test_every_broken_file_of_a_folder_is_named(tmp_path):
    for name, text in (("a", "{"), ("b", "[1]"), ("c", '{"eval_accuracy": 1}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(text)
    with pytest.raises(InputError) as error:
        read_results(tmp_path)
    assert len(error.value.problems) == 2
    assert "a/metrics.json" in str(error.value)
    assert "b/metrics.json" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.csv", None, "there is no file"),
        ("empty.csv", "", "is empty"),
        ("head.csv", "a,b\n", "a header but no rows"),
        ("ragged.csv", "a,b\n1\n", "line 2: 1 fields found, but the header names 2 columns"),
        ("double.csv", "a,b,a \n1,2,3\n", "columns named twice: a"),
        ("odd.csv", "a,b\n1,2\n", "no known format has these columns: a, b"),
        ("twice.parquet", "no parquet", "not a readable Parquet file"),
        ("list.json", "[1, 2]", "expected a list of objects"),
        ("table.xlsx", "x", "cannot import '.xlsx'"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_results(path)


def test_pickles_are_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "boom", "x"))

    path = tmp_path / "results.pkl"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="cannot import"):
        read_results(path)
    path.rename(tmp_path / "results.parquet")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_results(tmp_path / "results.parquet")
    assert not (tmp_path / "boom").exists()


def test_a_mapping_with_several_mistakes_names_them_all(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\ncolumns: {train_s: {from: t, unit: MB, foo: 1}}\npath: '('\n")
    with pytest.raises(InputError) as error:
        read_mapping(path)
    assert "foo" in str(error.value)
    assert "regular expression" in str(error.value)
    path.write_text("name: x\ncolumns: {train_s: {from: t, unit: MB}}\n")
    with pytest.raises(InputError, match="unit 'MB' does not measure seconds"):
        read_mapping(path)
    with pytest.raises(InputError, match=r"Known: .*runs-742"):
        read_mapping(tmp_path / "absent.yaml")


def test_an_arm_that_the_mapping_does_not_explain(lab):
    csv, yaml = lab
    yaml.write_text(OWN.replace('"*": "student/kd-{method}"', "LORA: teacher/lora"))
    with pytest.raises(InputError, match="does not say which arm these are: 'lora'"):
        read_results(csv, yaml)
    yaml.write_text(OWN.replace("{method}", "{variant}"))
    with pytest.raises(InputError, match="needs the column 'variant'"):
        read_results(csv, yaml)
    yaml.write_text(OWN.replace("from: method", "from: approach"))
    with pytest.raises(InputError, match="reads 'arm' from approach"):
        read_results(csv, yaml)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_a_study_is_one_folder(lab, tmp_path, name):
    with pytest.raises(InputError, match="no name for a study"):
        import_results(lab[0], study=name, results=tmp_path, mapping=lab[1])


def test_an_own_study_is_never_overwritten(lab, tmp_path):
    (tmp_path / "mine" / "runs").mkdir(parents=True)
    with pytest.raises(InputError, match="trainings of kdlora's own"):
        import_results(lab[0], study="mine", results=tmp_path, mapping=lab[1], replace=True)


def test_all_built_in_mappings_are_valid():
    assert {built_in(name).name for name in built_in_names()} == set(built_in_names())
    with pytest.raises(InputError, match="Did you mean 'runs-742'"):
        built_in("runs-74")


@given(st.floats(0.001, 1e6), st.sampled_from([("GB", 1e3), ("MB", 1.0), ("KiB", 1.024e-3)]))
def test_a_suffix_wins_over_the_stated_unit(value, unit):
    text, factor = unit
    cells = pd.Series([f"{value!r} {text}", f"{value!r}"])
    found = to_numbers(cells, "peak_memory_mb", unit="B")
    assert not found.problems
    assert found.values.tolist() == pytest.approx(
        [value * factor, value * 1e-6], rel=1e-6, abs=1e-11
    )


@given(st.integers(1000, 10**9))
def test_a_count_in_millions_is_whole_again(count):
    found = to_numbers(pd.Series([count / 1e6]), "trainable_params", unit="M")
    assert found.values.iloc[0] == count


def test_unknown_suffixes_are_problems_not_guesses():
    found = to_numbers(pd.Series(["5 furlongs", "1,332.5", "-", None]), "train_s")
    assert found.values.isna().tolist() == [True, False, True, True]
    assert found.values.iloc[1] == 1332.5
    assert list(found.problems.values()) == [[0]]


def test_the_742_runs(shared):
    imported = read_results(shared / "reference" / "runs.csv")
    frame, raw = imported.frame, pd.read_csv(shared / "reference" / "runs.csv")
    assert imported.mapping.name == "runs-742"
    assert imported.problems == ()
    assert len(frame) == 742
    assert frame["run_id"].is_unique
    counts = frame["arm"].str.partition("/")[0].value_counts()
    assert counts.to_dict() == {"teacher": 81 + 391, "student": 270}
    assert (frame["arm"] == "teacher/fft").sum() == 81
    assert frame["score"].tolist() == raw["metric_value"].tolist()
    # 12 layers x (query, value) x rank 8 x (768 + 768), and a head of 768 x 2 + 2
    lora = frame[(frame["arm"] == "teacher/lora") & (frame["encoder"] == "bert-base-uncased")]
    assert set(lora[lora["task"] == "rte"]["trainable_params"]) == {12 * 2 * 8 * 1536 + 1538}
    consumed = {s for c in built_in("runs-742").columns.values() for s in c.source if not c.keep}
    unknown = [c for c in raw if c not in consumed | {"strategy"}]
    assert all(c in frame for c in unknown)
    assert set(unknown) <= set(imported.kept) | {"peft"}
    # a distilled student's teacher is the full fine-tuning of its family, task and seed
    kd = frame[frame["distillation"] == "kd"]
    teachers = frame.set_index("run_id").loc[kd["teacher_run_id"]]
    assert teachers["arm"].eq("teacher/fft").all()
    for key in ("pair", "task", "seed"):
        assert teachers[key].tolist() == kd[key].tolist()


def test_the_published_tables(shared):
    scores = read_results(shared / "reference" / "paper_table_1.csv")
    raw = pd.read_csv(shared / "reference" / "paper_table_1.csv", index_col=0)
    assert len(scores.frame) == 90
    assert len(scores.aggregates) == 9
    for row in scores.frame.itertuples():
        assert round(100 * row.score, 6) == raw.loc[row.Task, f"{row.pair} {row.strategy}"]
    costs = read_results(shared / "reference" / "paper_table_2.csv").frame
    assert len(costs) == 3 + 6 * 4
    assert costs["inference_s"].notna().all()


@pytest.mark.parametrize("separator", [",", "\t"])
def test_columns_have_the_types_that_pandas_gives_them(tmp_path, separator):
    cells = {
        "n": ["1", "", "3"],
        "whole": ["1", "2", "3"],
        "share": ["0.1", "1e-4", "0.5812018675459495"],
        "sure": ["True", "False", "TRUE"],
        "text": ["NA", "a, b", "1"],
        "": ["x", "null", "y"],
        "none": ["", "NaN", "n/a"],
    }
    path = tmp_path / ("a.csv" if separator == "," else "a.tsv")
    pd.DataFrame(cells).to_csv(path, index=False, sep=separator)
    read = read_table(path)
    assert read.pop(ROW).tolist() == ["row 1", "row 2", "row 3"]
    pd.testing.assert_frame_equal(read, pd.read_csv(path, sep=separator), check_exact=True)


def test_values_of_json_lines_and_parquet_are_as_they_are(tmp_path):
    rows = [{"task": "rte", "seed": 1, "train_time": 1.5e9}, {"task": "1.0", "seed": None}]
    frame = pd.DataFrame(rows)
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.iloc[::-1].sort_index().set_index(pd.Index([7, 9])).to_parquet(tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        pd.testing.assert_frame_equal(read_table(tmp_path / name).drop(columns=ROW), frame)


def test_mappings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        built_in("kd-matrix").name = "x"
    assert isinstance(built_in("kd-matrix"), Mapping)


def test_a_pattern_names_some_files_of_a_folder_and_a_name_is_not_needed(tmp_path, monkeypatch):
    for arm, score in (("fft", 0.9), ("lora", 0.8)):
        for seed in (1, 2):
            name = f"results_rte-{arm}-seed{seed}.json"
            values = {"eval_accuracy": score, "task": "rte", "seed": seed}
            (tmp_path / "out.dir").mkdir(exist_ok=True)
            (tmp_path / "out.dir" / name).write_text(json.dumps(values))
    monkeypatch.chdir(tmp_path)
    folder, whole = import_results("out.dir")
    assert (folder, len(whole.frame)) == (Path("results/out"), 4)
    part = read_results("out.dir/results_*seed1.json").frame
    assert sorted(part["arm"]) == ["teacher/fft", "teacher/lora"]
    assert set(part["seed"]) == {1}
    with pytest.raises(InputError, match="no other_"):
        read_results("out.dir/other_*.json")
