"""The bootstrap interval of an acceptance length."""

from collections.abc import Sequence

import torch

LEVEL = 0.95
RESAMPLES = 2_000


def acceptance_interval(rounds: Sequence[Sequence[int]]) -> tuple[float, float] | None:
    """The percentile bootstrap interval of 1 + accepted / drafts, at 95 % (Efron 1979).

    Prompts are resampled, not drafts, because the drafts of one text are alike. The random numbers are always the same.

    Args:
        rounds: of each prompt, the drafted tokens that each draft had accepted.

    Returns:
        Its two ends; None with fewer than two prompts, which say nothing about others.
    """
    if len(rounds) < 2:
        return None
    generator = torch.Generator().manual_seed(0)
    chosen_RP = torch.randint(len(rounds), (RESAMPLES, len(rounds)), generator=generator)
    accepted_P = torch.tensor([sum(own) for own in rounds], dtype=torch.float64)
    drafts_P = torch.tensor([len(own) for own in rounds], dtype=torch.float64)
    # A prompt whose first token ends its text has no draft.
    length_R = 1 + accepted_P[chosen_RP].sum(1) / drafts_P[chosen_RP].sum(1).clamp_min(1)
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = length_R.quantile(ends).tolist()
    return low, high
