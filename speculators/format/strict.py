"""Strict check of a published config: reports what `from_dict` accepts and engines do not. Torch-free."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from speculators.format.finding import Finding
from speculators.format.layers import LAYER_KEYS, TRANSFORMERS_KEYS, DecoderLayers, relations
from speculators.format.layout import Layout
from speculators.format.usage import SpeculatorsConfig, VerifierConfig
from speculators.proposals import TokenProposalConfig
from speculators.settings.algorithm import AlgorithmSettings
from speculators.utils.messages import did_you_mean, located
from speculators.utils.untrusted import MOST, MOST_SIZE, inside, read_json
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
    file = inside(path, "config.json") if path.is_dir() else path
    if not file.is_file():
        what = "there is no config.json" if path.is_dir() else "there is no such file or folder"
        raise ValueError(f"{path}: {what}; give a published folder, such as RUN/checkpoint")
    config = read_json(file)
    if not config.keys() & {"speculators_model_type", USAGE}:
        raise ValueError(
            f"{file}: has no {USAGE}, so it is not the config of a draft; if it is in an engine's native "
            "format, give the folder above"
        )
    return config


def problems(config: Mapping[str, Any], facts: VerifierFacts | None = None) -> list[Finding]:
    """All that is wrong with a published config, every unknown key included; each finding is `invalid`.

    Args:
        config: contents of a config.json, of any types.
        facts: the verifier's; None leaves out what depends on them.
    """
    name = config.get("speculators_model_type")
    names = AlgorithmSettings.names()
    if name not in names:
        reason = f"must be an algorithm, one of {', '.join(names)}{did_you_mean(str(name), names)}"
        return [_invalid("speculators_model_type", name, reason), *_usage(config)]
    algorithm = AlgorithmSettings.named(str(name))
    layout = Layout.named(str(name))
    found = [*_top_level(config, algorithm), *_usage(config), *layout.problems(config, facts)]
    if LAYER in algorithm.derived_keys:
        found += layer_problems(config.get(LAYER), LAYER, layout.layers)
    return found + list(_against_verifier(config, layout, facts)) if facts else found


def layer_problems(layer: Any, path: str, layers: type[DecoderLayers] = DecoderLayers) -> Iterator[Finding]:
    """What is wrong with the config of decoder layers.

    Args:
        layer: of any type.
        path: its key.
        layers: types and bounds of its keys.
    """
    if not isinstance(layer, Mapping):
        yield _invalid(path, layer, "must be a mapping: the config of the draft's decoder layers")
        return
    for key, value in layer.items():
        # Layers of other kinds have keys of their own, so only likely misspellings are reported.
        known = LAYER_KEYS | layers.model_fields.keys()
        if key not in known and (hint := did_you_mean(key, known, cutoff=0.85)):
            yield _invalid(f"{path}.{key}", value, f"is not a key of a decoder layer{hint}")
    yield from _mistyped(layers, layer, path)
    for key, value, reason in relations(layer):
        yield _invalid(f"{path}.{key}", value, reason)


def _top_level(config: Mapping[str, Any], algorithm: type[AlgorithmSettings]) -> Iterator[Finding]:
    fields = algorithm.published_fields
    known = FORMAT_KEYS | TRANSFORMERS_KEYS | fields.model_fields.keys() | set(algorithm.derived_keys)
    if config.get("model_type", "speculators") != "speculators":
        reason = "engines do not recognise a speculator that has this key at top level; remove it"
        yield _invalid("model_type", config["model_type"], reason)
    yield from _unknown("", {k: v for k, v in config.items() if k != "model_type"}, known)
    yield from _mistyped(fields, {k: v for k, v in config.items() if k in fields.model_fields}, "", strict=True)
    for key, value in config.items():
        if isinstance(value, int) and value > MOST_SIZE:
            yield _invalid(key, value, f"must be at most {MOST_SIZE}")
    if not isinstance(config.get("num_labels", 0), int) or config.get("num_labels", 0) > MOST:
        yield _invalid("num_labels", config["num_labels"], f"must be an integer up to {MOST}; remove it")
    if config.get("quantization_config") is not None:
        reason = "tensors of this format are not quantized; remove it"
        yield _invalid("quantization_config", config["quantization_config"], reason)
    for key in ("dtype", "torch_dtype"):
        if config.get(key) not in (None, *DTYPES):
            yield _invalid(key, config[key], f"must be one of {', '.join(DTYPES)}")
    classes = config.get("architectures", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        yield _invalid("architectures", classes, "must be a list of names, or be removed")


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
        place, method = f"{USAGE}.proposal_methods[{i}].", methods.get(str(proposal.get("proposal_type")))
        if method is not None:
            yield from _unknown(place, proposal, method.model_fields)
        for key, value in proposal.items():
            if isinstance(value, int) and value > MOST:
                yield _invalid(f"{place}{key}", value, f"must be at most {MOST}")
    # Errors of the model as a whole are reported under their key by the rule below.
    yield from (f for f in _mistyped(SpeculatorsConfig, usage, USAGE) if f.key != USAGE)
    name, model_type = usage.get("algorithm"), config.get("speculators_model_type")
    if isinstance(name, str) and name != model_type:
        yield _invalid(f"{USAGE}.algorithm", name, f"must be the speculators_model_type, {model_type!r}")
    default = usage.get("default_proposal_method")
    if usage.get("proposal_methods") == []:
        yield _invalid(f"{USAGE}.proposal_methods", [], "must hold a proposal, whose speculative_tokens engines read")
    elif isinstance(default, str) and kinds and default != kinds[0] and (default in kinds or str(kinds[0]) in methods):
        reason = (
            f"must be the proposal_type of the first of proposal_methods, {kinds[0]!r}: engines read only the first"
        )
        yield _invalid(f"{USAGE}.default_proposal_method", default, reason)
    if "verifier" in usage and _mapping(usage["verifier"]).get("name_or_path", "?") in (None, ""):
        yield _invalid(f"{USAGE}.verifier.name_or_path", None, "must name the verifier: engines load it from here")


def _against_verifier(config: Mapping[str, Any], layout: type[Layout], facts: VerifierFacts) -> Iterator[Finding]:
    key = layout.vocabulary_key
    outer, _, inner = key.rpartition(".")
    vocab = (_mapping(config.get(outer)) if outer else config).get(inner)
    if vocab != facts.vocab_size:
        yield _invalid(key, vocab, f"must be the verifier's, {facts.vocab_size}")
    verifier = _mapping(_mapping(config.get(USAGE)).get("verifier"))
    if "architectures" in verifier and verifier["architectures"] != facts.architectures:
        reason = f"must be {facts.architectures}, as in the config.json of {facts.name_or_path}"
        yield _invalid(f"{USAGE}.verifier.architectures", verifier["architectures"], reason)


def _unknown(path: str, values: Mapping[str, Any], known: Iterable[str]) -> Iterator[Finding]:
    for key, value in values.items():
        if key not in known:
            hint = did_you_mean(key, known, cutoff=0.6)
            yield _invalid(f"{path}{key}", value, f"is not a key of the format and has no effect{hint}")


def _mistyped(
    model: type[BaseModel], values: Mapping[str, Any], path: str, strict: bool | None = None
) -> Iterator[Finding]:
    """Pydantic's errors for values at `path`; None takes the model's own strictness."""
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


def _at(values: Any, loc: Sequence[str | int], path: str) -> tuple[str, Any]:
    """Dotted path and value of a pydantic location."""
    parts, value, _ = located(loc, values)
    key = path + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return key.removeprefix(".") or "config.json", value


def _invalid(key: str, value: Any, reason: str) -> Finding:
    return Finding("invalid", key, value, reason)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
