"""Training rows: a draft's predictions, the plan of a batch's predictions, and the loss's results for each.

A *row* is one prediction. Its *target* is the position whose verifier state it imitates: the row predicts the token at
target + 1. Its *slot* s, 1 ... S, says how far ahead it drafts: the last verified position, its *anchor*, is
target - s. Its *group* names the rows that are reduced together: a target with its slots for a recurrent draft, an
anchor with its block for a block draft.

Shape legend beside `protocols/batch.py`'s: R rows, U distinct targets, I inputs of a logit term, G groups, C the groups
of one chunk of the reduction.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class PackedTargets:
    """Input of a row plan: one packed sequence, on the host; positions count from the sequence's first token.

    Attributes:
        position_T: int64 position inside the document, from 0.
        document_T: int64 document number inside the sequence, from 0.
        target_N: int64 positions that may be targets, ascending: each predicts a supervised token of its own document
            and has the anchor of slot 1 in it. Slot s of target t stays inside the document if position_T[t] >= s.
    """

    position_T: Tensor
    document_T: Tensor
    target_N: Tensor


@dataclass(frozen=True)
class SequenceRows:
    """The rows planned for one packed sequence, on the host, in any order.

    Attributes:
        anchor_R: int64 anchor position in the sequence; the target is anchor + slot. Of an invalid row either may lie
            outside of the sequence.
        slot_R: int64 slot, 1 ... S. A pair of anchor and slot is there once.
        group_R: int64 group, from 0. Groups ascend with position: among the rows of one slot a higher group has a
            higher anchor; a group has at most one row of a slot.
        valid_R: bool, False for a row that is computed but counts for nothing.
        slots: S, the same for every sequence.
    """

    anchor_R: Tensor
    slot_R: Tensor
    group_R: Tensor
    valid_R: Tensor
    slots: int


@dataclass(frozen=True)
class RowLayout:
    """Where a batch's rows lie, on the host, so that no step waits for the device to find them.

    Attributes:
        starts: S + 1 row numbers: the rows of slot s are `starts[s - 1] ... starts[s] - 1`.
        anchor_R: int64 array, as in `RowPlan`.
        group_R: int64 array, as in `RowPlan`.
        place_R: int64 array, as in `RowPlan`.
        groups: number of groups, G.
        targets: number of distinct targets, U.
    """

    starts: tuple[int, ...]
    anchor_R: np.ndarray
    group_R: np.ndarray
    place_R: np.ndarray
    groups: int
    targets: int

    @property
    def slots(self) -> int:
        """S, with slots that have no row."""
        return len(self.starts) - 1

    @property
    def spans(self) -> list[slice]:
        """The rows of each slot, slot 1 first."""
        return [slice(start, end) for start, end in zip(self.starts, self.starts[1:], strict=False)]


@dataclass(frozen=True)
class RowPlan:
    """The rows of a batch: sorted by slot, then by group, so that a slot's rows lie side by side.

    The grid of S slots and N targets, row (s, n) in place (s - 1) * N + n and group n, is the plan of a draft that
    does not sample.

    Attributes:
        target_U: int64 distinct flat target positions (b * T + t), ascending.
        place_R: int64 each row's target as an index into `target_U`; of an invalid row that of any position.
        anchor_R: int64 each row's flat anchor position. Of an invalid row it may lie in another document, or before the
            batch: clamp it.
        slot_R: int64 each row's slot, ascending.
        group_R: int64 each row's group, ascending inside a slot.
        valid_R: bool, False for a row that is computed but counts for nothing.
        seeds: a number for each sequence of the batch, the same whatever the sequence is batched with; noise that is
            drawn on the device takes its generator from it (`nn.noise`).
        lengths: tokens of each sequence, padding aside.
        layout: the same on the host.
    """

    target_U: Tensor
    place_R: Tensor
    anchor_R: Tensor
    slot_R: Tensor
    group_R: Tensor
    valid_R: Tensor
    seeds: tuple[int, ...]
    lengths: tuple[int, ...]
    layout: RowLayout

    @property
    def slots(self) -> int:
        """S, how many tokens ahead rows draft."""
        return self.layout.slots

    @property
    def target_R(self) -> Tensor:
        """[R] int64 flat target position of each row."""
        return self.target_U[self.place_R]

    def of_slot(self, values_R: Tensor, slot: int) -> Tensor:
        """The part of `values_R` [R, ...] that belongs to one slot, from 1, without a copy."""
        return values_R[self.layout.spans[slot - 1]]

    def map(self, function: Callable[[Tensor], Tensor]) -> "RowPlan":
        """The same plan with every tensor replaced by `function` of it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: function(v) for name, v in values.items() if isinstance(v, Tensor)})


