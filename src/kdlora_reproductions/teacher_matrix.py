"""Report 004: two teachers, two students, and agreements that no good teacher allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from kdlora.evidence.diagnosis.fidelity import agreement_table, expected_agreement
from kdlora_reproductions.tables import (
    Contradiction,
    PublishedClaim,
    PublishedReport,
    PublishedTable,
    Sound,
    long,
    make_claims,
    make_table,
)

SOURCE = "D"
SHORT = {"Mixed Distil-BERT": "Mixed Distil"}
MIB_PER_MB = 1e6 / 2**20
XLMR_PARAMETERS = 278.2e6
# sahajBERT has ALBERT-large's shape; a teacher has 12 layers of 768
SAHAJ_SHAPE, TEACHER_SHAPE = (24, 1024), (12, 768)


def report(frame: pd.DataFrame) -> PublishedReport:
    """`frame` is the imported matrix, a row a (teacher, student) pair."""
    matrix = matrix_table(frame)
    return PublishedReport(
        "004",
        "A 2x2 matrix of teachers and students",
        "Macro-F1 at the threshold that is best on the very rows it is reported on; one split, one "
        "seed.",
        tables=_tables(matrix),
        claims=_claims(matrix),
        contradictions=_contradictions(matrix),
        sound=(_agreement(frame), _differences(matrix), _recommendations(matrix)),
        figures={"matrix": matrix.reset_index()},
    )


def matrix_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Indexed by (teacher, student) as printed: scores, speed-up, size in MiB, agreement in %."""
    students = frame["student"].map(lambda s: SHORT.get(str(s), str(s)))
    table = pd.DataFrame(
        {
            "Macro F1": frame["report.macro_f1"].to_numpy(float),
            "F1 (Hate)": frame["report.f1"].to_numpy(float),
            "Speedup": frame["speedup_latency"].to_numpy(float),
            "Model Size MB": frame["size_mb"].to_numpy(float) * MIB_PER_MB,
            "Agreement %": 100 * frame["agreement"].to_numpy(float),
            "accuracy": frame["report.accuracy"].to_numpy(float),
            "n": frame["n_report"].to_numpy(int),
            "parameters": frame["total_params"].to_numpy(float),
        },
        index=pd.MultiIndex.from_arrays([frame["teacher"], students], names=["teacher", "student"]),
    )
    return table


def _tables(matrix: pd.DataFrame) -> tuple[PublishedTable, ...]:
    shown = matrix.drop(columns=["accuracy", "n", "parameters"])
    return (
        make_table(
            "004.results",
            "Comparative results",
            long(shown, int(matrix["n"].iloc[0])),
            source=SOURCE,
            rule="threshold and epoch chosen by macro-F1 on the rows reported; size in MiB; "
            "agreement at threshold 0.5",
            note="Sizes are printed as MB and are MiB.",
        ),
    )


def _claims(matrix: pd.DataFrame) -> tuple[PublishedClaim, ...]:
    n = int(matrix["n"].iloc[0])
    best = _named(matrix["Macro F1"].idxmax())
    speed = matrix["Speedup"].groupby(level="student").mean()
    size = matrix["Model Size MB"].groupby(level="student").mean()
    agreement = matrix["Agreement %"].groupby(level="teacher").mean()
    return (
        *make_claims(
            {
                "004.best": (best, n),
                "004.fastest": (str(speed.idxmax()), n),
                "004.smallest": (str(size.idxmin()), n),
                "004.speedup": (float(matrix["Speedup"].max()), n),
            },
            source=SOURCE,
            rule="greatest or least of the four",
        ),
        *make_claims(
            {
                "004.edge": (float(_edges(matrix).mean()), n),
                "004.size_ratio": (float(size.max() / size.min()), n),
                "004.agreement_gbert": (float(agreement["GBERT"]), n),
                "004.agreement_xlmr": (float(agreement["XLM-R"]), n),
            },
            source=SOURCE,
            rule="mean over students or teachers",
        ),
    )


def _named(pair: Any) -> str:
    return " | ".join(map(str, pair))


def _edges(matrix: pd.DataFrame) -> pd.Series:
    """Macro-F1 of GBERT's students over XLM-R's, in points, by student."""
    f1 = 100 * matrix["Macro F1"]
    return f1.xs("GBERT", level="teacher") - f1.xs("XLM-R", level="teacher")


def standard_error(accuracy: pd.Series, n: pd.Series) -> pd.Series:
    """Of a share of n rows, in points."""
    return 100 * (accuracy * (1 - accuracy) / n).map(np.sqrt)


