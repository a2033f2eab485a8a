"""Causal attention inside each document of a packed batch, with the log-sum-exp of every query's scores.

The kernels are torch's. They are called without autograd: the backward pass of a flash kernel recomputes probabilities as
exp(score - log-sum-exp), so that with the output and the sums of more keys than its own it returns its own keys' part of the
gradients of the whole.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from speculators.protocols.batch import Batch, Span

_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_cpu_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_cuda = torch.ops.aten._efficient_attention_forward
_cuda_backward = torch.ops.aten._efficient_attention_backward
# Of the CUDA kernel: its mask that starts at the upper left, and what its rows of sums are padded to.
CAUSAL, ALIGNED = 1, 32
# Of the CPU's kernel: queries of a part, unless the window is longer.
AT_LEAST = 128


class DocumentAttention(Protocol):
    """Queries are [B, H, T, d], keys and values [B, K, T, d].

    `window` is the number of positions that a query sees, its own included; None is all before it.
    """

    def forward(self, inputs: Sequence[Tensor], scale: float, window: int | None) -> tuple[Tensor, Tensor]:
        """The output [B, H, T, d] of query, key and value, and the log-sum-exp [B, H, T], in float32 for half precision."""
        ...

    def backward(
        self, grad: Tensor, inputs: Sequence[Tensor], output: Tensor, lse_BHT: Tensor, scale: float, window: int | None
    ) -> Sequence[Tensor]:
        """Gradients of query, key and value, given that of the output."""
        ...


def document_attention(batch: Batch) -> DocumentAttention | None:
    """That of the batch's device; None if no kernel there returns the sums."""
    device = batch.token_BT.device
    if device.type == "cpu":
        return OneByOne(batch.spans)
    return Together(batch.spans, device) if device.type == "cuda" else None


