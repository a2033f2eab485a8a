"""Chunked distillation loss: computes loss and gradient together, without the full logits in memory.

A chunk is a contiguous range of groups. Its logits are computed, used for the loss and its gradient, and freed. Only
the gradient with respect to the terms' inputs and weights is kept (as in Liger-Kernel, arXiv:2410.10989).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from speculators.losses.divergences import DIVERGENCES
from speculators.losses.metrics import overlap
from speculators.nn.precision import product_dtype
from speculators.protocols.head import VerifierHead
from speculators.protocols.rows import GroupFacts, RowPlan, Rows

# Logits in memory at once, the verifier's and the draft's of one chunk; peak use is about five times as many elements.
# 32 MiB in float32 make products of about 128 rows at 49,152 tokens and three slots, more are no faster on a CPU.
# An accelerator wants more rows a product; 256 MiB is little beside the model that it trains.
CPU_CHUNK_ELEMENTS = 2**23
ACCELERATOR_CHUNK_ELEMENTS = 2**26


@dataclass(frozen=True)
class Chunk:
    """A contiguous range of groups.

    Attributes:
        groups: their indices.
        spans: their rows of each slot.
        targets: range of distinct targets that covers those of these rows.
    """

    groups: slice
    spans: list[slice]
    targets: slice


@dataclass(frozen=True)
class Teacher:
    """The verifier's distributions at C targets.

    Attributes:
        log_p_CD: log-probabilities over the draft's tokens alone.
        log_whole_CD: the same tokens' log-probabilities in the whole vocabulary; `log_p_CD` itself if the draft has it.
        first_C: index of the most likely token in the draft's vocabulary, -1 where it is not in it.
    """

    log_p_CD: Tensor
    log_whole_CD: Tensor
    first_C: Tensor

    def at(self, place_N: Tensor) -> "Teacher":
        """The distributions at some of the targets."""
        log_p_ND = self.log_p_CD[place_N]
        same = self.log_whole_CD is self.log_p_CD
        return Teacher(log_p_ND, log_p_ND if same else self.log_whole_CD[place_N], self.first_C[place_N])


@dataclass(frozen=True)
class Reduction:
    """Inputs of the reduction other than the differentiated tensors.

    Attributes:
        rows: what is predicted.
        plan: of these rows.
        last_PH: the verifier's states at all flat positions.
        verifier: its head makes the distributions.
        weight_R: each row's fixed weight, 0 where it is invalid.
        divergences: weights above zero by name.
    """

    rows: Rows
    plan: RowPlan
    last_PH: Tensor
    verifier: VerifierHead
    weight_R: Tensor
    divergences: dict[str, float]

    @property
    def parts(self) -> list[list[int]]:
        """Slots whose logits are computed together, from 0: all, or each alone if slots have separate weights."""
        slots = list(range(self.plan.slots))
        together = self.rows.row_weights is not None or all(len(term.weights) == 1 for term in self.rows.terms)
        return [slots] if together else [[slot] for slot in slots]

    def chunks(self) -> Iterator[Chunk]:
        """Chunks of as many consecutive groups as the budget of logits allows."""
        layout = self.plan.layout
        if not layout.groups:
            return
        rows = max(sum(_length(layout.spans[s]) for s in part) for part in self.parts)
        elements = CPU_CHUNK_ELEMENTS if self.weight_R.device.type == "cpu" else ACCELERATOR_CHUNK_ELEMENTS
        logits = len(self.verifier.head_VH) * layout.targets + len(self.rows.terms[0].weights[0]) * rows
        size = max(1, elements * layout.groups // logits)
        edges = np.arange(0, layout.groups + size, size).clip(max=layout.groups)
        cuts_SE = [span.start + np.searchsorted(layout.group_R[span], edges) for span in layout.spans]
        for i, group in enumerate(edges[:-1].tolist()):
            spans = [slice(int(cuts_E[i]), int(cuts_E[i + 1])) for cuts_E in cuts_SE]
            filled = [span for span in spans if _length(span)]
            if filled:
                first = min(int(layout.place_R[span.start]) for span in filled)
                last = max(int(layout.place_R[span.stop - 1]) for span in filled)
                yield Chunk(slice(group, int(edges[i + 1])), spans, slice(first, last + 1))

    def teacher(self, targets: slice, head_VH: Tensor) -> Teacher:
        """The verifier's distributions at some of the distinct targets."""
        last_CH = self.last_PH[self.plan.target_U[targets]].to(head_VH.dtype)
        logits_CV = self.verifier.scaled(_wide(F.linear(last_CH, head_VH)))
        if self.rows.kept_D is None:
            log_p_CD = F.log_softmax(logits_CV, dim=-1)
            return Teacher(log_p_CD, log_p_CD, first_choice(logits_CV))
        logits_CD = logits_CV.index_select(-1, self.rows.kept_D)
        best_C, first_C = logits_CD.max(-1)
        first_C = torch.where(best_C == logits_CV.amax(-1), first_C, -1)
        return Teacher(F.log_softmax(logits_CD, -1), logits_CD - logits_CV.logsumexp(-1, keepdim=True), first_C)

    def of_rows(self, teacher: Teacher, targets: slice, span: slice) -> Teacher:
        """The distributions of a slot's rows, `teacher` being of `targets`."""
        if np.array_equal(self.plan.layout.place_R[span], np.arange(targets.start, targets.stop)):
            return teacher
        return teacher.at(self.plan.place_R[span] - targets.start)

    def weights(self, chunk: Chunk, teacher: Teacher, raws: "Logits") -> Tensor | None:
        """[S, C] weights of a chunk's rows, from the draft's results on them; None if all are one."""
        if self.rows.row_weights is None:
            return None
        groups = _length(chunk.groups)
        prob_SC = self.weight_R.new_zeros(self.plan.slots, groups)
        overlap_SC, valid_SC = torch.zeros_like(prob_SC), torch.zeros_like(prob_SC, dtype=torch.bool)
        for s, span, raw in raws.by_slot():
            of_rows = self.of_rows(teacher, chunk.targets, span)
            log_q_ND = F.log_softmax(self.logits(raw), dim=-1)
            place_N = self.plan.group_R[span] - chunk.groups.start
            valid_N = self.plan.valid_R[span] & (of_rows.first_C >= 0)
            prob_N = log_q_ND.gather(-1, of_rows.first_C.clamp_min(0).unsqueeze(-1)).squeeze(-1).exp()
            prob_SC[s, place_N] = (prob_N * valid_N).to(prob_SC.dtype)
            overlap_SC[s, place_N] = (overlap(log_q_ND, of_rows.log_whole_CD) * valid_N).to(prob_SC.dtype)
            valid_SC[s, place_N] = valid_N
        return self.rows.row_weights(GroupFacts(prob_SC, overlap_SC, valid_SC))

    def logits(self, raw: Sequence[Tensor]) -> Tensor:
        """Logits of the terms' products: scaled and capped as the verifier's are, if the first term's weight is its head."""
        if not self.rows.scaled_as_verifier:
            return raw[0]
        scaled = self.verifier.scaled(raw[0], self.rows.kept_D)
        return scaled if len(raw) == 1 else scaled + raw[1]

    def compare(
        self, span: slice, teacher: Teacher, raw: Sequence[Tensor], weight_N: Tensor, differentiate: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of one slot: their weighted loss, which are correct, their overlap.

        If gradients are needed, the products are overwritten in place by the loss's gradient, to save memory.
        """
        valid_N = self.plan.valid_R[span]
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_(differentiate) for x in raw]
            logits_ND = self.logits(leaves)
            log_q_ND = F.log_softmax(logits_ND, dim=-1)
            row_N = torch.zeros_like(weight_N)
            for name, weight in self.divergences.items():
                row_N = row_N + weight * DIVERGENCES[name](log_q_ND, teacher.log_p_CD, teacher.log_whole_CD)
            loss = (row_N * weight_N * (teacher.first_C >= 0)).sum()
        with torch.no_grad():
            correct_N = (first_choice(logits_ND) == teacher.first_C) & valid_N
            overlap_N = overlap(log_q_ND, teacher.log_whole_CD) * valid_N
        if differentiate:
            for x, grad in zip(raw, torch.autograd.grad(loss, leaves), strict=True):
                x.copy_(grad)
        return loss.detach(), correct_N, overlap_N


class Logits:
    """The products of some slots' rows in one chunk, and later the loss's gradient with respect to them.

    Args:
        inputs: of each term, all rows'.
        weights: of each term.
        slots: whose rows, from 0, with rows in this chunk.
        spans: these rows.
        apart: the first term's product stays apart from the others' sum, for it alone is scaled.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        weights: Sequence[Sequence[Tensor]],
        slots: Sequence[int],
        spans: Sequence[slice],
        apart: bool,
    ) -> None:
        self.slots, self.spans, self.weights = slots, spans, weights
        self.sizes = [_length(span) for span in spans]
        self.inputs = [
            _together([x[span] for span in spans]).to(w[0].dtype) for x, w in zip(inputs, weights, strict=True)
        ]
        self.raw: list[Tensor] = []
        for term in range(len(inputs)):
            made = _wide(_together([F.linear(x, w) for x, w in self._products(term)]))
            if not self.raw or (apart and term == 1):
                self.raw.append(made)
            else:
                self.raw[-1] += made

    def by_slot(self) -> Iterator[tuple[int, slice, list[Tensor]]]:
        """Each slot, its rows, and their products."""
        pieces = zip(*(x.split(self.sizes) for x in self.raw), strict=True)
        for slot, span, raw in zip(self.slots, self.spans, pieces, strict=True):
            yield slot, span, list(raw)

    def add_gradients(self, inputs: Sequence[Tensor | None], weights: Sequence[Sequence[Tensor | None]]) -> None:
        """Add the terms' gradients, with `raw` as the logits' gradient, to the given tensors; None is skipped."""
        low: dict[int, Tensor] = {}
        for term, (grad_RI, grads) in enumerate(zip(inputs, weights, strict=True)):
            raw = self.raw[min(term, len(self.raw) - 1)]
            grad_ND = low.setdefault(id(raw), raw.to(self.inputs[term].dtype))
            whole = len(self.weights[term]) == 1
            pieces = [grad_ND] if whole else grad_ND.split(self.sizes)
            if grad_RI is not None:
                made = _together([g @ w for g, (_, w) in zip(pieces, self._products(term), strict=True)])
                for span, part in zip(self.spans, made.split(self.sizes), strict=True):
                    grad_RI[span] = part.to(grad_RI.dtype)
            for piece, (x, _), slot in zip(pieces, self._products(term), [0] if whole else self.slots, strict=True):
                total = grads[slot]
                if total is not None:
                    _add_product(total, piece.T, x)

    def _products(self, term: int) -> list[tuple[Tensor, Tensor]]:
        """Inputs and the weight that reads them: all slots' at once, or slot by slot."""
        x, weights = self.inputs[term], self.weights[term]
        if len(weights) == 1:
            return [(x, weights[0])]
        return [(part, weights[slot]) for part, slot in zip(x.split(self.sizes), self.slots, strict=True)]


