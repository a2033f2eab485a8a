"""The one reduction of all algorithms: rows against the verifier's distribution, without full logits.

[S, N, V] logits of three slots, 2,048 targets and 49,152 tokens take 1.2 GB, and autograd keeps several of that size.
Here targets go by in chunks. A chunk's logits are made, compared, differentiated and forgotten; what stays is the
gradient with respect to the draft's states and heads (the idea of Liger-Kernel's chunked losses, arXiv:2410.10989).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from speculators.losses.divergences import DIVERGENCES
from speculators.losses.metrics import chained, overlap
from speculators.model import Rows
from speculators.nn.precision import product_dtype
from speculators.protocols.batch import Batch
from speculators.protocols.head import VerifierHead
from speculators.protocols.hidden_states import VerifierStates
from speculators.settings.algorithm import LossWeights

# Logits alive at once, the verifier's and all slots' of one chunk; about five times as many elements are in use.
# 32 MiB in float32 make products of about 128 rows at 49,152 tokens and three slots, more are no faster on a CPU.
# An accelerator wants more rows a product; 256 MiB is little beside the model that it trains.
CPU_CHUNK_ELEMENTS = 2**23
ACCELERATOR_CHUNK_ELEMENTS = 2**26


@dataclass(frozen=True)
class Distillation:
    """A batch's loss and what was counted on the way.

    Attributes:
        loss: scalar, the mean over the batch's targets of each target's loss.
        metrics: per slot, on the device: `count_S` valid rows, `correct_S` rows where the draft's first choice is the
            verifier's, `overlap_S` the sum of sum_v min(p, q), `tried_S` and `kept_S` as in `metrics.chained`.
    """

    loss: Tensor
    metrics: dict[str, Tensor]


def distill(
    rows: Rows,
    batch: Batch,
    states: VerifierStates,
    verifier: VerifierHead,
    loss: LossWeights,
    slot_decay: float,
) -> Distillation:
    """Compare every row with the verifier's distribution at its target.

    A target's loss is sum_s w_s row_s / sum_s w_s with w_s = slot_decay ** (s - 1); an invalid row adds nothing. The
    divisor is the number of targets, known on the host, and not a slot's number of valid rows: so the loss is linear
    in the targets, and batches weighted by `batch.target_N.numel()` give the gradient of all of them at once, however
    they are cut.

    With a reduced draft vocabulary the verifier's distribution is renormalised over the kept tokens, and a row whose
    most likely token was not kept teaches nothing; it counts as wrong, and its overlap is with the whole distribution.

    Products are taken in the heads' dtype, or autocast's where that is on; all else in float32 or better.

    Args:
        rows: the draft's states and heads.
        batch: targets, and which rows are valid.
        states: the verifier's, of the whole batch.
        verifier: its head makes the distributions.
        loss: weights of the divergences; keys that name none are left to others.
        slot_decay: in (0, 1].

    Returns:
        The loss, differentiable once, by one backward pass, with respect to the rows' states and heads; and the counts.
    """
    slots, targets = batch.valid_SN.shape
    weight_S = slot_decay ** torch.arange(slots, device=batch.valid_SN.device, dtype=torch.float32)
    weight_SN = batch.valid_SN * (weight_S / (weight_S.sum() * max(targets, 1))).unsqueeze(1)
    plan = _Plan(rows, batch, states.last_BTH.flatten(0, 1), verifier, weight_SN, divergence_weights(loss))
    total, correct_SN, overlap_S = _Chunked.apply(plan, torch.is_grad_enabled(), rows.hidden_SNH, *rows.heads)
    tried_S, kept_S = chained(correct_SN, batch.valid_SN, batch.target_N, batch.token_BT.numel())
    counted = {"count_S": batch.valid_SN.sum(1), "correct_S": correct_SN.sum(1), "overlap_S": overlap_S}
    return Distillation(total, {**counted, "tried_S": tried_S, "kept_S": kept_S})


def divergence_weights(loss: LossWeights) -> dict[str, float]:
    """The weights above zero that belong to a divergence."""
    return {name: weight for name, weight in loss.model_dump().items() if name in DIVERGENCES and weight > 0}


@dataclass(frozen=True)
class _Teacher:
    """The verifier's distribution: over the draft's tokens, their part of the whole, and the first choice.

    The first choice is an index into the draft's tokens, -1 where it was not kept.
    """

    log_p_CD: Tensor
    log_whole_CD: Tensor
    first_C: Tensor


@dataclass(frozen=True)
class _Plan:
    """All that a chunk needs beside what is differentiated."""

    rows: Rows
    batch: Batch
    last_PH: Tensor
    verifier: VerifierHead
    weight_SN: Tensor
    divergences: dict[str, float]

    def chunks(self) -> list[slice]:
        """Targets side by side, as many as the budget takes."""
        slots, targets = self.weight_SN.shape
        together = slots if len(self.rows.heads) == 1 else 1
        elements = CPU_CHUNK_ELEMENTS if self.weight_SN.device.type == "cpu" else ACCELERATOR_CHUNK_ELEMENTS
        size = max(1, elements // (len(self.verifier.head_VH) + together * len(self.rows.heads[0])))
        return [slice(start, min(start + size, targets)) for start in range(0, targets, size)]

    def teacher(self, chunk: slice, head_VH: Tensor) -> _Teacher:
        """The verifier's distributions at a chunk's targets."""
        last_CH = self.last_PH[self.batch.target_N[chunk]].to(head_VH.dtype)
        logits_CV = self.verifier.scaled(_wide(F.linear(last_CH, head_VH)))
        if self.rows.kept_D is None:
            log_p_CD = F.log_softmax(logits_CV, dim=-1)
            return _Teacher(log_p_CD, log_p_CD, first_choice(logits_CV))
        logits_CD = logits_CV.index_select(-1, self.rows.kept_D)
        best_C, first_C = logits_CD.max(-1)
        first_C = torch.where(best_C == logits_CV.amax(-1), first_C, -1)
        return _Teacher(F.log_softmax(logits_CD, -1), logits_CD - logits_CV.logsumexp(-1, keepdim=True), first_C)

    def compare(
        self, at: tuple[int, slice], teacher: _Teacher, raw_CD: Tensor, differentiate: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A slot's rows of one chunk: their loss, which are correct, their overlap.

        The logits become the loss's gradient with respect to them if that is wanted: there is no room for both.
        """
        valid_C = self.batch.valid_SN[at]
        with torch.enable_grad():
            leaf_CD = raw_CD.detach().requires_grad_(differentiate)
            logits_CD = self.verifier.scaled(leaf_CD) if self.rows.scaled_as_verifier else leaf_CD
            log_q_CD = F.log_softmax(logits_CD, dim=-1)
            row_C = torch.zeros_like(self.weight_SN[at])
            for name, weight in self.divergences.items():
                row_C = row_C + weight * DIVERGENCES[name](log_q_CD, teacher.log_p_CD)
            loss = (row_C * self.weight_SN[at] * (teacher.first_C >= 0)).sum()
        with torch.no_grad():
            correct_C = (first_choice(logits_CD) == teacher.first_C) & valid_C
            overlap_C = overlap(log_q_CD, teacher.log_whole_CD) * valid_C
        if differentiate:
            raw_CD.copy_(torch.autograd.grad(loss, leaf_CD)[0])
        return loss.detach(), correct_C, overlap_C


