"""Attention of an unrolled draft against the same attention with a dense mask."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from speculators.nn.attention import KeyValue, masked
from speculators.nn.unrolled_attention import dense_mask, unrolled
from speculators.protocols.batch import Batch, spans_of

# Two rows of 24 positions: a document of one token among others, and padding.
DOCUMENTS = [[0] * 5 + [1] + [2] * 18, [3] * 17 + [-1] * 7]
SLOTS, HEADS, KEY_HEADS, WIDTH = 4, 6, 2, 8


def inputs(dtype: torch.dtype) -> tuple[Batch, list[Tensor]]:
    """A batch, and queries, keys and values of every slot, as views like those of a layer."""
    document_BT = torch.tensor(DOCUMENTS)
    batch = cast(Batch, SimpleNamespace(token_BT=document_BT, document_BT=document_BT, spans=spans_of(document_BT)))
    g = torch.Generator().manual_seed(0)
    made = []
    for heads in (HEADS, KEY_HEADS, KEY_HEADS) * SLOTS:
        x = torch.randn(*document_BT.shape, heads, WIDTH, generator=g, dtype=torch.float64).to(dtype).transpose(1, 2)
        made.append(x.requires_grad_())
    return batch, made


def outputs(attend: Any, tensors: list[Tensor]) -> list[Tensor]:
    """Outputs of all slots, each seeing its own and the earlier slots' keys, and the gradients of a sum over them."""
    made = [
        attend(tensors[3 * s], tuple(KeyValue(*tensors[3 * i + 1 : 3 * i + 3]) for i in range(s + 1)))
        for s in range(SLOTS)
    ]
    weights = torch.randn(made[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = sum((s + 1) * (out * weights.to(out.dtype)).sum() for s, out in enumerate(made))
    return [*made, *torch.autograd.grad(cast(Tensor, loss), tensors)]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 0.06)]
)
def test_it_is_attention_with_a_dense_mask(dtype: torch.dtype, tolerance: float) -> None:
    """Outputs and gradients of every slot's queries, keys and values; documents, padding and a lone token included."""
    batch, tensors = inputs(dtype)
    mask = dense_mask(batch, SLOTS, dtype)
    T = mask.shape[2]
    right = outputs(lambda query, seen: masked(mask[..., : T * len(seen)])(query, seen), tensors)
    for found, wanted in zip(outputs(unrolled(batch, SLOTS, dtype), tensors), right, strict=True):
        assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_where_documents_lie() -> None:
    """By hand: rows' documents and padding, all positions once."""
    assert spans_of(torch.tensor(DOCUMENTS)) == ((0, 0, 5), (0, 5, 6), (0, 6, 24), (1, 0, 17), (1, 17, 24))
    assert spans_of(torch.tensor([[4]])) == ((0, 0, 1),)
