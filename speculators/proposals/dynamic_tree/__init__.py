"""The dynamic tree proposal: a tree that grows where the draft is confident. Torch-free at import."""

from speculators.proposals.dynamic_tree.config import DynamicTreeTokenProposalConfig

__all__ = ["DynamicTreeTokenProposalConfig"]
