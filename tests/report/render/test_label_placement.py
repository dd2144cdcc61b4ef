"""Names beside points: readable, inside the plot, near their point."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlora.report.render.label_placement import CHARACTER, LINE, place_labels

WIDTH, HEIGHT = 380.0, 270.0
NAMES = ["teacher FFT", "teacher LoRA", "student FFT", "student LoRA", "student KD-LoRA", "TF-IDF"]

point = st.tuples(st.floats(min_value=0, max_value=WIDTH), st.floats(min_value=0, max_value=HEIGHT))


def boxes(labels, texts):
    found = []
    for label, text in zip(labels, texts, strict=True):
        size = CHARACTER * len(text)
        left = label.x if label.align == "left" else label.x - size
        found.append((left, label.y - LINE / 2, left + size, label.y + LINE / 2))
    return found


def overlap(a, b):
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide > 1e-6 and high > 1e-6


@settings(max_examples=75, deadline=None)
@given(st.lists(point, min_size=1, max_size=6))
def test_no_name_covers_another_or_leaves_the_plot(points):
    texts = NAMES[: len(points)]
    found = boxes(place_labels(points, texts, width=WIDTH, height=HEIGHT), texts)
    assert not any(overlap(a, b) for i, a in enumerate(found) for b in found[:i])
    for left, top, right, bottom in found:
        assert left >= -1e-6
        assert right <= WIDTH + 1e-6
        assert top >= -LINE
        assert bottom <= HEIGHT + LINE


def every_place(i, points, taken, others):
    """Cost and box of all places of a name, by the costs that the module states."""
    size, (x, y) = CHARACTER * len(NAMES[i]), points[i]
    found = []
    for k in range(33):
        step = (-1) ** k * 0.5 * LINE * ((k + 1) // 2)
        for side in (1, -1):
            near = x + side * (14.0 if abs(step) < LINE else 19.6)
            left = near if side > 0 else near - size
            box = (left, y + step - LINE / 2, left + size, y + step + LINE / 2)
            outside = max(0, -box[0], box[2] - WIDTH) + max(0, -box[1], box[3] - HEIGHT)
            cost = (1e4 + 100 * outside) * (outside > 0) + abs(step) + 0.5 * (side < 0)
            cost += sum(1e6 + area(box, one) for one in taken if area(box, one))
            cost += 3 * sum(area(box, (u - 7, v - 7, u + 7, v + 7)) for u, v in points)
            cost += 0.6 * sum(area(box, (u - 9, v - 2, u + 9, v + 2)) for u, v in others)
            found.append((cost, box))
    return found


def area(a, b):
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0) * max(high, 0)


@settings(max_examples=25, deadline=None)
@given(st.lists(point, min_size=1, max_size=6), st.lists(point, max_size=8))
def test_no_place_that_was_not_tried_would_have_been_cheaper(points, others):
    found = boxes(
        place_labels(points, NAMES[: len(points)], width=WIDTH, height=HEIGHT, others=others),
        NAMES[: len(points)],
    )
    taken = []
    for i in sorted(range(len(points)), key=lambda k: (points[k][1], points[k][0])):
        costs = every_place(i, points, taken, others)
        chosen = [cost for cost, box in costs if box == pytest.approx(found[i])]
        assert min(chosen) == pytest.approx(min(cost for cost, _ in costs))
        taken.append(found[i])


def test_a_lone_point_has_its_name_right_beside_it():
    (label,) = place_labels([(100.0, 100.0)], ["TF-IDF"], width=WIDTH, height=HEIGHT)
    assert (label.y, label.align, label.leader) == (100.0, "left", False)
    assert 100 < label.x < 120


def test_a_name_does_not_cover_its_neighbours_mark():
    points = [(150.0, 100.0), (190.0, 100.0)]
    first, _ = boxes(place_labels(points, NAMES[:2], width=WIDTH, height=HEIGHT), NAMES[:2])
    assert not overlap(first, (183.0, 93.0, 197.0, 107.0))


def test_at_the_right_edge_the_name_goes_to_the_left():
    (label,) = place_labels([(370.0, 100.0)], ["student KD-LoRA"], width=WIDTH, height=HEIGHT)
    assert label.align == "right"
    assert label.x < 370


def test_points_on_top_of_each_other_get_names_with_leaders():
    labels = place_labels([(370.0, 100.0)] * 3, NAMES[:3], width=WIDTH, height=HEIGHT)
    assert sorted(label.leader for label in labels) == [False, True, True]
    assert len({label.y for label in labels}) == 3


@pytest.mark.parametrize("others", [(), ((170.0, 100.0),)])
def test_single_runs_are_kept_clear_of_where_it_is_cheap(others):
    (label,) = place_labels([(150.0, 100.0)], ["TF-IDF"], width=WIDTH, height=HEIGHT, others=others)
    assert (label.align == "left" and label.y == 100.0) == (not others)
