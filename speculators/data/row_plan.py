"""Plans which rows of a batch are trained: on the host, per sequence, then joined for the batch.

A sequence's plan depends on the sequence, the settings and its own generator alone, so a batch has the same rows however
it is divided into micro-batches and processes.
"""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from speculators.protocols.rows import PackedTargets, RowLayout, RowPlan, SequenceRows

# Plans one packed sequence; the generator is the sequence's own, on the host.
RowPlanner = Callable[[PackedTargets, torch.Generator], SequenceRows]


def row_seed(seed: int, step: int, number: int) -> int:
    """The seed of one sequence's plan, the same in every process and after every resume.

    Args:
        seed: the run's.
        step: optimizer step, from 0; -1 for held-out data, whose rows are then the same at every evaluation.
        number: index of the sequence in the step's whole batch, all processes and micro-batches together.

    Returns:
        0 ... 2 ** 63 - 1.
    """
    # A hash, not a sum: neighbouring seeds, steps and numbers get unrelated random streams.
    digest = hashlib.blake2b(f"{seed} {step} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def dense_rows(sequence: PackedTargets, slots: int) -> SequenceRows:
    """Every slot of every target; a target with its slots is a group.

    Args:
        sequence: one packed sequence.
        slots: tokens ahead that the draft is trained to predict, S >= 1.
    """
    slot_R = torch.arange(1, slots + 1).repeat_interleave(len(sequence.target_N))
    target_R, group_R = sequence.target_N.repeat(slots), torch.arange(len(sequence.target_N)).repeat(slots)
    return SequenceRows(target_R - slot_R, slot_R, group_R, sequence.position_T[target_R] >= slot_R, slots)


def anchor_blocks(sequence: PackedTargets, anchor_A: torch.Tensor, slots: int) -> SequenceRows:
    """A block of slots after each anchor; an anchor with its block is a group.

    Args:
        sequence: one packed sequence.
        anchor_A: int64 anchors in the sequence, ascending, each there once.
        slots: rows of a block, S >= 1. A row whose target is none of `sequence.target_N`, or is in another document
            than the anchor, is present but invalid: every block has S rows, and in a batch with A anchors row (s, a)
            has index (s - 1) * A + a.
    """
    length = len(sequence.position_T)
    is_target_T = torch.zeros(length, dtype=torch.bool)
    is_target_T[sequence.target_N] = True
    slot_R = torch.arange(1, slots + 1).repeat_interleave(len(anchor_A))
    anchor_R, group_R = anchor_A.repeat(slots), torch.arange(len(anchor_A)).repeat(slots)
    inside_R = (anchor_R >= 0) & (anchor_R + slot_R < length)
    target_R = (anchor_R + slot_R).clamp(max=length - 1)
    same_document_R = sequence.position_T[target_R] >= slot_R
    return SequenceRows(anchor_R, slot_R, group_R, inside_R & is_target_T[target_R] & same_document_R, slots)


def sampled_blocks(sequence: PackedTargets, most: int, slots: int, generator: torch.Generator) -> SequenceRows:
    """Blocks as `anchor_blocks` makes them, after anchors drawn without replacement from those whose first slot is trained.

    Args:
        sequence: one packed sequence.
        most: anchors to draw; all of them where there are no more.
        slots: rows of a block, S >= 1.
        generator: the sequence's own, on the host.
    """
    anchor_N = sequence.target_N - 1
    drawn = torch.randperm(len(anchor_N), generator=generator)[:most].sort().values
    return anchor_blocks(sequence, anchor_N[drawn], slots)


def conditional_drop_token(
    sequence: PackedTargets,
    slots: int,
    ratio: float,
    ratio_min: float,
    generator: torch.Generator,
    max_anchors: int | None = None,
    fewer: int = 0,
) -> SequenceRows:
    """Slot 1 of every target, and of each further slot fewer, so that each row's anchor has the slots before it, too.

    Conditional drop-token (PARD, An et al. 2025, arXiv:2504.18583). Of n targets, slot s keeps
    (n - fewer (s - 1)) max(ratio ** (s - 1), ratio_min) rows, rounded down: at random, of those whose anchor has slot s - 1
    and whose target is one. Where there are fewer than that it keeps them all. An anchor with its slots is a group.

    Args:
        sequence: one packed sequence.
        slots: S >= 1.
        ratio: in (0, 1].
        ratio_min: in [0, 1].
        generator: the sequence's own, on the host.
        max_anchors: at most so many targets, chosen at random, are counted as n and have chains that begin; None is all.
        fewer: targets that each slot counts less than the one before it: 0 is PARD's formula, 1 P-EAGLE's (arXiv:2602.01469).
    """
    targets_N = sequence.target_N
    is_target_T = torch.zeros_like(sequence.position_T, dtype=torch.bool)
    is_target_T[targets_N] = True

    def some(pool_N: torch.Tensor, count: int) -> torch.Tensor:
        return pool_N[torch.randperm(len(pool_N), generator=generator)[:count]].sort().values

    pool_N = targets_N if max_anchors is None or len(targets_N) <= max_anchors else some(targets_N, max_anchors)
    begun, anchors = len(pool_N), [targets_N - 1]
    for slot in range(2, slots + 1):
        # The anchor is in the target's document.
        pool_N = pool_N[sequence.position_T[pool_N] >= slot]
        size = int(max(0, begun - fewer * (slot - 1)) * max(ratio ** (slot - 1), ratio_min))
        kept_N = some(pool_N, size)
        anchors.append(kept_N - slot)
        following_N = kept_N[kept_N < len(is_target_T) - 1] + 1
        pool_N = following_N[is_target_T[following_N]]
    anchor_R = torch.cat(anchors)
    slot_R = torch.arange(1, slots + 1).repeat_interleave(torch.tensor([len(a) for a in anchors]))
    group_R = torch.unique(anchor_R, return_inverse=True)[1]
    return SequenceRows(anchor_R, slot_R, group_R, torch.ones_like(anchor_R, dtype=torch.bool), slots)


def put_together(parts: Sequence[SequenceRows], lengths: Sequence[int], seeds: Sequence[int]) -> RowPlan:
    """Join the rows of sequences into the plan of a batch that is padded to its longest sequence.

    Args:
        parts: the rows of each of its sequences.
        lengths: tokens of each sequence.
        seeds: a number for each sequence.

    Raises:
        ValueError: rows of one slot share an anchor or a group, or their anchors do not ascend with their groups.
    """
    width = max(lengths)
    group_offsets = np.cumsum([0, *(int(p.group_R.max()) + 1 if len(p.group_R) else 0 for p in parts)])
    anchor_R = _joined([p.anchor_R + b * width for b, p in enumerate(parts)])
    group_R = _joined([p.group_R + int(offset) for p, offset in zip(parts, group_offsets, strict=False)])
    slot_R, valid_R = _joined([p.slot_R for p in parts]), _joined([p.valid_R for p in parts])
    order_R = np.lexsort((group_R, slot_R))
    anchor_R, group_R, slot_R, valid_R = (x[order_R] for x in (anchor_R, group_R, slot_R, valid_R))
    same_slot = slot_R[1:] == slot_R[:-1]
    if (same_slot & ((np.diff(anchor_R) <= 0) | (np.diff(group_R) <= 0))).any():
        raise ValueError("a row plan: among the rows of one slot, anchors must ascend with groups, each there once")
    # An invalid row may refer to a position beyond the last.
    target_U, place_R = np.unique(np.clip(anchor_R + slot_R, 0, len(parts) * width - 1), return_inverse=True)
    starts = np.searchsorted(slot_R, np.arange(1, parts[0].slots + 2))
    layout = RowLayout(tuple(starts.tolist()), anchor_R, group_R, place_R, int(group_offsets[-1]), len(target_U))
    arrays = [torch.from_numpy(x) for x in (target_U, place_R, anchor_R, slot_R, group_R, valid_R)]
    return RowPlan(*arrays, seeds=tuple(seeds), lengths=tuple(lengths), layout=layout)


def _joined(parts: Sequence[torch.Tensor]) -> np.ndarray:
    return torch.cat(list(parts)).numpy()
