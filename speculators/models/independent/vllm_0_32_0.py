"""What vLLM 0.32.0 does with independent drafts. Torch-free.

Sources are `file:function`, files relative to the package `vllm`.
"""

from collections.abc import Collection, Iterator
from typing import Any

from speculators.export.config_rules import lookup, one_of
from speculators.export.engine import Config, TensorRules
from speculators.export.engines.vllm_0_32_0 import CUT, LAYER, VllmDraft, decoder_layers, llama_config, native_layers
from speculators.format.finding import Finding
from speculators.models.independent.settings import CLASSES
from speculators.verifier.facts import VerifierFacts

UNNOTICED = ("*_proj.*", "*embed_tokens.weight", "lm_head.weight")


@VllmDraft.register("independent")
class Independent(VllmDraft):
    """An ordinary language model beside its verifier: v1/spec_decode/draft_model.py:DraftModelProposer."""

    native = True
    method = "draft_model"
    # The published `parallel_drafting` is an option of the server, the mask token a key of the language model's config.
    reads = (LAYER, "speculators_config", "parallel_drafting", "pard_token")
    # v1/spec_decode/draft_model.py:DraftModelProposer._raise_if_vocab_size_mismatch
    stops_at = (f"{LAYER}.vocab_size", f"{LAYER}.model_type", "pard_token")
    # Of missing tensors only norms are noticed; linear layers, embedding and head stay as memory was:
    # model_executor/model_loader/default_loader.py:DefaultModelLoader.track_weights_loading.
    tensors = TensorRules(missing="refused", unknown="refused", unnoticed=UNNOTICED, dropped=("*.bias",), cut=CUT)

    def parallel(self, config: Config) -> bool:
        """As it was trained: PARD, in the V1 model runner, v1/spec_decode/llm_base_proposer.py:SpecDecodeBaseProposer."""
        return bool(config.get("parallel_drafting"))

    def as_read(self, config: Config, facts: VerifierFacts | None) -> dict[str, Any]:
        """As transformers' own config class reads it."""
        return llama_config(config)

    def problems(self, config: Config, read: Config, facts: VerifierFacts | None) -> Iterator[Finding]:
        """The class of the layers is the model's own."""
        yield from one_of(read, f"{LAYER}.model_type", tuple(CLASSES), "no engine was asked for layers of another kind")
        yield from decoder_layers(read, facts, extends_context=False)

    def native_problems(self, native: Config, config: Config) -> Iterator[Finding]:
        """The class is chosen by the architecture: model_executor/models/registry.py.

        The mask token is read here: v1/spec_decode/llm_base_proposer.py:SpecDecodeBaseProposer._init_parallel_drafting_params.
        """
        token, vocab = native.get("pard_token"), native.get("vocab_size")
        if self.parallel(config) and not (isinstance(token, int) and isinstance(vocab, int) and 0 <= token < vocab):
            yield Finding("refused", "pard_token", token, "must be a token of the draft; export again")
        yield from one_of(native, "model_type", tuple(CLASSES), "no engine was asked for another; export again")
        right = [CLASSES.get(str(native.get("model_type")))]
        yield from one_of(native, "architectures", (right, None), "vLLM would take it for another model; export again")
        yield from native_layers(native, self)

    def unread_tensors(self, config: Config) -> Collection[str]:
        """The head of a model whose embedding is its head: model_executor/models/llama.py:LlamaForCausalLM.load_weights."""
        return ("lm_head.weight",) if lookup(config, f"{LAYER}.tie_word_embeddings") else ()
