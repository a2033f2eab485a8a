"""Whether an engine will load a draft, and what it will ignore, asked before any training. Torch-free."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from speculators.algorithm import AlgorithmSettings
from speculators.export.engine_table import DraftTable, EngineTable
from speculators.run_config import RunConfig
from speculators.verifier.facts import VerifierFacts


@dataclass(frozen=True)
class Finding:
    """One thing an engine does not do as the config says.

    Attributes:
        level: `refused` cannot be served, `ignored` has no effect there, `note` is worth knowing.
        key: dotted path in the published config, or a tensor's name.
        value: what stands there.
        reason: what happens, and the remedy.
    """

    level: Literal["refused", "ignored", "note"]
    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.level}: {self.key}={self.value!r}: {self.reason}"


class CannotServe(ValueError):
    """The engine that was asked for cannot serve the draft; raised before training.

    Args:
        message: for people, all findings in it.
        findings: what preflight found.
    """

    def __init__(self, message: str, findings: tuple[Finding, ...]) -> None:
        super().__init__(message)
        self.findings = findings


@dataclass(frozen=True)
class ExportPlan:
    """What a run is exported for.

    Attributes:
        table: the engine; None exports the published format for no engine in particular.
        findings: what preflight found.
        summary: for people: a sentence, then a line for each finding.
    """

    table: EngineTable | None
    findings: tuple[Finding, ...]
    summary: str


def plan(run: RunConfig, published: Mapping[str, Any], facts: VerifierFacts) -> ExportPlan:
    """Resolve `export.target` and ask its table.

    Args:
        run: what the run was told.
        published: the published config as a plain dict.
        facts: the verifier's.

    Raises:
        CannotServe: the user named an engine that cannot serve this draft.
    """
    target, engines = run.export.target, AlgorithmSettings.named(run.algorithm.name).engines
    if target == "none":
        return ExportPlan(None, (), "export.target=none: the checkpoint is written for no engine")
    if target == "auto" and not engines:
        return ExportPlan(None, (), f"export.target=auto is none: no engine serves {run.algorithm.name} drafts")
    engine = engines[0] if target == "auto" else target
    table = EngineTable.read(engine, run.export.engine_version)
    findings = tuple(preflight(table, published, facts))
    refused = any(finding.level == "refused" for finding in findings)
    name = f"{engine} {table.version}"
    lines = "".join(f"\n  {finding}" for finding in findings)
    if not refused:
        return ExportPlan(table, findings, f"export.target={target}: {name} will serve this draft{lines}")
    if target != "auto":
        raise CannotServe(f"export.target={target}: {name} could not serve this draft{lines}", findings)
    return ExportPlan(None, findings, f"export.target=auto is none: {name} could not serve this draft{lines}")


def preflight(table: EngineTable, config: Mapping[str, Any], facts: VerifierFacts) -> Iterator[Finding]:
    """Compare a published config with what an engine reads.

    Args:
        table: the engine's.
        config: the published config, composed or read from a config.json.
        facts: the verifier's.

    Yields:
        Findings; with none `refused`, the engine loads the draft and computes what was trained.
    """
    model_type = config.get("speculators_model_type")
    draft = table.drafts.get(str(model_type))
    if draft is None:
        known = ", ".join(table.drafts)
        reason = f"{table.engine} {table.version} does not know this type; it serves {known}"
        yield Finding("refused", "speculators_model_type", model_type, reason)
        return
    yield from _values(draft, config)
    yield from _sizes(draft, config, facts)
    yield from _layer_config(table, draft, config, facts)
    if draft.layer_ids is not None:
        yield from _layer_ids(table, draft, draft.layer_ids, config, facts)
    yield from _proposal(table, config)
    for key, value in config.items():
        if key not in draft.read and key not in table.descriptive:
            yield Finding("ignored", key, value, f"{table.engine} {table.version} does not read it")


def lookup(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None where any part of it is missing."""
    value: Any = config
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _values(draft: DraftTable, config: Mapping[str, Any]) -> Iterator[Finding]:
    for rule in draft.allowed:
        value = lookup(config, rule.key)
        if value not in rule.values:
            yield Finding("refused", rule.key, value, rule.why)
    for key in draft.explicit:
        if config.get(key) is None:
            yield Finding("refused", key, None, "must be written: readers of the format differ in what they assume")
    if draft.format == "published" and "model_type" in config:
        yield Finding("refused", "model_type", config["model_type"], "at top level it hides the format; leave it out")


