"""Strict reading of `transformer_layer_config`, the decoder layers inside a published config. Torch-free."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from speculators.utils.untrusted import MOST, MOST_SIZE

# Keys that transformers itself reads and writes in every config. Several per line, to keep the list short.
# fmt: off
TRANSFORMERS_KEYS = frozenset({
    "architectures", "auto_map", "chunk_size_feed_forward", "dtype", "id2label", "is_encoder_decoder", "label2id",
    "name_or_path", "_name_or_path", "num_labels", "output_attentions", "output_hidden_states", "problem_type",
    "quantization_config", "return_dict", "tie_word_embeddings", "torch_dtype", "transformers_version",
})
# Keys of llama's and qwen3's layers, in both of transformers' spellings of rotary embeddings.
LAYER_KEYS = TRANSFORMERS_KEYS | {
    "model_type", "attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "head_dim", "hidden_act",
    "hidden_size", "initializer_range", "intermediate_size", "layer_types", "max_position_embeddings",
    "max_window_layers", "mlp_bias", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "pad_token_id",
    "pretraining_tp", "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "use_cache",
    "use_sliding_window", "vocab_size",
}
# fmt: on
# Kinds of rotary embedding in transformers, and the required keys of each.
ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "proportional": ("rope_theta",),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}
Size = Annotated[int, Field(ge=1, le=MOST_SIZE)]


class DecoderLayers(BaseModel):
    """Types and bounds of the keys that a draft's layers are built from; a default is the one of transformers."""

    model_config = ConfigDict(strict=True, extra="ignore")

    # A default size fits no verifier, so sizes must be given.
    model_type: str
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: int = Field(ge=1, le=MOST)
    num_attention_heads: Size
    num_key_value_heads: Size
    vocab_size: Size
    head_dim: Size | None = None
    hidden_act: str = "silu"
    rms_norm_eps: float = Field(default=1e-6, gt=0, allow_inf_nan=False)
    max_position_embeddings: Size = 2048
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_theta: float = Field(default=10000.0, gt=0, allow_inf_nan=False)
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    sliding_window: Size | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    num_labels: int = Field(default=2, ge=0, le=MOST)  # transformers makes a list of so many


def relations(layer: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Rules between the keys of decoder layers: key, value and reason of each one broken.

    Args:
        layer: of any types; what `DecoderLayers` refuses is passed over.
    """
    hidden, heads, groups, head_dim, count = (
        _size(layer.get(key))
        for key in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "num_hidden_layers")
    )
    if hidden and heads and layer.get("head_dim") is None and hidden % heads:
        yield "num_attention_heads", heads, f"must divide hidden_size, {hidden}, or head_dim be given"
    elif hidden and heads and (head_dim or hidden // heads) % 2:
        yield "head_dim", head_dim, "must be even: rotary embeddings rotate pairs of numbers"
    if heads and groups and heads % groups:
        yield "num_key_value_heads", groups, f"must divide num_attention_heads, {heads}"
    kinds = layer.get("layer_types")
    if isinstance(kinds, list) and count and len(kinds) != count:
        yield "layer_types", kinds, f"must have one entry per layer, {count} in all"
    slides, uses = isinstance(kinds, list) and "sliding_attention" in kinds, layer.get("use_sliding_window")
    if slides and not _size(layer.get("sliding_window")):
        yield "layer_types", kinds, "sliding_attention needs sliding_window, in tokens"
    if slides and layer.get("model_type") == "qwen3" and uses is not True:
        yield "use_sliding_window", uses, "must be true: transformers takes no window from a qwen3 config otherwise"
    yield from _rope(layer)


def _rope(layer: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    for key in ("rope_parameters", "rope_scaling"):
        rope = layer.get(key)
        if not isinstance(rope, Mapping):
            continue
        kind = rope.get("rope_type", rope.get("type", "default"))
        if not isinstance(kind, str) or kind not in ROPE_KEYS:
            yield f"{key}.rope_type", kind, f"is not a kind of rotary embedding; choose one of {', '.join(ROPE_KEYS)}"
            continue
        for name, value in rope.items():
            if isinstance(value, Mapping):
                yield (
                    f"{key}.{name}",
                    value,
                    "all layers of a draft have the same rotary parameters; write them once, without this key",
                )
        part = rope.get("partial_rotary_factor")
        if part is not None and not (isinstance(part, (int, float)) and 0 < part <= 1):
            yield (
                f"{key}.partial_rotary_factor",
                part,
                "must be above 0 and at most 1: the part of head_dim that is rotated",
            )
        for needed in ROPE_KEYS[kind]:
            if rope.get(needed) is None:
                yield f"{key}.{needed}", None, f"must be given: {kind} embeddings need it"
        for name in {"rope_theta", *ROPE_KEYS[kind]} & rope.keys():
            numbers = rope[name] if isinstance(rope[name], list) else [rope[name]]
            if not all(isinstance(number, (int, float)) for number in numbers):
                yield f"{key}.{name}", rope[name], "must be a number, or a list of numbers"


def _size(value: Any) -> int:
    """The value where a size can be it; 0 elsewhere."""
    return value if isinstance(value, int) and value > 0 else 0
