"""ProposalMethod: which tree is drafted, which tokens it holds, and what the verifier accepts of it."""

from abc import ABC, abstractmethod

from torch import Tensor

from speculators.proposals.base import TokenProposalConfig
from speculators.proposals.sampler import Sampler
from speculators.protocols.draft import Draft, Verdict
from speculators.protocols.drafter import Context, Drafter
from speculators.utils.discovery import PROPOSALS, import_part
from speculators.utils.registry import ClassRegistryMixin


class ProposalMethod(ClassRegistryMixin, ABC):
    """Base of every proposal method; `proposals/NAME/method.py` registers the one whose `proposal_type` is NAME.

    A round of decoding is `draft`, one pass of the verifier over the drafted tree, and `judge`. With the settings'
    `lossy` None, the text must be the verifier's own: its greedy text at temperature 0, and its distribution above.
    """

    def __init__(self, config: TokenProposalConfig, sampler: Sampler) -> None:
        """Called by `of`.

        Args:
            config: the method's settings.
            sampler: how the verifier samples; all randomness of `draft` and `judge` comes from it.
        """
        self.sampler = sampler

    @abstractmethod
    def draft(self, drafter: Drafter, context: Context) -> Draft:
        """Draft a tree: one `extend` of the drafter, and an `expand` for each level after the first.

        Args:
            drafter: the draft model, with what it remembers of these sequences.
            context: the positions verified since the last call, for its `extend`.

        Returns:
            At most `config.nodes` tokens in at most `config.levels` levels. Every round of a batch may have another shape.
        """

    @abstractmethod
    def judge(self, draft: Draft, logits_BPV: Tensor) -> Verdict:
        """Decide which path of the tree is accepted, and the token after it.

        Args:
            draft: what `draft` returned.
            logits_BPV: the verifier's logits, P = 1 + M: place 0 is after the last verified token, place 1 + m is after
                node m. Those of nodes that are not valid hold anything.

        Returns:
            The accepted path, as wide as `config.levels`, and the verifier's next token after it.
        """

    @classmethod
    def of(cls, config: TokenProposalConfig, sampler: Sampler) -> "ProposalMethod":
        """The method that settings name.

        Args:
            config: its settings.
            sampler: how the verifier samples.

        Raises:
            ValueError: as `named`.
        """
        return cls.named(config.proposal_type)(config, sampler)

    @classmethod
    def named(cls, name: str) -> type["ProposalMethod"]:
        """The class of a method; ValueError if only settings are registered under this name."""
        import_part("method", PROPOSALS, optional=True)
        methods = cls.registry or {}
        if name not in methods:
            raise ValueError(
                f"proposal.proposal_type={name}: it has settings and no decoding rule, which a method.py beside them "
                f"registers; choose one of {', '.join(sorted(methods))}"
            )
        return methods[name]
