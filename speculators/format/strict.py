"""Strict reading of a published config: what `SpeculatorModelConfig.from_dict` lets pass, and no engine. Torch-free."""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from speculators.format.finding import Finding
from speculators.format.layers import LAYER_KEYS, TRANSFORMERS_KEYS, DecoderLayers, relations
from speculators.format.usage import SpeculatorsConfig, VerifierConfig
from speculators.proposals import TokenProposalConfig
from speculators.settings.algorithm import AlgorithmSettings
from speculators.verifier.facts import VerifierFacts

# What every config of the format may hold at top level.
FORMAT_KEYS = frozenset({"speculators_model_type", "speculators_version", "speculators_config"})
LAYER, USAGE = "transformer_layer_config", "speculators_config"
DTYPES = ("float32", "bfloat16", "float16", "float64")


def read_config(path: Path) -> dict[str, Any]:
    """Contents of a published config.

    Args:
        path: a published folder, or its config.json.

    Raises:
        ValueError: there is none, or it is no speculator's; the message names the file.
    """
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        what = "there is no config.json" if path.is_dir() else "there is no such file or folder"
        raise ValueError(f"{path}: {what}; give a published folder, such as RUN/checkpoint")
    config = read_json(file)
    if not config.keys() & {"speculators_model_type", USAGE}:
        raise ValueError(
            f"{file}: has no {USAGE}, so it is no speculator's; of an engine's own format, give the folder above"
        )
    return config


def read_json(file: Path) -> dict[str, Any]:
    """A mapping in a JSON file.

    Raises:
        ValueError: it holds none; the message names the file.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: must hold a mapping, not {type(values).__name__}")
    return values


def problems(config: Mapping[str, Any], facts: VerifierFacts | None = None) -> list[Finding]:
    """All that is wrong with a published config, every unknown key included; each finding is `invalid`.

    Args:
        config: contents of a config.json, of any types.
        facts: the verifier's; None leaves out what depends on them.
    """
    name = config.get("speculators_model_type")
    names = AlgorithmSettings.names()
    if name not in names:
        reason = f"names the algorithm, one of {', '.join(names)}{_nearest(name, names)}"
        return [_invalid("speculators_model_type", name, reason), *_usage(config)]
    algorithm = AlgorithmSettings.named(str(name))
    found = [*_top_level(config, algorithm), *_usage(config), *_ids_and_sizes(config)]
    if LAYER in algorithm.derived_keys:
        found += layer_problems(config.get(LAYER), LAYER)
    return found + list(_against_verifier(config, algorithm, facts)) if facts else found


def layer_problems(layer: Any, path: str) -> Iterator[Finding]:
    """What is wrong with the config of decoder layers.

    Args:
        layer: of any type.
        path: its key.
    """
    if not isinstance(layer, Mapping):
        yield _invalid(path, layer, "must be a mapping: the config of the draft's decoder layers")
        return
    for key, value in layer.items():
        # Layers of other kinds have keys of their own, so only what looks like a slip is one.
        if key not in LAYER_KEYS and (hint := _nearest(key, LAYER_KEYS, cutoff=0.85)):
            yield _invalid(f"{path}.{key}", value, f"is no key of a decoder layer{hint}")
    yield from _mistyped(DecoderLayers, layer, path)
    for key, value, reason in relations(layer):
        yield _invalid(f"{path}.{key}", value, reason)


def _top_level(config: Mapping[str, Any], algorithm: type[AlgorithmSettings]) -> Iterator[Finding]:
    fields = algorithm.published_fields
    known = FORMAT_KEYS | TRANSFORMERS_KEYS | fields.model_fields.keys() | set(algorithm.derived_keys)
    if config.get("model_type", "speculators") != "speculators":
        reason = "at top level it hides from engines that this is a speculator; leave it out"
        yield _invalid("model_type", config["model_type"], reason)
    yield from _unknown("", {k: v for k, v in config.items() if k != "model_type"}, known)
    yield from _mistyped(fields, {k: v for k, v in config.items() if k in fields.model_fields}, "", strict=True)
    for key in ("dtype", "torch_dtype"):
        if config.get(key) not in (None, *DTYPES):
            yield _invalid(key, config[key], f"must be one of {', '.join(DTYPES)}")
    classes = config.get("architectures", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        yield _invalid("architectures", classes, "must be a list of names, or be left out")


def _usage(config: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong inside `speculators_config`."""
    usage = config.get(USAGE)
    if not isinstance(usage, Mapping):
        reason = "must be a mapping with algorithm, proposal_methods, default_proposal_method, verifier"
        yield _invalid(USAGE, usage, reason)
        return
    yield from _unknown(f"{USAGE}.", usage, SpeculatorsConfig.model_fields)
    yield from _unknown(f"{USAGE}.verifier.", _mapping(usage.get("verifier")), VerifierConfig.model_fields)
    proposals = usage.get("proposal_methods")
    proposals = [_mapping(p) for p in proposals] if isinstance(proposals, list) else []
    kinds = [p.get("proposal_type") for p in proposals]
    methods = TokenProposalConfig.registry or {}
    for i, proposal in enumerate(proposals):
        method = methods.get(str(proposal.get("proposal_type")))
        if method is not None:
            yield from _unknown(f"{USAGE}.proposal_methods[{i}].", proposal, method.model_fields)
    # Of what the whole of it breaks, the rule below says the same by its key.
    yield from (f for f in _mistyped(SpeculatorsConfig, usage, USAGE) if f.key != USAGE)
    name, model_type = usage.get("algorithm"), config.get("speculators_model_type")
    if isinstance(name, str) and name != model_type:
        yield _invalid(f"{USAGE}.algorithm", name, f"must be the speculators_model_type, {model_type!r}")
    default = usage.get("default_proposal_method")
    if usage.get("proposal_methods") == []:
        yield _invalid(
            f"{USAGE}.proposal_methods", [], "must hold a proposal: how many tokens are drafted stands there"
        )
    elif isinstance(default, str) and kinds and default != kinds[0] and (default in kinds or str(kinds[0]) in methods):
        reason = f"must be the proposal_type of the first of proposal_methods, {kinds[0]!r}: engines read no other"
        yield _invalid(f"{USAGE}.default_proposal_method", default, reason)
    if "verifier" in usage and _mapping(usage["verifier"]).get("name_or_path", "?") in (None, ""):
        yield _invalid(f"{USAGE}.verifier.name_or_path", None, "must name the verifier: engines load it from here")


