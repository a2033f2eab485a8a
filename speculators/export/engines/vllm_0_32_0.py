"""What vLLM 0.32.0 does with any draft; `models/NAME/vllm_0_32_0.py` has what it does with one algorithm's. Torch-free.

Read in its source and tried in its CPU build. Sources are `file:function`, files relative to the package `vllm`.
"""

import json
from collections.abc import Iterator
from typing import Any, ClassVar

from speculators.export.config_rules import filled, lookup, one_of
from speculators.export.engine import Config, Engine, EngineDraft, Serving
from speculators.format import strict
from speculators.format.finding import Finding
from speculators.proposals import TokenProposalConfig
from speculators.verifier.facts import VerifierFacts

LAYER = "transformer_layer_config"
PROPOSALS = "speculators_config.proposal_methods"
TOKENS = f"{PROPOSALS}[0].speculative_tokens"
# Of a larger tensor, the loaders of these linear layers copy the part that fits, without a message:
# model_executor/layers/linear.py:QKVParallelLinear.weight_loader, MergedColumnParallelLinear.weight_loader,
# RowParallelLinear.weight_loader.
CUT = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "gate_proj": 0, "up_proj": 0, "o_proj": 1, "down_proj": 1}
# v1/attention/backends/cpu_attn.py:CPUAttentionBackend.get_supported_head_sizes
CPU_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
# Classes without SupportsEagle3 (model_executor/models/interfaces.py), asked of each class of the registry that the CPU
# build can import. Architectures that vLLM does not know run through transformers, whose wrapper has it.
# fmt: off
WITHOUT_LAYER_STATES = frozenset({
    "AXK1ForCausalLM", "AriaForConditionalGeneration", "AudioFlamingo3ForConditionalGeneration",
    "BagelForConditionalGeneration", "BailingMoeForCausalLM", "BailingMoeV2ForCausalLM", "BailingMoeV2_5ForCausalLM",
    "BailingMoeV3ForCausalLM", "Blip2ForConditionalGeneration", "BloomForCausalLM", "ChatGLMForConditionalGeneration",
    "ChatGLMModel", "Cohere2ForCausalLM", "CohereForCausalLM", "DbrxForCausalLM", "DeciLMForCausalLM",
    "DeepseekV4ForConditionalGeneration", "DeepseekVLV2ForCausalLM", "Ernie4_5_MoeForCausalLM",
    "Ernie4_5_VLMoeForConditionalGeneration", "Exaone4ForCausalLM", "ExaoneForCausalLM", "ExaoneMoEForCausalLM",
    "ExaoneMoeForCausalLM", "FalconForCausalLM", "FalconH1ForCausalLM", "FalconMambaForCausalLM",
    "FireRedASR2ForConditionalGeneration", "FunAudioChatForConditionalGeneration", "GLM4VForCausalLM",
    "GPT2LMHeadModel", "GPTJForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3nForCausalLM",
    "Gemma3nForConditionalGeneration", "GemmaForCausalLM", "Glm4ForCausalLM", "Glm4MoeForCausalLM",
    "Glm4MoeLiteForCausalLM", "GlmAsrForConditionalGeneration", "GraniteMoeForCausalLM",
    "GraniteMoeHybridForCausalLM", "GraniteMoeSWAForCausalLM", "GraniteMoeSharedForCausalLM",
    "GraniteSpeechForConditionalGeneration", "GraniteSpeechPlusForConditionalGeneration", "HYV3ForCausalLM",
    "HYV4ForCausalLM", "HfMoondream", "HrmTextForCausalLM", "HyperCLOVAXForCausalLM", "IQuestLoopCoderForCausalLM",
    "Idefics3ForConditionalGeneration", "InklingForCausalLM", "InklingForConditionalGeneration",
    "InternLM2ForCausalLM", "IsaacForConditionalGeneration", "JambaForCausalLM", "KeyeForConditionalGeneration",
    "KeyeVL1_5ForConditionalGeneration", "KimiVLForConditionalGeneration", "Lfm2ForCausalLM", "Lfm2MoeForCausalLM",
    "LongcatFlashForCausalLM", "LongcatFlashNgramForCausalLM", "Mamba2ForCausalLM", "MambaForCausalLM", "MiniCPMO",
    "MiniCPMV", "MixtralForCausalLM", "Molmo2ForConditionalGeneration", "MolmoForCausalLM", "Moondream3ForCausalLM",
    "MoonshotKimiaForCausalLM", "MossAudioModel", "MossTranscribeDiarizeForConditionalGeneration",
    "NemotronForCausalLM", "NemotronParseForConditionalGeneration", "OPTForCausalLM", "OlmoHybridForCausalLM",
    "OlmoeForCausalLM", "OpenVLAForActionPrediction", "OrionForCausalLM", "Ovis", "Ovis2_5", "Ovis2_6ForCausalLM",
    "Ovis2_6_MoeForCausalLM", "PaddleOCRVLForConditionalGeneration", "PaliGemmaForConditionalGeneration",
    "PanguEmbeddedForCausalLM", "PanguProMoEV2ForCausalLM", "PanguUltraMoEForCausalLM", "Param2MoEForCausalLM",
    "Phi3VForCausalLM", "Phi4MMForCausalLM", "PhiMoEForCausalLM", "Qwen2AudioForConditionalGeneration",
    "Qwen2MoeForCausalLM", "Rnj1ForCausalLM", "SarvamMoEForCausalLM", "SmolVLMForConditionalGeneration",
    "SolarForCausalLM", "StableLmForCausalLM", "Step3TextForCausalLM", "Step3p5ForCausalLM", "UltravoxModel",
    "VoxtralForConditionalGeneration", "VoxtralRealtimeGeneration", "WhisperForConditionalGeneration",
    "Zamba2ForCausalLM",
})
# fmt: on


