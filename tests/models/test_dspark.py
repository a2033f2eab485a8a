"""DSpark's mathematics, against a naive draft written from vLLM's; the blocks are DFlash's."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from speculators.data.collate import collate
from speculators.data.template import Document
from speculators.model import SpeculatorModel, TrainingContext
from speculators.models.dspark.settings import DSparkSettings
from speculators.proposals.chain import draft_chain, most_likely
from speculators.protocols.drafter import Context
from speculators.protocols.hidden_states import VerifierStates

from .compare import HIDDEN, LENGTH, SLOTS, TOKENS, VOCAB, check_drafting, layer_config, make_draft, make_verifier
from .naive_blocks import NaiveBlocks

KEPT = [1, 2, 5, 8, 9, 13, 14, 20, 22]
WINDOW = 3
SLIDING = {"sliding_window": WINDOW, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 2}
# Each on top of one layer of full attention, a Markov head of rank 5 and both parts of the confidence head.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "fill_in": {"sample_from_anchor": False, "block_size": SLOTS + 1},
    "reduced_vocabulary": {"draft_vocab_size": len(KEPT)},
    "no_markov_head": {"markov_rank": 0, "confidence_head_with_markov": False},
    "no_confidence_head": {"enable_confidence_head": False},
    "windows": {"transformer_layer_config": layer_config("qwen3", 2, **SLIDING)},
}


class NaiveSpark(NaiveBlocks):
    """With the verifier's scale and cap on its head's logits, and the two heads."""

    verifier: Any = None

    def draft(self, tokens: list[int], anchor: int, count: int) -> list[Tensor]:
        """Logits of each slot after the token before it."""
        first, tokens = 0 if self.values["sample_from_anchor"] else 1, [*tokens, *[0] * count]
        outputs = self.outputs(tokens, anchor, count + first)[first:]
        return [self.slot(out_H, tokens[anchor + 1 + k]) for k, out_H in enumerate(outputs)]

    def slot(self, out_H: Tensor, before: int) -> Tensor:
        """The head's scaled logits, and the row of W2 W1 of the token before."""
        wide_V, w = self.logits(out_H), self.weights
        wide_V = torch.where(wide_V.isfinite(), self.verifier.scaled(wide_V), wide_V)
        if "markov_head.markov_w1.weight" in w:
            bias_D = w["markov_head.markov_w2.weight"] @ w["markov_head.markov_w1.weight"][before]
            kept = KEPT if "d2t" in w else range(VOCAB)
            for i, token in enumerate(kept):
                wide_V[token] += bias_D[i]
        return wide_V

    def foreseen(self, out_H: Tensor, before: int) -> float:
        """The chance that the token after `before` is accepted."""
        w = self.weights
        read = torch.cat((out_H, w["markov_head.markov_w1.weight"][before]))
        return float(torch.sigmoid(w["confidence_head.proj.weight"][0] @ read + w["confidence_head.proj.bias"][0]))


def published(variant: dict[str, Any]) -> dict[str, Any]:
    """A whole published config."""
    return {
        "speculators_model_type": "dspark",
        "transformer_layer_config": layer_config("qwen3", 1),
        "block_size": SLOTS,
        "aux_hidden_state_layer_ids": [1, 2, 4],
        "mask_token_id": 4,
        "draft_vocab_size": VOCAB,
        "target_hidden_size": HIDDEN,
        "sample_from_anchor": True,
        "markov_rank": 5,
        **variant,
    }


def case(values: dict[str, Any]) -> tuple[Any, ...]:
    """Draft, verifier, and the naive draft with the same weights."""
    model = make_draft(values)
    buffers = dict(model.named_buffers())
    if "d2t" in buffers:
        buffers["d2t"].copy_(torch.tensor([token - i for i, token in enumerate(KEPT)]))
        buffers["lm_head.weight"].normal_()
    head, states = make_verifier(3 * HIDDEN)
    assert states.aux_BTA is not None
    weights, slides = model.state_dict(), "layer_types" in values["transformer_layer_config"]
    head_DH = weights.get("lm_head.weight", head.head_VH)
    # vLLM's layers with a window see back alone, others both ways.
    naive = NaiveSpark(weights, values, head.embed_VH, head_DH, states.aux_BTA[0], slides, WINDOW if slides else None)
    naive.verifier = head
    return model, head, states, naive


def check_training(model, head, states, naive: NaiveSpark) -> None:
    """Every valid row of the training pass, as logits."""
    values = naive.values
    settings = DSparkSettings.model_construct(
        block_size=values["block_size"],
        sample_from_anchor=values["sample_from_anchor"],
        max_anchors=100,
        dpace_alpha=None,
    )
    batch = collate(
        [[Document(TOKENS, [True] * LENGTH)]], partial(SpeculatorModel.registry["dspark"].plan_rows, settings)
    )
    with torch.no_grad():
        output = model(batch, states, head, TrainingContext(settings, 0.0))
    rows = output.rows["rows"]
    assert ("confidence" in output.extra_losses) == values.get("enable_confidence_head", True)
    compared = 0
    for r in batch.rows.valid_R.nonzero().flatten().tolist():
        anchor, slot = int(batch.rows.anchor_R[r]), int(batch.rows.slot_R[r])
        products = [term.weights[0] @ term.input_RI[r] for term in rows.terms]
        found_D = head.scaled(products[0]) + (products[1] if len(products) > 1 else 0)
        wide_V = torch.full((VOCAB,), -torch.inf)
        wide_V[torch.arange(VOCAB) if rows.kept_D is None else rows.kept_D] = found_D
        torch.testing.assert_close(wide_V, naive.draft(TOKENS, anchor, SLOTS)[slot - 1], rtol=1e-4, atol=1e-4)
        compared += 1
    assert compared == 6 + 5 + 4


@pytest.mark.parametrize("check", [check_training, check_drafting])
@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_naive_draft(name: str, check) -> None:
    """Both layouts, a reduced vocabulary, either head alone, and windows."""
    check(*case(published(VARIANTS[name])))


@torch.no_grad()
def test_a_draft_ends_where_little_is_foreseen() -> None:
    """Ragged drafts: each sequence's as long as every token's foreseen acceptance reaches the threshold."""
    model, head, states, naive = case(published({}))
    lengths = set()
    for anchor in (0, 1, 2, 3):
        # Where the first slot is trusted least, and where it is trusted most.
        model.confidence_head.proj.weight.neg_()
        places, outputs = list(range(anchor + 1)), naive.outputs(TOKENS, anchor, SLOTS)
        context = Context(
            torch.tensor([[TOKENS[p] for p in places]]),
            torch.tensor([[TOKENS[p + 1] for p in places]]),
            VerifierStates(states.last_BTH[:, places], states.aux_BTA[:, places]),
            torch.tensor([places]),
            torch.ones(1, len(places), dtype=torch.bool),
        )
        for threshold in [i / 50 for i in range(1, 50)]:
            model.config.confidence_threshold = threshold
            draft = draft_chain(model.drafter(head, 1), context, SLOTS, most_likely)
            befores = [TOKENS[anchor + 1], *draft.token_BM[0].tolist()[:-1]]
            chances = [naive.foreseen(out_H, before) for out_H, before in zip(outputs, befores, strict=True)]
            expected = next((k for k, chance in enumerate(chances) if chance < threshold), SLOTS)
            assert int(draft.valid()[0].sum()) == expected
            lengths.add(expected)
    assert len(lengths) > 2


@pytest.mark.parametrize("kind", ["gated", "rnn"])
def test_other_markov_heads_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="markov_head_type"):
        make_draft(published({"markov_head_type": kind}))