class Chunked(torch.autograd.Function):
    """Loss and gradient together, chunk by chunk.

    Its tensors are the terms' inputs, then all their weights.
    """

    @staticmethod
    def forward(ctx: Any, reduction: Reduction, differentiate: bool, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        plan, rows = reduction.plan, reduction.rows
        inputs, flat = tensors[: len(rows.terms)], tensors[len(rows.terms) :]
        total, overlap_R = reduction.weight_R.new_zeros(()), torch.zeros_like(reduction.weight_R)
        correct_R = torch.zeros_like(plan.valid_R)
        differentiate = differentiate and bool(reduction.divergences)
        input_grads = [torch.zeros_like(x) if differentiate and x.requires_grad else None for x in inputs]
        flat_grads = [_zeros_wide(w) if differentiate and w.requires_grad else None for w in flat]
        differentiate = any(grad is not None for grad in (*input_grads, *flat_grads))
        dtype = product_dtype(flat[0])
        verifier_VH, low = reduction.verifier.head_VH.to(dtype), [w.to(dtype) for w in flat]
        weights, weight_grads = _by_term(rows, low), _by_term(rows, flat_grads)
        with torch.autocast(inputs[0].device.type, enabled=False):
            for chunk in reduction.chunks():
                teacher = reduction.teacher(chunk.targets, verifier_VH)
                for part in reduction.parts:
                    slots = [s for s in part if _length(chunk.spans[s])]
                    if not slots:
                        continue
                    spans = [chunk.spans[s] for s in slots]
                    logits = Logits(inputs, weights, slots, spans, rows.scaled_as_verifier)
                    weight_SC = reduction.weights(chunk, teacher, logits)
                    for s, span, raw in logits.by_slot():
                        weight_N = reduction.weight_R[span]
                        if weight_SC is not None:
                            weight_N = weight_N * weight_SC[s, plan.group_R[span] - chunk.groups.start]
                        of_rows = reduction.of_rows(teacher, chunk.targets, span)
                        loss, correct_R[span], overlap_R[span] = reduction.compare(
                            span, of_rows, raw, weight_N, differentiate
                        )
                        total += loss
                    if differentiate:
                        logits.add_gradients(input_grads, weight_grads)
        low_grads = [None if g is None else g.to(w.dtype) for g, w in zip(flat_grads, flat, strict=True)]
        ctx.grads = [*input_grads, *low_grads]
        ctx.mark_non_differentiable(correct_R, overlap_R)
        return total, correct_R, overlap_R

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        # Scaled in place, without a copy: a head's gradient is as large as the head.
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise RuntimeError("a distillation loss has one backward pass; call distill again for another")
        return (None, None, *(None if grad is None else grad.mul_(grad_total) for grad in grads))


def first_choice(logits: Tensor) -> Tensor:
    """The argmax over the last dimension; on a CPU `max` finds it in less than half of argmax's time."""
    return logits.max(-1).indices


def _by_term(rows: Rows, flat: Sequence[Any]) -> list[list[Any]]:
    """What belongs to each term's weights."""
    left = iter(flat)
    return [[next(left) for _ in term.weights] for term in rows.terms]


def _length(span: slice) -> int:
    return span.stop - span.start


def _together(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


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
