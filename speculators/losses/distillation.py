"""The distillation loss of all algorithms: rows against the verifier's distribution at their targets."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from speculators.losses.chunked import Chunked, Reduction
from speculators.losses.divergences import DIVERGENCES
from speculators.losses.metrics import chained
from speculators.protocols.batch import Batch
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.rows import RowLayout, RowResults, Rows


@dataclass(frozen=True)
class Distillation:
    """A batch's loss and what was counted on the way.

    Attributes:
        loss: scalar, see `distill`.
        results: of each row.
        metrics: per slot, on the device: `count_S` valid rows, `correct_S` rows where the draft's first choice is the
            verifier's, `overlap_S` the sum of sum_v min(p, q), `tried_S` and `kept_S` as in `metrics.chained`.
    """

    loss: Tensor
    results: RowResults
    metrics: dict[str, Tensor]


def distill(
    rows: Rows,
    batch: Batch,
    states: VerifierStates,
    verifier: VerifierHead,
    loss: Mapping[str, float],
    slot_decay: float,
) -> Distillation:
    """Compare every row with the verifier's distribution at its target.

    The loss is sum_r w_r d_r row_r / sum_r w_r, with w_r = slot_decay ** (slot - 1), d_r the rows' own weights if they
    have some, and row_r = 0 where the row is invalid. The divisor counts every planned row, valid or not, and is known
    on the host: so the loss is linear in the rows, and batches weighted by `row_count` give the gradient of all of them
    at once, however they are cut. Of a grid of slots and targets it is the mean over targets of each target's weighted
    mean over slots.

    With a reduced draft vocabulary the verifier's distribution is renormalised over the kept tokens, and a row whose
    most likely token was not kept has zero loss; it counts as wrong, and its overlap is with the whole distribution.

    Products are taken in the heads' dtype, or autocast's where that is on; all else in float32 or better.

    Args:
        rows: the draft's terms, of the batch's plan.
        batch: the plan.
        states: the verifier's, of the whole batch.
        verifier: its head makes the distributions.
        loss: weights of the divergences; other keys are ignored. `rows.divergences` takes precedence.
        slot_decay: in (0, 1]. `rows.slot_decay` takes precedence, in the numerator's w_r and in its sum over one group.

    Returns:
        The loss, differentiable once, by one backward pass, with respect to the terms' inputs and weights; and the
        counts. Without any row it is zero.
    """
    plan = batch.rows
    weight_R = row_weights(batch, slot_decay if rows.slot_decay is None else rows.slot_decay, slot_decay)
    divergences = divergence_weights(loss if rows.divergences is None else rows.divergences)
    reduction = Reduction(rows, plan, states.last_BTH.flatten(0, 1), verifier, weight_R, divergences)
    tensors = [term.input_RI for term in rows.terms] + [weight for term in rows.terms for weight in term.weights]
    total, correct_R, overlap_R = Chunked.apply(reduction, torch.is_grad_enabled(), *tensors)
    tried_S, kept_S = chained(correct_R, plan.valid_R, plan.anchor_R, plan.slot_R, plan.slots, batch.token_BT.numel())
    counted = {
        name: torch.stack([values_R[span].sum() for span in plan.layout.spans])
        for name, values_R in (("count_S", plan.valid_R), ("correct_S", correct_R), ("overlap_S", overlap_R))
    }
    results = RowResults(overlap_R, correct_R, weight_R)
    return Distillation(total, results, {**counted, "tried_S": tried_S, "kept_S": kept_S})


def row_count(layout: RowLayout, slot_decay: float) -> float:
    """Weight of a batch's loss relative to others: its rows by slot weight, one row of every slot counting as one.

    Of a grid of slots and targets, the number of targets.
    """
    weights = [slot_decay**s for s in range(layout.slots)]
    rows = [span.stop - span.start for span in layout.spans]
    return sum(w * n for w, n in zip(weights, rows, strict=True)) / sum(weights)


def row_weights(batch: Batch, slot_decay: float, divided_by: float) -> Tensor:
    """[R] float32 weights that add up to the mean over rows, 0 at invalid rows.

    Args:
        batch: the plan.
        slot_decay: slot s weighs slot_decay ** (s - 1).
        divided_by: the decay that `row_count` is taken with, the same for all sets of rows.
    """
    plan = batch.rows
    weight_S = slot_decay ** torch.arange(plan.slots, device=plan.valid_R.device, dtype=torch.float32)
    weight_S = weight_S / (weight_S.sum() * (row_count(plan.layout, divided_by) or 1))
    return plan.valid_R * weight_S[plan.slot_R - 1]


def divergence_weights(loss: Mapping[str, float]) -> dict[str, float]:
    """The weights above zero that belong to a divergence."""
    return {name: weight for name, weight in loss.items() if name in DIVERGENCES and weight > 0}
