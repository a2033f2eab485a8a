"""Finds the parts of a transformers model that a draft needs, by structure and not by attribute names."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)

from speculators.utils.dtypes import dtype_of
from speculators.verifier.location import local_path
from speculators.verifier.settings import VerifierSettings

# What `Verifier.states` passes to the decoder.
ARGUMENTS = ("input_ids", "position_ids", "attention_mask", "past_key_values", "use_cache")


@dataclass(frozen=True)
class Structure:
    """Parts of a language model.

    Attributes:
        decoder: the module from token ids to the state after the final norm.
        layers: its decoder layers; each takes the residual stream and returns it.
    """

    decoder: nn.Module
    layers: nn.ModuleList


def read_config(settings: VerifierSettings) -> PreTrainedConfig:
    """The verifier's config, by transformers."""
    return AutoConfig.from_pretrained(
        local_path(settings.name_or_path), revision=settings.revision, trust_remote_code=settings.trust_remote_code
    )


def auto_class(config: PreTrainedConfig, name: str) -> type[AutoModelForCausalLM] | type[AutoModelForImageTextToText]:
    """The class of transformers that loads a verifier; a vision-language model is one on text alone.

    Args:
        config: the verifier's.
        name: the verifier, for the message.

    Raises:
        ValueError: it is neither.
    """
    # A config with remote code names its own classes.
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or config.to_dict().get("auto_map"):
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    raise ValueError(
        f"verifier.name_or_path: {name} is a {config.model_type}, which transformers does not load as a causal "
        "language model; choose another verifier"
    )


def without_weights(settings: VerifierSettings, dtype: str = "auto") -> PreTrainedModel:
    """The verifier's modules, on torch's default device, not initialised from the checkpoint.

    Args:
        settings: where the verifier is.
        dtype: of the weights; `auto` is the config's.

    Raises:
        ValueError: transformers does not load it as a language model.
    """
    config = read_config(settings)
    auto: Any = auto_class(config, settings.name_or_path)
    wanted = config.dtype if dtype == "auto" else dtype_of(dtype)
    return auto.from_config(config, dtype=wanted, trust_remote_code=settings.trust_remote_code)


def check_structure(settings: VerifierSettings) -> None:
    """Build a verifier without weights and check that a draft can be trained for it.

    Raises:
        ValueError: it cannot; the message says why.
    """
    with torch.device("meta"):
        model = without_weights(settings)
    structure_of(model, settings.name_or_path)


def structure_of(model: PreTrainedModel, name: str) -> Structure:
    """Find the decoder and its layers.

    Args:
        model: with or without weights.
        name: the verifier, for the message.

    Raises:
        ValueError: it has none that can be used; the message says why.
    """

    def refused(why: str) -> ValueError:
        kind = type(model).__name__
        return ValueError(f"verifier.name_or_path: {name} is a {kind}, {why}; choose another verifier")

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(embedding, nn.Embedding) or not isinstance(head, nn.Linear):
        raise refused("which has no embedding and output head of its own that a draft could share")
    count = model.config.get_text_config().num_hidden_layers
    for decoder in model.modules():
        children = list(decoder.children())
        layers = [c for c in children if isinstance(c, nn.ModuleList) and len(c) == count]
        if not layers or not any(child is embedding for child in children):
            continue
        missing = [a for a in ARGUMENTS if a not in inspect.signature(decoder.forward).parameters]
        if missing:
            raise refused(f"whose decoder takes no {', '.join(missing)}")
        return Structure(decoder, layers[0])
    raise refused(f"which has no decoder with an embedding and a list of {count} layers")


def final_norm_of(model: PreTrainedModel, name: str) -> nn.Module:
    """The norm between the last layer and the output head: the only part of the decoder with [H] parameters alone.

    Args:
        model: with or without weights.
        name: the verifier, for the message.

    Raises:
        ValueError: there is none, or there are several.
    """
    decoder, width = structure_of(model, name).decoder, model.config.get_text_config().hidden_size
    shapes = {part: {tuple(p.shape) for p in part.parameters()} for part in decoder.children()}
    norms = [part for part, found in shapes.items() if found == {(width,)}]
    if len(norms) != 1:
        raise ValueError(
            f"verifier.name_or_path: {name} is a {type(model).__name__}, whose final norm is not found, and "
            "verifier_states=served applies it; set verifier_states=in_process or cached"
        )
    return norms[0]
