"""Interface of a draft model in decoding."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from speculators.protocols.hidden_states import VerifierStates


@dataclass(frozen=True)
class Context:
    """Verified positions that the drafter has not seen yet, left-padded to one width T.

    As in vLLM, place i carries the verifier's state at position i and the *next* token, the one at i + 1; the last
    place carries the token just sampled. Keys and values of verified tokens so always come from true states.

    Attributes:
        token_BT: int64 token at the position (padding: 0). A draft that is a language model reads these.
        next_token_BT: int64 token at position + 1.
        states: the verifier's states at these positions; None for a draft that reads none.
        position_BT: int64 position in the sequence, from 0 (padding: 0).
        valid_BT: bool, False at padding. Every sequence has at least one place.
    """

    token_BT: Tensor
    next_token_BT: Tensor
    states: VerifierStates | None
    position_BT: Tensor
    valid_BT: Tensor


class Predictions(NamedTuple):
    """What a draft predicts after each of N nodes of its tree.

    Attributes:
        logits_BNV: over the verifier's vocabulary, -inf where the draft has no such token; any float dtype.
        open_BN: bool, False where the draft expects that whatever follows the node is rejected, so that nothing is
            drafted there (DSpark's confidence head); None is True everywhere. It may depend on the node and what comes
            before it, never on the tokens that follow: else sampling would no longer be exact.
    """

    logits_BNV: Tensor
    open_BN: Tensor | None = None


class Drafter(Protocol):
    """A draft model that decodes one batch of sequences, with what it remembers of them.

    A round is one `extend` and then any number of `expand`, one for each further level of the draft's tree. A chain is a
    tree with one node per level. The proposal method decides how tokens are taken from the logits, and how many.

    A recurrent draft computes each level when it is asked. A draft that gives all slots at once computes them in
    `extend` and answers `expand` from them: from the level alone, or with a term that depends on the node's token.
    """

    def extend(self, context: Context, depth: int) -> Predictions:
        """Begin a round: drop the tree of the round before, take in newly verified positions, predict after the last.

        Args:
            context: the positions verified since the last call; in the first call the whole prompts.
            depth: how many levels this round's tree has at most, >= 1. `expand` is called fewer times than this.

        Returns:
            Predictions for the first level's tokens, N = 1: those that follow the last verified token.
        """
        ...

    def expand(self, token_BN: Tensor, parent_BN: Tensor) -> Predictions:
        """Add a level to this round's tree and predict what follows each of its nodes.

        A node sees its ancestors and the verified positions, no other node. Nodes that a sequence does not use hold any
        token; their predictions are not read.

        Args:
            token_BN: int64 tokens of the verifier's vocabulary.
            parent_BN: int64 parent of each node: its place among the nodes of the call before, in 0 ... N' - 1. In the
                first `expand` of a round the parent is the last verified token, N' = 1, and all are 0.

        Returns:
            Predictions after each node.
        """
        ...

    def select(self, rows: Tensor) -> None:
        """Keep only some sequences, between two rounds.

        Args:
            rows: int64 indices, ascending; the others have finished.
        """
        ...
