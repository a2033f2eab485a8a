import math

import pytest
import torch

from speculators.settings.training import ScheduleSettings
from speculators.train.schedule import scale, set_learning_rate


def settings(name: str, warmup: float = 0.2, least: float = 0.1) -> ScheduleSettings:
    return ScheduleSettings.model_validate({"name": name, "warmup_ratio": warmup, "min_lr_ratio": least})


def test_linear_by_hand():
    # 10 steps, 2 of warm-up: thirds up, then the 8 left go down by equal steps to 0.1 on the last.
    expected = [1 / 3, 2 / 3] + [1 - 0.9 * i / 9 for i in range(1, 9)]
    got = [scale(s, 10, settings("linear")) for s in range(10)]
    assert got == pytest.approx(expected)


def test_cosine_is_half_way_in_the_middle_and_ends_at_the_least():
    got = [scale(s, 9, settings("cosine", warmup=0.0, least=0.0)) for s in range(9)]
    assert got[4] == pytest.approx(0.5)
    assert got == sorted(got, reverse=True)
    assert 0 < got[-1] == pytest.approx((1 + math.cos(math.pi * 0.9)) / 2)


def test_constant_stays_at_the_peak_after_warmup():
    assert [scale(s, 5, settings("constant")) for s in range(5)] == [0.5, 1, 1, 1, 1]


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
def test_no_step_is_wasted(name, steps, warmup):
    assert all(0 < scale(s, steps, settings(name, warmup, 0.0)) <= 1 for s in range(steps))


def test_every_group_follows_its_own_peak():
    a, b = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD(
        [{"params": [a], "lr": 1.0, "peak_lr": 1.0}, {"params": [b], "lr": 0.1, "peak_lr": 0.1}]
    )
    set_learning_rate([optimizer], 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.05]
