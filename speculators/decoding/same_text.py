"""Proof that texts are the verifier's own greedy texts, by reading each of them whole in one pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from speculators.decoding.generate import end_of_text
from speculators.verifier.in_process import Verifier


@dataclass(frozen=True)
class SameText:
    """What the verifier says of some texts.

    Attributes:
        wrong: (text, place) of every token that is not the verifier's choice after all tokens before it; also the place
            after the last token where the verifier would have gone on.
        ties: tokens that are not the verifier's most likely one, but tie with it.
    """

    wrong: list[tuple[int, int]]
    ties: int


@torch.inference_mode()
def same_text(
    verifier: Verifier,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    max_new_tokens: int,
    epsilon: float,
    batch_size: int,
) -> SameText:
    """Check every token of texts, each after the text's own tokens before it (teacher forcing).

    Args:
        verifier: the model.
        prompts: token ids, at least one each.
        texts: the token ids that were decoded after each prompt.
        max_new_tokens: where texts are cut that the verifier does not end.
        epsilon: a token whose logit is so close to the largest one, beyond rounding, ties with it.
        batch_size: texts side by side.
    """
    wrong, ties = [], 0
    for first in range(0, len(texts), batch_size):
        chosen = range(first, min(first + batch_size, len(texts)))
        whole = [[*prompts[i], *texts[i]] for i in chosen]
        width = max(map(len, whole))
        # Padding stands on the right, where no token attends to it.
        token_BT = torch.tensor([row + [0] * (width - len(row)) for row in whole], device=verifier.device)
        position_BT = torch.arange(width, device=verifier.device).expand_as(token_BT)
        states = verifier.states(token_BT, position_BT, ())
        for i, row, state_TH in zip(chosen, whole, states.last_BTH, strict=True):
            start, text = len(prompts[i]), texts[i]
            logits_NV = verifier.head.logits(state_TH[start - 1 : len(row) - 1])
            token_N = token_BT.new_tensor(text)
            near_N = shortfall(logits_NV, token_N) <= epsilon
            ties += int((near_N & (logits_NV.argmax(-1) != token_N)).sum())
            # After its end, the verifier writes no more.
            end = end_of_text(text, verifier.eos_ids, max_new_tokens)
            wrong += [(i, n) for n, near in enumerate(near_N.tolist()) if not near or n >= end]
            if len(text) < end:
                wrong.append((i, len(text)))
    return SameText(wrong, ties)


def shortfall(logits_NV: Tensor, token_N: Tensor) -> Tensor:
    """How far a token's logit is below the largest one, beyond the rounding of the logits' dtype; float32, >= 0."""
    largest_N = logits_NV.amax(-1).float()
    own_N = logits_NV.gather(-1, token_N.unsqueeze(-1)).squeeze(-1).float()
    # In half precision, different kernels may differ in the last bit of a logit, 0.06 for a logit of 10.
    return (largest_N - own_N - 2 * torch.finfo(logits_NV.dtype).eps * largest_N.abs()).clamp_min(0)
