"""What vLLM 0.32.0 does with Medusa drafts. Torch-free.

Sources are `file:function`, files relative to the package `vllm`.
"""

from collections.abc import Collection, Iterator
from typing import Any

from speculators.export.config_rules import filled, lookup, one_of
from speculators.export.engine import Config, TensorRules
from speculators.export.engines.vllm_0_32_0 import TOKENS, VllmDraft, as_wide_as_the_verifier
from speculators.format.finding import Finding
from speculators.format.layout import Layout
from speculators.verifier.facts import VerifierFacts


@VllmDraft.register("medusa")
class Medusa(VllmDraft):
    """In vLLM's own format: transformers_utils/configs/speculators/algos.py has no Medusa.

    model_executor/models/medusa.py
    """

    native = True
    method = "medusa"
    reads = (
        "hidden_size",
        "vocab_size",
        "num_heads",
        "num_hidden_layers",
        "medusa_fc_bias",
        "original_lm_head",
        "truncated_vocab_size",
        "speculators_config",
    )
    misreads = ("num_hidden_layers",)  # a head may have no block
    # A missing head is not noticed, and what the class lacks is dropped: model_executor/models/medusa.py:Medusa.load_weights
    # and model_executor/model_loader/default_loader.py:DefaultModelLoader.load_weights.
    tensors = TensorRules(missing="refused", unknown="wrong", unnoticed=("lm_head*.weight",))

    def as_read(self, config: Config, facts: VerifierFacts | None) -> dict[str, Any]:
        """As many heads as tokens are drafted, over the verifier's vocabulary, whatever the config says.

        transformers_utils/configs/medusa.py:MedusaConfig, config/speculative.py:SpeculativeConfig.__post_init__
        """
        tokens = lookup(config, TOKENS)
        # As pydantic reads it.
        heads = int(tokens) if isinstance(tokens, str) and tokens.isdecimal() else tokens
        vocab_size = facts.vocab_size if facts else None
        read = filled(config, {"hidden_size": 4096, "num_hidden_layers": 1})
        return read | {"num_heads": heads, "vocab_size": vocab_size}

    def problems(self, config: Config, read: Config, facts: VerifierFacts | None) -> Iterator[Finding]:
        """No truncated head: model_executor/model_loader/default_loader.py:DefaultModelLoader.load_weights."""
        reason = "vLLM stops with the error that token_map was not loaded; leave it null"
        yield from one_of(read, "truncated_vocab_size", (None,), reason)
        yield from as_wide_as_the_verifier(read, "hidden_size", facts)

    def native_problems(self, native: Config, config: Config) -> Iterator[Finding]:
        """The class is chosen by type and architecture: model_executor/models/registry.py."""
        yield from one_of(native, "model_type", ("medusa", None), "vLLM would load another draft class; export again")
        yield from one_of(native, "architectures", (["MedusaModel"], None), "vLLM has one Medusa class; export again")

    def unread_tensors(self, config: Config) -> Collection[str]:
        """The heads beyond those that draft: model_executor/models/medusa.py:Medusa.load_weights."""
        return Layout.named("medusa").described(filled(config, {"hidden_size": 4096, "num_hidden_layers": 1})) or ()
