"""Tensors of a P-EAGLE checkpoint. Torch-free."""

from collections.abc import Iterator, Mapping
from typing import Any

from speculators.format.finding import Finding
from speculators.format.layout import Layout, TensorSpec
from speculators.models.fused_states import FusedStatesLayout, fused_width
from speculators.verifier.facts import VerifierFacts


@Layout.register("peagle")
class PEagleLayout(FusedStatesLayout):
    """Only the published format: engines read it directly."""

    title = "P-EAGLE"
    paper = "https://arxiv.org/abs/2602.01469"

    @classmethod
    def problems(cls, config: Mapping[str, Any], facts: VerifierFacts | None) -> Iterator[Finding]:
        """EAGLE-3's rules, and a mask token that has an embedding."""
        yield from super().problems(config, facts)
        token, layer = config.get("mask_token_id"), config.get("transformer_layer_config")
        vocab = layer.get("vocab_size") if isinstance(layer, Mapping) else None
        if isinstance(token, int) and isinstance(vocab, int) and not 0 <= token < vocab:
            yield Finding("invalid", "mask_token_id", token, f"must be a token of the verifier, 0 to {vocab - 1}")

    @classmethod
    def tensors(cls, config: Mapping[str, Any]) -> dict[str, TensorSpec]:
        """EAGLE-3's, and what stands in place of the verifier's states where there are none."""
        return super().tensors(config) | {"mask_hidden": TensorSpec((1, 1, fused_width(config)))}
