"""Divergences by hand."""

import math

import pytest
import torch

from speculators.losses.divergences import DIVERGENCES, cross_entropy, forward_kl, total_variation

P = torch.tensor([0.5, 0.25, 0.25]).log()
Q = torch.tensor([0.25, 0.25, 0.5]).log()


def test_forward_kl() -> None:
    # 0.5 ln(0.5 / 0.25) + 0.25 ln 1 + 0.25 ln(0.25 / 0.5) = 0.25 ln 2
    assert forward_kl(Q, P).item() == pytest.approx(0.25 * math.log(2))


def test_cross_entropy() -> None:
    # The verifier's first choice is token 0, to which the draft gives 1/4.
    assert cross_entropy(Q, P).item() == pytest.approx(math.log(4))


def test_total_variation() -> None:
    # |p - q| is 1/4, 0, 1/4.
    assert total_variation(Q, P).item() == pytest.approx(0.25)


@pytest.mark.parametrize("divergence", DIVERGENCES.values())
def test_gradient_to_logits_is_the_textbooks(divergence) -> None:
    # Nowhere equal: total variation has no gradient there.
    p, q = torch.tensor([0.5, 0.2, 0.3]).double(), torch.tensor([0.25, 0.3, 0.45]).double()
    q = q / q.sum()
    logits = q.log().requires_grad_()
    (grad,) = torch.autograd.grad(divergence(logits.log_softmax(-1), p.log()), logits)
    wanted = {
        forward_kl: q - p,
        cross_entropy: q - torch.tensor([1.0, 0, 0]),
        # TV = sum of p - q where p > q; here p_0 - q_0, so its gradient is -q_0 (e_0 - q).
        total_variation: -q[0] * (torch.tensor([1.0, 0, 0]) - q),
    }[divergence]
    torch.testing.assert_close(grad, wanted)


@pytest.mark.parametrize("divergence", DIVERGENCES.values())
def test_slots_share_the_verifiers_row(divergence) -> None:
    log_q_SCD, log_p_CD = torch.randn(3, 4, 5).log_softmax(-1), torch.randn(4, 5).log_softmax(-1)
    rows_SC = divergence(log_q_SCD, log_p_CD)
    assert rows_SC.shape == (3, 4)
    torch.testing.assert_close(rows_SC[2, 1], divergence(log_q_SCD[2, 1], log_p_CD[1]))
