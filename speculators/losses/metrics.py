"""Metrics of a batch's rows per slot, as sums, so that batches and processes add up."""

import torch
from torch import Tensor


def expected_acceptance_length(accuracy_S: Tensor) -> Tensor:
    """Tokens per verifier pass, 1 + sum over s of the product of the accuracies up to s.

    Args:
        accuracy_S: chance, in [0, 1], that slot s is right where all slots before it were: exact if counted so (see
            `chained`), an estimate that takes slots for independent if counted over all rows.
    """
    return 1 + accuracy_S.cumprod(0).sum()


def overlap(log_q: Tensor, log_p: Tensor) -> Tensor:
    """sum_v min(p, q) over the last dimension: the chance that a sampled draft token is accepted.

    Leviathan et al. 2023, arXiv:2211.17192, theorem 3.5. One minus the total variation where both sum to one.
    """
    return torch.minimum(log_q.exp(), log_p.exp()).sum(-1)


def chained(
    correct_R: Tensor, valid_R: Tensor, anchor_R: Tensor, slot_R: Tensor, slots: int, positions: int
) -> tuple[Tensor, Tensor]:
    """Follow each anchor's slots until the first wrong one, as greedy verification does.

    Args:
        correct_R: bool, the draft's first choice is the verifier's.
        valid_R: bool, rows that count; a slot that an anchor lacks ends its chain as an invalid one does.
        anchor_R: int64 flat anchor positions, -slots ... positions - 1; a pair of anchor and slot is there once.
        slot_R: int64, 1 ... slots.
        slots: S.
        positions: how many flat positions there are.

    Returns:
        tried_S: rows whose earlier slots of the same anchor were all right. kept_S: those that were right as well.
        Their ratio is slot s's accuracy given that the draft got so far.
    """
    # Shifted by S, so that anchors before the first position, all of them invalid, have a place.
    width = positions + slots
    cell_R = (slot_R - 1) * width + anchor_R + slots
    empty = valid_R.new_zeros(slots * width)
    valid_SA = empty.scatter(0, cell_R, valid_R).view(slots, width)
    run_SA = empty.scatter(0, cell_R, correct_R & valid_R).view(slots, width).cumprod(0).bool()
    before_SA = torch.cat((torch.ones_like(run_SA[:1]), run_SA[:-1]))
    return (before_SA & valid_SA).sum(1), run_SA.sum(1)
