"""Divergences by hand, and against loops over the vocabulary."""

import math

import pytest
import torch
from torch import Tensor

from speculators.losses.divergences import DIVERGENCES, top_k_cross_entropy

P, Q = (0.5, 0.3, 0.2), (0.6, 0.3, 0.1)
# By pen and paper, to six places; the last of LK's hybrid is exp(-2.7) * 0.047469 + (1 - exp(-2.7)) * 0.1.
BY_HAND = {
    "kl": 0.5 * math.log(5 / 6) + 0.2 * math.log(2),
    "rkl": 0.6 * math.log(6 / 5) + 0.1 * math.log(1 / 2),
    "jsd": 0.010771,
    "ce": -math.log(0.6),
    "topk": -0.5 * math.log(0.6) - 0.3 * math.log(0.3) - 0.2 * math.log(0.1),
    "tv": 0.1,
    "nla": -math.log(0.9),
    "lk_hybrid": 0.096470,
}


def row(name: str, p: Tensor, q: Tensor) -> float:
    """A divergence of two distributions over the whole vocabulary."""
    return DIVERGENCES[name](q.log(), p.log(), p.log()).item()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_by_hand(name: str) -> None:
    assert row(name, torch.tensor(P), torch.tensor(Q)) == pytest.approx(BY_HAND[name], abs=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_equal_distributions(name: str) -> None:
    """Nothing is lost, except by cross entropies: -log of the largest, and the entropy."""
    p = torch.tensor(P)
    expected = {"ce": -math.log(0.5), "topk": -(p * p.log()).sum().item()}.get(name, 0.0)
    assert row(name, p, p) == pytest.approx(expected, abs=1e-6)


def test_disjoint_distributions() -> None:
    """Every token is rejected: the largest values of the bounded ones."""
    p, q = torch.tensor([1.0, 1e-30, 1e-30]), torch.tensor([1e-30, 0.5, 0.5])
    for name, expected in {"tv": 1.0, "nla": -math.log(1e-5), "jsd": math.log(2)}.items():
        assert row(name, p, q) == pytest.approx(expected, abs=1e-4)
    # Acceptance 0 makes the hybrid a plain KL.
    assert row("lk_hybrid", p, q) == pytest.approx(row("kl", p, q))


def test_the_vocabularys_rest_is_rejected_or_unseen() -> None:
    """Of three tokens with P the draft has the last two: what sees acceptance sees the whole P."""
    whole, q = torch.tensor(P)[1:], torch.tensor([0.4, 0.6])
    log_p = (whole / whole.sum()).log()
    values = {name: d(q.log(), log_p, whole.log()).item() for name, d in DIVERGENCES.items()}
    # min(0.3, 0.4) + min(0.2, 0.6) = 0.5
    assert values["tv"] == pytest.approx(0.5) and values["nla"] == pytest.approx(-math.log(0.5))
    assert values["topk"] == pytest.approx(-0.3 * math.log(0.4) - 0.2 * math.log(0.6))
    # The others see (0.6, 0.4).
    kl = 0.6 * math.log(0.6 / 0.4) + 0.4 * math.log(0.4 / 0.6)
    assert values["kl"] == pytest.approx(kl) and values["ce"] == pytest.approx(-math.log(0.4))
    share = math.exp(-3 * 0.5)
    assert values["lk_hybrid"] == pytest.approx(share * kl + (1 - share) * 0.5)


def test_the_top_k_term_lies_between_its_ends() -> None:
    """Over the whole vocabulary it is the soft cross entropy; of one token it is that token's share."""
    p, q = torch.tensor(P), torch.tensor(Q)
    assert top_k_cross_entropy(q.log(), p.log(), p.log(), k=3).item() == pytest.approx(BY_HAND["topk"])
    assert top_k_cross_entropy(q.log(), p.log(), p.log(), k=2).item() == pytest.approx(
        -0.5 * math.log(0.6) - 0.3 * math.log(0.3)
    )
    one_hot = torch.tensor([1 - 2e-12, 1e-12, 1e-12], dtype=torch.float64)
    found = top_k_cross_entropy(q.double().log(), one_hot.log(), one_hot.log(), k=10).item()
    assert found == pytest.approx(BY_HAND["ce"], abs=1e-6)


def test_only_ten_tokens_count() -> None:
    """Of twelve tokens the two least likely ones get no gradient."""
    log_p = torch.arange(12.0).log_softmax(-1)
    log_q = torch.zeros(12).log_softmax(-1).requires_grad_()
    (grad,) = torch.autograd.grad(DIVERGENCES["topk"](log_q, log_p, log_p), log_q)
    assert (grad != 0).tolist() == [False] * 2 + [True] * 10


def textbook(name: str, p: Tensor, q: Tensor) -> Tensor:
    """The gradient with respect to the logits of q, from the derivative dq_i / dz_j = q_i (1[i = j] - q_j)."""
    accepted = torch.minimum(p, q).sum()
    m = (p + q) / 2
    by_q = {
        "kl": -p / q,
        "rkl": (q / p).log() + 1,
        "jsd": 0.5 * ((q / m).log()),
        "ce": -torch.eye(len(p), dtype=p.dtype)[p.argmax()] / q,
        "topk": -p / q,
        "tv": (q > p).to(p.dtype),
        "nla": (q > p).to(p.dtype) / accepted,
    }
    share = (-3 * accepted).exp()
    by_q["lk_hybrid"] = share * by_q["kl"] + (1 - share) * by_q["tv"]
    return q * (by_q[name] - (q * by_q[name]).sum())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradient_to_logits_is_the_textbooks(name: str) -> None:
    # Nowhere equal: total variation has no gradient there.
    p, q = torch.tensor([0.5, 0.2, 0.3]).double(), torch.tensor([0.25, 0.3, 0.45]).double()
    logits = q.log().requires_grad_()
    (grad,) = torch.autograd.grad(DIVERGENCES[name](logits.log_softmax(-1), p.log(), p.log()), logits)
    torch.testing.assert_close(grad, textbook(name, p, q))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_slots_share_the_verifiers_row(name: str) -> None:
    log_q_SCD, log_p_CD = torch.randn(3, 4, 5).log_softmax(-1), torch.randn(4, 5).log_softmax(-1)
    rows_SC = DIVERGENCES[name](log_q_SCD, log_p_CD, log_p_CD)
    assert rows_SC.shape == (3, 4)
    torch.testing.assert_close(rows_SC[2, 1], DIVERGENCES[name](log_q_SCD[2, 1], log_p_CD[1], log_p_CD[1]))
