"""EAGLE-1's regression loss between the draft's and the verifier's states (Li et al. 2024, equation 2)."""

from torch import Tensor
from torch.nn import functional as F

from speculators.protocols.rows import RowPlan


def state_distance(hidden_RH: Tensor, last_PH: Tensor, plan: RowPlan) -> Tensor:
    """Smooth-L1 distance, the mean over targets, slots and state elements; an invalid row adds nothing.

    Not the mean over valid rows: this one is linear in the targets, so micro-batches add up however a batch is split.

    Args:
        hidden_RH: the draft's states, of every slot of every target.
        last_PH: the verifier's states of all positions.
        plan: the grid of slots and targets.
    """
    hidden_SNH = hidden_RH.unflatten(0, (plan.slots, -1))
    # One copy of a target's state for all slots.
    target_SNH = last_PH[plan.target_U].to(hidden_SNH.dtype).expand_as(hidden_SNH)
    distance_SN = F.smooth_l1_loss(hidden_SNH, target_SNH, reduction="none").mean(-1)
    return (distance_SN * plan.valid_R.unflatten(0, (plan.slots, -1))).sum() / max(plan.valid_R.numel(), 1)
