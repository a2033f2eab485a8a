"""Strict reading of a published config: what `SpeculatorModelConfig.from_dict` lets pass, and no engine. Torch-free."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from speculators.algorithm import AlgorithmSettings
from speculators.proposals import TokenProposalConfig
from speculators.speculators_config import SpeculatorsConfig, VerifierConfig
from speculators.verifier.facts import VerifierFacts

# What every config of the format may hold at top level, and what transformers itself reads and writes there.
FORMAT_KEYS = frozenset({"speculators_model_type", "speculators_version", "speculators_config"})
# As paragraphs, since one key a line would hide the code below.
# fmt: off
TRANSFORMERS_KEYS = frozenset({
    "architectures", "auto_map", "chunk_size_feed_forward", "dtype", "id2label", "is_encoder_decoder", "label2id",
    "name_or_path", "_name_or_path", "num_labels", "output_attentions", "output_hidden_states", "problem_type",
    "quantization_config", "return_dict", "torch_dtype", "transformers_version",
})
# Keys of llama's and qwen3's layers, in both of transformers' spellings of rotary embeddings; the last line is what
# vLLM's drafts read beside them.
LAYER_KEYS = TRANSFORMERS_KEYS | {
    "model_type", "attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "head_dim", "hidden_act",
    "hidden_size", "initializer_range", "intermediate_size", "layer_types", "max_position_embeddings",
    "max_window_layers", "mlp_bias", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "pad_token_id",
    "pretraining_tp", "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window",
    "tie_word_embeddings", "use_cache", "use_sliding_window", "vocab_size",
    "num_aux_hidden_states", "is_causal", "logit_scale", "is_neox_style", "eagle_config",
}
# fmt: on


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a published config.

    Attributes:
        key: dotted path, items of lists in brackets.
        value: what stands there; None also where nothing does.
        reason: what is wrong and what to do.
    """

    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        # A whole mapping would hide the message.
        value = "" if self.value is None or isinstance(self.value, Mapping) else f"={self.value!r}"
        return f"{self.key}{value}: {self.reason}"


def problems(config: Mapping[str, Any], facts: VerifierFacts | None = None) -> list[Problem]:
    """All that is wrong with a published config, every unknown key included.

    Args:
        config: contents of a config.json.
        facts: the verifier's; None leaves out what depends on them.
    """
    name = config.get("speculators_model_type")
    names = AlgorithmSettings.names()
    if name not in names:
        reason = f"names the algorithm, one of {', '.join(names)}{_nearest(name, names)}"
        return [Problem("speculators_model_type", name, reason), *_usage(config)]
    algorithm = AlgorithmSettings.named(str(name))
    found = [*_top_level(config, algorithm), *_usage(config), *_layers(config), *_ids_and_sizes(config)]
    return found + list(_against_verifier(config, facts)) if facts else found


def _top_level(config: Mapping[str, Any], algorithm: type[AlgorithmSettings]) -> Iterator[Problem]:
    fields = algorithm.published_fields
    known = FORMAT_KEYS | TRANSFORMERS_KEYS | fields.model_fields.keys() | set(algorithm.derived_keys)
    if "model_type" in config:
        reason = "at top level it hides from engines that this is a speculator; leave it out"
        yield Problem("model_type", config["model_type"], reason)
    yield from _unknown("", {k: v for k, v in config.items() if k != "model_type"}, known)
    yield from _invalid(fields, {k: v for k, v in config.items() if k in fields.model_fields}, config, "")
    if "transformer_layer_config" in algorithm.derived_keys and "transformer_layer_config" not in config:
        yield Problem("transformer_layer_config", None, "must be written: a default layer fits no verifier")


