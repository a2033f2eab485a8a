"""The static tree proposal: a tree of a fixed shape. Torch-free at import."""

from speculators.proposals.static_tree.config import StaticTreeTokenProposalConfig

__all__ = ["StaticTreeTokenProposalConfig"]
