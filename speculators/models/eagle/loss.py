"""EAGLE-1's regression loss: the draft's state should be the verifier's (Li et al. 2024, equation 2)."""

from torch import Tensor
from torch.nn import functional as F


def state_distance(hidden_SNH: Tensor, last_PH: Tensor, target_N: Tensor, valid_SN: Tensor) -> Tensor:
    """Smooth-L1 distance, the mean over targets, slots and state elements; an invalid row adds nothing.

    Not the mean over valid rows: so it is linear in the targets, and batches add up however they are cut.

    Args:
        hidden_SNH: the draft's states.
        last_PH: the verifier's states of all positions.
        target_N: int64 position that each row imitates.
        valid_SN: bool, rows that count.
    """
    target_SNH = last_PH[target_N].to(hidden_SNH.dtype).expand_as(hidden_SNH)
    distance_SN = F.smooth_l1_loss(hidden_SNH, target_SNH, reduction="none").mean(-1)
    return (distance_SN * valid_SN).sum() / max(valid_SN.numel(), 1)
