"""Token proposal methods, one folder each. Torch-free at import."""

import importlib

from speculators.proposals.base import ChainProposalConfig, TokenProposalConfig
from speculators.utils.discovery import PROPOSALS, packages

# Methods are registered by their folder here, or by an entry point of an installed package.
for _package in packages(PROPOSALS).values():
    importlib.import_module(_package)

from speculators.proposals.greedy import GreedyTokenProposalConfig  # noqa: E402  after its turn in the folder's order

TokenProposalConfig.reload_schema()

__all__ = ["ChainProposalConfig", "GreedyTokenProposalConfig", "TokenProposalConfig"]
