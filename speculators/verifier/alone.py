"""Unpacks the documents of a packed batch into right-padded rows of their own, and packs their states again."""

from collections.abc import Sequence

import torch
from torch import Tensor

from speculators.protocols.batch import Batch


def groups(batch: Batch) -> list[Tensor]:
    """Group documents of similar length into rows with little padding.

    Args:
        batch: on the host.

    Returns:
        int64 index_DL tensors, each with the flat positions of D documents, -1 at padding. A group has at most as
        many positions as the batch, so it needs no more memory.
    """
    document_P = batch.document_BT.flatten()
    begins_P = (document_P >= 0) & (batch.position_BT.flatten() == 0)
    starts = begins_P.nonzero().flatten().tolist()
    counts = torch.bincount(document_P[document_P >= 0]).tolist()
    longest_first = sorted(((counts[int(document_P[s])], s) for s in starts), reverse=True)
    found = []
    while longest_first:
        length = longest_first[0][0]
        size = document_P.numel() // length
        chosen, longest_first = longest_first[:size], longest_first[size:]
        length_D1, start_D1 = (torch.tensor(values).unsqueeze(1) for values in zip(*chosen, strict=True))
        place_L = torch.arange(length)
        found.append(torch.where(place_L < length_D1, start_D1 + place_L, -1))
    return found


def placed(parts: Sequence[tuple[Tensor, Tensor]], shape: tuple[int, int]) -> Tensor:
    """[B, T, H] states of documents at their positions in the packed batch, zero at padding.

    Args:
        parts: for each group its index_DL and its states [D, L, H].
        shape: (B, T) of the batch.
    """
    B, T = shape
    first = parts[0][1]
    flat_PH = first.new_zeros(B * T, first.shape[-1])
    for index_DL, states_DLH in parts:
        real_DL = index_DL >= 0
        flat_PH[index_DL[real_DL].to(first.device)] = states_DLH[real_DL.to(first.device)]
    return flat_PH.view(B, T, -1)
