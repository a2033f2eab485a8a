"""Tensors of an MLP speculator's checkpoint. Torch-free."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from speculators.format.finding import Finding
from speculators.format.layout import Layout, TensorSpec
from speculators.verifier.facts import VerifierFacts


@Layout.register("mlp")
class MLPLayout(Layout):
    """The names of IBM's checkpoints without `speculator.`; of weights that are tied, those of the first stage."""

    title = "MLP speculator"
    paper = "https://arxiv.org/abs/2404.19124"
    vocabulary_key: ClassVar[str] = "vocab_size"

    @classmethod
    def tensors(cls, config: Mapping[str, Any]) -> dict[str, TensorSpec]:
        """Embedding, projection, norm and head of each stage: nothing is the verifier's."""
        vocab, state, stages = config["vocab_size"], config["emb_dim"], config["n_predict"]
        width, tied = config.get("inner_dim") or state, config["tie_weights"]
        specs = {}
        for i in range(1 if tied else stages):
            specs[f"emb.{i}.weight"] = specs[f"head.{i}.weight"] = TensorSpec((vocab, width))
            specs[f"ln.{i}.weight"] = specs[f"ln.{i}.bias"] = TensorSpec((width,))
        for i in range(2 if tied else stages):
            specs[f"proj.{i}.weight"] = TensorSpec((width, width if i else state))
        return specs

    @classmethod
    def problems(cls, config: Mapping[str, Any], facts: VerifierFacts | None) -> Iterator[Finding]:
        """Sizes that must agree with the verifier's and with each other."""
        width, counts, candidates = (config.get(key) for key in ("emb_dim", "top_k_tokens_per_head", "n_candidates"))
        if facts is not None and width != facts.hidden_size:
            reason = f"must be the width of the verifier's state, {facts.hidden_size}"
            yield Finding("invalid", "emb_dim", width, reason)
        stages = config.get("n_predict", 3)
        if not isinstance(counts, list) or len(counts) != stages or not all(type(n) is int and n > 0 for n in counts):
            reason = f"must have a number above 0 for each of the n_predict={stages} stages"
            yield Finding("invalid", "top_k_tokens_per_head", counts, reason)
        if type(candidates) is not int or candidates < 1:
            yield Finding("invalid", "n_candidates", candidates, "must be a number above 0")
