"""The chunked reduction against full logits, row by row."""

import pytest
import torch
from torch.nn import functional as F

from speculators.losses import distillation
from speculators.losses.distillation import distill
from speculators.model import Rows
from speculators.protocols.batch import Batch
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.settings.algorithm import LossWeights


def make(slots: int, targets: int, hidden: int, vocab: int, draft_vocab: int, own_heads: bool, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    last = torch.randn(1, targets + 4, hidden, generator=g, dtype=torch.float64)
    batch = Batch(
        token_BT=torch.zeros(1, targets + 4, dtype=torch.int64),
        position_BT=torch.zeros(1, targets + 4, dtype=torch.int64),
        document_BT=torch.zeros(1, targets + 4, dtype=torch.int64),
        target_N=torch.arange(3, targets + 3),
        valid_SN=torch.rand(slots, targets, generator=g) > 0.3,
    )
    verifier = VerifierHead(
        embed_VH=torch.zeros(vocab, hidden, dtype=torch.float64),
        head_VH=torch.randn(vocab, hidden, generator=g, dtype=torch.float64),
        logit_scale=0.7,
        softcap=5.0,
    )
    states = torch.randn(slots, targets, hidden, generator=g, dtype=torch.float64, requires_grad=True)
    heads = tuple(
        torch.randn(draft_vocab, hidden, generator=g, dtype=torch.float64, requires_grad=True)
        for _ in range(slots if own_heads else 1)
    )
    kept = torch.randperm(vocab, generator=g)[:draft_vocab].sort().values if draft_vocab < vocab else None
    return Rows(states, heads, kept), batch, VerifierStates(last, None), verifier


def naive(rows: Rows, batch: Batch, states: VerifierStates, verifier: VerifierHead, loss: LossWeights, decay: float):
    """Every logit at once, row by row in plain Python."""
    teacher = verifier.logits(states.last_BTH[0][batch.target_N])
    kept = rows.kept_D if rows.kept_D is not None else torch.arange(teacher.shape[1])
    total, correct, overlap = 0.0, [0] * len(batch.valid_SN), [0.0] * len(batch.valid_SN)
    weights = [decay**s for s in range(len(batch.valid_SN))]
    for s in range(len(batch.valid_SN)):
        for n in range(len(batch.target_N)):
            if not batch.valid_SN[s, n]:
                continue
            logits = rows.heads[s if len(rows.heads) > 1 else 0] @ rows.hidden_SNH[s, n]
            q, p, full = logits.softmax(0), teacher[n][kept].softmax(0), teacher[n].softmax(0)
            overlap[s] += torch.minimum(q, full[kept]).sum().item()
            top = teacher[n].argmax()
            correct[s] += int(kept[logits.argmax()] == top)
            if top not in kept:
                continue
            row = (
                loss.kl * (p * (p / q).log()).sum()
                + loss.ce * -q.log()[p.argmax()]
                + loss.tv * (1 - torch.minimum(p, q).sum())
            )
            total = total + weights[s] / sum(weights) * row / len(batch.target_N)
    return total, correct, overlap


@pytest.mark.parametrize("own_heads", [False, True])
@pytest.mark.parametrize("draft_vocab", [13, 7])
@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.3, 0.5, 2.0)])
def test_equals_full_logits(monkeypatch, own_heads, draft_vocab, weights) -> None:
    monkeypatch.setattr(
        distillation, "CPU_CHUNK_ELEMENTS", 2 * (13 + 3 * draft_vocab)
    )  # several chunks, the last one short
    case = make(slots=3, targets=5, hidden=4, vocab=13, draft_vocab=draft_vocab, own_heads=own_heads)
    loss = LossWeights(kl=weights[0], ce=weights[1], tv=weights[2])
    expected, correct, overlap = naive(*case, loss, 0.8)
    leaves = (case[0].hidden_SNH, *case[0].heads)
    wanted = torch.autograd.grad(expected, leaves, materialize_grads=True)
    got = distill(*case, loss, 0.8)
    # Logits are compared in float32 whatever the states are.
    torch.testing.assert_close(got.loss.double(), expected, rtol=1e-5, atol=1e-6)
    for a, b in zip(torch.autograd.grad(got.loss, leaves), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert got.metrics["correct_S"].tolist() == correct
    torch.testing.assert_close(got.metrics["overlap_S"], torch.tensor(overlap), rtol=1e-5, atol=1e-5)
    assert torch.equal(got.metrics["count_S"], case[1].valid_SN.sum(1))


def test_gradient_scales_with_what_comes_after() -> None:
    case = make(2, 4, 3, 9, 9, False)
    loss = LossWeights(kl=1, ce=0, tv=0)
    (once,) = torch.autograd.grad(distill(*case, loss, 1.0).loss, case[0].hidden_SNH)
    (twice,) = torch.autograd.grad(2 * distill(*case, loss, 1.0).loss, case[0].hidden_SNH)
    torch.testing.assert_close(twice, 2 * once)


def test_a_verifiers_twin_is_always_right() -> None:
    rows, batch, states, verifier = make(1, 6, 4, 11, 11, False)
    verifier = VerifierHead(verifier.embed_VH, verifier.head_VH)
    twin = Rows(states.last_BTH[0][batch.target_N].unsqueeze(0), (verifier.head_VH,))
    got = distill(twin, batch, states, verifier, LossWeights(kl=1, ce=0, tv=1), 1.0)
    assert got.loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.equal(got.metrics["correct_S"].long(), got.metrics["count_S"])
    torch.testing.assert_close(got.metrics["overlap_S"], got.metrics["count_S"].float())


def test_no_gradient_asked_none_made() -> None:
    case = make(2, 4, 3, 9, 9, False)
    with torch.no_grad():
        assert not distill(*case, LossWeights(kl=1, ce=0, tv=0), 1.0).loss.requires_grad


def test_bf16_autocast_stays_close() -> None:
    rows, batch, states, verifier = make(2, 16, 32, 64, 64, False)
    single = Rows(rows.hidden_SNH.float().detach().requires_grad_(), tuple(h.float().detach() for h in rows.heads))
    verifier = VerifierHead(verifier.embed_VH.float(), verifier.head_VH.float())
    states = VerifierStates(states.last_BTH.float(), None)
    loss = LossWeights(kl=1, ce=0, tv=0)
    exact = distill(single, batch, states, verifier, loss, 1.0).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = distill(single, batch, states, verifier, loss, 1.0).loss
    assert rough.dtype == torch.float32
    assert F.l1_loss(rough, exact).item() < 0.05 * exact.item()
