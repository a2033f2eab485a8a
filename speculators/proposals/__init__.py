"""Token proposal methods, one file each. Torch-free."""

import importlib
import pkgutil
from importlib.metadata import entry_points

from speculators.proposals.base import TokenProposalConfig

# The file is the registration: whatever stands in this folder is known.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

# So is an installed package's folder with a file `acceptance.py`, named by an entry point.
PACKAGES = [entry.value for entry in entry_points(group="speculators.proposals")]
for _package in PACKAGES:
    importlib.import_module(_package)

from speculators.proposals.greedy import GreedyTokenProposalConfig  # noqa: E402  after its turn in the folder's order

TokenProposalConfig.reload_schema()

__all__ = ["GreedyTokenProposalConfig", "TokenProposalConfig"]