class VllmDraft(EngineDraft):
    """Base of what vLLM 0.32.0 does with each algorithm's drafts."""

    # The `method` of its speculative configuration.
    method: ClassVar[str]

    def parallel(self, config: Config) -> bool:
        """Whether the server must be told that all tokens are drafted in one pass: its option `parallel_drafting`."""
        return False

    def serving(self, config: Config, checkpoint: str, verifier: str, tokens: int) -> Serving:
        """`vllm serve CHECKPOINT` reads verifier, method and number of tokens from the published config.

        engine/arg_utils.py:EngineArgs.create_engine_config, transformers_utils/config.py:maybe_override_with_speculators.
        A draft in vLLM's own format is named beside its verifier: config/speculative.py:SpeculativeConfig.__post_init__.
        """
        return self.beside(config, checkpoint, verifier, tokens) if self.native else Serving(checkpoint)

    def beside(self, config: Config, checkpoint: str, verifier: str, tokens: int) -> Serving:
        """`vllm serve VERIFIER --speculative-config ...`: what the engine makes of a published config by itself.

        transformers_utils/configs/speculators/base.py:SpeculatorsConfig.build_vllm_speculative_config.
        """
        model = f"{checkpoint}/vllm" if self.native else checkpoint
        options: dict[str, Any] = {"method": self.method, "model": model, "num_speculative_tokens": tokens}
        return Serving(verifier, options | ({"parallel_drafting": True} if self.parallel(config) else {}))


