"""Whether an engine will load a draft, and what it will ignore, asked before any training. Torch-free."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from speculators.export.engine_table import DraftTable, EngineTable, LayerIds
from speculators.format import strict
from speculators.format.finding import Finding, gravest
from speculators.format.layout import Layout
from speculators.settings.algorithm import AlgorithmSettings
from speculators.settings.run_config import ExportSettings, RunConfig
from speculators.verifier.facts import VerifierFacts

LAYER = "transformer_layer_config."
TOKENS = "speculators_config.proposal_methods[0].speculative_tokens"


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
    target, table = run.export.target, chosen_table(run.export, run.algorithm.name)
    if target == "none":
        return ExportPlan(None, (), "export.target=none: the checkpoint is written for no engine")
    if table is None:
        return ExportPlan(None, (), f"export.target=auto is none: no engine serves {run.algorithm.name} drafts")
    findings = tuple(preflight(table, published, facts))
    lines = "".join(f"\n  {finding}" for finding in findings)
    if not any(finding.bad for finding in findings):
        return ExportPlan(table, findings, f"export.target={target}: {table.name} will serve this draft{lines}")
    if target != "auto":
        raise CannotServe(f"export.target={target}: {table.name} could not serve this draft{lines}", findings)
    return ExportPlan(None, findings, f"export.target=auto is none: {table.name} could not serve this draft{lines}")


def chosen_table(export: ExportSettings, algorithm: str) -> EngineTable | None:
    """The table of the engine that `export` asks for; None if that is no engine.

    Args:
        export: its target and version.
        algorithm: `auto` takes the first engine that serves it.
    """
    engines = AlgorithmSettings.named(algorithm).engines if algorithm in AlgorithmSettings.names() else ()
    engine = (engines[0] if engines else "none") if export.target == "auto" else export.target
    return None if engine == "none" else EngineTable.read(engine, export.engine_version)


def preflight(table: EngineTable, config: Mapping[str, Any], facts: VerifierFacts | None) -> list[Finding]:
    """Compare a published config with its format and with what an engine reads.

    Args:
        table: the engine's.
        config: the published config, composed or read from a config.json, of any types.
        facts: the verifier's; None leaves out what depends on them.

    Returns:
        Findings, one a key; with none that is bad, the engine loads the draft and computes what was trained.
    """
    model_type = config.get("speculators_model_type")
    draft = table.drafts.get(str(model_type))
    found = [replace(f, level=table.minds(f.key, draft)) for f in strict.problems(config, facts)]
    if draft is None:
        reason = f"{table.name} does not know this type; it serves {', '.join(table.drafts)}"
        return gravest([*found, Finding("refused", "speculators_model_type", model_type, reason)])
    read = as_read(draft, config, facts)
    found += [*_values(table, draft, config, read), *_layers(table, read, draft, facts), *_proposal(table, config)]
    if facts is not None and draft.layer_ids is not None:
        found += _layer_ids(table, draft.layer_ids, config, read, facts)
    if facts is not None and Layout.named(str(model_type)).described(read) is None:
        reason = f"{table.name} cannot build layers of these sizes; each must be a whole number of a sensible size"
        found.append(Finding("refused", "config.json", None, reason))
    for key, value in config.items():
        if key not in draft.read and key not in table.descriptive:
            found.append(Finding("ignored", key, value, f"{table.name} does not read it"))
    return gravest(found)


def as_read(
    draft: DraftTable, config: Mapping[str, Any], facts: VerifierFacts | None, always: bool = True
) -> dict[str, Any]:
    """A published config with what an engine takes for keys that are missing.

    Args:
        draft: the engine's.
        config: the published config.
        facts: the verifier's.
        always: also replace what the engine knows better than the config.
    """
    read = copy.deepcopy(dict(config))
    tokens = lookup(config, TOKENS)
    tokens = int(tokens) if isinstance(tokens, str) and tokens.isdecimal() else tokens  # as pydantic reads it
    given = {"verifier": facts.model_dump() if facts else {}, "tokens": tokens}
    for rule in draft.assumed:
        *parents, last = rule.key.split(".")
        place = lookup(read, ".".join(parents)) if parents else read
        if not isinstance(place, dict) or (rule.model_type or _kind(read)) != _kind(read):
            continue
        if (rule.always and always) or place.get(last) is None:
            place[last] = rule.value if rule.like is None else lookup(read | given, rule.like)
    ids = draft.layer_ids
    if ids is not None and facts is not None and not read.get(ids.key):
        read[ids.key] = sorted({int(part * facts.num_hidden_layers) + offset for part, offset in ids.assumed})
    return read


def lookup(config: Any, path: str) -> Any:
    """The value at a dotted path, where `[0]` is a list's first; None where any part of it is missing."""
    value = config
    for part in path.replace("[0]", ".0").split("."):
        if part == "0" and isinstance(value, list):
            value = value[0] if value else None
        else:
            value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _kind(config: Mapping[str, Any]) -> Any:
    return lookup(config, LAYER + "model_type")


