"""Drafting of a chain, shared by several proposal methods."""

from collections.abc import Callable

import torch
from torch import Tensor

from speculators.protocols.draft import Draft
from speculators.protocols.drafter import Context, Drafter

# Chooses one token a sequence from the draft's [B, V] logits; beside it, the distribution that it was sampled from.
Choose = Callable[[Tensor], tuple[Tensor, Tensor | None]]


def most_likely(logits_BV: Tensor) -> tuple[Tensor, None]:
    """The most likely token; nothing is sampled."""
    return logits_BV.argmax(-1), None


def draft_chain(drafter: Drafter, context: Context, depth: int, choose: Choose) -> Draft:
    """Draft one token after another.

    Args:
        drafter: the draft model.
        context: newly verified positions.
        depth: tokens to draft, >= 1.
        choose: how a token is taken from the draft's logits.

    Returns:
        A chain; it is shorter than `depth` for sequences that `Predictions.open_BN` closes earlier.
    """
    predictions = drafter.extend(context, depth)
    chosen, opened = [choose(predictions.logits_BNV[:, 0])], [predictions.open_BN]
    root_B1 = torch.zeros_like(context.position_BT[:, -1:])
    for _ in range(depth - 1):
        predictions = drafter.expand(chosen[-1][0].unsqueeze(1), root_B1)
        chosen.append(choose(predictions.logits_BNV[:, 0]))
        opened.append(predictions.open_BN)
    tokens, probs = [token for token, _ in chosen], [prob for _, prob in chosen if prob is not None]
    closed = [root_B1 == 0 if each is None else each for each in opened] if any(o is not None for o in opened) else []
    return Draft(
        torch.stack(tokens, dim=1),
        valid_BM=torch.cat(closed, dim=1).long().cumprod(1).bool() if closed else None,
        prob_BMV=torch.stack(probs, dim=1) if probs else None,
    )
