"""Every loss that an algorithm offers, against full logits and plain loops."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from speculators.losses import chunked
from speculators.losses.divergences import DIVERGENCES
from speculators.protocols.batch import Batch
from speculators.protocols.rows import Rows

from .conftest import VOCAB, Case, student


class Row(NamedTuple):
    """One row: the verifier's distribution over the draft's tokens, their part of its whole one, the draft's; states."""

    p: Tensor
    whole: Tensor
    q: Tensor
    state: Tensor
    verifiers: Tensor

    @property
    def accepted(self) -> Tensor:
        """The chance that a sampled token is accepted."""
        return torch.stack([min(a, b) for a, b in zip(self.whole, self.q, strict=True)]).sum()


def kl(row: Row) -> Tensor:
    """Forward Kullback-Leibler divergence."""
    return (row.p * (row.p.log() - row.q.log())).sum()


def rkl(row: Row) -> Tensor:
    """Reverse Kullback-Leibler divergence."""
    return (row.q * (row.q.log() - row.p.log())).sum()


def jsd(row: Row) -> Tensor:
    """Jensen-Shannon divergence: entropy of the mixture minus the mean entropy."""
    mixture = (row.p + row.q) / 2
    entropies = [-(x * x.log()).sum() for x in (mixture, row.p, row.q)]
    return entropies[0] - (entropies[1] + entropies[2]) / 2


def ce(row: Row) -> Tensor:
    """Cross entropy with the verifier's first choice."""
    return -row.q[row.p.argmax()].log()


def topk(row: Row) -> Tensor:
    """Cross entropy over the verifier's ten likeliest tokens."""
    top = sorted(range(len(row.whole)), key=lambda v: -row.whole[v])[:10]
    return torch.stack([-row.whole[v] * row.q[v].log() for v in top]).sum()


def tv(row: Row) -> Tensor:
    """Total variation."""
    return 1 - row.accepted


def nla(row: Row) -> Tensor:
    """Negative log of the acceptance."""
    return -row.accepted.clamp(min=1e-5).log()


def lk_hybrid(row: Row) -> Tensor:
    """KL where acceptance is low, total variation where it is high."""
    share = math.exp(-3 * row.accepted)
    return share * kl(row) + (1 - share) * tv(row)


def smooth_l1(row: Row) -> Tensor:
    """Huber's distance of the states with threshold one, the mean over elements."""
    d = (row.state - row.verifiers).abs()
    return torch.where(d < 1, d**2 / 2, d - 0.5).mean()


# A loss of a new kind gets its naive twin here.
NAIVE: dict[str, Callable[[Row], Tensor]] = {
    "kl": kl,
    "rkl": rkl,
    "jsd": jsd,
    "ce": ce,
    "topk": topk,
    "tv": tv,
    "nla": nla,
    "lk_hybrid": lk_hybrid,
    "smooth_l1": smooth_l1,
}


@torch.no_grad()
def naive(case: Case, kind: str, batch: Batch, rows: Rows) -> float:
    """The weighted mean over all planned rows; what cannot be judged counts as zero."""
    last_PH = case.verifier(batch, ()).last_BTH.flatten(0, 1)
    decay = case.run.algorithm.slot_decay if kind in DIVERGENCES else 1.0
    kept = list(range(VOCAB)) if rows.kept_D is None else rows.kept_D.tolist()
    total, weights, logits_RV = 0.0, 0.0, case.logits(rows, batch)
    plan = batch.rows
    for r, (target, slot) in enumerate(zip(plan.target_R.tolist(), plan.slot_R.tolist(), strict=True)):
        whole_V, weight = case.verifier.head.logits(last_PH[target]), decay ** (slot - 1)
        weights += weight
        if plan.valid_R[r] and (kind not in DIVERGENCES or int(whole_V.argmax()) in kept):
            # In float64 no probability is too small to be one.
            p, q = (logits_V[kept].double().softmax(0) for logits_V in (whole_V, logits_RV[r]))
            whole = whole_V.double().softmax(0)[kept]
            total += weight * NAIVE[kind](Row(p, whole, q, rows.terms[0].input_RI[r], last_PH[target])).item()
    return total / weights


def test_every_kind_equals_the_naive_one(either: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each weight of the settings' `loss` alone, in many chunks."""
    monkeypatch.setattr(chunked, "CPU_CHUNK_ELEMENTS", 7 * 2 * VOCAB)
    model, algorithm = either.shaken(), either.run.algorithm
    batch = either.batch(either.texts[:2], either.texts[2:])
    rows = either.rows(model, batch)
    for kind in type(algorithm.loss).model_fields:
        weights = {name: float(name == kind) for name in type(algorithm.loss).model_fields}
        alone = algorithm.model_copy(update={"loss": type(algorithm.loss)(**weights)})
        case = Case(either.run.model_copy(update={"algorithm": alone}), either.facts, either.verifier)
        loss, _ = student(case, model).loss(batch, 0.5)
        assert loss.item() == pytest.approx(naive(either, kind, batch, rows), rel=1e-4), kind


def test_weights_add_up(either: Case) -> None:
    """The loss is linear in its weights: all of them together are the sum of each alone."""
    model, algorithm, batch = either.shaken(), either.run.algorithm, either.batch(either.texts)
    names = list(type(algorithm.loss).model_fields)

    def loss(weights: dict[str, float]) -> float:
        chosen = algorithm.model_copy(update={"loss": type(algorithm.loss)(**weights)})
        case = Case(either.run.model_copy(update={"algorithm": chosen}), either.facts, either.verifier)
        return student(case, model).loss(batch, 0.5)[0].item()

    alone = [loss({n: float(n == name) for n in names}) for name in names]
    assert loss(dict.fromkeys(names, 0.5)) == pytest.approx(sum(alone) / 2, rel=1e-4)
