"""The greedy proposal: one chain of the draft's most likely tokens. Torch-free at import."""

from speculators.proposals.greedy.config import GreedyTokenProposalConfig

__all__ = ["GreedyTokenProposalConfig"]