def _contradictions(matrix: pd.DataFrame) -> tuple[Contradiction, ...]:
    edges = _edges(matrix)
    error = float(standard_error(matrix["accuracy"], matrix["n"]).mean())
    size = matrix["Model Size MB"].groupby(level="student").mean()
    parameters = matrix["parameters"].groupby(level="student").first()
    speed = matrix["Speedup"].unstack("student")
    ratio = (speed["Mixed Distil"] / speed["SahajBERT"]).round(2)
    slower = (SAHAJ_SHAPE[0] * SAHAJ_SHAPE[1] ** 2) / (TEACHER_SHAPE[0] * TEACHER_SHAPE[1] ** 2)
    accuracy, agreement = matrix["accuracy"], matrix["Agreement %"] / 100
    most = {" | ".join(map(str, k)): round(float(agreement[k] + 1 - accuracy[k]), 3)
            for k in matrix.index}  # fmt: skip
    return (
        Contradiction(
            "004.edge",
            "GBERT's students are about 0.4 % better",
            {**{str(k): round(float(v), 2) for k, v in edges.items()},
             "mean": round(float(edges.mean()), 2)},
            f"Points of macro-F1, against a standard error of {error:.2f} of each accuracy.",
        ),
        Contradiction(
            "004.size",
            "SahajBERT is 4 times smaller",
            {
                "vs Mixed": round(float(size["Mixed Distil"] / size["SahajBERT"]), 2),
                "vs XLM-R(278.2M)": round(XLMR_PARAMETERS / float(parameters["SahajBERT"]), 1),
            },
            "It is never said than what.",
        ),
        Contradiction(
            "004.agreement",
            "17 % agreement is low fidelity and high generalisation",
            {"teacher_accuracy_upper_bound": list(most.values())},
            "With two classes agreement is at least |a_s + a_t - 1|: such a student leaves room "
            "only for a teacher that is worse than chance, or nearly so. It was never validated.",
        ),
        Contradiction(
            "004.teacher",
            "GBERT is the more accurate teacher",
            {"reported teacher accuracy": None},
            "No teacher was scored.",
        ),
        Contradiction(
            "004.why_slow",
            "0.27x because shared weights must be unpacked in 12 layers",
            {"work of the blocks against a teacher's": round(slower, 2),
             "predicted speed-up": round(1 / slower, 2)},
            "Sharing adds no work. The student has ALBERT-large's shape, 24 layers of 1024.",
        ),
        Contradiction(
            "004.speed",
            "speed-ups of both students under both teachers",
            {f"Mixed / Sahaj, {teacher}": float(v) for teacher, v in ratio.items()},
            "The teacher cancels out of this ratio, so it should be the same.",
        ),
    )  # fmt: skip


def _agreement(frame: pd.DataFrame) -> Sound:
    table = agreement_table(frame)
    table.insert(0, "pair", frame["pair"].astype(str))
    table["if_errors_were_independent"] = [
        expected_agreement(a, a) for a in table["a_s"]
    ]  # of a teacher as good as its student
    impossible = (table["teacher_max"] < table["a_s"]).sum()
    return Sound(
        "004.agreement",
        "Can a competent teacher agree so little?",
        f"No: in {impossible} of {len(table)} cells the teacher must be worse than its student, at "
        f"most {', '.join(f'{v:.1%}' for v in table['teacher_max'])} accurate. A teacher as good "
        "as its student would agree on at least "
        f"{(2 * table['a_s'] - 1).min():.0%}; check the teacher's labels and head first.",
        table.reset_index(drop=True),
        SOURCE,
        int(frame["n_report"].iloc[0]),
        "bounds of agreement from the accuracies, two classes",
    )


def _differences(matrix: pd.DataFrame) -> Sound:
    """All pairs of the four accuracies, as shares of the same rows without the predictions."""
    rows = []
    keys = list(matrix.index)
    for i, a in enumerate(keys):
        for b in keys[i + 1 :]:
            n = float(matrix.loc[a, "n"])
            x, y = float(matrix.loc[a, "accuracy"]), float(matrix.loc[b, "accuracy"])
            difference = 100 * (x - y)
            error = 100 * float(np.sqrt((x * (1 - x) + y * (1 - y)) / n))
            rows.append({"a": " | ".join(map(str, a)), "b": " | ".join(map(str, b)),
                         "difference_pp": difference, "items": round(n * (x - y)),
                         "se_pp_if_independent": error,
                         "p_if_independent": float(2 * stats.norm.sf(abs(difference / error)))}
                        )  # fmt: skip
    table = pd.DataFrame(rows)
    largest = float(table["difference_pp"].abs().max())
    error = float(standard_error(matrix["accuracy"], matrix["n"]).mean())
    return Sound(
        "004.differences",
        "Are the four students different?",
        f"The accuracies differ by {largest:.2f} points at most ("
        f"{int(table['items'].abs().max())} of {int(matrix['n'].iloc[0])} rows), and each has a "
        f"standard error of {error:.2f}: nothing shows a difference. One seed and no stored "
        "predictions: a paired test cannot be made.",
        table,
        SOURCE,
        int(matrix["n"].iloc[0]),
        "two shares taken as independent; on the same rows the error is smaller, but unknown",
    )


def _recommendations(matrix: pd.DataFrame) -> Sound:
    by_student = matrix.groupby(level="student")
    table = pd.DataFrame(
        {
            "macro_f1": by_student["Macro F1"].mean(),
            "speedup": by_student["Speedup"].mean(),
            "size_mib": by_student["Model Size MB"].mean(),
            "parameters": by_student["parameters"].first(),
        }
    ).reset_index()
    return Sound(
        "004.recommendations",
        "Which student for a server, which for a phone?",
        "Mixed Distil-BERT where latency counts, SahajBERT where the file size does and latency "
        "does not: that follows from size and speed alone. Nothing speaks for either teacher. "
        "Training without distillation was not tried here.",
        table,
        SOURCE,
        len(matrix),
        "means over teachers",
    )
