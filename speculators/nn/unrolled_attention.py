"""Attention of an unrolled draft without a dense mask: its memory is linear in tokens.

At slot s a query sees the first slot's keys, causal inside its document, and one key of each later slot, its own. So
that a slot is a causal attention over each document, and s - 1 scores a query, merged by their log-sum-exp. A window moves
with the query, so that it has s - 1 of the first slot's keys fewer at slot s.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from speculators.nn.attention import Attend, Seen, additive_mask, masked
from speculators.nn.document_attention import DocumentAttention, document_attention
from speculators.protocols.batch import Batch


def unrolled(batch: Batch, slots: int, dtype: torch.dtype) -> Attend:
    """Attention of all slots of an unrolled draft; `dtype` is that of products.

    It is `dense` on accelerators other than CUDA's, of which no kernel returns the sums, and with a window of fewer positions
    than slots.
    """
    documents, with_mask = document_attention(batch), dense(batch, slots, dtype)

    def attend(query_BHTd: Tensor, seen: Seen, window: int | None = None) -> Tensor:
        if documents is None or (window is not None and window < slots):
            return with_mask(query_BHTd, seen, window)
        both = [part.to(dtype) for own in seen for part in own]
        first = None if window is None else window - len(seen) + 1
        return _Merged.apply(documents, first, query_BHTd.to(dtype), *both)  # type: ignore[return-value]

    return attend


def dense(batch: Batch, slots: int, dtype: torch.dtype) -> Attend:
    """The same attention with a mask of all slots' keys, which is made when it is first needed."""

    @cache
    def of_slot(slot: int) -> Attend:
        position_BT = batch.position_BT
        key_BL = torch.cat([position_BT + later for later in range(slot)], dim=1)
        return masked(mask()[..., : key_BL.shape[1]], position_BT + slot - 1, key_BL)

    @cache
    def mask() -> Tensor:
        return dense_mask(batch, slots, dtype)

    def attend(query_BHTd: Tensor, seen: Seen, window: int | None = None) -> Tensor:
        return of_slot(len(seen))(query_BHTd, seen, window)

    return attend


def dense_mask(batch: Batch, slots: int, dtype: torch.dtype) -> Tensor:
    """[B, 1, T, slots * T] what is added to the score of each slot's keys, slot after slot: 0 or -inf."""
    same_BTT = batch.document_BT.unsqueeze(2) == batch.document_BT.unsqueeze(1)
    T = same_BTT.shape[1]
    own_BTL = torch.eye(T, dtype=torch.bool, device=same_BTT.device).repeat(len(same_BTT), 1, slots - 1)
    sees_BTL = torch.cat((same_BTT & torch.ones_like(same_BTT[0]).tril(), own_BTL), dim=-1)
    return additive_mask(sees_BTL, dtype)


class _Merged(torch.autograd.Function):
    """One slot; inputs are its queries [B, H, T, d], then keys and values [B, K, T, d] of each slot up to it.

    `window` is of the first slot's keys. The backward pass gives the kernel the merged output and the merged log-sum-exp.
    """

    @staticmethod
    def forward(ctx: Any, documents: DocumentAttention, window: int | None, query: Tensor, *both: Tensor) -> Tensor:
        scale = query.shape[-1] ** -0.5
        output, lse_BHT = documents.forward((query, *both[:2]), scale, window)
        if scores := [_dot(query, key).to(lse_BHT.dtype) * scale for key in both[2::2]]:
            first_BHT, lse_BHT = lse_BHT, torch.logsumexp(torch.stack((lse_BHT, *scores)), dim=0)
            output *= (first_BHT - lse_BHT).exp_().unsqueeze(-1)
            for score_BHT, value in zip(scores, both[3::2], strict=True):
                _add_product(output, (score_BHT - lse_BHT).exp_(), value)
        ctx.documents, ctx.window, ctx.scale = documents, window, scale
        ctx.save_for_backward(query, output, lse_BHT, *both)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override] # torch's is untyped
        query, output, lse_BHT, *both = ctx.saved_tensors
        first = grad, (query, *both[:2]), output, lse_BHT
        grad_query, *grads = ctx.documents.backward(*first, ctx.scale, ctx.window)
        # d loss / d score = probability * (grad . value - grad . output), of the softmax over all that a query sees.
        delta_BHT = (grad * output).sum(-1)
        for key, value in zip(both[2::2], both[3::2], strict=True):
            weight_BHT = (_dot(query, key) * ctx.scale - lse_BHT).exp_()
            slope_BHT = weight_BHT * (_dot(grad, value) - delta_BHT) * ctx.scale
            _add_product(grad_query, slope_BHT, key)
            grads += [_dot_heads(slope_BHT, query, key), _dot_heads(weight_BHT, grad, value)]
        return None, None, grad_query, *grads


def _by_key_head(x_BHT: Tensor, own_BKTd: Tensor) -> Tensor:
    """The view [B, K, groups, T, ...] of what every query head has."""
    return x_BHT.unflatten(1, (own_BKTd.shape[1], -1))


def _dot(x_BHTd: Tensor, own_BKTd: Tensor) -> Tensor:
    """[B, H, T] product of every query's vector with its position's own."""
    return (_by_key_head(x_BHTd, own_BKTd) * own_BKTd.unsqueeze(2)).sum(-1).flatten(1, 2)


def _dot_heads(weight_BHT: Tensor, x_BHTd: Tensor, own_BKTd: Tensor) -> Tensor:
    """[B, K, T, d] sum over a key head's query heads of weight times vector."""
    return (_by_key_head(weight_BHT.to(x_BHTd.dtype), own_BKTd).unsqueeze(-1) * _by_key_head(x_BHTd, own_BKTd)).sum(2)


def _add_product(to_BHTd: Tensor, weight_BHT: Tensor, own_BKTd: Tensor) -> None:
    """Add every weight times its position's own vector."""
    weight = _by_key_head(weight_BHT.to(to_BHTd.dtype), own_BKTd).unsqueeze(-1)
    _by_key_head(to_BHTd, own_BKTd).addcmul_(weight, own_BKTd.unsqueeze(2))