def _ids_and_sizes(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Rules between keys of the top level."""
    draft, vocab = config.get("draft_vocab_size"), _vocab(config)[1]
    if isinstance(draft, int) and isinstance(vocab, int) and draft > vocab:
        yield _invalid("draft_vocab_size", draft, f"must be at most the verifier's vocabulary, {vocab}")
    if isinstance(draft, int) and draft < 1:
        yield _invalid("draft_vocab_size", draft, "must be at least 1")
    for key, ids in _layer_ids(config):
        if ids != sorted(set(ids)):
            yield _invalid(key, ids, f"must ascend without repetition; write {sorted(set(ids))}")
        if not ids or min(ids) < 0:
            yield _invalid(key, ids, "must name at least one layer, and none below 0, the embeddings")


def _against_verifier(
    config: Mapping[str, Any], algorithm: type[AlgorithmSettings], facts: VerifierFacts
) -> Iterator[Finding]:
    key, vocab = _vocab(config)
    if vocab != facts.vocab_size:
        yield _invalid(key, vocab, f"must be the verifier's, {facts.vocab_size}: the two share token ids")
    if "target_hidden_size" in algorithm.derived_keys:
        width = config.get("target_hidden_size")
        read = width if width is not None else _mapping(config.get(LAYER)).get("hidden_size")
        if read != facts.hidden_size:
            reason = f"must be the width of the verifier's states, {facts.hidden_size}"
            yield _invalid("target_hidden_size", width, reason)
    for key, ids in _layer_ids(config):
        if ids and max(ids) > facts.num_hidden_layers:
            yield _invalid(key, ids, f"must lie inside the verifier, whose last layer is {facts.num_hidden_layers}")
    verifier = _mapping(_mapping(config.get(USAGE)).get("verifier"))
    if "architectures" in verifier and verifier["architectures"] != facts.architectures:
        reason = f"must be what {facts.name_or_path} has in its config.json, {facts.architectures}"
        yield _invalid(f"{USAGE}.verifier.architectures", verifier["architectures"], reason)


def _vocab(config: Mapping[str, Any]) -> tuple[str, Any]:
    """Key and size of the vocabulary; a draft without decoder layers states it at top level."""
    if LAYER in config:
        return f"{LAYER}.vocab_size", _mapping(config[LAYER]).get("vocab_size")
    return "vocab_size", config.get("vocab_size")


def _layer_ids(config: Mapping[str, Any]) -> Iterator[tuple[str, list[int]]]:
    """Keys that name layers of the verifier, whatever the algorithm calls them."""
    for key, ids in config.items():
        if key.endswith("layer_ids") and isinstance(ids, list) and all(isinstance(i, int) for i in ids):
            yield key, ids


def _unknown(path: str, values: Mapping[str, Any], known: Iterable[str]) -> Iterator[Finding]:
    for key, value in values.items():
        if key not in known:
            yield _invalid(f"{path}{key}", value, f"is no key of the format and has no effect{_nearest(key, known)}")


def _mistyped(
    model: type[BaseModel], values: Mapping[str, Any], path: str, strict: bool | None = None
) -> Iterator[Finding]:
    """What pydantic says of values that stand at `path`; None leaves to the model how strict it is."""
    try:
        model.model_validate(values, strict=strict)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            key, value = _at(values, each["loc"], path)
            yield _invalid(key, value, _reason(each))


def _reason(error: Mapping[str, Any]) -> str:
    if error["type"] == "missing":
        return "must be given"
    if error["type"].startswith("union_tag"):
        return f"must have a {error['ctx']['discriminator']}, one of {', '.join(TokenProposalConfig.registry or {})}"
    return error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")


def _at(values: Any, where: Sequence[str | int], path: str) -> tuple[str, Any]:
    """Dotted path and value of a pydantic location, without the tags that it inserts for members of a union."""
    key, value = path, values
    for i, part in enumerate(where):
        if isinstance(part, int):
            key, value = f"{key}[{part}]", value[part]
        elif isinstance(value, Mapping) and part in value:
            key, value = f"{key}.{part}" if key else part, value[part]
        elif i == len(where) - 1:
            return f"{key}.{part}" if key else part, None
    return key or "config.json", value


def _invalid(key: str, value: Any, reason: str) -> Finding:
    return Finding("invalid", key, value, reason)


def _nearest(name: Any, known: Iterable[str], cutoff: float = 0.6) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
