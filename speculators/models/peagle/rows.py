"""Which rows P-EAGLE trains, and their pass: chains of masked places after many anchors at once."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Generator, Tensor

from speculators.protocols.rows import PackedTargets, SequenceRows

# Rows of one pass. More make a larger mask, fewer repeat the context's keys more often.
CHUNK_ROWS = 1024


def conditional_drop_token(
    sequence: PackedTargets,
    slots: int,
    ratio: float,
    ratio_min: float,
    max_anchors: int | None,
    generator: Generator,
) -> SequenceRows:
    """Slot 1 of every target, and of each further slot fewer, so that each row's anchor has the slots before it, too.

    Conditional drop-token (An et al. 2025, arXiv:2504.18583) as P-EAGLE takes it (arXiv:2602.01469). Of n targets, slot s
    keeps (n - s + 1) max(ratio ** (s - 1), ratio_min) rows, rounded down: at random, of those whose anchor has slot s - 1
    and whose target is one. Where there are fewer than that it keeps them all. An anchor with its slots is a group.

    Args:
        sequence: one packed sequence.
        slots: S >= 1.
        ratio: in (0, 1].
        ratio_min: in [0, 1].
        max_anchors: at most so many targets, chosen at random, are counted as n and have chains that begin; None is all.
        generator: on the host.
    """
    targets_N = sequence.target_N
    is_target_T = torch.zeros_like(sequence.position_T, dtype=torch.bool)
    is_target_T[targets_N] = True

    def some(pool_N: Tensor, count: int) -> Tensor:
        return pool_N[torch.randperm(len(pool_N), generator=generator)[:count]].sort().values

    pool_N = targets_N if max_anchors is None or len(targets_N) <= max_anchors else some(targets_N, max_anchors)
    begun, anchors = len(pool_N), [targets_N - 1]
    for slot in range(2, slots + 1):
        # The anchor is in the target's document.
        pool_N = pool_N[sequence.position_T[pool_N] >= slot]
        size = int(max(0, begun - slot + 1) * max(ratio ** (slot - 1), ratio_min))
        kept_N = some(pool_N, size)
        anchors.append(kept_N - slot)
        following_N = kept_N[kept_N < len(is_target_T) - 1] + 1
        pool_N = following_N[is_target_T[following_N]]
    anchor_R = torch.cat(anchors)
    slot_R = torch.arange(1, slots + 1).repeat_interleave(torch.tensor([len(a) for a in anchors]))
    group_R = torch.unique(anchor_R, return_inverse=True)[1]
    return SequenceRows(anchor_R, slot_R, group_R, torch.ones_like(anchor_R, dtype=torch.bool), slots)


def chunks(anchor_R: np.ndarray, length: int) -> Iterator[tuple[int, slice]]:
    """Cut rows into passes: each holds whole chains of one sequence, about `CHUNK_ROWS` rows.

    Args:
        anchor_R: flat anchor positions, ascending; those below 0 count to the first sequence.
        length: places of a sequence.

    Yields:
        A sequence, and rows of it.
    """
    sequences = max(int(anchor_R[-1]), 0) // length + 1 if len(anchor_R) else 0
    edges = np.searchsorted(anchor_R, np.arange(1, sequences + 1) * length)
    start = 0
    for b, end in enumerate(edges.tolist()):
        while start < end:
            stop = min(start + CHUNK_ROWS, end)
            stop = int(np.searchsorted(anchor_R, anchor_R[stop - 1], side="right"))
            yield b, slice(start, stop)
            start = stop
