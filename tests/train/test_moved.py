import pytest
import torch
from torch import nn

from speculators.train.moved import check_gradients, check_moved, fingerprint


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False))


def test_a_tensor_outside_the_loss_is_named():
    draft = model()
    draft[0](torch.ones(1, 3)).sum().backward()
    with pytest.raises(RuntimeError, match=r"no gradient reaches 1\.weight, 1\.bias"):
        check_gradients(draft)


def test_a_tensor_that_stays_is_named_and_frozen_ones_are_not():
    draft = model()
    before = fingerprint(draft)
    with torch.no_grad():
        for name in ("0.weight", "0.bias", "1.bias"):
            draft.get_parameter(name).add_(1e-3)
    with pytest.raises(RuntimeError, match=r"training did not change 1\.weight"):
        check_moved(draft, before)
    with torch.no_grad():
        draft[1].weight.mul_(1.001)
    check_moved(draft, before)


def test_the_smallest_step_of_a_norm_weight_counts():
    norm = nn.RMSNorm(1000)
    before = fingerprint(norm)
    with torch.no_grad():
        norm.weight[7] = torch.nextafter(norm.weight[7], torch.tensor(2.0))
    check_moved(norm, before)
