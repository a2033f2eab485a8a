"""Weights of rows by hand and by loops."""

import pytest
import torch

from speculators.losses.weights import dpace
from speculators.protocols.rows import GroupFacts


def facts(prob: list[float | None]) -> GroupFacts:
    """One group; None is no valid row."""
    valid = torch.tensor([[p is not None] for p in prob])
    return GroupFacts(torch.tensor([[p or 0.0] for p in prob]), torch.zeros(len(prob), 1), valid)


def test_dpace_by_hand() -> None:
    # a = .9, .75, .625; C = .9, .675, .421875; the last weighs C_3, each one before it its own C more.
    assert dpace(facts([0.8, 0.5, 0.25]), 0.5).flatten().tolist() == pytest.approx([1.996875, 1.096875, 0.421875])
    # A row that does not count passes everything on, and C_2 = .9 is in no sum.
    assert dpace(facts([0.8, None, 0.25]), 0.5).flatten().tolist() == pytest.approx([1.4625, 0.0, 0.5625])
    assert dpace(facts([None, 0.8, 0.5, 0.25]), 0.5).flatten().tolist() == pytest.approx(
        [0, 1.996875, 1.096875, 0.421875]
    )


def test_dpace_with_alpha_one_counts_what_is_left() -> None:
    assert dpace(facts([0.1, 0.2, None, 0.3]), 1.0).flatten().tolist() == [3.0, 2.0, 0.0, 1.0]


def test_dpace_of_nothing_is_nothing() -> None:
    assert dpace(facts([None, None]), 0.5).flatten().tolist() == [0.0, 0.0]


def test_dpace_is_the_gradient_of_the_expected_length() -> None:
    """With alpha 0 and every row valid, C_1 + ... + C_S differentiated with respect to log prob; each group by itself."""
    prob_SC = torch.rand(5, 4, dtype=torch.float64)
    found = dpace(GroupFacts(prob_SC, prob_SC, torch.ones(5, 4, dtype=torch.bool)), 0.0)
    log_prob = prob_SC.log().requires_grad_()
    (expected,) = torch.autograd.grad(log_prob.cumsum(0).exp().sum(), log_prob)
    torch.testing.assert_close(found, expected)
