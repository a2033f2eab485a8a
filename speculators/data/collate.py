"""Packed sequences → one Batch, with its rows planned on the host."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from speculators.data.pack import Packed
from speculators.data.row_plan import RowPlanner, dense_rows, put_together
from speculators.protocols.batch import Batch, spans_of
from speculators.protocols.rows import PackedTargets


def collate(sequences: Sequence[Packed], plan: RowPlanner | int, seeds: Sequence[int] | None = None) -> Batch:
    """Collate packed sequences into a batch, padded to the longest.

    Args:
        sequences: packed documents, B of them.
        plan: chooses the rows of a sequence; a number S >= 1 takes every slot up to S of every target.
        seeds: seed of each sequence's plan, from `row_seed`; None is 0 for all.
    """
    planner: RowPlanner = (lambda sequence, _: dense_rows(sequence, plan)) if isinstance(plan, int) else plan
    seeds = [0] * len(sequences) if seeds is None else seeds
    B, T = len(sequences), max(sum(len(d.tokens) for d in s) for s in sequences)
    token_BT = torch.zeros(B, T, dtype=torch.int64)
    position_BT = torch.zeros(B, T, dtype=torch.int64)
    document_BT = torch.full((B, T), -1, dtype=torch.int64)
    rows, lengths, number = [], [], 0
    for b, (sequence, seed) in enumerate(zip(sequences, seeds, strict=True)):
        token_T = joined(document.tokens for document in sequence)
        targets = packed_targets(sequence)
        token_BT[b, : len(token_T)] = token_T
        position_BT[b, : len(token_T)] = targets.position_T
        document_BT[b, : len(token_T)] = targets.document_T + number
        number += len(sequence)
        lengths.append(len(token_T))
        rows.append(planner(targets, torch.Generator().manual_seed(seed)))
    return Batch(token_BT, position_BT, document_BT, put_together(rows, lengths, seeds), spans_of(document_BT))


def packed_targets(sequence: Packed) -> PackedTargets:
    """The document boundaries of a sequence, and the positions that may be targets."""
    length_D = torch.tensor([len(document.tokens) for document in sequence])
    document_T = torch.arange(len(sequence)).repeat_interleave(length_D)
    position_T = torch.arange(len(document_T)) - (length_D.cumsum(0) - length_D)[document_T]
    answer_T = joined(document.supervised for document in sequence)
    # A target predicts a supervised token of its own document, and has at least the anchor of slot 1.
    predicts_T = torch.zeros_like(answer_T)
    predicts_T[:-1] = answer_T[1:] & (document_T[1:] == document_T[:-1])
    return PackedTargets(position_T, document_T, (predicts_T & (position_T >= 1)).nonzero().squeeze(1))


def joined(lists: Iterable[Sequence[int]]) -> Tensor:
    """Lists, or views of columns, one after the other."""
    return torch.from_numpy(np.concatenate([np.asarray(values) for values in lists]))
