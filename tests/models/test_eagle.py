"""EAGLE-1's mathematics, against a naive draft written from vLLM's."""

from typing import Any

import pytest
import torch

from speculators.model import SpeculatorModel

from .compare import check_drafting, check_training, layer_config, make_draft, make_verifier
from .naive import NaiveDraft, Past, Weights, attention, linear, post_attention, pre_norm_layer

VARIANTS = [(1, False), (3, False), (2, True)]


def draft_of(layer: dict[str, Any]) -> SpeculatorModel:
    """A random draft of these layers."""
    return make_draft({"speculators_model_type": "eagle", "transformer_layer_config": layer})


def naive_draft(
    weights: Weights, layer: dict[str, Any], embed_VH: torch.Tensor, last_TH: torch.Tensor, logits
) -> NaiveDraft:
    """The first layer takes fc's output as it is; what comes out last is read by the head and fed back."""

    def run(embed_H: torch.Tensor, fed_H: torch.Tensor, position: int, past: list[Past]):
        x_H = linear(torch.cat([embed_H, fed_H]), weights, "fc")
        x_H = x_H + attention(x_H, weights, "layers.0.self_attn", layer, position, past[0])
        x_H = post_attention(x_H, weights, 0, layer)
        for i in range(1, layer["num_hidden_layers"]):
            x_H = pre_norm_layer(x_H, weights, i, layer, position, past[i])
        return x_H, x_H

    return NaiveDraft(layer["num_hidden_layers"], embed_VH, lambda i: last_TH[i], run, logits)


@pytest.mark.parametrize("layers, bias", VARIANTS)
@pytest.mark.parametrize("check", [check_training, check_drafting])
def test_equals_the_naive_draft(check, layers: int, bias: bool) -> None:
    """One layer and several, with and without attention's biases; logits are the verifier's head's."""
    layer = layer_config("llama", layers, attention_bias=bias)
    model, (head, states) = draft_of(layer), make_verifier(0)

    def logits(x_H: torch.Tensor) -> torch.Tensor:
        return 9.0 * torch.tanh(0.7 * (head.head_VH @ x_H) / 9.0)

    naive = naive_draft(model.state_dict(), layer, head.embed_VH, states.last_BTH[0], logits)
    check(model, head, states, naive)


def test_weights_are_those_that_vllm_reads() -> None:
    """No norm before the first layer, no final norm, no head, no embedding."""
    names = set(draft_of(layer_config("llama", 2)).state_dict())
    assert "layers.1.input_layernorm.weight" in names
    assert not names & {
        "layers.0.input_layernorm.weight",
        "norm.weight",
        "lm_head.weight",
        "embed_tokens.weight",
        "fc.bias",
    }
    assert not {n for n in draft_of(layer_config("llama", 1)).state_dict() if "bias" in n}


@pytest.mark.parametrize("flag", ["layernorms", "fusion_bias"])
def test_what_vllm_lacks_is_refused(flag: str) -> None:
    """A published config may ask for it, but no draft is built that computes something else."""
    with pytest.raises(ValueError, match=flag):
        make_draft(
            {"speculators_model_type": "eagle", "transformer_layer_config": layer_config("llama", 1), flag: True}
        )
