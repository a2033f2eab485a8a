"""EAGLE-1's mathematics, against a naive draft written from vLLM's."""

from typing import Any

import pytest
import torch

from speculators.data.collate import collate
from speculators.data.template import Document
from speculators.model import SpeculatorModel
from speculators.models.eagle.model import EagleSpeculator, noisy
from speculators.nn.attention import masked
from speculators.nn.unroll import unroll
from speculators.protocols.hidden_states import VerifierStates

from .compare import HIDDEN, LENGTH, TOKENS, check_drafting, check_training, layer_config, make_draft, make_verifier
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


def gradients(model: SpeculatorModel, output_RH: torch.Tensor, weight_RH: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a weighted sum of outputs, by tensor; zero where there is none."""
    model.zero_grad()
    (output_RH * weight_RH).sum().backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize("detach", [True, False])
def test_each_step_is_trained_alone(detach: bool) -> None:
    """Detached, the second step's gradient is that of one step whose fed state is a constant; not so otherwise."""
    model, (head, states) = draft_of(layer_config("llama", 1)), make_verifier(0)
    assert isinstance(model, EagleSpeculator)
    batch = collate([[Document(TOKENS, [True] * LENGTH)]], 2)
    second_R = (batch.rows.slot_R == 2) & batch.rows.valid_R
    weight_RH = torch.randn(len(second_R), HIDDEN, generator=torch.Generator().manual_seed(2)) * second_R[:, None]
    found = gradients(model, unroll(model, batch, states, head, detach), weight_RH)

    with torch.no_grad():
        outputs_RH = unroll(model, batch, states, head)
    last_slot, last_T = batch.rows.of_slot(outputs_RH, 1), states.last_BTH[0]
    first_T = {int(a): h for a, h in zip(batch.rows.of_slot(batch.rows.anchor_R, 1), last_slot, strict=True)}
    expected_RH = []
    for anchor, valid in zip(batch.rows.anchor_R.tolist(), second_R.tolist(), strict=True):
        if not valid:
            expected_RH.append(torch.zeros(HIDDEN))
            continue
        # Verified places up to the anchor, and one more that is fed what the first step gave.
        fed_TH = torch.cat([last_T[: anchor + 1], first_T[anchor][None]])[None]
        embed_TH, position_T = model.embed(torch.tensor([TOKENS[1 : anchor + 3]]), head), torch.arange(anchor + 2)[None]
        causal = torch.ones(1, 1, anchor + 2, anchor + 2, dtype=torch.bool).tril()
        step = model.step(embed_TH, fed_TH, position_T, [()], masked(causal))
        expected_RH.append(step.output_BTH[0, -1])
    expected = gradients(model, torch.stack(expected_RH), weight_RH)
    close = [(found[name] - e).abs().max() < 1e-3 * e.abs().max() for name, e in expected.items()]
    assert all(close) if detach else not any(close)


def test_noise_is_on_what_is_fed_alone() -> None:
    """As wide as the setting says at 512 tokens, wider in a shorter sequence; padding has none."""
    (_, states), batch = (
        make_verifier(0),
        collate([[Document(TOKENS, [True] * LENGTH)], [Document([3] * 4, [True] * 4)]], 1),
    )
    both = VerifierStates(states.last_BTH.expand(2, -1, -1), None)
    noise_BTH = noisy(both, batch, 0.2).last_BTH - both.last_BTH
    for b, length in enumerate((LENGTH, 4)):
        widest = 0.1 * 512 / length
        assert 0.8 * widest < noise_BTH[b, :length].abs().max() <= widest + 1e-4
        assert not noise_BTH[b, length:].any()
