"""DFlash's mathematics, against a naive draft written from vLLM's."""

from functools import partial
from typing import Any

import pytest
import torch

from speculators.data.collate import collate
from speculators.data.template import Document
from speculators.model import SpeculatorModel, TrainingContext
from speculators.models.dflash.settings import DFlashSettings
from speculators.nn import blocks
from speculators.protocols.hidden_states import VerifierStates

from .compare import HIDDEN, LENGTH, SLOTS, TOKENS, VOCAB, check_drafting, layer_config, make_draft, make_verifier
from .naive_blocks import NaiveBlocks

KEPT = [1, 2, 5, 8, 9, 13, 14, 20, 22]
WINDOW = 3


def windows(layers: int) -> dict[str, Any]:
    """Layers that see `WINDOW` tokens."""
    kinds = ["sliding_attention"] * layers
    return layer_config("qwen3", layers, sliding_window=WINDOW, use_sliding_window=True, layer_types=kinds)


# Each on top of one bidirectional layer of full attention, and the whole vocabulary.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"sliding_window_non_causal": False},
    "window": {"transformer_layer_config": windows(1)},
    "causal_window": {"transformer_layer_config": windows(1), "sliding_window_non_causal": False},
    "from_anchor": {"sample_from_anchor": True, "block_size": SLOTS},
    "reduced_vocabulary": {"draft_vocab_size": len(KEPT)},
    "one_state": {"aux_hidden_state_layer_ids": [3]},
    "biases": {"transformer_layer_config": layer_config("qwen3", 1, attention_bias=True)},
    "all_at_once": {"transformer_layer_config": windows(3), "draft_vocab_size": len(KEPT), "mask_token_id": 21},
}


def published(variant: dict[str, Any]) -> dict[str, Any]:
    """A whole published config."""
    return {
        "speculators_model_type": "dflash",
        "transformer_layer_config": layer_config("qwen3", 1),
        "block_size": SLOTS + 1,
        "aux_hidden_state_layer_ids": [1, 2, 4],
        "mask_token_id": 4,
        "draft_vocab_size": VOCAB,
        "target_hidden_size": HIDDEN,
        "sliding_window_non_causal": True,
        **variant,
    }


def draft_of(values: dict[str, Any]) -> SpeculatorModel:
    """A random draft; a reduced vocabulary is KEPT."""
    model = make_draft(values)
    buffers = dict(model.named_buffers())
    if "d2t" in buffers:
        buffers["d2t"].copy_(torch.tensor([token - i for i, token in enumerate(KEPT)]))
        buffers["t2d"].copy_(torch.tensor([token in KEPT for token in range(VOCAB)]))
        buffers["lm_head.weight"].normal_()
    return model


class ScaledBlocks(NaiveBlocks):
    """With the verifier's scale and cap on the logits, which are its head's."""

    verifier: Any = None

    def logits(self, out_H: torch.Tensor) -> torch.Tensor:
        """Of finite logits."""
        wide_V = super().logits(out_H)
        return torch.where(wide_V.isfinite(), self.verifier.scaled(wide_V), wide_V)


def case(values: dict[str, Any]) -> tuple[Any, ...]:
    """Draft, verifier, and the naive draft with the same weights."""
    model = draft_of(values)
    head, states = make_verifier(len(values["aux_hidden_state_layer_ids"]) * HIDDEN)
    assert states.aux_BTA is not None
    weights = model.state_dict()
    window = WINDOW if values["transformer_layer_config"].get("layer_types") else None
    naive = ScaledBlocks(
        weights,
        values,
        head.embed_VH,
        weights.get("lm_head.weight", head.head_VH),
        states.aux_BTA[0],
        not values["sliding_window_non_causal"],
        window,
    )
    naive.verifier = head
    return model, head, states, naive


def planner(values: dict[str, Any], anchors: int):
    """Plans blocks after at most so many anchors."""
    chosen = {key: values[key] for key in ("block_size", "sample_from_anchor") if key in values}
    settings = DFlashSettings.model_construct(
        **{"sample_from_anchor": False, **chosen}, max_anchors=anchors, dpace_alpha=None
    )
    return settings, partial(SpeculatorModel.registry["dflash"].plan_rows, settings)


def check_training(model, head, states, naive: NaiveBlocks) -> None:
    """Every valid row of the training pass, as what the head reads."""
    settings, plan = planner(dict(naive.values), 100)
    batch = collate([[Document(TOKENS, [True] * LENGTH)]], plan)
    with torch.no_grad():
        (rows,) = model(batch, states, head, TrainingContext(settings, 0.0)).rows.values()
    first = 0 if naive.values.get("sample_from_anchor") else 1
    compared = 0
    for r in batch.rows.valid_R.nonzero().flatten().tolist():
        anchor, slot = int(batch.rows.anchor_R[r]), int(batch.rows.slot_R[r])
        expected = naive.outputs(TOKENS, anchor, SLOTS + first)[first + slot - 1]
        torch.testing.assert_close(rows.terms[0].input_RI[r], expected, rtol=1e-4, atol=1e-4)
        compared += 1
    assert compared == 6 + 5 + 4


@pytest.mark.parametrize("check", [check_training, check_drafting])
@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_naive_draft(name: str, check) -> None:
    """Every switch alone, and as many as go together."""
    check(*case(published(VARIANTS[name])))


@pytest.mark.parametrize("name", ["causal", "window", "causal_window"])
def test_every_kind_of_attention_computes_something_else(name: str) -> None:
    """With the plain draft's attention the comparison would fail."""
    model, head, states, naive = case(published(VARIANTS[name]))
    naive.causal, naive.window = False, None
    with pytest.raises(AssertionError, match="not close"):
        check_training(model, head, states, naive)


@pytest.mark.parametrize("queries", [1, 9, 12])
def test_chunks_do_not_change_the_blocks(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block at a time, or some, of sequences of several documents: what all together give."""
    values = published({})
    model, head, _, _ = case(values)
    g = torch.Generator().manual_seed(2)

    def document(length: int) -> Document:
        return Document(torch.randint(VOCAB, (length,), generator=g).tolist(), [True] * length)

    settings, plan = planner(values, 5)
    batch = collate([[document(6), document(7)], [document(4), document(3), document(5)]], plan, [1, 2])
    shape = batch.token_BT.shape
    states = VerifierStates(torch.zeros(*shape, HIDDEN), torch.randn(*shape, 3 * HIDDEN, generator=g))
    found = []
    for size in (1000, queries):
        monkeypatch.setattr(blocks, "CHUNK_QUERIES", size)
        with torch.no_grad():
            found.append(model(batch, states, head, TrainingContext(settings, 0.0)).rows["rows"].terms[0].input_RI)
    assert len(found[0]) == 10 * SLOTS
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)
