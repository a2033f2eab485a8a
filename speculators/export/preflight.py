"""Checks before training whether an engine will load a draft, and what it will ignore. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from speculators.export.engine import Engine
from speculators.export.engines import engine_version
from speculators.format import strict
from speculators.format.finding import Finding, gravest
from speculators.format.layout import Layout
from speculators.settings.algorithm import AlgorithmSettings
from speculators.settings.export import ExportSettings
from speculators.settings.run_config import RunConfig
from speculators.verifier.facts import VerifierFacts


class CannotServe(ValueError):
    """The engine that was asked for cannot serve the draft; raised before training.

    Args:
        message: with all findings.
        findings: what preflight found.
    """

    def __init__(self, message: str, findings: tuple[Finding, ...]) -> None:
        super().__init__(message)
        self.findings = findings


@dataclass(frozen=True)
class ExportPlan:
    """What a run is exported for.

    Attributes:
        engine: None exports the published format for no engine in particular.
        findings: what preflight found.
        summary: to print: a sentence, then a line for each finding.
    """

    engine: Engine | None
    findings: tuple[Finding, ...]
    summary: str


def plan(run: RunConfig, published: Mapping[str, Any], facts: VerifierFacts) -> ExportPlan:
    """Resolve `export.target`, and what that engine does with the draft.

    Args:
        run: the run's config.
        published: the published config as a plain dict.
        facts: the verifier's.

    Raises:
        CannotServe: the user named an engine that cannot serve this draft.
    """
    target, engine = run.export.target, chosen_engine(run.export, run.algorithm.name)
    if target == "none":
        return ExportPlan(None, (), "export.target=none: the checkpoint is published for no engine")
    if engine is None:
        return ExportPlan(None, (), f"export.target=auto is none: no engine serves {run.algorithm.name} drafts")
    findings = tuple(preflight(engine, published, facts))
    lines = "".join(f"\n  {finding}" for finding in findings)
    if not any(finding.bad for finding in findings):
        return ExportPlan(engine, findings, f"export.target={target}: {engine} will serve this draft{lines}")
    if target != "auto":
        raise CannotServe(f"export.target={target}: {engine} could not serve this draft{lines}", findings)
    return ExportPlan(None, findings, f"export.target=auto is none: {engine} could not serve this draft{lines}")


def chosen_engine(export: ExportSettings, algorithm: str) -> Engine | None:
    """The engine that `export` asks for; None if it asks for none.

    Args:
        export: its target and version.
        algorithm: `auto` takes the first engine that serves it.
    """
    engines = AlgorithmSettings.named(algorithm).engines if algorithm in AlgorithmSettings.names() else ()
    name = (engines[0] if engines else "none") if export.target == "auto" else export.target
    return None if name == "none" else engine_version(name, export.engine_version)


def preflight(engine: Engine, config: Mapping[str, Any], facts: VerifierFacts | None) -> list[Finding]:
    """Compare a published config with its format and with what an engine does with it.

    Args:
        engine: one version of an engine.
        config: the published config, composed or read from a config.json, of any types.
        facts: the verifier's; None leaves out what depends on them.

    Returns:
        Findings, one per key; if none is bad, the engine loads the draft and computes what was trained.
    """
    model_type = config.get("speculators_model_type")
    draft = engine.draft(str(model_type))
    found = [replace(f, level=engine.level(f.key, draft)) for f in strict.problems(config, facts)]
    if draft is None or draft.refusal is not None:
        reason = draft.refusal if draft else f"{engine} does not know this type; it serves {', '.join(engine.served())}"
        return gravest([*found, Finding("refused", "speculators_model_type", model_type, reason or "")])
    read = draft.as_read(config, facts)
    found += [*draft.problems(config, read, facts), *engine.proposal_problems(config)]
    if facts is not None and Layout.named(str(model_type)).described(read) is None:
        reason = f"{engine} cannot build layers of these sizes; each must be a positive integer of a plausible size"
        found.append(Finding("refused", "config.json", None, reason))
    for key, value in config.items():
        if key not in draft.reads and key not in engine.descriptive:
            found.append(Finding("ignored", key, value, f"{engine} does not read it"))
    return gravest(found)
