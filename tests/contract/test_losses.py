"""Every loss that an algorithm offers, against full logits and plain loops."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from speculators.losses import distillation
from speculators.losses.divergences import DIVERGENCES
from speculators.model import Rows
from speculators.protocols.batch import Batch

from .conftest import VOCAB, Case, student


def kl(p: Tensor, q: Tensor, state: Tensor, verifiers: Tensor) -> Tensor:
    """Forward Kullback-Leibler divergence."""
    return (p * (p.log() - q.log())).sum()


def ce(p: Tensor, q: Tensor, state: Tensor, verifiers: Tensor) -> Tensor:
    """Cross entropy with the verifier's first choice."""
    return -q[p.argmax()].log()


def tv(p: Tensor, q: Tensor, state: Tensor, verifiers: Tensor) -> Tensor:
    """Total variation."""
    return (p - q).abs().sum() / 2


def smooth_l1(p: Tensor, q: Tensor, state: Tensor, verifiers: Tensor) -> Tensor:
    """Huber's distance of the states with threshold one, the mean over elements."""
    d = (state - verifiers).abs()
    return torch.where(d < 1, d**2 / 2, d - 0.5).mean()


# A loss of a new kind gets its naive twin here.
NAIVE: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "kl": kl,
    "ce": ce,
    "tv": tv,
    "smooth_l1": smooth_l1,
}


def naive(case: Case, kind: str, batch: Batch, rows: Rows) -> float:
    """The mean over targets of each target's weighted mean over slots; what cannot be judged counts as zero."""
    last_PH = case.verifier(batch, ()).last_BTH.flatten(0, 1)
    decay = case.run.algorithm.slot_decay if kind in DIVERGENCES else 1.0
    kept = list(range(VOCAB)) if rows.kept_D is None else rows.kept_D.tolist()
    slots, targets = batch.valid_SN.shape
    total = 0.0
    for s in range(slots):
        for n, target in enumerate(batch.target_N.tolist()):
            whole_V = case.verifier.head.logits(last_PH[target])
            if batch.valid_SN[s, n] and (kind not in DIVERGENCES or int(whole_V.argmax()) in kept):
                state_H = rows.hidden_SNH[s, n]
                # In float64 no probability is too small to be one.
                q_V = case.logits(rows, s + 1, state_H[None])[0]
                p, q = (logits_V[kept].double().softmax(0) for logits_V in (whole_V, q_V))
                total += decay**s * NAIVE[kind](p, q, state_H, last_PH[target]).item()
    return total / sum(decay**s for s in range(slots)) / targets


def test_every_kind_equals_the_naive_one(either: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each weight of the settings' `loss` alone, in many chunks."""
    monkeypatch.setattr(distillation, "CPU_CHUNK_ELEMENTS", 7 * 2 * VOCAB)
    model, algorithm = either.shaken(), either.run.algorithm
    batch = either.batch(either.texts[:2], either.texts[2:])
    rows = either.rows(model, batch)
    for kind in type(algorithm.loss).model_fields:
        weights = {name: float(name == kind) for name in type(algorithm.loss).model_fields}
        alone = algorithm.model_copy(update={"loss": type(algorithm.loss)(**weights)})
        case = Case(either.run.model_copy(update={"algorithm": alone}), either.facts, either.verifier)
        loss, _ = student(case, model).loss(batch)
        assert loss.item() == pytest.approx(naive(either, kind, batch, rows), rel=1e-4), kind


def test_weights_add_up(either: Case) -> None:
    """The loss is linear in its weights: all of them together are the sum of each alone."""
    model, algorithm, batch = either.shaken(), either.run.algorithm, either.batch(either.texts)
    names = list(type(algorithm.loss).model_fields)

    def loss(weights: dict[str, float]) -> float:
        chosen = algorithm.model_copy(update={"loss": type(algorithm.loss)(**weights)})
        case = Case(either.run.model_copy(update={"algorithm": chosen}), either.facts, either.verifier)
        return student(case, model).loss(batch)[0].item()

    alone = [loss({n: float(n == name) for n in names}) for name in names]
    assert loss(dict.fromkeys(names, 0.5)) == pytest.approx(sum(alone) / 2, rel=1e-4)
