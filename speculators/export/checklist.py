"""Checks a published folder against its format and against what an engine reads of it. Torch-free."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from speculators.export.config_rules import lookup
from speculators.export.engine import Engine, EngineDraft, TensorRules
from speculators.export.preflight import ExportPlan, chosen_engine, preflight
from speculators.format import strict
from speculators.format.finding import GRAVEST_FIRST, Finding, gravest
from speculators.format.layout import Layout, TensorSpec
from speculators.format.tensors import INDEX, WHOLE, Tensors, read_tensors
from speculators.settings.algorithm import AlgorithmSettings
from speculators.settings.export import ExportSettings
from speculators.utils import manifest
from speculators.utils.manifest import MANIFEST
from speculators.utils.untrusted import inside, read_json
from speculators.verifier.facts import VerifierFacts

CONFIG = "config.json"
# With peft installed, transformers follows it to a base model.
ADAPTER = "adapter_config.json"
VERIFIER = "speculators_config.verifier.name_or_path"
KINDS = {"I64": "int64", "BOOL": "bool", "F64": "float", "F32": "float", "F16": "float", "BF16": "float"}
# Rules of the format itself, independent of engines.
FORMAT = TensorRules(missing="invalid", shape="invalid", dtype="invalid", unknown="invalid")
# Of an engine's own config: what has no effect, and what its own rules judge.
NATIVE_KEYS_ASIDE = ("transformers_version", "dtype", "model_type", "architectures")
SHOWN = 20
SENTENCES = {
    "refused": "$engine could not serve this draft",
    "wrong": "$engine would load this draft but compute something other than what was trained",
    "invalid": "this draft violates the published format",
}


def judge(path: Path, export: ExportSettings) -> ExportPlan:
    """Check whether the engine that `export` asks for serves a published draft as it was trained.

    Args:
        path: a published folder, or its config.json alone.
        export: its target and version.

    Returns:
        The engine if it serves the draft as it was trained, else None; all findings; what to print.

    Raises:
        ValueError: there is no draft at the path, or a file of the folder cannot be read.
    """
    config = strict.read_config(path)
    engine = chosen_engine(export, str(config.get("speculators_model_type")))
    facts, found = _verifier(config)
    found = sorted(gravest([*found, *check_folder(path, facts, engine)]), key=lambda f: GRAVEST_FIRST.index(f.level))
    # A wrong number of layers gives one finding per tensor.
    more = f"\n  and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    lines = "".join(f"\n  {finding}" for finding in found[:SHOWN]) + more
    worst = next((level for level in SENTENCES if any(f.level == level for f in found)), None)
    if worst is not None:
        sentence = SENTENCES[worst].replace("$engine", str(engine or "an engine"))
        return ExportPlan(None, tuple(found), f"{path}: {sentence}{lines}")
    sentence = "obeys the published format" if engine is None else f"is a draft that {engine} will serve"
    return ExportPlan(engine, tuple(found), f"{path} {sentence}{lines}")


def check_folder(path: Path, facts: VerifierFacts | None, engine: Engine | None) -> list[Finding]:
    """Everything that would keep a published folder from being loaded as it was trained.

    Args:
        path: holds config.json and model.safetensors; or the config.json alone.
        facts: the verifier's; None leaves out what depends on them.
        engine: the one that it is for; None checks the published format alone.

    Returns:
        Findings, one per key; the folder is valid if none of them is bad.

    Raises:
        ValueError: a file cannot be read.
    """
    config = strict.read_config(path)
    found = strict.problems(config, facts) if engine is None else preflight(engine, config, facts)
    name = str(config.get("speculators_model_type"))
    if path.is_file() or name not in AlgorithmSettings.names():
        return gravest(found)
    try:
        tensors = read_tensors(path)
    except FileNotFoundError:
        return gravest([*found, _no_tensors(path, engine)])
    layout, draft = Layout.named(name), engine.draft(name) if engine else None
    found += [*_damaged(path), *_other_files(path, tensors), *_described(config, layout, tensors)]
    if engine is not None and draft is not None and draft.refusal is None:
        found += _engine(path, config, layout, tensors, engine, draft, facts)
    found += _not_finite(tensors)
    if not any(finding.bad for finding in found):
        found += layout.value_problems(config, tensors)
    return gravest(found)


def check_tensors(
    tensors: Tensors, specs: Mapping[str, TensorSpec], rules: TensorRules, unused: Collection[str] = ()
) -> Iterator[Finding]:
    """Check names, shapes and dtypes of tensors.

    Args:
        tensors: of the folder.
        specs: what belongs there.
        rules: what happens to what does not.
        unused: further names that may stand there.
    """
    for name, spec in specs.items():
        if rules.skips(name):
            continue
        if name not in tensors:
            if spec.required:
                reason = f"is missing; it must be a tensor of shape {list(spec.shape)}"
                yield Finding(rules.of_missing(name), name, None, reason)
            continue
        shape, dtype = tensors[name].shape, tensors[name].dtype
        if shape != spec.shape:
            reason = f"has the wrong shape; by the config it is {list(spec.shape)}"
            yield Finding(rules.of_shape(name, shape, spec.shape), name, list(shape), reason)
        if rules.dtype is not None and KINDS.get(dtype) != spec.kind:
            yield Finding(rules.dtype, name, dtype, f"has the wrong dtype; it must be {spec.kind}")
    for name, tensor in tensors.items():
        if name not in specs and name not in unused and not rules.skips(name):
            reason = "is not a tensor of a draft with this config"
            yield Finding(rules.of_unknown(name), name, list(tensor.shape), reason)


def _no_tensors(folder: Path, engine: Engine | None) -> Finding:
    if others := sorted(file.name for file in folder.glob("*.safetensors")):
        return Finding("invalid", WHOLE, None, f"is missing, and there is no {INDEX} that names {', '.join(others)}")
    return Finding("refused" if engine else "invalid", WHOLE, None, "is missing; copy or export the folder again")


def _damaged(folder: Path) -> Iterator[Finding]:
    """Check the tensors against the hashes with which the folder was published; other projects' folders have none."""
    if (folder / MANIFEST).exists() and (damage := manifest.damage(folder)) is not None:
        reason = f"{damage}; copy or export the folder again, or remove {MANIFEST} if it was changed on purpose"
        yield Finding("wrong", MANIFEST, None, reason)


