"""Tensors of a DSpark checkpoint. Torch-free."""

from collections.abc import Iterator, Mapping
from typing import Any

from speculators.format.finding import Finding
from speculators.format.layout import Layout, TensorSpec
from speculators.format.shared_rules import LAYER
from speculators.models.block_layout import BlockLayout
from speculators.verifier.facts import VerifierFacts


@Layout.register("dspark")
class DSparkLayout(BlockLayout):
    """The shared layers, and two heads."""

    title = "DSpark"
    paper = "https://arxiv.org/abs/2607.05147"

    @classmethod
    def problems(cls, config: Mapping[str, Any], facts: VerifierFacts | None) -> Iterator[Finding]:
        """A Markov head that is computed here, and that the confidence head can read."""
        yield from super().problems(config, facts)
        rank, kind = config.get("markov_rank", 256), config.get("markov_head_type", "vanilla")
        if isinstance(rank, int) and rank < 0:
            yield Finding("invalid", "markov_rank", rank, "must be at least 0")
        if kind in ("gated", "rnn"):
            yield Finding("invalid", "markov_head_type", kind, "must be vanilla: no other head is computed here")
        if config.get("enable_confidence_head", True) and config.get("confidence_head_with_markov", True) and rank == 0:
            yield Finding("invalid", "confidence_head_with_markov", True, "needs markov_rank above 0")

    @classmethod
    def tensors(cls, config: Mapping[str, Any]) -> dict[str, TensorSpec]:
        """Those of the layers, W1 over the verifier's tokens, W2 over the draft's, and the confidence's projection."""
        layer, rank = config[LAYER], config["markov_rank"]
        specs, size = super().tensors(config), layer["hidden_size"]
        if rank > 0:
            specs["markov_head.markov_w1.weight"] = TensorSpec((layer["vocab_size"], rank))
            specs["markov_head.markov_w2.weight"] = TensorSpec((config["draft_vocab_size"], rank))
        if config["enable_confidence_head"]:
            size += rank if config["confidence_head_with_markov"] else 0
            specs["confidence_head.proj.weight"] = TensorSpec((1, size))
            specs["confidence_head.proj.bias"] = TensorSpec((1,))
        return specs
