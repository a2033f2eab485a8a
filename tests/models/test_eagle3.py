"""EAGLE-3's mathematics, against a naive draft written from vLLM's."""

from typing import Any

import pytest
import torch

from speculators.config import SpeculatorModelConfig
from speculators.model import SpeculatorModel
from speculators.protocols.initialisation import Initialisation

from .compare import HIDDEN, VOCAB, check_drafting, check_training, layer_config, make_draft, make_verifier
from .naive import NaiveDraft, Past, Weights, attention, linear, post_attention, pre_norm_layer, rms_norm

KEPT = [1, 2, 5, 8, 9, 13, 14, 20, 22]
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
    "all_at_once": {
        "transformer_layer_config": layer_config("qwen3", 2), "norm_before_residual": True, "fc_norm": True,
        "norm_output": True, "embed_requires_grad": True, "draft_vocab_size": len(KEPT),
    },
}  # fmt: skip


def draft_of(values: dict[str, Any]) -> SpeculatorModel:
    """A random draft; a reduced vocabulary is KEPT."""
    model = make_draft(values)
    buffers = dict(model.named_buffers())
    if "d2t" in buffers:
        buffers["d2t"].copy_(torch.tensor([token - i for i, token in enumerate(KEPT)]))
        buffers["t2d"].copy_(torch.tensor([token in KEPT for token in range(VOCAB)]))
    return model


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


def naive_draft(weights: Weights, values: dict[str, Any], embed_VH: torch.Tensor, aux_TA: torch.Tensor) -> NaiveDraft:
    """Step by step, as vLLM's class has it."""
    layer = values["transformer_layer_config"]
    eps, states = layer["rms_norm_eps"], len(values["eagle_aux_hidden_state_layer_ids"])

    def first_fed(i: int) -> torch.Tensor:
        x_A = aux_TA[i]
        if values.get("norm_before_fc"):
            x_A = rms_norm(x_A, weights["input_norm.weight"], eps)
        if values.get("fc_norm"):
            parts = [rms_norm(part, weights[f"fc_norm.{j}.weight"], eps) for j, part in enumerate(x_A.view(states, -1))]
            x_A = torch.cat(parts)
        return linear(x_A, weights, "fc")

    def run(embed_H: torch.Tensor, g_H: torch.Tensor, position: int, past: list[Past]):
        e_H = rms_norm(embed_H, weights["layers.0.input_layernorm.weight"], eps)
        m_H = rms_norm(g_H, weights["layers.0.hidden_norm.weight"], eps)
        residual_H = m_H if values.get("norm_before_residual") else g_H
        attended_H = attention(torch.cat([e_H, m_H]), weights, "layers.0.self_attn", layer, position, past[0])
        x_H = post_attention(residual_H + attended_H, weights, 0, layer)
        for i in range(1, layer["num_hidden_layers"]):
            x_H = pre_norm_layer(x_H, weights, i, layer, position, past[i])
        out_H = rms_norm(x_H, weights["norm.weight"], eps)
        return out_H, out_H if values.get("norm_output") else x_H

    def logits(out_H: torch.Tensor) -> torch.Tensor:
        logits_D = weights["lm_head.weight"] @ out_H
        wide_V = torch.full((VOCAB,), -torch.inf)
        for i, logit in enumerate(logits_D):
            wide_V[i + (int(weights["d2t"][i]) if "d2t" in weights else 0)] = logit
        return wide_V

    embed_VH = weights.get("embed_tokens.weight", embed_VH)
    return NaiveDraft(layer["num_hidden_layers"], embed_VH, first_fed, run, logits)


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