def _values(
    table: EngineTable, draft: DraftTable, config: Mapping[str, Any], read: Mapping[str, Any]
) -> Iterator[Finding]:
    for key in draft.required:
        if lookup(config, key) is None:
            yield Finding("refused", key, None, f"{table.name} takes no default for it; write it out")
    for rule in draft.allowed:
        value = lookup(read, rule.key)
        if value not in rule.values:
            yield Finding(rule.level, rule.key, value, rule.why)
    for rule in draft.assumed:
        written = lookup(config, rule.key) is not None or (rule.also and lookup(config, rule.also) is not None)
        if rule.differs and not written and (rule.model_type or _kind(read)) == _kind(read):
            taken = rule.value if rule.like is None else lookup(read, rule.like)
            reason = f"must be written: {table.name} takes {taken!r}, other readers of the format do not"
            yield Finding(rule.differs, rule.key, None, reason)


def _layers(
    table: EngineTable, read: Mapping[str, Any], draft: DraftTable, facts: VerifierFacts | None
) -> Iterator[Finding]:
    # A draft without decoder layers states its sizes at top level.
    key = LAYER + "hidden_size" if "transformer_layer_config" in read else "hidden_size"
    width = lookup(read, key)
    if draft.same_width and facts is not None and width != facts.hidden_size:
        reason = f"must be the verifier's {facts.hidden_size}: its state is fed in as it is"
        yield Finding("refused", key, width, reason)
    kinds = lookup(read, LAYER + "layer_types")
    if draft.one_attention and isinstance(kinds, list) and any(kind != kinds[0] for kind in kinds):
        reason = f"{table.name} keeps one cache for all layers of a draft: they must be of one kind"
        yield Finding("refused", LAYER + "layer_types", kinds, reason)
    for rope in ("rope_parameters", "rope_scaling"):
        if lookup(read, f"{LAYER}{rope}.mrope_section") is not None:
            reason = "a draft sees text alone, whose three positions are one: take it out"
            yield Finding("note", f"{LAYER}{rope}.mrope_section", None, reason)
    head_dim = lookup(read, LAYER + "head_dim")
    if head_dim is not None and head_dim not in table.cpu_head_dims:
        known = ", ".join(map(str, table.cpu_head_dims))
        reason = f"{table.engine} cannot serve it on a CPU, whose attention has {known}"
        yield Finding("note", LAYER + "head_dim", head_dim, reason)
    context = lookup(read, LAYER + "max_position_embeddings")
    goes_on = facts.max_position_embeddings if facts is not None and not draft.extends_context else 0
    if isinstance(context, int) and context < goes_on:
        reason = f"the draft stops at this length; the verifier goes on to {goes_on}"
        yield Finding("note", LAYER + "max_position_embeddings", context, reason)


def _layer_ids(
    table: EngineTable, rule: LayerIds, config: Mapping[str, Any], read: Mapping[str, Any], facts: VerifierFacts
) -> Iterator[Finding]:
    ids = read[rule.key]
    if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
        yield Finding("refused", rule.key, ids, f"{table.name} needs a list of whole numbers")
        return
    # The engine sorts the ids, and never gets a state for one that is no layer.
    captured = {i for i in ids if 0 <= i <= facts.num_hidden_layers}
    default = rule.counts.get(str(_kind(read)))
    written = lookup(config, rule.count_key)
    count = written or default or len(ids)
    if not config.get(rule.key):
        fits = len(captured) == count
        reason = f"names no layers: {table.name} takes {ids}" + ("" if fits else f", where the draft reads {count}")
        yield Finding("note" if fits else "refused", rule.key, None, f"{reason}; write those that were trained on")
    elif len(captured) < len(ids):
        reason = f"must name {len(ids)} different layers; the verifier's last is {facts.num_hidden_layers}"
        yield Finding("refused", rule.key, ids, reason)
    elif len(ids) != count:
        reason = f"must be {len(ids)}, the layers in {rule.key}: {table.engine} assumes {default} otherwise"
        yield Finding("refused", rule.count_key, written, reason)
    without = set(facts.architectures) & set(table.verifiers_without_layer_states)
    if without:
        reason = f"{table.name} gives out no states of single layers of this verifier"
        yield Finding("refused", "speculators_config.verifier.architectures", sorted(without), reason)


def _proposal(table: EngineTable, config: Mapping[str, Any]) -> Iterator[Finding]:
    methods = lookup(config, "speculators_config.proposal_methods")
    if isinstance(methods, list) and methods and lookup(config, TOKENS) is None:
        yield Finding(
            "refused", TOKENS, None, f"must be written: {table.engine} has no default for the tokens to draft"
        )
    for key, inert in table.inert_proposal_values.items():
        path = f"speculators_config.proposal_methods[0].{key}"
        value = lookup(config, path)
        if value not in (None, inert):
            yield Finding("ignored", path, value, f"{table.engine} does not read it and accepts as if it were {inert}")