def _sizes(draft: DraftTable, config: Mapping[str, Any], facts: VerifierFacts) -> Iterator[Finding]:
    # A draft without decoder layers states its sizes at top level.
    prefix = "transformer_layer_config." if "transformer_layer_config" in config else ""
    vocab = lookup(config, prefix + "vocab_size")
    if vocab != facts.vocab_size:
        reason = f"must be the verifier's {facts.vocab_size}: the two share token ids"
        yield Finding("refused", prefix + "vocab_size", vocab, reason)
    hidden = lookup(config, prefix + "hidden_size")
    if draft.same_width and hidden != facts.hidden_size:
        reason = f"must be the verifier's {facts.hidden_size}: its state is fed in as it is"
        yield Finding("refused", prefix + "hidden_size", hidden, reason)
    target = config.get("target_hidden_size")
    if target is not None and target != facts.hidden_size:
        yield Finding("refused", "target_hidden_size", target, f"the verifier's states have {facts.hidden_size}")
    reduced = config.get("draft_vocab_size")
    if reduced is not None and reduced > facts.vocab_size:
        reason = f"the verifier has only {facts.vocab_size} tokens"
        yield Finding("refused", "draft_vocab_size", reduced, reason)


def _layer_config(
    table: EngineTable, draft: DraftTable, config: Mapping[str, Any], facts: VerifierFacts
) -> Iterator[Finding]:
    layer, prefix = config.get("transformer_layer_config") or {}, "transformer_layer_config."
    for alternatives in draft.layer_keys:
        keys = alternatives.split("|")
        if all(layer.get(key) is None for key in keys):
            reason = f"{table.engine} takes no defaults from a model class: write it out"
            yield Finding("refused", prefix + keys[0], None, reason)
    kinds, count = layer.get("layer_types"), layer.get("num_hidden_layers")
    if kinds is not None and len(kinds) != count:
        yield Finding("refused", prefix + "layer_types", kinds, f"needs one entry for each of {count} layers")
    if "mrope_section" in (layer.get("rope_parameters") or layer.get("rope_scaling") or {}):
        yield Finding("refused", prefix + "rope_parameters", "mrope_section", "a draft sees text alone: take it out")
    head_dim = layer.get("head_dim")
    if head_dim is not None and head_dim not in table.cpu_head_dims:
        known = ", ".join(map(str, table.cpu_head_dims))
        reason = f"{table.engine} cannot serve it on a CPU, whose attention has {known}"
        yield Finding("note", prefix + "head_dim", head_dim, reason)
    context = layer.get("max_position_embeddings")
    if context is not None and not draft.extends_context and context < (facts.max_position_embeddings or 0):
        reason = f"the draft stops at this length; the verifier goes on to {facts.max_position_embeddings}"
        yield Finding("note", prefix + "max_position_embeddings", context, reason)


def _layer_ids(
    table: EngineTable, draft: DraftTable, key: str, config: Mapping[str, Any], facts: VerifierFacts
) -> Iterator[Finding]:
    ids = config.get(key)
    if not ids:
        yield Finding(
            "refused", key, ids, "the layers that were trained on must be named: the engine would choose others"
        )
        return
    if list(ids) != sorted(set(ids)):
        yield Finding(
            "refused", key, ids, "must ascend without repetition: the engine sorts them before it joins states"
        )
    if any(not 0 <= i <= facts.num_hidden_layers for i in ids):
        reason = f"0 is the embeddings, {facts.num_hidden_layers} the verifier's last layer"
        yield Finding("refused", key, ids, reason)
    for rule in draft.count_of_layers:
        if lookup(config, "transformer_layer_config.model_type") == rule.model_type:
            count = lookup(config, rule.key)
            if (count or rule.default) != len(ids):
                reason = f"must be {len(ids)}, the layers in {key}: {table.engine} assumes {rule.default} otherwise"
                yield Finding("refused", rule.key, count, reason)
    without = set(facts.architectures) & set(table.verifiers_without_layer_states)
    if without:
        reason = f"{table.engine} {table.version} gives out no states of single layers of this verifier"
        yield Finding("refused", "speculators_config.verifier.architectures", sorted(without), reason)


def _proposal(table: EngineTable, config: Mapping[str, Any]) -> Iterator[Finding]:
    prefix = "speculators_config."
    methods = lookup(config, prefix + "proposal_methods")
    if not methods:
        reason = f"{table.engine} takes the number of tokens to draft from the first proposal"
        yield Finding("refused", prefix + "proposal_methods", methods, reason)
        return
    first, default = methods[0], lookup(config, prefix + "default_proposal_method")
    if default is not None and first.get("proposal_type") != default:
        reason = f"{table.engine} takes the first proposal, {first.get('proposal_type')}"
        yield Finding("ignored", prefix + "default_proposal_method", default, reason)
    if not first.get("speculative_tokens"):
        key = prefix + "proposal_methods[0].speculative_tokens"
        yield Finding("refused", key, first.get("speculative_tokens"), "the engine must know how many tokens to draft")
    for key, inert in table.inert_proposal_values.items():
        if first.get(key, inert) != inert:
            reason = f"{table.engine} does not read it and accepts as if it were {inert}"
            yield Finding("ignored", f"{prefix}proposal_methods[0].{key}", first[key], reason)
    if not lookup(config, prefix + "verifier.name_or_path"):
        yield Finding("refused", prefix + "verifier.name_or_path", None, "the draft names no model to serve with it")