class OneByOne:
    """The CPU's flash kernel, once for each document; with a window, for parts of its queries, with a mask of each."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self.spans = spans

    def forward(self, inputs: Sequence[Tensor], scale: float, window: int | None) -> tuple[Tensor, Tensor]:
        output = torch.empty_like(inputs[0])
        lse_BHT = torch.empty(output.shape[:3], dtype=torch.promote_types(output.dtype, torch.float32))
        for queries, keys, mask in self._parts(window, output.dtype):
            given = _for_heads(queries.of(inputs[0]), *map(keys.of, inputs[1:]))
            part, sums = _cpu(*given, 0.0, mask is None, attn_mask=mask, scale=scale)
            queries.of(output).copy_(part)
            queries.of(lse_BHT).copy_(sums)
        return output, lse_BHT

    def backward(
        self, grad: Tensor, inputs: Sequence[Tensor], output: Tensor, lse_BHT: Tensor, scale: float, window: int | None
    ) -> Sequence[Tensor]:
        grads = [torch.zeros_like(x) for x in inputs]
        for queries, keys, mask in self._parts(window, output.dtype):
            given = _for_heads(queries.of(inputs[0]), *map(keys.of, inputs[1:]))
            made = map(queries.of, (output, lse_BHT))
            parts = _cpu_backward(queries.of(grad), *given, *made, 0.0, mask is None, attn_mask=mask, scale=scale)
            for whole, span, part in zip(grads, (queries, keys, keys), parts, strict=True):
                span.of(whole).add_(_sum_by_key_head(part, whole))
        return grads

    def _parts(self, window: int | None, dtype: torch.dtype) -> Iterator[tuple[Span, Span, Tensor | None]]:
        """Queries, the keys that some of them see, and what is added to their scores; None is causal."""
        for b, first, end in self.spans:
            reach = window or end - first
            size = max(reach, AT_LEAST)
            for start in range(first, end, size):
                queries = Span(b, start, min(start + size, end))
                keys = Span(b, max(first, start - reach + 1), queries.end)
                count, before = queries.end - start, start - keys.start
                if before == 0 and count <= reach:
                    yield queries, keys, None
                else:
                    sees_QK = torch.ones(count, before + count, dtype=torch.bool).tril(before).triu(before - reach + 1)
                    yield queries, keys, torch.zeros(sees_QK.shape, dtype=dtype).masked_fill_(~sees_QK, -torch.inf)


class Together:
    """CUDA's memory-efficient kernel over all documents at once, which have different lengths."""

    def __init__(self, spans: Sequence[Span], device: torch.device) -> None:
        length_S = torch.tensor([span.end - span.start for span in spans], dtype=torch.int32)
        end_S = length_S.cumsum(0, dtype=torch.int32)
        self.longest, documents = int(length_S.max()), len(spans)
        self.sums = documents, -(-self.longest // ALIGNED) * ALIGNED
        # The place of each position's sum among rows of one length.
        gap_S = torch.arange(documents) * self.sums[1] - (end_S - length_S)
        place_P = torch.arange(int(end_S[-1])) + gap_S.repeat_interleave(length_S)
        self.border_S, self.place_P, self.seed = (
            # Pinned, so that the step does not wait for the copy.
            x.pin_memory().to(device, non_blocking=True)
            for x in (torch.nn.functional.pad(end_S, (1, 0)), place_P, torch.zeros((), dtype=torch.int64))
        )

    def forward(self, inputs: Sequence[Tensor], scale: float, window: int | None) -> tuple[Tensor, Tensor]:
        flat, borders = map(_flat, _for_heads(*inputs)), (self.border_S, self.border_S, self.longest, self.longest)
        output, sums_SHL, *_ = _cuda(*flat, None, *borders, 0.0, CAUSAL, True, scale=scale, window_size=window)
        lse_HP = sums_SHL.transpose(0, 1).flatten(1)[:, self.place_P]
        return _as(inputs[0], output), lse_HP.unflatten(1, (len(inputs[0]), -1)).transpose(0, 1).contiguous()

    def backward(
        self, grad: Tensor, inputs: Sequence[Tensor], output: Tensor, lse_BHT: Tensor, scale: float, window: int | None
    ) -> Sequence[Tensor]:
        lse_HP = lse_BHT.transpose(0, 1).flatten(1)
        # Where no query is, no probability: exp(score - inf).
        sums_HL = lse_HP.new_full((len(lse_HP), self.sums[0] * self.sums[1]), torch.inf)
        sums_SHL = sums_HL.index_copy_(1, self.place_P, lse_HP).unflatten(1, self.sums).transpose(0, 1).contiguous()
        flat, borders = map(_flat, _for_heads(*inputs)), (self.border_S, self.border_S, self.longest, self.longest)
        *grads, _ = _cuda_backward(
            *(_flat(grad), *flat, None, _flat(output), *borders, sums_SHL, 0.0, self.seed, self.seed, CAUSAL, False),
            scale=scale,
            window_size=window,
        )
        return [_sum_by_key_head(_as(x, part), x) for x, part in zip(inputs, grads, strict=True)]


def _for_heads(query: Tensor, *both: Tensor) -> list[Tensor]:
    """Queries, and keys and values with a head for each query head."""
    return [query, *(x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in both)]


def _sum_by_key_head(grad_BHTd: Tensor, own_BKTd: Tensor) -> Tensor:
    """The sum over the query heads that share a head of the tensor."""
    return grad_BHTd.unflatten(1, (own_BKTd.shape[1], -1)).sum(2)


def _flat(x_BHTd: Tensor) -> Tensor:
    """[1, B * T, H, d]."""
    return x_BHTd.transpose(1, 2).flatten(0, 1).unsqueeze(0)


def _as(x_BHTd: Tensor, flat_1PHd: Tensor) -> Tensor:
    """What `_flat` made of a tensor of that shape."""
    return flat_1PHd.squeeze(0).unflatten(0, (len(x_BHTd), -1)).transpose(1, 2)
