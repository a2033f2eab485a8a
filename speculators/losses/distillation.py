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

from speculators.algorithm import LossWeights
from speculators.data.batch import Batch
from speculators.losses.divergences import DIVERGENCES
from speculators.model import Rows
from speculators.verifier.head import VerifierHead
from speculators.verifier.hidden_states import VerifierStates

# Logits of one chunk, all slots together: 32 MiB in float32, and about five tensors of that size are alive.
CHUNK_ELEMENTS = 2**23


@dataclass(frozen=True)
class Distillation:
    """A batch's loss and what was counted on the way.

    Attributes:
        loss: scalar, the mean over targets of the slots' weighted mean.
        metrics: per slot, on the device: `count_S` supervised rows, `correct_S` rows where the draft's first choice is
            the verifier's, `overlap_S` the sum of sum_v min(p, q), the chance that a sampled draft token is accepted.
    """

    loss: Tensor
    metrics: dict[str, Tensor]


def expected_acceptance_length(accuracy_S: Tensor) -> Tensor:
    """1 + sum over s of the product of the accuracies up to s: tokens per verifier pass if slots erred independently."""
    return 1 + accuracy_S.cumprod(0).sum()


def distill(
    rows: Rows,
    batch: Batch,
    states: VerifierStates,
    verifier: VerifierHead,
    loss: LossWeights,
    slot_decay: float,
) -> Distillation:
    """Compare every row with the verifier's distribution at its target.

    With a reduced draft vocabulary the verifier's distribution is renormalised over the kept tokens, and a row whose
    most likely token was not kept teaches nothing; it counts as wrong, and its overlap is with the whole distribution.

    Args:
        rows: the draft's states and heads.
        batch: targets, and which rows are valid.
        states: the verifier's, of the whole batch.
        verifier: its head makes the distributions.
        loss: weights of the divergences.
        slot_decay: slot s weighs slot_decay ** (s - 1), in (0, 1].

    Returns:
        The loss, differentiable once with respect to the rows' states and heads, and the counts.
    """
    slots = len(batch.valid_SN)
    weight_S = slot_decay ** torch.arange(slots, device=batch.valid_SN.device, dtype=torch.float32)
    weight_SN = batch.valid_SN * (weight_S / (weight_S.sum() * max(batch.target_N.numel(), 1))).unsqueeze(1)
    teacher = _Teacher(states.last_BTH.flatten(0, 1), batch.target_N, verifier, rows.kept_D)
    weights = {name: weight for name, weight in loss.model_dump().items() if name in DIVERGENCES and weight > 0}
    total, correct_S, overlap_S = _Chunked.apply(
        rows.hidden_SNH, weight_SN, batch.valid_SN, teacher, weights, torch.is_grad_enabled(), *rows.heads
    )
    counted = {"count_S": batch.valid_SN.sum(1), "correct_S": correct_S, "overlap_S": overlap_S}
    return Distillation(total, counted)


@dataclass(frozen=True)
class _Teacher:
    """The verifier's distribution at some targets."""

    last_PH: Tensor
    target_N: Tensor
    verifier: VerifierHead
    kept_D: Tensor | None

    def __call__(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """For targets start to stop: [C, D] log p over the draft's tokens, [C] log of their share, [C] first choice.

        The first choice is an index into the draft's tokens, -1 where it was not kept.
        """
        logits_CV = self.verifier.logits(self.last_PH[self.target_N[start:stop]]).float()
        if self.kept_D is None:
            log_p_CD = F.log_softmax(logits_CV, dim=-1)
            return log_p_CD, log_p_CD.new_zeros(len(log_p_CD)), logits_CV.argmax(-1)
        logits_CD = logits_CV[:, self.kept_D]
        kept_C = logits_CD.logsumexp(-1)
        best_C, first_C = logits_CD.max(-1)
        first_C = torch.where(best_C == logits_CV.amax(-1), first_C, -1)
        return logits_CD - kept_C.unsqueeze(1), kept_C - logits_CV.logsumexp(-1), first_C


class _Chunked(torch.autograd.Function):
    """Loss and gradient together, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SNH: Tensor,
        weight_SN: Tensor,
        valid_SN: Tensor,
        teacher: _Teacher,
        weights: dict[str, float],
        differentiate: bool,
        *heads: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        S, N, _ = hidden_SNH.shape
        correct_S, overlap_S = weight_SN.new_zeros(2, S)
        total = weight_SN.new_zeros(())
        grad_SNH = torch.zeros_like(hidden_SNH) if differentiate and hidden_SNH.requires_grad else None
        grads = [torch.zeros_like(h) if differentiate and h.requires_grad else None for h in heads]
        # A shared head takes all slots in one product; heads of their own go one by one.
        groups = [slice(0, S)] if len(heads) == 1 else [slice(s, s + 1) for s in range(S)]
        rows = max(1, CHUNK_ELEMENTS // (heads[0].shape[0] * (S if len(heads) == 1 else 1)))
        for start in range(0, N, rows):
            chunk = slice(start, min(start + rows, N))
            log_p_CD, kept_C, first_C = teacher(chunk.start, chunk.stop)
            for group, head_DH, grad_DH in zip(groups, heads, grads, strict=True):
                hidden_SCH = hidden_SNH[group, chunk]
                logits_SCD = F.linear(hidden_SCH, head_DH).float()
                with torch.enable_grad():
                    leaf_SCD = logits_SCD.requires_grad_(differentiate)
                    log_q_SCD = F.log_softmax(leaf_SCD, dim=-1)
                    row_SC = sum(weight * DIVERGENCES[name](log_q_SCD, log_p_CD) for name, weight in weights.items())
                    loss = (row_SC * weight_SN[group, chunk] * (first_C >= 0)).sum()
                total += loss.detach()
                valid_SC = valid_SN[group, chunk]
                with torch.no_grad():
                    correct_S[group] += ((logits_SCD.argmax(-1) == first_C) & valid_SC).sum(-1)
                    p_CD = (log_p_CD + kept_C.unsqueeze(1)).exp()
                    overlap_S[group] += (torch.minimum(log_q_SCD.exp(), p_CD).sum(-1) * valid_SC).sum(-1)
                    del p_CD
                if grad_SNH is None and grad_DH is None:
                    continue
                (grad_SCD,) = torch.autograd.grad(loss, leaf_SCD)
                del loss, row_SC, log_q_SCD, leaf_SCD, logits_SCD
                grad_RD = grad_SCD.flatten(0, 1).to(head_DH.dtype)
                if grad_SNH is not None:
                    grad_SNH[group, chunk] = (grad_RD @ head_DH).view_as(hidden_SCH).to(grad_SNH.dtype)
                if grad_DH is not None:
                    grad_DH.addmm_(grad_RD.T, hidden_SCH.flatten(0, 1).to(head_DH.dtype))
        ctx.grads = (grad_SNH, grads)
        ctx.mark_non_differentiable(correct_S, overlap_S)
        return total, correct_S, overlap_S

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        grad_SNH, grads = ctx.grads
        scaled = [None if g is None else g * grad_total.to(g.dtype) for g in (grad_SNH, *grads)]
        return (scaled[0], None, None, None, None, None, *scaled[1:])