def _usage(config: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong inside `speculators_config`."""
    usage = config.get("speculators_config")
    path = "speculators_config"
    if not isinstance(usage, Mapping):
        yield Problem(
            path, usage, "must be a mapping with algorithm, proposal_methods, default_proposal_method, verifier"
        )
        return
    yield from _unknown(f"{path}.", usage, SpeculatorsConfig.model_fields)
    yield from _unknown(f"{path}.verifier.", _mapping(usage.get("verifier")), VerifierConfig.model_fields)
    proposals = usage.get("proposal_methods")
    proposals = [_mapping(p) for p in proposals] if isinstance(proposals, list) else []
    for i, proposal in enumerate(proposals):
        method = (TokenProposalConfig.registry or {}).get(str(proposal.get("proposal_type")))
        if method is not None:
            yield from _unknown(f"{path}.proposal_methods[{i}].", proposal, method.model_fields)
    yield from _invalid(SpeculatorsConfig, usage, config, path)
    name, model_type = usage.get("algorithm"), config.get("speculators_model_type")
    if isinstance(name, str) and name != model_type:
        yield Problem(f"{path}.algorithm", name, f"must be the speculators_model_type, {model_type!r}")
    default, kinds = usage.get("default_proposal_method"), [p.get("proposal_type") for p in proposals]
    if default in kinds[1:] and default != kinds[0]:
        reason = f"must be the first of proposal_methods, which is {kinds[0]!r}: engines read no other"
        yield Problem(f"{path}.default_proposal_method", default, reason)
    if "verifier" in usage and _mapping(usage["verifier"]).get("name_or_path", "") is None:
        yield Problem(f"{path}.verifier.name_or_path", None, "must name the verifier: engines load it from here")


def _layers(config: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong inside `transformer_layer_config`."""
    if "transformer_layer_config" not in config:
        return
    layer, path = config["transformer_layer_config"], "transformer_layer_config"
    if not isinstance(layer, Mapping):
        yield Problem(path, layer, "must be a mapping: the config of the draft's decoder layers")
        return
    for key, value in layer.items():
        # Layers of other kinds have keys of their own, so only what looks like a slip is one.
        if key not in LAYER_KEYS and (hint := _nearest(key, LAYER_KEYS, cutoff=0.85)):
            yield Problem(f"{path}.{key}", value, f"is no key of a decoder layer{hint}")
    hidden, heads, groups = (layer.get(k, 0) for k in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    kinds, count = layer.get("layer_types"), layer.get("num_hidden_layers", 0)
    if _sizes(hidden, heads) and layer.get("head_dim") is None and hidden % heads:
        yield Problem(f"{path}.num_attention_heads", heads, f"must divide hidden_size, {hidden}, or head_dim be given")
    if _sizes(heads, groups) and heads % groups:
        yield Problem(f"{path}.num_key_value_heads", groups, f"must divide num_attention_heads, {heads}")
    if isinstance(kinds, list) and _sizes(count) and len(kinds) != count:
        yield Problem(f"{path}.layer_types", kinds, f"must have one entry a layer, {count} of them")


def _ids_and_sizes(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Rules between keys of the top level."""
    draft, vocab = config.get("draft_vocab_size"), _vocab(config)[1]
    if _sizes(draft, vocab) and draft > vocab:
        yield Problem("draft_vocab_size", draft, f"must be at most the verifier's vocabulary, {vocab}")
    for key, ids in _layer_ids(config):
        if ids != sorted(set(ids)):
            yield Problem(key, ids, f"must ascend without repetition; write {sorted(set(ids))}")
        if not ids or min(ids) < 0:
            yield Problem(key, ids, "must name at least one layer, and none below 0, the embeddings")


def _against_verifier(config: Mapping[str, Any], facts: VerifierFacts) -> Iterator[Problem]:
    key, vocab = _vocab(config)
    if vocab != facts.vocab_size:
        yield Problem(key, vocab, f"must be the verifier's, {facts.vocab_size}: the two share token ids")
    width = config.get("target_hidden_size")
    if width is not None and width != facts.hidden_size:
        yield Problem("target_hidden_size", width, f"must be the width of the verifier's states, {facts.hidden_size}")
    for key, ids in _layer_ids(config):
        if ids and max(ids) > facts.num_hidden_layers:
            yield Problem(key, ids, f"must lie inside the verifier, whose last layer is {facts.num_hidden_layers}")
    verifier = _mapping(_mapping(config.get("speculators_config")).get("verifier"))
    named = verifier.get("architectures")
    if named != facts.architectures:
        reason = f"must be what {facts.name_or_path} has in its config.json, {facts.architectures}"
        yield Problem("speculators_config.verifier.architectures", named, reason)


def _vocab(config: Mapping[str, Any]) -> tuple[str, Any]:
    """Key and size of the vocabulary; a draft without decoder layers states it at top level."""
    if "transformer_layer_config" in config:
        return "transformer_layer_config.vocab_size", _mapping(config["transformer_layer_config"]).get("vocab_size")
    return "vocab_size", config.get("vocab_size")


def _layer_ids(config: Mapping[str, Any]) -> Iterator[tuple[str, list[int]]]:
    """Keys that name layers of the verifier, whatever the algorithm calls them."""
    for key, ids in config.items():
        if key.endswith("layer_ids") and isinstance(ids, list) and all(isinstance(i, int) for i in ids):
            yield key, ids


def _unknown(path: str, values: Mapping[str, Any], known: Iterable[str]) -> Iterator[Problem]:
    for key, value in values.items():
        if key not in known:
            yield Problem(f"{path}{key}", value, f"is no key of the format and has no effect{_nearest(key, known)}")


def _invalid(
    model: type[BaseModel], values: Mapping[str, Any], config: Mapping[str, Any], path: str
) -> Iterator[Problem]:
    try:
        model.model_validate(values)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            where = (path, *each["loc"]) if path else each["loc"]
            key, value = _at(config, where)
            reason = "must be given" if each["type"] == "missing" else each["msg"].removeprefix("Value error, ")
            yield Problem(key, value, reason)


def _at(config: Any, where: Sequence[str | int]) -> tuple[str, Any]:
    """Dotted path and value of a pydantic location, without the tags that it inserts for members of a union."""
    key, value = "", config
    for i, part in enumerate(where):
        if isinstance(part, int):
            key, value = f"{key}[{part}]", value[part]
        elif isinstance(value, Mapping) and part in value:
            key, value = f"{key}.{part}" if key else part, value[part]
        elif i == len(where) - 1:
            return f"{key}.{part}" if key else part, None
    return key or "config.json", value


def _nearest(name: Any, known: Iterable[str], cutoff: float = 0.6) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sizes(*values: Any) -> bool:
    """Whether all are numbers that a size can be; what is not is reported elsewhere."""
    return all(isinstance(v, int) and v > 0 for v in values)
