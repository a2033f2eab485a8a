"""What a published folder holds for one algorithm: tensors by name, and an engine's native config. Torch-free."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from speculators.format.finding import Finding
from speculators.format.layers import DecoderLayers
from speculators.format.tensors import Tensors
from speculators.utils.discovery import import_part
from speculators.utils.registry import ClassRegistryMixin
from speculators.utils.untrusted import MOST
from speculators.verifier.facts import VerifierFacts


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of `model.safetensors`.

    Attributes:
        shape: its sizes; a linear weight is [out, in].
        kind: `float` is any floating dtype; the other two are exact.
        required: False where an engine takes the verifier's tensor if this one is absent.
    """

    shape: tuple[int, ...]
    kind: Literal["float", "int64", "bool"] = "float"
    required: bool = True


class Layout(ClassRegistryMixin):
    """Base of every algorithm's layout; `models/<name>/export.py` registers the one called `<name>`."""

    registry: ClassVar[dict[str, type["Layout"]] | None] = None

    # Name of the method in the model card, and its reference.
    title: ClassVar[str]
    paper: ClassVar[str]
    # Dotted path of the verifier's vocabulary size, and types and bounds of the keys of `transformer_layer_config`.
    vocabulary_key: ClassVar[str] = "transformer_layer_config.vocab_size"
    layers: ClassVar[type[DecoderLayers]] = DecoderLayers
    # Whether the tensors, under their native names, are those of a verifier's own checkpoint.
    in_verifier: ClassVar[bool] = False

    @classmethod
    def tensors(cls, config: Mapping[str, Any]) -> dict[str, TensorSpec]:
        """All tensors that the folder may hold; any other name is an error.

        Args:
            config: the published config as a plain dict.
        """
        raise NotImplementedError(f"{cls.__name__} must implement tensors")

    @classmethod
    def problems(cls, config: Mapping[str, Any], facts: VerifierFacts | None) -> Iterator[Finding]:
        """What is wrong with this algorithm's own keys, beside their types and bounds; each finding is `invalid`.

        Args:
            config: a published config of any types.
            facts: the verifier's; None leaves out what depends on them.
        """
        return iter(())

    @classmethod
    def value_problems(cls, config: Mapping[str, Any], tensors: Tensors) -> Iterator[Finding]:
        """Numbers that are wrong although names, shapes and dtypes are right, NaN and infinity aside.

        Args:
            config: a published config in which nothing is wrong.
            tensors: of the published folder.
        """
        return iter(())

    @classmethod
    def described(cls, config: Mapping[str, Any]) -> dict[str, TensorSpec] | None:
        """`tensors` of a config that may hold anything; None where it describes none.

        Args:
            config: a published config of any types; what is wrong with each key is for `speculators.format.strict` to say.
        """
        layer = config.get("transformer_layer_config")
        counts = [v for c in (config, layer) if isinstance(c, Mapping) for k, v in c.items() if k.startswith("num_")]
        if any(isinstance(count, int) and count > MOST for count in counts):
            return None
        try:
            specs = cls.tensors(config)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
            return None
        sizes = [size for spec in specs.values() for size in spec.shape]
        return specs if all(isinstance(size, int) and size >= 0 for size in sizes) else None

    @classmethod
    def native(cls, config: Mapping[str, Any], engine: str) -> dict[str, Any] | None:
        """`config.json` of the engine's native format; None where the published format is what the engine reads.

        Args:
            config: the published config as a plain dict.
            engine: name of the engine, as in `AlgorithmSettings.engines`.
        """
        return None

    @classmethod
    def native_name(cls, name: str) -> str:
        """What a tensor is called in an engine's native format."""
        return name

    @classmethod
    def named(cls, name: str) -> type["Layout"]:
        """The layout registered as `name`; KeyError if there is none."""
        import_part("export")
        return (cls.registry or {})[name]


def decoder_layer(layer: Mapping[str, Any], attention_input: int, input_norm: bool = True) -> dict[str, TensorSpec]:
    """Tensors of one llama, qwen2 or qwen3 decoder layer, without a prefix.

    Args:
        layer: `transformer_layer_config` as a plain dict.
        attention_input: width that q, k and v project from.
        input_norm: whether the layer normalises its input.
    """
    hidden, inner = layer["hidden_size"], layer["intermediate_size"]
    heads, kv_heads = layer["num_attention_heads"], layer["num_key_value_heads"]
    head_dim = layer.get("head_dim") or hidden // heads
    shapes: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (hidden,)} if input_norm else {}
    outputs = {"q_proj": heads * head_dim, "k_proj": kv_heads * head_dim, "v_proj": kv_heads * head_dim}
    shapes |= {f"self_attn.{name}.weight": (width, attention_input) for name, width in outputs.items()}
    shapes["self_attn.o_proj.weight"] = (hidden, heads * head_dim)
    shapes["post_attention_layernorm.weight"] = (hidden,)
    shapes |= {f"mlp.{name}.weight": (inner, hidden) for name in ("gate_proj", "up_proj")}
    shapes["mlp.down_proj.weight"] = (hidden, inner)
    kind = layer.get("model_type")
    if kind == "qwen3":
        shapes |= {f"self_attn.{name}.weight": (head_dim,) for name in ("q_norm", "k_norm")}
    if layer.get("attention_bias") or kind == "qwen2":
        shapes |= {f"self_attn.{name}.bias": (width,) for name, width in outputs.items()}
        if kind not in ("qwen2", "qwen3"):  # which have no bias of o_proj, whatever the config says
            shapes["self_attn.o_proj.bias"] = (hidden,)
    if layer.get("mlp_bias") and kind not in ("qwen2", "qwen3"):
        shapes |= {f"mlp.{name}.bias": (inner,) for name in ("gate_proj", "up_proj")}
        shapes["mlp.down_proj.bias"] = (hidden,)
    return {name: TensorSpec(shape) for name, shape in shapes.items()}


def prefixed(prefix: str, tensors: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The same tensors, each name after `prefix`."""
    return {prefix + name: spec for name, spec in tensors.items()}