@Engine.register("vllm 0.32.0")
class Vllm(Engine):
    """vLLM 0.32.0."""

    name = "vllm"
    version = "0.32.0"
    drafts = VllmDraft
    # transformers_utils/configs/speculators/base.py:SpeculatorsConfig.validate_speculators_config, and the constructors of
    # the draft's layers.
    stops_at = (
        "speculators_model_type",
        "model_type",
        "speculators_config",
        PROPOSALS,
        TOKENS,
        "speculators_config.verifier",
        "speculators_config.verifier.name_or_path",
        LAYER,
        f"{LAYER}.head_dim",
        f"{LAYER}.layer_types*",
        f"{LAYER}.rope_*",
        f"{LAYER}.num_attention_heads",
        f"{LAYER}.num_key_value_heads",
        f"{LAYER}.num_aux_hidden_states",
        f"{LAYER}.rms_norm_eps",
        f"{LAYER}.max_position_embeddings",
        f"{LAYER}.logit_scale",
        f"{LAYER}.eagle_config",
    )
    # Another vocabulary is not noticed.
    misreads = (f"{LAYER}.vocab_size",)
    descriptive = (
        "speculators_model_type",
        "model_type",
        "speculators_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "name_or_path",
        "_name_or_path",
    )

    def proposal_problems(self, config: Config) -> Iterator[Finding]:
        """The number of tokens is read, nothing else: .../speculators/base.py:SpeculatorsConfig.

        Drafts are chains: v1/spec_decode/llm_base_proposer.py:SpecDecodeBaseProposer.propose. Whether they are sampled is
        an option of the server: config/speculative.py:SpeculativeConfig.draft_sample_method, rejection_sample_method.
        """
        methods, tokens = lookup(config, PROPOSALS), lookup(config, TOKENS)
        name = lookup(config, f"{PROPOSALS}[0].proposal_type")
        method = TokenProposalConfig.named(name) if isinstance(name, str) else None
        if method is not None and method.is_tree:
            reason = "vllm drafts chains only; choose proposal=greedy or another chain, or export.target=none"
            yield Finding("wrong" if tokens else "refused", f"{PROPOSALS}[0].proposal_type", name, reason)
        elif isinstance(methods, list) and methods and tokens is None:
            yield Finding(
                "refused", TOKENS, None, "must be written: vllm has no default for the number of speculative tokens"
            )
        if method is None:
            return
        for key, field in method.model_fields.items():
            path = f"{PROPOSALS}[0].{key}"
            value = lookup(config, path)
            if key not in method.served and value not in (None, field.default):
                reason = f"vllm does not read it and behaves as with {field.default}"
                yield Finding("ignored", path, value, reason)
            # v1/worker/gpu/spec_decode/rejection_sampler.py alone reads it.
            if key == "rejection_sample_method" and value == "block":
                yield Finding(
                    "note",
                    path,
                    value,
                    "vllm verifies blocks only in its V2 model runner, on GPUs; elsewhere it verifies token by token",
                )

    def command(self, serving: Serving) -> list[str]:
        """`vllm serve`."""
        options = ["--speculative-config", json.dumps(serving.options)] if serving.options else []
        return ["vllm", "serve", serving.model, *options]


ENGINE = Vllm()


def as_wide_as_the_verifier(read: Config, path: str, facts: VerifierFacts | None) -> Iterator[Finding]:
    """A draft that gets the verifier's state as it is.

    Args:
        read: the config as vLLM reads it.
        path: of the draft's width.
        facts: the verifier's.
    """
    width = lookup(read, path)
    if facts is not None and width != facts.hidden_size:
        yield Finding(
            "refused",
            path,
            width,
            f"must be the verifier's, {facts.hidden_size}: the draft reads its state without a projection",
        )


def decoder_layers(
    read: Config, facts: VerifierFacts | None, extends_context: bool, mixed_attention: bool = False
) -> Iterator[Finding]:
    """Rules of every draft that is made of decoder layers.

    Args:
        read: the config as vLLM reads it.
        facts: the verifier's.
        extends_context: a short `max_position_embeddings` is raised by itself:
            config/speculative.py:SpeculativeConfig._maybe_override_draft_max_position_embeddings.
        mixed_attention: sliding and full layers can stand in one draft.
    """
    reason = "vLLM's draft layers support silu only"  # model_executor/models/llama.py:LlamaMLP
    yield from one_of(read, f"{LAYER}.hidden_act", ("silu",), reason)
    kinds = lookup(read, f"{LAYER}.layer_types")
    if not mixed_attention and isinstance(kinds, list) and any(kind != kinds[0] for kind in kinds):
        # v1/spec_decode/llm_base_proposer.py:SpecDecodeBaseProposer.validate_same_kv_cache_group
        reason = f"{ENGINE} has one KV cache group for all layers of a draft, so they must have the same layer_type"
        yield Finding("refused", f"{LAYER}.layer_types", kinds, reason)
    for rope in ("rope_parameters", "rope_scaling"):
        if lookup(read, f"{LAYER}.{rope}.mrope_section") is not None:
            reason = "a draft reads text only, for which mrope has no effect; remove it"
            yield Finding("note", f"{LAYER}.{rope}.mrope_section", None, reason)
    head_dim = lookup(read, f"{LAYER}.head_dim")
    if head_dim is not None and head_dim not in CPU_HEAD_DIMS:
        reason = f"vllm's CPU attention supports only {', '.join(map(str, CPU_HEAD_DIMS))}"
        yield Finding("note", f"{LAYER}.head_dim", head_dim, reason)
    context = lookup(read, f"{LAYER}.max_position_embeddings")
    goes_on = facts.max_position_embeddings if facts is not None and not extends_context else 0
    if isinstance(context, int) and context < goes_on:
        reason = f"drafting ends at this length; the verifier supports {goes_on}"
        yield Finding("note", f"{LAYER}.max_position_embeddings", context, reason)


