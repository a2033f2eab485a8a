"""Facts about a verifier from its config.json alone. Torch-free."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from speculators.utils.untrusted import MOST, MOST_SIZE, read_json, shortened
from speculators.verifier.location import config_file

# Classes of transformers whose output head always has a bias; others set it in `lm_head_bias`.
BIASED_HEADS = ("codegen", "gptj", "phi")
# Keys by which transformers makes a list or a module for each number up to the value.
COUNTS = re.compile(r"num_labels|(n|num)_(\w+_)?layers?")
# Keys by which transformers chooses an attention; a name with a slash is a repository of the Hub, whose code would run.
KERNELS = re.compile(r"_?attn_implementation\w*")


class VerifierFacts(BaseModel):
    """Sizes and kinds that a draft must match, those of the text model if there are several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name_or_path: str = Field(description="as in the run's settings: hub id, folder, or pkg://package/folder")
    architectures: list[str] = Field(description="model classes")
    model_type: str
    hidden_size: int = Field(ge=1)
    intermediate_size: int = Field(ge=1)
    num_hidden_layers: int = Field(ge=1, le=MOST)
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    vocab_size: int = Field(ge=1)
    rms_norm_eps: float = Field(gt=0)
    rope_parameters: dict[str, Any]
    max_position_embeddings: int = Field(ge=1)
    tie_word_embeddings: bool
    head_bias: bool = Field(description="the output head adds a bias")
    dtype: str | None = Field(description="dtype of the checkpoint; None if it does not say")

    @field_validator("*")
    @classmethod
    def check_size(cls, value: Any) -> Any:
        """Reject sizes that are larger than any real model's."""
        if isinstance(value, int) and value > MOST_SIZE:
            raise ValueError(f"must be at most {MOST_SIZE}")
        return value

    @classmethod
    def read(cls, name_or_path: str, revision: str | None = None) -> "VerifierFacts":
        """Facts of a verifier.

        Args:
            name_or_path: hub id, folder, or pkg://package/folder.
            revision: branch, tag or commit on the Hub.

        Raises:
            ValueError: there is no such verifier, or its config lacks a size.
        """
        file = config_file(name_or_path, revision)
        try:
            config = read_json(file)
        except ValueError as error:
            raise ValueError(f"verifier.name_or_path: {error}") from error
        try:
            return cls.from_dict(name_or_path, config)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc']))}={shortened(e['input'])}: {e['msg']}" for e in error.errors()
            )
            raise ValueError(f"verifier.name_or_path: the config.json of {name_or_path}: {wrong}") from error

    @classmethod
    def from_dict(cls, name_or_path: str, config: dict[str, Any]) -> "VerifierFacts":
        """Facts of a config.json that is already read."""
        if config.get("is_encoder_decoder"):
            raise ValueError(
                f"verifier.name_or_path: {name_or_path} is an encoder-decoder; a draft predicts the text of a decoder-only "
                "model; choose a causal language model"
            )
        _check_parts(name_or_path, config)
        text = {**config, **_mapping(config, "text_config")}
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        missing = [k for k in sizes if not isinstance(text.get(k), int) or text[k] < 1]
        if missing:
            raise ValueError(
                f"verifier.name_or_path: the config.json of {name_or_path} has no {', '.join(missing)}; "
                "choose a causal language model of transformers"
            )
        heads = text["num_attention_heads"]
        return cls(
            name_or_path=name_or_path,
            architectures=config.get("architectures") or [],
            model_type=text.get("model_type", ""),
            hidden_size=text["hidden_size"],
            # Mixture-of-experts configs may give only the experts' width.
            intermediate_size=text.get("intermediate_size") or 4 * text["hidden_size"],
            num_hidden_layers=text["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=text.get("num_key_value_heads") or heads,
            head_dim=text.get("head_dim") or text["hidden_size"] // heads,
            vocab_size=text["vocab_size"],
            rms_norm_eps=text.get("rms_norm_eps") or 1e-6,
            rope_parameters=_rope(text),
            max_position_embeddings=text.get("max_position_embeddings") or 2048,
            tie_word_embeddings=bool(text.get("tie_word_embeddings", False)),
            head_bias=bool(text.get("lm_head_bias")) or text.get("model_type") in BIASED_HEADS,
            dtype=text.get("dtype") or text.get("torch_dtype"),
        )


def _mapping(config: dict[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise ValueError(f"verifier.name_or_path: {key} in its config.json must be a mapping, not {shortened(value)}")
    return value


def _check_parts(name_or_path: str, config: Mapping[str, Any]) -> None:
    """Refuse numbers of layers and labels that no model has, and kernels of the Hub, also of parts such as a vision tower."""
    for key, value in config.items():
        # Keys of a dict that transformers made may be numbers, such as those of labels.
        if KERNELS.fullmatch(str(key)) and "/" in str(value):
            raise ValueError(
                f"verifier.name_or_path: the config.json of {name_or_path} has {key}={shortened(value)}, which would run code "
                "of that repository of the Hub; remove the key"
            )
        if isinstance(value, Mapping):
            _check_parts(name_or_path, value)
        elif isinstance(value, int) and value > MOST and COUNTS.fullmatch(key):
            raise ValueError(
                f"verifier.name_or_path: the config.json of {name_or_path} has {key}={value}; at most {MOST} is possible"
            )


def _rope(text: dict[str, Any]) -> dict[str, Any]:
    """One dict of rope parameters, from either spelling; keys that only multimodal positions need are dropped."""
    parameters = dict(_mapping(text, "rope_parameters") or _mapping(text, "rope_scaling"))
    # By kind of layer (Gemma 3): those of the full-attention layers.
    by_kind = {kind: own for kind, own in parameters.items() if isinstance(own, dict)}
    if by_kind:
        parameters = dict(by_kind.get("full_attention") or next(iter(by_kind.values())))
    parameters.setdefault("rope_type", parameters.pop("type", "default"))
    parameters.setdefault("rope_theta", text.get("rope_theta", 10000.0))
    if text.get("partial_rotary_factor") is not None:
        parameters.setdefault("partial_rotary_factor", text["partial_rotary_factor"])
    if parameters["rope_type"] in ("llama3", "yarn", "longrope"):
        trained = text.get("original_max_position_embeddings") or text.get("max_position_embeddings")
        parameters.setdefault("original_max_position_embeddings", trained)
    if parameters["rope_type"] == "mrope":
        parameters["rope_type"] = "default"
    for key in ("mrope_section", "mrope_interleaved"):
        parameters.pop(key, None)
    return parameters
