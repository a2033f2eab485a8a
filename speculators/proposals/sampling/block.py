"""Block verification of a sampled chain (Sun et al. 2024, arXiv:2403.10444)."""

import torch
from torch import Tensor

from speculators.proposals.sampler import Sampler
from speculators.protocols.draft import Draft, Verdict


def block_verdict(draft: Draft, logits_BPV: Tensor, sampler: Sampler) -> Verdict:
    """Accept the longest prefix that passes block verification.

    P_0 = 1 and P_i = min(1, P_{i-1} p_i(x_i) / q_i(x_i)); S_i is the sum of (P_i p_{i+1} - q_{i+1})+. Prefix i passes with
    probability S_i / (S_i + 1 - P_i), the whole chain with its P. After prefix i the next token is sampled from
    (P_i p_{i+1} - q_{i+1})+, after the whole chain from p. Exact, and in expectation no shorter than token by token.

    Args:
        draft: a chain with its `prob_BMV`.
        logits_BPV: the verifier's logits, as of `ProposalMethod.judge`.
        sampler: how the verifier samples.
    """
    assert draft.prob_BMV is not None
    q_BKV, valid_BK, K = draft.prob_BMV, draft.valid(), draft.token_BM.shape[1]
    # Values at tokens that a sequence does not have are arbitrary and must not reach a sum.
    p_BPV = sampler.probs(logits_BPV)
    there_BP1 = torch.nn.functional.pad(valid_BK, (1, 0), value=True).unsqueeze(-1)
    p_BPV = p_BPV.where(there_BP1, torch.zeros_like(p_BPV))
    own_p_BK, own_q_BK = (x.gather(2, draft.token_BM.unsqueeze(2)).squeeze(2) for x in (p_BPV[:, :-1], q_BKV))
    reach_B = torch.ones_like(own_p_BK[:, 0])
    accepted_B, rest_BV = torch.zeros_like(draft.token_BM[:, 0]), p_BPV[:, 0]
    for i in range(K + 1):
        # What the verifier's distribution has beyond the draft's; the whole of it where the chain ends.
        follows_B = valid_BK[:, i] if i < K else torch.zeros_like(valid_BK[:, 0])
        left_BV = p_BPV[:, i]
        if i < K:
            beyond_BV = (reach_B.unsqueeze(1) * p_BPV[:, i] - q_BKV[:, i]).clamp_min(0)
            left_BV = torch.where(follows_B.unsqueeze(1), beyond_BV, left_BV)
        sum_B = left_BV.sum(1)
        chance_B = torch.where(
            follows_B, sum_B / (sum_B + 1 - reach_B).clamp_min(torch.finfo(sum_B.dtype).tiny), reach_B
        )
        # 0 / 0: here p equals q, so the next prefix passes with the same probability, except for rounding.
        left_BV = torch.where(sum_B.unsqueeze(1) > 0, left_BV, p_BPV[:, i])
        passes_B = there_BP1[:, i, 0] & (torch.ones_like(follows_B) if i == 0 else sampler.coin(chance_B))
        accepted_B = torch.where(passes_B, i, accepted_B)
        rest_BV = torch.where(passes_B.unsqueeze(1), left_BV, rest_BV)
        if i < K:
            reach_B = (reach_B * own_p_BK[:, i] / own_q_BK[:, i]).clamp(max=1)
    node_BK = torch.arange(K, device=accepted_B.device).expand(len(accepted_B), -1)
    node_BK = node_BK.where(node_BK < accepted_B.unsqueeze(1), torch.full_like(node_BK, -1))
    return Verdict(node_BK, sampler.draw(rest_BV))