def _other_files(folder: Path, tensors: Tensors) -> Iterator[Finding]:
    """Files that some readers would load instead of the checked ones, or in addition to them."""
    files = {tensor.file.name for tensor in tensors.values()}
    for file in sorted(folder.glob("*.safetensors")):
        if files and file.name not in files:
            yield Finding("invalid", file.name, None, "would be read by engines too; remove it")
    if (folder / ADAPTER).exists():
        yield Finding("invalid", ADAPTER, None, "makes libraries load the weights of another model; remove it")
    if WHOLE in files and (folder / INDEX).exists():
        yield Finding("invalid", INDEX, None, f"exists beside {WHOLE}, and readers use either; remove one")


def _described(config: Mapping[str, Any], layout: type[Layout], tensors: Tensors) -> Iterator[Finding]:
    """Check the tensors against the published config."""
    specs = layout.described(_with_defaults(config))
    if specs is None:
        yield Finding("invalid", CONFIG, None, "defines no tensors: a size is missing, not an integer, or too large")
    else:
        yield from check_tensors(tensors, specs, FORMAT)


def _not_finite(tensors: Tensors) -> Iterator[Finding]:
    for name, tensor in tensors.items():
        if KINDS.get(tensor.dtype) == "float" and not tensor.is_finite():
            yield Finding("wrong", name, "NaN or infinity", "a published tensor must be finite; train again")


def _verifier(config: Mapping[str, Any]) -> tuple[VerifierFacts | None, list[Finding]]:
    name = lookup(config, VERIFIER)
    if not isinstance(name, str) or not name:
        return None, []  # reported by the strict reader
    if "://" in name:
        return None, [
            Finding("refused", VERIFIER, name, "must be a hub id or a folder, from which engines load the verifier")
        ]
    try:
        return VerifierFacts.read(name), []
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).removeprefix("verifier.name_or_path: ").split())
        return None, [Finding("refused", VERIFIER, name, f"cannot be loaded: {reason}")]


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A published config with the format's own defaults for fields that are missing."""
    fields = AlgorithmSettings.named(config["speculators_model_type"]).published_fields.model_fields
    return {name: field.default for name, field in fields.items()} | dict(config)


def _engine(
    folder: Path,
    config: Mapping[str, Any],
    layout: type[Layout],
    tensors: Tensors,
    engine: Engine,
    draft: EngineDraft,
    facts: VerifierFacts | None,
) -> Iterator[Finding]:
    """Check the tensors, and the engine's own format, as the engine reads them."""
    specs = layout.described(draft.as_read(config, facts))
    if specs is None:
        return  # reported by preflight
    unread = draft.unread_tensors(config)
    if draft.native:
        inner = inside(folder, engine.name)
        missing = [name for name in (CONFIG, WHOLE) if not (inner / name).is_file()]
        if missing:
            yield Finding(
                "refused", inner.name, missing, "is in the engine's native format, and incomplete; export again"
            )
            return
        yield from _native(inner, layout.native(config, engine.name) or {}, draft, config)
        published, tensors = {layout.native_name(name): t for name, t in tensors.items()}, read_tensors(inner)
        if tensors.keys() != published.keys() or not all(tensors[name].same(t) for name, t in published.items()):
            yield Finding("wrong", f"{inner.name}/{WHOLE}", None, "holds other tensors than the published file")
        specs = {layout.native_name(name): spec for name, spec in specs.items()}
        unread = [layout.native_name(name) for name in unread]
    yield from check_tensors(tensors, specs, draft.tensors, unread)


def _native(
    folder: Path, expected: Mapping[str, Any], draft: EngineDraft, config: Mapping[str, Any]
) -> Iterator[Finding]:
    """Check the engine's own config: required values, and agreement with the published config."""
    place = f"{folder.name}/{CONFIG}:"
    written = read_json(inside(folder, CONFIG))
    for finding in draft.native_problems(written, config):
        yield replace(finding, key=place + finding.key)
    for key in expected:
        if key not in NATIVE_KEYS_ASIDE and written.get(key) != expected[key]:
            yield Finding("wrong", place + key, written.get(key), f"the published config says {expected[key]!r}")
