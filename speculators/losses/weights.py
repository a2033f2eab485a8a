"""Row weights that depend on the draft's accuracy, for `Rows.row_weights`."""

import torch
from torch import Tensor

from speculators.protocols.rows import GroupFacts


def dpace(facts: GroupFacts, alpha: float) -> Tensor:
    """D-PACE: weights slots by their effect on the expected accepted length (arXiv:2605.18810).

    With a_j = (1 - alpha) prob_j + alpha, 1 where a row is not valid, and the chance C_j = a_1 ... a_j to pass slot j,
    slot j weighs the sum of C_m over the valid slots m >= j: the gradient of the expected accepted length with respect
    to log a_j. Rows must be grouped by anchor, so that a group's slots are one chain.

    Args:
        facts: of groups that are anchors.
        alpha: in [0, 1]; 1 is a fixed weight, the number of valid slots from j on.

    Returns:
        [S, C] weights, 0 where a row is not valid.
    """
    valid_SC = facts.valid_SC.to(facts.prob_SC.dtype)
    pass_SC = torch.where(facts.valid_SC, (1 - alpha) * facts.prob_SC + alpha, 1.0).cumprod(0) * valid_SC
    return pass_SC.flip(0).cumsum(0).flip(0) * valid_SC