def with_default_layers(config: Config, key: str, facts: VerifierFacts | None) -> dict[str, Any]:
    """A config with the verifier's layers that vLLM takes where none are named.

    model_executor/models/interfaces.py:SupportsEagle3.get_eagle3_default_aux_hidden_state_layers

    Args:
        config: of any types.
        key: of the list of layers.
        facts: the verifier's; None leaves the list out.
    """
    if facts is None or config.get(key):
        return dict(config)
    layers = facts.num_hidden_layers
    return {**config, key: sorted({2, layers // 2, layers - 3})}


def verifier_layers(
    config: Config, read: Config, facts: VerifierFacts | None, key: str, count: int | None = None
) -> Iterator[Finding]:
    """Rules of a draft that reads states of single layers of the verifier.

    vLLM sorts the ids and drops repeated ones, and never gets a state for an id that is no layer's:
    model_executor/models/interfaces.py:EagleModelMixin._set_aux_hidden_state_layers.

    Args:
        config: as it is written.
        read: as vLLM reads it.
        facts: the verifier's; None yields nothing.
        key: of the list of layers.
        count: layers that the draft's class takes it to have; None counts the list.
    """
    if facts is None:
        return
    ids = read[key]
    if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
        yield Finding("refused", key, ids, f"{ENGINE} needs a list of integers")
        return
    captured = {i for i in ids if 0 <= i <= facts.num_hidden_layers}
    if not config.get(key):
        fits = len(captured) == (count or len(ids))
        reason = f"names no layers: {ENGINE} uses {ids}" + ("" if fits else f", where the draft reads {count}")
        yield Finding("note" if fits else "refused", key, None, f"{reason}; write the layers of the training")
    elif len(captured) < len(ids):
        reason = f"must name {len(ids)} different layers; the verifier's last is {facts.num_hidden_layers}"
        yield Finding("refused", key, ids, reason)
    if without := set(facts.architectures) & WITHOUT_LAYER_STATES:
        reason = f"{ENGINE} does not return states of single layers of this verifier"
        yield Finding("refused", "speculators_config.verifier.architectures", sorted(without), reason)


def llama_config(config: Config) -> dict[str, Any]:
    """A published config whose layers are read as transformers' LlamaConfig, with that class's defaults."""
    sizes = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    sizes |= {"num_attention_heads": 32, "vocab_size": 32000, "hidden_act": "silu"}
    read = filled(config, {f"{LAYER}.{key}": value for key, value in sizes.items()})
    heads = lookup(read, f"{LAYER}.num_attention_heads")
    return filled(read, {f"{LAYER}.num_key_value_heads": heads})


def native_layers(native: Config, draft: EngineDraft) -> Iterator[Finding]:
    """Decoder layers in a config of vLLM's own format, at whose mistakes vLLM stops.

    Args:
        native: the config.
        draft: for the keys at which it stops.
    """
    for finding in strict.layer_problems(native, LAYER):
        if ENGINE.level(finding.key, draft) == "refused":
            yield Finding("refused", finding.key.removeprefix(f"{LAYER}."), finding.value, finding.reason)
