"""The chunked reduction against full logits, row by row in plain Python."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from speculators.data.row_plan import anchor_blocks, dense_rows, put_together
from speculators.losses import chunked
from speculators.losses.distillation import distill, row_count
from speculators.protocols.batch import Batch, spans_of
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.rows import GroupFacts, LogitTerm, PackedTargets, RowPlan, Rows, SequenceRows

HIDDEN, VOCAB, LENGTH, SLOTS = 4, 13, 11, 3


@dataclass(frozen=True)
class Case:
    """Random rows, and the verifier that they imitate."""

    rows: Rows
    batch: Batch
    states: VerifierStates
    verifier: VerifierHead

    @property
    def leaves(self) -> list[Tensor]:
        """Everything that a gradient goes to."""
        return [leaf for term in self.rows.terms for leaf in (term.input_RI, *term.weights)]


def one_document(length: int, target_N: Sequence[int]) -> PackedTargets:
    return PackedTargets(
        torch.arange(length), torch.zeros(length, dtype=torch.int64), torch.tensor(target_N, dtype=torch.int64)
    )


def grid() -> SequenceRows:
    """Every slot of every target; some anchors lie before the document."""
    return dense_rows(one_document(LENGTH, [1, 2, 3, 4, 6, 7]), SLOTS)


def thinned() -> SequenceRows:
    """Fewer rows the deeper the slot, in no order, grouped by target; a slot of which nothing is left in between."""
    rows = [(1, 1), (3, 1), (4, 1), (6, 1), (8, 1), (3, 3), (8, 3), (9, 3)]
    target_R, slot_R = torch.tensor(rows)[torch.tensor([5, 0, 7, 3, 1, 6, 2, 4])].unbind(1)
    return SequenceRows(target_R - slot_R, slot_R, target_R, torch.ones(8, dtype=torch.bool), SLOTS)


def blocks() -> SequenceRows:
    """A block after each of some anchors; blocks overlap, and the last one leaves the document."""
    return anchor_blocks(one_document(LENGTH, [1, 2, 3, 4, 6, 7, 8, 9]), torch.tensor([0, 1, 5, 9]), SLOTS)


PLANS = {"grid": grid, "thinned": thinned, "blocks": blocks}


def make(
    plan: SequenceRows,
    second: SequenceRows | None = None,
    kept: int = VOCAB,
    own_heads: bool = False,
    rank: int = 0,
    scaled: bool = False,
) -> Case:
    """Two sequences.

    Args:
        plan: of the first, and of both if there is no other.
        second: of the second.
        kept: size of the draft's vocabulary.
        own_heads: one head a slot.
        rank: of a second term; 0 has none.
        scaled: the draft's head is scaled and capped as the verifier's.
    """
    g = torch.Generator().manual_seed(1)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    rows = put_together([plan, second or plan], [LENGTH] * 2, [0, 0])
    tokens = torch.zeros(2, LENGTH, dtype=torch.int64)
    batch = Batch(tokens, tokens, tokens, rows, spans_of(tokens))
    R = len(rows.slot_R)
    terms = [LogitTerm(randn(R, HIDDEN), tuple(randn(kept, HIDDEN) for _ in range(SLOTS if own_heads else 1)))]
    if rank:
        terms.append(LogitTerm(randn(R, rank), (randn(kept, rank),)))
    for leaf in (leaf for term in terms for leaf in (term.input_RI, *term.weights)):
        leaf.requires_grad_()
    kept_D = torch.randperm(VOCAB, generator=g)[:kept].sort().values if kept < VOCAB else None
    head_VH, states = randn(VOCAB, HIDDEN), VerifierStates(randn(2, LENGTH, HIDDEN), None)
    verifier = VerifierHead(torch.zeros(VOCAB, HIDDEN), head_VH, logit_scale=0.7, softcap=5.0, bias_V=randn(VOCAB))
    return Case(Rows(tuple(terms), kept_D, scaled), batch, states, verifier)


def logits(case: Case, r: int) -> Tensor:
    """[D] logits of one row."""
    total = 0
    for i, term in enumerate(case.rows.terms):
        product = term.weights[int(case.batch.rows.slot_R[r]) - 1 if len(term.weights) > 1 else 0] @ term.input_RI[r]
        total = total + (
            case.verifier.scaled(product, case.rows.kept_D) if i == 0 and case.rows.scaled_as_verifier else product
        )
    return total


# Of p over the draft's tokens, their part of the whole p, and q.
NAIVE: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "kl": lambda p, whole, q: (p * (p / q).log()).sum(),
    "ce": lambda p, whole, q: -q.log()[p.argmax()],
    "tv": lambda p, whole, q: 1 - torch.minimum(whole, q).sum(),
    "nla": lambda p, whole, q: -torch.minimum(whole, q).sum().log(),
}


def naive(case: Case, loss: dict[str, float], decay: float) -> tuple[Tensor, list[bool], list[float]]:
    """The loss, which rows are right, and their overlaps; every logit by itself."""
    plan, kept = case.batch.rows, case.rows.kept_D if case.rows.kept_D is not None else torch.arange(VOCAB)
    total, weights, correct, overlap = torch.zeros(()), 0.0, [], []
    last = case.states.last_BTH.flatten(0, 1)
    for r, (target, slot) in enumerate(zip(plan.target_R.tolist(), plan.slot_R.tolist(), strict=True)):
        weights += decay ** (slot - 1)
        q, teacher = logits(case, r).softmax(0), case.verifier.logits(last[target])
        p, whole, top = teacher[kept].softmax(0), teacher.softmax(0), int(teacher.argmax())
        correct.append(bool(plan.valid_R[r]) and int(kept[q.argmax()]) == top)
        overlap.append(torch.minimum(q, whole[kept]).sum().item() if plan.valid_R[r] else 0.0)
        if not plan.valid_R[r] or top not in kept:
            continue
        row = sum(weight * NAIVE[name](p, whole[kept], q) for name, weight in loss.items())
        total = total + decay ** (slot - 1) * row
    return total / weights, correct, overlap


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("loss", [*({name: 1.0} for name in NAIVE), {"kl": 0.3, "ce": 0.5, "tv": 2.0}], ids=str)
@pytest.mark.parametrize(
    "draft",
    [
        {},
        {"kept": 7},
        {"own_heads": True},
        {"rank": 2},
        {"scaled": True},
        {"scaled": True, "rank": 2, "kept": 7},
        {"own_heads": True, "rank": 2},
    ],
    ids=str,
)
def test_equals_full_logits(monkeypatch: pytest.MonkeyPatch, plan: str, loss: dict[str, float], draft: dict) -> None:
    """Loss, gradients and counts, in several chunks of which the last is short."""
    case = make(PLANS[plan](), **draft)
    monkeypatch.setattr(chunked, "CPU_CHUNK_ELEMENTS", 5 * VOCAB)
    expected, correct, overlap = naive(case, loss, 0.8)
    wanted = torch.autograd.grad(expected, case.leaves, materialize_grads=True)
    got = distill(case.rows, case.batch, case.states, case.verifier, loss, 0.8)
    # Logits are compared in float32 whatever the states are.
    torch.testing.assert_close(got.loss.double(), expected.double(), rtol=1e-5, atol=1e-6)
    for found, gradient in zip(torch.autograd.grad(got.loss, case.leaves), wanted, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)
    assert got.results.correct_R.tolist() == correct
    torch.testing.assert_close(got.results.overlap_R, torch.tensor(overlap), rtol=1e-5, atol=1e-5)
    slot_R = case.batch.rows.slot_R
    for s in range(SLOTS):
        in_slot = (slot_R == s + 1).tolist()
        assert got.metrics["correct_S"][s] == sum(c for c, own in zip(correct, in_slot, strict=True) if own)
        assert got.metrics["count_S"][s] == (case.batch.rows.valid_R & (slot_R == s + 1)).sum()


@pytest.mark.parametrize("plan", PLANS)
def test_chunks_hold_every_group_once(monkeypatch: pytest.MonkeyPatch, plan: str) -> None:
    """However small the budget; each chunk's targets are those of its rows."""
    case = make(PLANS[plan]())
    rows = case.batch.rows
    for elements in (1, 100, 300, 10**6):
        monkeypatch.setattr(chunked, "CPU_CHUNK_ELEMENTS", elements)
        reduction = chunked.Reduction(
            case.rows, rows, torch.zeros(1), case.verifier, torch.zeros(len(rows.slot_R)), {"kl": 1.0}
        )
        seen = []
        for chunk in reduction.chunks():
            inside = [r for span in chunk.spans for r in range(span.start, span.stop)]
            assert {int(rows.group_R[r]) for r in inside} <= set(range(chunk.groups.start, chunk.groups.stop))
            places = [int(rows.place_R[r]) for r in inside]
            assert (min(places), max(places) + 1) == (chunk.targets.start, chunk.targets.stop)
            seen += inside
        assert sorted(seen) == list(range(len(rows.slot_R)))