class _Chunked(torch.autograd.Function):
    """Loss and gradient together, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, differentiate: bool, hidden_SNH: Tensor, *heads: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        weight_SN, S = plan.weight_SN, len(plan.weight_SN)
        total, overlap_S = weight_SN.new_zeros(()), weight_SN.new_zeros(S)
        correct_SN = torch.zeros_like(plan.batch.valid_SN)
        differentiate = differentiate and bool(plan.divergences)
        grad_SNH = torch.zeros_like(hidden_SNH) if differentiate and hidden_SNH.requires_grad else None
        grads = [_zeros_wide(head) if differentiate and head.requires_grad else None for head in heads]
        differentiate = grad_SNH is not None or any(grad is not None for grad in grads)
        dtype = product_dtype(heads[0])
        verifier_VH, low_heads = plan.verifier.head_VH.to(dtype), [head.to(dtype) for head in heads]
        # A shared head takes all slots in one product; heads of their own go one by one.
        groups = [slice(0, S)] if len(heads) == 1 else [slice(s, s + 1) for s in range(S)]
        with torch.autocast(hidden_SNH.device.type, enabled=False):
            for chunk in plan.chunks():
                teacher = plan.teacher(chunk, verifier_VH)
                for slots, head_DH, grad_DH in zip(groups, low_heads, grads, strict=True):
                    hidden_RH = hidden_SNH[slots, chunk].flatten(0, 1).to(dtype)
                    raw_SCD = _wide(F.linear(hidden_RH, head_DH)).unflatten(0, (slots.stop - slots.start, -1))
                    for s, raw_CD in zip(range(slots.start, slots.stop), raw_SCD, strict=True):
                        loss, correct_SN[s, chunk], overlap_C = plan.compare((s, chunk), teacher, raw_CD, differentiate)
                        total += loss
                        overlap_S[s] += overlap_C.sum()
                    if not differentiate:
                        continue
                    grad_RD = raw_SCD.flatten(0, 1).to(dtype)
                    if grad_SNH is not None:
                        grad_SCH = grad_SNH[slots, chunk]
                        grad_SCH.copy_((grad_RD @ head_DH).view_as(grad_SCH))
                    if grad_DH is not None:
                        _add_product(grad_DH, grad_RD.T, hidden_RH)
        ctx.grads = [grad_SNH, *(None if g is None else g.to(h.dtype) for g, h in zip(grads, heads, strict=True))]
        ctx.mark_non_differentiable(correct_SN, overlap_S)
        return total, correct_SN, overlap_S

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        # Scaled in place and given away: a head's gradient is as large as the head.
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise RuntimeError("a distillation loss has one backward pass; call distill again for another")
        return (None, None, *(None if grad is None else grad.mul_(grad_total) for grad in grads))


def first_choice(logits: Tensor) -> Tensor:
    """The argmax over the last dimension; on a CPU `max` finds it in less than half of argmax's time."""
    return logits.max(-1).indices


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _zeros_wide(x: Tensor) -> Tensor:
    return torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, without a product beside it where the dtypes agree."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
