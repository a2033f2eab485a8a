"""Which path of a drafted tree the verifier accepts, and its next token: the rules that methods choose from.

All are for any tree; a chain is one. p is the verifier's distribution after a node's parent, q the one that the node's token
was sampled from.
"""

import torch
from torch import Tensor

from speculators.proposals.sampler import Sampler
from speculators.protocols.draft import Draft, Verdict


def after_parents(x_BP: Tensor, draft: Draft) -> Tensor:
    """[B, M] of a value that stands at every place (0 the root, 1 + m node m): that of each node's parent."""
    return x_BP.gather(1, draft.parents() + 1)


def follow(draft: Draft, fits_BM: Tensor, depth: int) -> Tensor:
    """The path from the root along tokens that fit, as `Verdict.node_BD` has it; of several siblings the first.

    Args:
        draft: the tree.
        fits_BM: bool, whether each token is accepted once its parent is.
        depth: D, the most levels.
    """
    parent_BM, fits_BM = draft.parents(), fits_BM & draft.valid()
    at_B1 = torch.full_like(parent_BM[:, :1], -1)
    path = []
    for _ in range(depth):
        next_BM = fits_BM & (parent_BM == at_B1)
        # Where nothing fits, -2, which is not a parent index.
        at_B1 = torch.where(next_BM.any(1, keepdim=True), next_BM.long().argmax(1, keepdim=True), -2)
        path.append(at_B1)
    return torch.cat(path, dim=1).clamp_min(-1)


def greedy_verdict(draft: Draft, logits_BPV: Tensor, depth: int) -> Verdict:
    """Accept the verifier's most likely tokens; the text is its greedy text.

    Args:
        draft: the tree.
        logits_BPV: the verifier's logits, as of `ProposalMethod.judge`.
        depth: D, the most levels.
    """
    best_BP = logits_BPV.argmax(-1)
    node_BD = follow(draft, draft.token_BM == after_parents(best_BP, draft), depth)
    return Verdict(node_BD, best_BP.gather(1, last_place(node_BD)).squeeze(1))


def last_place(node_BD: Tensor) -> Tensor:
    """[B, 1] place of the last accepted node, 0 for the root."""
    return node_BD.amax(1, keepdim=True) + 1


def sampled_verdict(
    draft: Draft,
    logits_BPV: Tensor,
    sampler: Sampler,
    depth: int,
    siblings: int,
    lenience: float = 1.0,
    replacement: bool = False,
) -> Verdict:
    """Verify siblings in order, each against the residual p of those before it (SpecInfer, arXiv:2305.09781).

    A token sampled from q is accepted with probability min(1, p / (lenience q)); if not, p becomes (p - q)+, normalised,
    and the token is taken out of q, as siblings are drawn without replacement (Leviathan et al. 2023, arXiv:2211.17192, for
    a single child). A token chosen, not sampled, has a one-hot q: accepted with probability p, else taken out of
    p. Where all are rejected, the next token is sampled from what is left of p. With lenience 1 the text is distributed
    as the verifier's.

    Args:
        draft: the tree; its `prob_BMV` are q, and without them tokens are taken as chosen.
        logits_BPV: the verifier's logits, as of `ProposalMethod.judge`.
        sampler: how the verifier samples.
        depth: D, the most levels.
        siblings: most children of a node.
        lenience: in (0, 1]; less than 1 accepts more, which is lossy.
        replacement: siblings were drawn independently from the same q, which may repeat a token; q stays as it is.
    """
    parent_BM, valid_BM, row_B = (
        draft.parents(),
        draft.valid(),
        torch.arange(len(draft.token_BM), device=logits_BPV.device),
    )
    at_B = torch.full_like(row_B, -1)
    p_BV, ended_B, path = sampler.probs(logits_BPV[:, 0]), torch.zeros_like(row_B, dtype=torch.bool), []
    for _ in range(depth):
        child_BM = valid_BM & (parent_BM == at_B.unsqueeze(1)) & ~ended_B.unsqueeze(1)
        order_BM, next_B = child_BM.cumsum(1), torch.full_like(at_B, -1)
        q_BV = None
        for sibling in range(1, siblings + 1):
            is_it_BM = child_BM & (order_BM == sibling)
            node_B, judged_B = is_it_BM.long().argmax(1), is_it_BM.any(1) & (next_B < 0)
            token_B1 = draft.token_BM.gather(1, node_B.unsqueeze(1))
            if draft.prob_BMV is not None and q_BV is None:
                q_BV = draft.prob_BMV[row_B, node_B]
            chance_B, rest_BV = _judge(p_BV, q_BV, token_B1, lenience)
            accepted_B = judged_B & sampler.coin(chance_B)
            next_B = torch.where(accepted_B, node_B, next_B)
            p_BV = torch.where((judged_B & ~accepted_B).unsqueeze(1), rest_BV, p_BV)
            if q_BV is not None and sibling < siblings and not replacement:
                q_BV = _normalised(q_BV.scatter(1, token_B1, 0.0), q_BV)
        ended_B |= next_B < 0
        at_B = torch.where(ended_B, at_B, next_B)
        path.append(next_B)
        # Where a node was accepted, the next level is verified with the verifier's distribution after it.
        p_BV = torch.where(ended_B.unsqueeze(1), p_BV, sampler.probs(logits_BPV[row_B, at_B + 1]))
    return Verdict(torch.stack(path, dim=1), sampler.draw(p_BV))


def _judge(p_BV: Tensor, q_BV: Tensor | None, token_B1: Tensor, lenience: float) -> tuple[Tensor, Tensor]:
    """The chance that a token is accepted, and what p becomes if it is not."""
    own_B1 = p_BV.gather(1, token_B1)
    if q_BV is None:
        return own_B1.squeeze(1), _normalised(p_BV.scatter(1, token_B1, 0.0), p_BV)
    chance_B1 = own_B1 / (lenience * q_BV.gather(1, token_B1))
    return chance_B1.squeeze(1), _normalised((p_BV - q_BV).clamp_min(0), p_BV)


def _normalised(weight_BV: Tensor, otherwise_BV: Tensor) -> Tensor:
    """Normalised weights; `otherwise_BV` where all are 0, which for distributions in use only rounding causes."""
    sum_B1 = weight_BV.sum(1, keepdim=True)
    return torch.where(sum_B1 > 0, weight_BV / sum_B1, otherwise_BV)
