"""EAGLE-3's mathematics, against a naive draft written from vLLM's."""

from typing import Any

import pytest
import torch

from speculators.config import SpeculatorModelConfig
from speculators.data.collate import collate
from speculators.data.template import Document
from speculators.model import SpeculatorModel, TrainingContext
from speculators.protocols.initialisation import Initialisation

from .compare import HIDDEN, TOKENS, VOCAB, check_drafting, check_training, layer_config, make_draft, make_verifier
from .naive_fused import KEPT, draft_of, naive_draft


def sliding(model_type: str, layers: int, window: int) -> dict[str, Any]:
    """Layers that all slide."""
    kinds = ["sliding_attention"] * layers
    return layer_config(model_type, layers, layer_types=kinds, sliding_window=window, use_sliding_window=True)


# Each on top of one llama layer, nothing switched on, and the whole vocabulary.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norm_before_residual": {"norm_before_residual": True},
    "reduced_vocabulary": {"draft_vocab_size": len(KEPT)},
    "norm_before_fc": {"norm_before_fc": True},
    "fc_norm": {"fc_norm": True},
    "norm_output": {"norm_output": True},
    "own_embedding": {"embed_requires_grad": True},
    "one_state": {"eagle_aux_hidden_state_layer_ids": [3]},
    "three_layers": {"transformer_layer_config": layer_config("llama", 3)},
    "biases": {"transformer_layer_config": layer_config("llama", 1, attention_bias=True)},
    "qwen3": {"transformer_layer_config": layer_config("qwen3", 1)},
    "qwen3_biases": {"transformer_layer_config": layer_config("qwen3", 1, attention_bias=True)},
    "window_of_one": {"transformer_layer_config": sliding("llama", 1, 1)},
    "window_of_two": {"transformer_layer_config": sliding("llama", 2, 2)},
    "window_of_three_qwen3": {"transformer_layer_config": sliding("qwen3", 1, 3)},
    "one_layer_slides": {
        "transformer_layer_config": sliding("llama", 2, 2) | {"layer_types": ["full_attention", "sliding_attention"]}
    },
    "all_at_once": {
        "transformer_layer_config": layer_config("qwen3", 2), "norm_before_residual": True, "fc_norm": True,
        "norm_output": True, "embed_requires_grad": True, "draft_vocab_size": len(KEPT),
    },
}  # fmt: skip


def published(variant: dict[str, Any]) -> dict[str, Any]:
    """A whole published config."""
    return {
        "speculators_model_type": "eagle3",
        "transformer_layer_config": layer_config("llama", 1),
        "eagle_aux_hidden_state_layer_ids": [1, 2, 4],
        "draft_vocab_size": VOCAB,
        "target_hidden_size": HIDDEN,
        **variant,
    }


@pytest.mark.parametrize("check", [check_training, check_drafting])
@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_naive_draft(name: str, check) -> None:
    """Every switch alone, and as many as go together."""
    values = published(VARIANTS[name])
    model = draft_of(values)
    head, states = make_verifier(len(values["eagle_aux_hidden_state_layer_ids"]) * HIDDEN)
    assert states.aux_BTA is not None
    check(model, head, states, naive_draft(model.state_dict(), values, head.embed_VH, states.aux_BTA[0]))


@pytest.mark.parametrize("name", [n for n in VARIANTS if n not in ("plain", "one_state")])
def test_every_variant_computes_something_else(name: str) -> None:
    """With the plain draft's mathematics the comparison would fail: no switch is without effect."""
    values = published(VARIANTS[name])
    model = draft_of(values)
    head, states = make_verifier(3 * HIDDEN)
    assert states.aux_BTA is not None
    unknown = ("d2t", "t2d", "embed_tokens.weight")
    weights = {n: t for n, t in model.state_dict().items() if n not in unknown and not n.endswith("bias")}
    with pytest.raises(AssertionError, match="not close"):
        check_training(model, head, states, naive_draft(weights, published({}), head.embed_VH, states.aux_BTA[0]))


def test_a_window_as_long_as_the_text_is_none() -> None:
    """In training, where layers with a window take another kernel."""
    (_, states), batch = make_verifier(3 * HIDDEN), collate([[Document(TOKENS, [True] * len(TOKENS))]], 3)
    head, _ = make_verifier(0)
    outputs = []
    for layer in (layer_config("llama", 2), sliding("llama", 2, len(TOKENS))):
        model = draft_of(published({"transformer_layer_config": layer}))
        with torch.no_grad():
            (rows,) = model(batch, states, head, TrainingContext[Any](None, 0.0)).rows.values()
        outputs.append(rows.terms[0].input_RI[batch.rows.valid_R])
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


def test_a_qwen3_layer_that_slides_without_a_window_is_refused() -> None:
    """transformers reads a window only where use_sliding_window is true; vLLM reads it anyway."""
    layer = sliding("qwen3", 1, 4) | {"use_sliding_window": False}
    with pytest.raises(ValueError, match="use_sliding_window"):
        make_draft(published({"transformer_layer_config": layer}))


def test_a_fresh_draft_takes_the_most_frequent_tokens() -> None:
    """d2t holds offsets, t2d marks the same tokens, and the head's rows are the verifier's of these tokens."""
    config = SpeculatorModelConfig.from_dict(make_draft(published({"draft_vocab_size": 4})).config.to_dict())
    model = SpeculatorModel.for_config(config)(config)
    head, _ = make_verifier(0)
    count_V = torch.zeros(VOCAB, dtype=torch.int64)
    count_V[[21, 3, 17, 9]] = torch.tensor([5, 9, 1, 2])
    model.initialise(Initialisation(head, count_V))
    weights = model.state_dict()
    assert weights["d2t"].dtype == torch.int64 and weights["t2d"].dtype == torch.bool
    assert [i + d for i, d in enumerate(weights["d2t"].tolist())] == [3, 9, 17, 21]
    assert weights["t2d"].nonzero().flatten().tolist() == [3, 9, 17, 21]
    assert torch.equal(weights["lm_head.weight"], head.head_VH[[3, 9, 17, 21]])


def test_the_whole_vocabulary_has_no_tables() -> None:
    """vLLM refuses d2t where the vocabulary is not reduced."""
    assert not {"d2t", "t2d"} & set(draft_of(published({})).state_dict())
