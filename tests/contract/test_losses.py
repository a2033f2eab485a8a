"""Every loss that an algorithm offers, against full logits and plain loops."""

import importlib
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from speculators.losses import chunked
from speculators.losses.divergences import DIVERGENCES
from speculators.model import SpeculatorModel
from speculators.protocols.batch import Batch
from speculators.protocols.rows import GroupFacts
from speculators.utils.discovery import packages

from .conftest import VOCAB, Case, student


class Row(NamedTuple):
    """One row: the verifier's distribution over the draft's tokens, their part of its whole one, the draft's; what each
    term of the logits reads, of which the first is the draft's state; the verifier's state."""

    p: Tensor
    whole: Tensor
    q: Tensor
    inputs: list[Tensor]
    verifiers: Tensor

    @property
    def accepted(self) -> Tensor:
        """The chance that a sampled token is accepted."""
        return torch.minimum(self.whole, self.q).sum()


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
    d = (row.inputs[0] - row.verifiers).abs()
    return torch.where(d < 1, d**2 / 2, d - 0.5).mean()


# A loss of a new kind gets its naive twin here, or in `naive.py` of an installed package; those take the draft as well.
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


def confidence(row: Row, model: SpeculatorModel) -> Tensor:
    """DSpark's: binary cross entropy of the foreseen acceptance with the acceptance."""
    weights = model.state_dict()
    if "confidence_head.proj.weight" not in weights:
        return torch.zeros(())
    reads = weights["confidence_head.proj.weight"][0]
    logit = weights["confidence_head.proj.bias"][0] + (reads * torch.cat(row.inputs)[: len(reads)]).sum()
    foreseen = torch.sigmoid(logit)
    return -(row.accepted * foreseen.log() + (1 - row.accepted) * (1 - foreseen).log())


# Losses that train tensors of one algorithm's draft.
OWN: dict[tuple[str, str], Callable[[Row, SpeculatorModel], Tensor]] = {("dspark", "confidence"): confidence}


# Means over all rows alike, whatever the settings' slot weights.
UNWEIGHTED = {"smooth_l1"}


def twin(case: Case, model: SpeculatorModel, kind: str) -> Callable[[Row], Tensor]:
    """The naive loss of one kind."""
    if kind in NAIVE:
        return NAIVE[kind]
    if (case.run.algorithm.name, kind) in OWN:
        return partial(OWN[case.run.algorithm.name, kind], model=model)
    own = importlib.import_module(f"{packages()[case.run.algorithm.name]}.naive")
    return partial(own.NAIVE[kind], model=model)


@torch.no_grad()
def naive(case: Case, model: SpeculatorModel, kinds: Iterable[str], batch: Batch) -> dict[str, float]:
    """For each kind the weighted mean over all planned rows; what cannot be judged counts as zero."""
    rows, plan = case.rows(model, batch), batch.rows
    last_PH = case.verifier(batch, ()).last_BTH.flatten(0, 1)
    kept = list(range(VOCAB)) if rows.kept_D is None else rows.kept_D.tolist()
    logits_RV = case.logits(rows, batch)
    judged: list[tuple[Row, bool]] = []
    prob_SG, overlap_SG = torch.zeros(2, plan.slots, plan.layout.groups)
    known_SG = torch.zeros(plan.slots, plan.layout.groups, dtype=torch.bool)
    at = list(zip((plan.slot_R - 1).tolist(), plan.group_R.tolist(), strict=True))
    for r, target in enumerate(plan.target_R.tolist()):
        whole_V = case.verifier.head.logits(last_PH[target])
        # In float64 no probability is too small to be one.
        p, q = (logits_V[kept].double().softmax(0) for logits_V in (whole_V, logits_RV[r]))
        row = Row(p, whole_V.double().softmax(0)[kept], q, [t.input_RI[r] for t in rows.terms], last_PH[target])
        known = bool(plan.valid_R[r]) and int(whole_V.argmax()) in kept
        if known:
            known_SG[at[r]], prob_SG[at[r]], overlap_SG[at[r]] = True, q[p.argmax()], row.accepted
        judged.append((row, known))
    means = {}
    for kind in kinds:
        decay = 1.0 if kind in UNWEIGHTED else case.run.algorithm.slot_decay
        own_SG = torch.ones_like(prob_SG)
        if rows.row_weights is not None and kind in DIVERGENCES:
            own_SG = rows.row_weights(GroupFacts(prob_SG, overlap_SG, known_SG))
        loss, total, weights = twin(case, model, kind), 0.0, 0.0
        for (row, known), cell, valid in zip(judged, at, plan.valid_R.tolist(), strict=True):
            weights += decay ** cell[0]
            if known if kind in DIVERGENCES else valid:
                total += decay ** cell[0] * float(own_SG[cell]) * loss(row).item()
        means[kind] = total / weights
    return means


def test_every_kind_equals_the_naive_one(either: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each weight of the settings' `loss` alone, in many chunks."""
    monkeypatch.setattr(chunked, "CPU_CHUNK_ELEMENTS", 7 * 2 * VOCAB)
    model, algorithm = either.shaken(), either.run.algorithm
    batch = either.batch(either.texts[:2], either.texts[2:])
    expected = naive(either, model, type(algorithm.loss).model_fields, batch)
    for kind in expected:
        weights = {name: float(name == kind) for name in expected}
        alone = algorithm.model_copy(update={"loss": type(algorithm.loss)(**weights)})
        case = Case(either.run.model_copy(update={"algorithm": alone}), either.facts, either.verifier)
        loss, _ = student(case, model).loss(batch, 0.5)
        assert loss.item() == pytest.approx(expected[kind], rel=1e-4), kind


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