@dataclass(frozen=True)
class LogitTerm:
    """A summand of the logits, `input @ weight.T`.

    Attributes:
        input_RI: what the weight reads, of every row of the batch's plan, in its order.
        weights: [D, I], one for all slots, or one a slot. I may differ between terms, D may not.
    """

    input_RI: Tensor
    weights: tuple[Tensor, ...]


@dataclass(frozen=True)
class GroupFacts:
    """The draft's accuracy on some groups of rows, without gradient; row (s, c) is slot s + 1 of the c-th group.

    Attributes:
        prob_SC: in [0, 1], the draft's probability of the verifier's most likely token.
        overlap_SC: in [0, 1], sum_v min(p, q), the chance that a sampled token is accepted.
        valid_SC: bool, False where a group has no such row, where the row is invalid, or where the draft's vocabulary
            lacks the verifier's most likely token; both others are 0 there.
    """

    prob_SC: Tensor
    overlap_SC: Tensor
    valid_SC: Tensor


# Weights of some groups' rows, [S, C], not negative; multiplied with those of the slots.
RowWeights = Callable[[GroupFacts], Tensor]


@dataclass(frozen=True)
class Rows:
    """Predictions for every row of the batch's plan.

    Attributes:
        terms: summands of the logits; the first is the head's, whose input is the state after the draft's own norm.
        kept_D: verifier token ids of a reduced vocabulary's tokens, int64; None if D is the whole vocabulary.
        scaled_as_verifier: the first term is scaled and capped as the verifier's logits: its weight is the verifier's
            own head. Further terms are added as they are.
        weight: what the loss of these rows is multiplied with when a forward pass gives several sets of rows.
        divergences: weights of the divergences by name; None takes those of the settings' `loss`.
        slot_decay: in (0, 1], slot s weighs slot_decay ** (s - 1); None takes the settings'.
        row_weights: weights that depend on the draft's accuracy, e.g. `losses.weights.dpace`; None for none. All
            logits of a group are made before its weights are known.
    """

    terms: tuple[LogitTerm, ...]
    kept_D: Tensor | None = None
    scaled_as_verifier: bool = False
    weight: float = 1.0
    divergences: Mapping[str, float] | None = None
    slot_decay: float | None = None
    row_weights: RowWeights | None = None

    @classmethod
    def of(
        cls, hidden_RH: Tensor, *heads: Tensor, kept_D: Tensor | None = None, scaled_as_verifier: bool = False
    ) -> "Rows":
        """Rows whose logits are a head's alone: one [D, H] weight for all slots, or one a slot."""
        return cls((LogitTerm(hidden_RH, heads),), kept_D, scaled_as_verifier)


@dataclass(frozen=True)
class RowResults:
    """Results of the reduction for every row, without gradient.

    Attributes:
        overlap_R: in [0, 1], sum_v min(p, q) with the verifier's whole distribution: the chance that a sampled token
            is accepted. 0 where the row is invalid.
        correct_R: bool, the draft's first choice is the verifier's and the row is valid.
        weight_R: each row's share of a mean over rows: slot weights, zero at invalid rows, so divided that shares of
            micro-batches add up. It lacks `Rows.row_weights`.
    """

    overlap_R: Tensor
    correct_R: Tensor
    weight_R: Tensor

    def mean(self, loss_R: Tensor) -> Tensor:
        """Scalar, the weighted mean of a loss of each row [R], as the divergences are reduced."""
        return (loss_R * self.weight_R).sum()


# A loss beside the divergences: a scalar that adds up over micro-batches as `RowResults.mean` does.
ExtraLoss = Callable[[RowResults], Tensor]


@dataclass(frozen=True)
class DraftOutput:
    """A forward pass in training.

    Attributes:
        rows: sets of rows by name, all of the batch's plan. The first is what is drafted with: accuracy, acceptance and
            `extra_losses` are of it. Each set's loss is logged as `loss_NAME` where there are several.
        extra_losses: losses of other kinds by name, called after the reduction; a field of the settings' `loss` weighs
            each. Parameters that they train must be used in the forward pass, not in the call.
    """

    rows: Mapping[str, Rows]
    extra_losses: Mapping[str, ExtraLoss] = field(default_factory=dict)
