"""Attention of an unrolled draft against the same attention with a dense mask."""

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from speculators.nn import document_attention
from speculators.nn.attention import Attend, KeyValue
from speculators.nn.unrolled_attention import dense, unrolled
from speculators.protocols.batch import Batch, spans_of

# Two rows of 24 positions: a document of one token among others, and padding.
DOCUMENTS = [[0] * 5 + [1] + [2] * 18, [3] * 17 + [-1] * 7]
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
SLOTS, HEADS, KEY_HEADS, WIDTH = 4, 6, 2, 8


def inputs(dtype: torch.dtype, device: str) -> tuple[Batch, list[Tensor]]:
    """A batch, and queries, keys and values of every slot, as views like those of a layer."""
    document_BT, made = torch.tensor(DOCUMENTS), []
    spans = spans_of(document_BT)
    position_BT = torch.cat([torch.arange(span.end - span.start) for span in spans]).view_as(document_BT)
    given = {"token_BT": document_BT, "document_BT": document_BT, "position_BT": position_BT}
    batch = SimpleNamespace(spans=spans, **{name: x.to(device) for name, x in given.items()})
    g = torch.Generator().manual_seed(0)
    for heads in (HEADS, KEY_HEADS, KEY_HEADS) * SLOTS:
        x = torch.randn(*document_BT.shape, heads, WIDTH, generator=g, dtype=torch.float64)
        made.append(x.to(device, dtype).transpose(1, 2).requires_grad_())
    return cast(Batch, batch), made


def outputs(attend: Attend, tensors: list[Tensor], window: int | None) -> list[Tensor]:
    """Outputs of all slots, each seeing its own and the earlier slots' keys, and the gradients of a sum over them."""
    made = [
        attend(tensors[3 * s], tuple(KeyValue(*tensors[3 * i + 1 : 3 * i + 3]) for i in range(s + 1)), window)
        for s in range(SLOTS)
    ]
    weights = torch.randn(made[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = sum((s + 1) * (out * weights.to(out)).sum() for s, out in enumerate(made))
    return [*made, *torch.autograd.grad(cast(Tensor, loss), tensors)]


@pytest.mark.parametrize("window", [None, 6, SLOTS])
@pytest.mark.parametrize(
    ("device", "dtype", "tolerance"),
    [
        ("cpu", torch.float64, 1e-13),
        ("cpu", torch.float32, 1e-5),
        ("cpu", torch.bfloat16, 0.06),
        pytest.param("cuda", torch.float32, 1e-5, marks=on_cuda),
        pytest.param("cuda", torch.bfloat16, 0.06, marks=on_cuda),
    ],
)
def test_it_is_attention_with_a_dense_mask(
    device: str, dtype: torch.dtype, tolerance: float, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and gradients of every slot's queries, keys and values; documents, padding and a lone token included."""
    monkeypatch.setattr(document_attention, "AT_LEAST", 4)  # several parts of a document of 18 positions
    batch, tensors = inputs(dtype, device)
    right = outputs(dense(batch, SLOTS, dtype), tensors, window)
    for found, wanted in zip(outputs(unrolled(batch, SLOTS, dtype), tensors, window), right, strict=True):
        assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_where_documents_lie() -> None:
    """By hand: rows' documents and padding, all positions once."""
    assert spans_of(torch.tensor(DOCUMENTS)) == ((0, 0, 5), (0, 5, 6), (0, 6, 24), (1, 0, 17), (1, 17, 24))
    assert spans_of(torch.tensor([[4]])) == ((0, 0, 1),)
