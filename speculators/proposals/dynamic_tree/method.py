"""The dynamic tree's decoding rule (EAGLE-2, Li et al. 2024, arXiv:2406.16858)."""

import torch
from torch import Tensor

from speculators.proposals.acceptance import greedy_verdict, sampled_verdict
from speculators.proposals.dynamic_tree.config import DynamicTreeTokenProposalConfig
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.protocols.draft import Draft, Verdict
from speculators.protocols.drafter import Context, Drafter, Predictions


@ProposalMethod.register("dynamic_tree")
class DynamicTreeMethod(ProposalMethod):
    """Candidates grow where their paths are likely; the likeliest of all are verified.

    A node's value is the draft's log-probability of its path. k = expansion_factor.
    """

    def __init__(self, config: DynamicTreeTokenProposalConfig, sampler: Sampler) -> None:
        super().__init__(config, sampler)
        self.config = config

    def draft(self, drafter: Drafter, context: Context) -> Draft:
        """Each level: the k likeliest children of the k nodes of highest value. All stay candidates for the last choice."""
        predictions, k = drafter.extend(context, self.config.levels), self.config.expansion_factor
        root_B1 = torch.zeros_like(context.position_BT[:, -1:])
        token_BN, value_BN = self._children(predictions, root_B1.float())
        tokens, values, parents = [token_BN], [value_BN], [(root_B1 - 1).expand_as(token_BN)]
        # Of the nodes to expand: their tokens, values, parents among the nodes expanded before, and numbers in the draft.
        number_BN = torch.arange(token_BN.shape[1], device=root_B1.device).expand_as(token_BN)
        above_BN, count = root_B1.expand_as(token_BN), token_BN.shape[1]
        for level in range(2, self.config.levels + 1):
            predictions = drafter.expand(token_BN, above_BN)
            token_BN, value_BN = self._children(predictions, value_BN)
            children = token_BN.shape[1] // number_BN.shape[1]
            tokens.append(token_BN)
            values.append(value_BN)
            parents.append(number_BN.repeat_interleave(children, dim=1))
            if level < self.config.levels:
                best_BN = _highest(value_BN, k)
                above_BN, number_BN = best_BN // children, count + best_BN
                token_BN, value_BN = token_BN.gather(1, best_BN), value_BN.gather(1, best_BN)
            count += tokens[-1].shape[1]
        token_BC, parent_BC, value_BC = (torch.cat(x, dim=1) for x in (tokens, parents, values))
        return _keep(token_BC, parent_BC, value_BC, self.config.speculative_tokens)

    def judge(self, draft: Draft, logits_BPV: Tensor) -> Verdict:
        """Follow the verifier's tokens; above temperature 0, children are verified as chosen tokens, not as samples."""
        if self.sampler.is_greedy:
            return greedy_verdict(draft, logits_BPV, self.config.levels)
        return sampled_verdict(draft, logits_BPV, self.sampler, self.config.levels, self.config.expansion_factor)

    def _children(self, predictions: Predictions, value_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and values of the k likeliest children of every node, side by side; -inf where there is none."""
        log_q_BNV = predictions.logits_BNV.float().log_softmax(-1)
        log_q_BNk, token_BNk = log_q_BNV.topk(min(self.config.expansion_factor, log_q_BNV.shape[-1]), dim=-1)
        if predictions.open_BN is not None:
            log_q_BNk = log_q_BNk.masked_fill(~predictions.open_BN.unsqueeze(-1), -torch.inf)
        return token_BNk.flatten(1), (value_BN.unsqueeze(-1) + log_q_BNk).flatten(1)


def _highest(value_BN: Tensor, count: int) -> Tensor:
    """int64 indices of the highest values, ascending in index; ties go to the lower index, which topk does not promise."""
    return value_BN.argsort(dim=1, descending=True, stable=True)[:, :count].sort(dim=1).values


def _keep(token_BC: Tensor, parent_BC: Tensor, value_BC: Tensor, count: int) -> Draft:
    """The candidates of highest value as a tree.

    A child's value is at most its parent's, and ties go to the node drafted first: so with a node its parent is kept.
    """
    kept_BM = _highest(value_BC, count)
    M = kept_BM.shape[1]
    # Where each candidate stands in the draft; the root and what is not kept are at -1.
    place_BC = torch.full_like(parent_BC, -1).scatter(
        1, kept_BM, torch.arange(M, device=kept_BM.device).expand_as(kept_BM)
    )
    place_BC = torch.nn.functional.pad(place_BC, (1, 0), value=-1)
    parent_BM = place_BC.gather(1, parent_BC.gather(1, kept_BM) + 1)
    return Draft(token_BC.gather(1, kept_BM), parent_BM, value_BC.gather(1, kept_BM) > -torch.inf)
