"""Labels that may be wrong, by confident learning (Northcutt, Jiang and Chuang 2021).

A label is suspected where a model that has not seen it is surer of another class than it usually is
of that class. The probabilities must be out of sample: a model that was trained on a label has
learnt to defend it.
"""

from __future__ import annotations

import warnings

import numpy as np

from kdlora.extras import need

LEAST_ROWS = 30  # fewer tell too little of how sure a model usually is of a class


def suspected_labels(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Positions of the rows whose label may be wrong, the likeliest first.

    `labels` [n] are classes, `probabilities` [n, c] out of sample. None of fewer than `LEAST_ROWS`
    rows. Raises InputError where cleanlab is not installed.
    """
    need("to find suspected labels", "cleanlab")
    from cleanlab.filter import find_label_issues

    labels = np.asarray(labels).astype(np.int64)
    if len(labels) < LEAST_ROWS or len(np.unique(labels)) < 2:
        return np.zeros(0, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with few rows, whose labels are kept
        found = find_label_issues(
            labels,
            np.asarray(probabilities, np.float64),
            return_indices_ranked_by="self_confidence",
            n_jobs=1,
        )
    return np.asarray(found, np.int64)
