"""The decoder layers of a draft, sized after the verifier's. Torch-free."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from speculators.verifier.facts import VerifierFacts


class DraftLayers(BaseModel):
    """Settings of algorithms whose draft is made of decoder layers."""

    num_hidden_layers: int = Field(ge=1, description="decoder layers of the draft")
    intermediate_size: Annotated[int, Field(ge=1)] | None = Field(
        description="width of the layers' MLP; null is the verifier's"
    )

    def layer_config(self, facts: VerifierFacts, model_type: Literal["llama", "qwen3"]) -> dict[str, Any]:
        """`transformer_layer_config`, every key written out: vLLM reads it without any class's defaults.

        Args:
            facts: sizes of the verifier.
            model_type: kind of decoder layer.
        """
        return sized_as(facts) | {
            "model_type": model_type,
            "architectures": ["LlamaForCausalLM" if model_type == "llama" else "Qwen3ForCausalLM"],
            "intermediate_size": self.intermediate_size or facts.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
        }


def sized_as(facts: VerifierFacts) -> dict[str, Any]:
    """Llama layers of the verifier's sizes and number, every key written out."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": facts.vocab_size,
        "hidden_size": facts.hidden_size,
        "intermediate_size": facts.intermediate_size,
        "num_hidden_layers": facts.num_hidden_layers,
        "num_attention_heads": facts.num_attention_heads,
        "num_key_value_heads": facts.num_key_value_heads,
        "head_dim": facts.head_dim,
        # Whatever the verifier's is: engines' drafts support no other.
        "hidden_act": "silu",
        "max_position_embeddings": facts.max_position_embeddings,
        "rms_norm_eps": facts.rms_norm_eps,
        "rope_parameters": _rope(facts.rope_parameters),
        "attention_bias": False,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "use_cache": True,
    }


def _rope(rope: dict[str, Any]) -> dict[str, Any]:
    """The verifier's rotary embedding, where training and engines agree on it."""
    if rope["rope_type"] != "longrope":
        return rope
    # vLLM chooses longrope's factors by the server's longest sequence, transformers by the one at hand. A draft learns
    # its positions anew and needs no factors.
    kept = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    return {"rope_type": "default", **kept}
