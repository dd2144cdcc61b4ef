"""Where to write the names of points so that they hide neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LINE = 14.0  # px, height of a label
GAP = 14.0  # px, from a point's centre to its label
NEVER = 1e6  # cost of hiding another label
CHARACTER = 6.2  # px, mean width at 11 px


@dataclass(frozen=True)
class Label:
    """Middle of the label's near edge, in px from the top left; `align` is "left" or "right"."""

    x: float
    y: float
    align: str
    leader: bool


Box = tuple[float, float, float, float]  # left, top, right, bottom


def place_labels(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    width: float,
    height: float,
    others: Sequence[tuple[float, float]] = (),
) -> list[Label]:
    """A label beside each point, to the right or left, moved up or down as far as is needed.

    Greedy from the top down: of all places the one that overlaps least, then the nearest. `others`
    are smaller points to keep clear of where that is cheap.
    """
    # Places are tried from the nearest on, and what no place of a label reaches is not asked about.
    marks = [_around(x, y, 7, 7) for x, y in points]
    runs = [_around(x, y, 9, 2) for x, y in others]
    taken: list[Box] = []
    placed: dict[int, Label] = {}
    for i in sorted(range(len(points)), key=lambda k: (points[k][1], points[k][0])):
        size = CHARACTER * len(texts[i])
        best: tuple[float, Label, Box] | None = None
        reach = _around(*points[i], 1.4 * GAP + size + 1, 8.5 * LINE + 1)
        marks_near, runs_near, taken_near = (
            [box for box in boxes if _overlap(box, reach)] for boxes in (marks, runs, taken)
        )
        for label in _candidates(*points[i]):
            if best is not None and best[0] < abs(label.y - points[i][1]):
                break  # all that follow are as far away or farther, and cost that much at least
            left = label.x if label.align == "left" else label.x - size
            box = (left, label.y - LINE / 2, left + size, label.y + LINE / 2)
            outside = max(0, -box[0], box[2] - width) + max(0, -box[1], box[3] - height)
            moved = abs(label.y - points[i][1]) + (0.5 if label.align == "right" else 0)
            cost = (1e4 + 100 * outside if outside > 0 else 0.0) + moved
            cost += sum(NEVER + hidden for t in taken_near if (hidden := _overlap(box, t)))
            cost += 3 * sum(_overlap(box, m) for m in marks_near)
            cost += 0.6 * sum(_overlap(box, r) for r in runs_near)
            if best is None or cost < best[0]:
                best = (cost, label, box)
        assert best is not None
        placed[i] = best[1]
        taken.append(best[2])
    return [placed[i] for i in range(len(points))]


def _candidates(x: float, y: float) -> list[Label]:
    steps = [0.0] + [sign * 0.5 * LINE * k for k in range(1, 17) for sign in (-1, 1)]
    return [
        Label(x + side * (GAP if abs(step) < LINE else 1.4 * GAP), y + step, align, abs(step) > 6)
        for step in steps
        for side, align in ((1, "left"), (-1, "right"))
    ]


def _around(x: float, y: float, wide: float, high: float) -> Box:
    return (x - wide, y - high, x + wide, y + high)


def _overlap(a: Box, b: Box) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0
