"""The last layer alone: what is fitted is what scikit-learn fits, and a teacher can be asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from kdlora.distillation.losses import make_loss
from kdlora.models.linear_head import HeadData, choose_strength, fit_head, out_of_fold
from kdlora.spec.distillation import Distillation
from kdlora.vocabulary.task import TASKS

SST2 = TASKS["sst2"]


@pytest.fixture
def data() -> HeadData:
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (120, 6)).astype(np.float32)
    y = (x[:, 0] + rng.normal(0, 1, 120) > 3).astype(np.int64)
    return HeadData(torch.from_numpy(x), torch.from_numpy(y), None)


def test_it_is_logistic_regression(data):
    head = fit_head(data, 2, make_loss(SST2, None), strength=0.1)
    x, y = data.features.double().numpy(), data.labels.numpy()
    z = (x - x.mean(0)) / x.std(0)
    theirs = LogisticRegression(C=0.2, tol=1e-10, max_iter=2000).fit(z, y)  # one row, not two
    ours = head.outputs(data.features)
    assert ours[:, 1] - ours[:, 0] == pytest.approx(theirs.decision_function(z), abs=1e-3)


def test_put_into_a_layer_it_gives_the_same_outputs(data):
    head = fit_head(data, 2, make_loss(SST2, None), strength=1.0)
    layer = torch.nn.Linear(6, 2)
    head.put_into(layer)
    found = layer(data.features).detach().numpy()
    assert found == pytest.approx(head.outputs(data.features), abs=1e-4)


def test_rows_without_a_label_are_learnt_from_the_teacher(data):
    teacher = torch.stack([-4 * data.features[:, 1] + 12, 4 * data.features[:, 1] - 12], 1)
    nobody = torch.full_like(data.labels, -1)
    loss = make_loss(SST2, Distillation(kd_weight=0.5, temperature=2.0))
    head = fit_head(HeadData(data.features, nobody, teacher.double()), 2, loss, strength=10.0)
    agreed = head.outputs(data.features).argmax(1) == teacher.argmax(1).numpy()
    assert agreed.mean() > 0.97


def test_out_of_fold_no_row_is_known(data):
    rng = np.random.default_rng(1)
    random = HeadData(
        torch.from_numpy(rng.normal(size=(100, 80)).astype(np.float32)),
        torch.from_numpy(rng.integers(0, 2, 100)),
        None,
    )
    loss = make_loss(SST2, None)
    inside = fit_head(random, 2, loss, strength=10.0).outputs(random.features).argmax(1)
    folded = out_of_fold(random, np.arange(100) % 5, 2, loss, strength=10.0).argmax(1)
    assert (inside == random.labels.numpy()).mean() > 0.95
    assert abs((folded == random.labels.numpy()).mean() - 0.5) < 0.2


def test_of_equal_scores_the_strongest_penalty_is_chosen():
    assert choose_strength(lambda strength: 0.5, 1) == 0.001
    assert choose_strength(lambda strength: abs(strength - 1.0), -1) == 1.0
    assert choose_strength(lambda strength: None, 1) == 0.1