@pytest.mark.parametrize("own_heads", [False, True])
def test_weights_that_depend_on_the_draft_are_constants(monkeypatch: pytest.MonkeyPatch, own_heads: bool) -> None:
    """They see every row of a group in its place, multiply its loss, and get no gradient."""
    monkeypatch.setattr(chunked, "CPU_CHUNK_ELEMENTS", 5 * VOCAB)
    case = make(blocks(), kept=9, own_heads=own_heads)
    seen: list[GroupFacts] = []

    def weigh(facts: GroupFacts) -> Tensor:
        seen.append(facts)
        return facts.prob_SC.cumsum(0) + 0.5 * facts.overlap_SC

    rows = replace(case.rows, row_weights=weigh)
    got = distill(rows, case.batch, case.states, case.verifier, {"ce": 1.0}, 0.8)
    assert len(seen) > 2

    plan, kept = case.batch.rows, case.rows.kept_D
    assert kept is not None
    last = case.states.last_BTH.flatten(0, 1)
    prob, overlap, losses = (torch.zeros(SLOTS, plan.layout.groups) for _ in range(3))
    losses = losses.double()
    for r in range(len(plan.slot_R)):
        at = int(plan.slot_R[r]) - 1, int(plan.group_R[r])
        teacher = case.verifier.logits(last[plan.target_R[r]])
        if plan.valid_R[r] and teacher.argmax() in kept:
            q = logits(case, r).softmax(0)
            prob[at] = q[teacher[kept].argmax()].item()
            overlap[at] = torch.minimum(q, teacher.softmax(0)[kept]).sum().item()
            losses[at] = -q[teacher[kept].argmax()].log()
    torch.testing.assert_close(torch.cat([f.prob_SC for f in seen], dim=1), prob, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat([f.overlap_SC for f in seen], dim=1), overlap, rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.cat([f.valid_SC for f in seen], dim=1), prob > 0)
    weights = (prob.cumsum(0) + 0.5 * overlap) * 0.8 ** torch.arange(SLOTS).unsqueeze(1)
    expected = (weights * losses).sum() / (0.8 ** (plan.slot_R - 1)).sum()
    torch.testing.assert_close(got.loss.double(), expected, rtol=1e-5, atol=1e-6)
    wanted = torch.autograd.grad(expected, case.leaves)
    for found, gradient in zip(torch.autograd.grad(got.loss, case.leaves), wanted, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("plan", PLANS)
def test_batches_add_up(plan: str) -> None:
    """Weighted by `row_count`, uneven parts of a batch give its loss, with slot weights of a set of rows' own too."""
    whole = PLANS[plan]()
    some = torch.arange(len(whole.slot_R)) % 5 < 3
    less = SequenceRows(*(x[some] for x in (whole.anchor_R, whole.slot_R, whole.group_R, whole.valid_R)), SLOTS)
    case = make(whole, less)
    rows, groups = replace(case.rows, slot_decay=0.5), int(whole.group_R.max()) + 1
    together = distill(rows, case.batch, case.states, case.verifier, {"kl": 1.0}, 0.8).loss
    total, weight = 0.0, 0.0
    for b, part in enumerate((whole, less)):
        own = put_together([part], [LENGTH], [0])
        in_part = case.batch.rows.group_R // groups == b
        terms = tuple(LogitTerm(t.input_RI[in_part], t.weights) for t in rows.terms)
        states = VerifierStates(case.states.last_BTH[b : b + 1], None)
        tokens = torch.zeros(1, LENGTH, dtype=torch.int64)
        batch = Batch(tokens, tokens, tokens, own, spans_of(tokens))
        loss = distill(replace(rows, terms=terms), batch, states, case.verifier, {"kl": 1.0}, 0.8).loss
        total, weight = total + row_count(own.layout, 0.8) * loss.item(), weight + row_count(own.layout, 0.8)
    assert total / weight == pytest.approx(together.item(), rel=1e-5)


def test_the_count_of_a_grid_is_its_targets() -> None:
    """Bit for bit, whatever the decay."""
    for targets in (0, 1, 3, 7, 1023, 4095):
        plan = put_together([dense_rows(one_document(5000, range(targets)), 7)], [5000], [0])
        for decay in (1.0, 0.9, 0.8, 0.7788, 1 / 3):
            assert torch.tensor(row_count(plan.layout, decay)) == targets


@pytest.mark.parametrize("plan", PLANS)
def test_without_a_target_there_is_no_loss_and_no_nan(plan: str) -> None:
    """No row at all, or none that is valid: zero, and a gradient of zero."""
    rows = PLANS[plan]()
    none = SequenceRows(rows.anchor_R[:0], rows.slot_R[:0], rows.group_R[:0], rows.valid_R[:0], SLOTS)
    invalid = replace(rows, valid_R=torch.zeros_like(rows.valid_R))
    for sequence in (none, invalid):
        case = make(sequence)
        got = distill(case.rows, case.batch, case.states, case.verifier, {"kl": 1.0}, 0.8)
        assert got.loss.item() == 0
        assert all(not gradient.any() for gradient in torch.autograd.grad(got.loss, case.leaves))
        assert all(not values_S.any() and len(values_S) == SLOTS for values_S in got.metrics.values())


def test_gradient_scales_with_what_comes_after() -> None:
    case = make(grid())
    (once,) = torch.autograd.grad(distilled(case), case.leaves[:1])
    (twice,) = torch.autograd.grad(2 * distilled(case), case.leaves[:1])
    torch.testing.assert_close(twice, 2 * once)


def distilled(case: Case) -> Tensor:
    return distill(case.rows, case.batch, case.states, case.verifier, {"kl": 1.0}, 1.0).loss


def test_a_verifiers_twin_is_always_right() -> None:
    case = make(dense_rows(one_document(LENGTH, range(1, 7)), 1))
    last_RH = case.states.last_BTH.flatten(0, 1)[case.batch.rows.target_R]
    twin = Rows.of(last_RH, case.verifier.head_VH, scaled_as_verifier=True)
    got = distill(twin, case.batch, case.states, case.verifier, {"kl": 1.0, "tv": 1.0}, 1.0)
    assert got.loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.equal(got.metrics["correct_S"].long(), got.metrics["count_S"])
    torch.testing.assert_close(got.metrics["overlap_S"], got.metrics["count_S"].float())


def test_no_gradient_asked_none_made() -> None:
    with torch.no_grad():
        assert not distilled(make(grid())).requires_grad


def test_bf16_autocast_stays_close() -> None:
    case = make(grid())
    terms = [
        LogitTerm(t.input_RI.float().detach().requires_grad_(), tuple(w.float().detach() for w in t.weights))
        for t in case.rows.terms
    ]
    verifier = VerifierHead(case.verifier.embed_VH.float(), case.verifier.head_VH.float())
    single = Case(Rows(tuple(terms)), case.batch, VerifierStates(case.states.last_BTH.float(), None), verifier)
    exact = distilled(single)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = distilled(single)
    assert rough.dtype == torch.float32
    assert F.l1_loss(rough, exact).item() < 0.05 * exact.item()


@pytest.mark.parametrize(
    "broken",
    [
        {"anchor_R": torch.tensor([3, 3])},  # an anchor twice in a slot
        {"group_R": torch.tensor([0, 0])},  # a group twice in a slot
        {"group_R": torch.tensor([1, 0])},  # groups that do not ascend with their anchors
    ],
    ids=str,
)
def test_a_plan_that_cannot_be_reduced_is_refused(broken: dict[str, Tensor]) -> None:
    """By a message, before any training."""
    good = SequenceRows(*torch.tensor([[3, 5], [1, 1], [0, 1]]), torch.tensor([True, True]), 1)
    assert isinstance(put_together([good], [LENGTH], [0]), RowPlan)
    with pytest.raises(ValueError, match="anchors must ascend with groups"):
        put_together([replace(good, **broken)], [LENGTH], [0])
