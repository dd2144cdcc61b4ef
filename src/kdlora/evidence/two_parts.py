"""The error of a sum of two: one part of few degrees of freedom, and one that is surely known.

Seeds are few, texts are many. The difference over both has the error of a Student's t with the
seeds' degrees of freedom plus that of a normal, each with its own spread (the problem of Behrens
and Fisher with one sample large). Satterthwaite's single t is too sure of it with three seeds (up
to 8 % false for 5 %); the quantiles of the sum (Fisher 1935) err on the careful side (2 to 5 %).
"""

from __future__ import annotations

import numpy as np
from scipy import optimize, special

LEVEL = 0.975  # at which the equivalent t has the quantile of the sum
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_MOST = 1e6  # degrees of freedom that are as good as a normal


def joint_df(few: np.ndarray, df: np.ndarray, many: np.ndarray) -> np.ndarray:
    """Degrees of freedom [...] of the Student's t that has the sum's 97.5 % quantile.

    `few` and `many` [...] are the variances of the two parts, `df` [...] the freedom of the first.
    NaN where `df` is.
    """
    parts = np.broadcast_arrays(*(np.asarray(x, float) for x in (few, df, many)))
    found = [_joint_df(*one) for one in zip(*map(np.ravel, parts), strict=True)]
    return np.array(found).reshape(parts[0].shape)


def _joint_df(few: float, df: float, many: float) -> float:
    if few <= 0 or many <= 0 or not np.isfinite(df):
        return df if many <= 0 else _MOST if few <= 0 else np.nan
    size = np.sqrt(few + many)
    t_part, normal_part = np.sqrt(few) / size, np.sqrt(many) / size

    def above(x: float) -> float:
        return float(_WEIGHTS @ special.stdtr(df, (x - normal_part * _NODES) / t_part)) - LEVEL

    top = t_part * special.stdtrit(df, LEVEL) + 3 * normal_part
    quantile = optimize.brentq(above, 0.0, top, xtol=1e-9)
    least, most = special.stdtrit(_MOST, LEVEL), special.stdtrit(df, LEVEL)
    if not least < quantile < most:
        return _MOST if quantile <= least else df
    inverse = optimize.brentq(
        lambda x: special.stdtrit(1 / x, LEVEL) - quantile, 1 / _MOST, 1 / df, xtol=1e-12
    )
    return 1 / float(inverse)
