"""A written folder against its format and what an engine reads of it: names and shapes, no values. Torch-free."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from speculators.export.config_rules import lookup
from speculators.export.engine import Engine, EngineDraft, TensorRules
from speculators.export.preflight import ExportPlan, chosen_engine, preflight
from speculators.format import strict
from speculators.format.finding import GRAVEST_FIRST, Finding, gravest
from speculators.format.layout import Layout, TensorSpec
from speculators.settings.algorithm import AlgorithmSettings
from speculators.settings.run_config import ExportSettings
from speculators.verifier.facts import VerifierFacts

Header = Mapping[str, tuple[tuple[int, ...], str]]
CONFIG, TENSORS = "config.json", "model.safetensors"
VERIFIER = "speculators_config.verifier.name_or_path"
KINDS = {"I64": "int64", "BOOL": "bool", "F64": "float", "F32": "float", "F16": "float", "BF16": "float"}
# The format itself, whatever an engine does.
FORMAT = TensorRules(missing="invalid", shape="invalid", dtype="invalid", unknown="invalid")
# Of an engine's own config: what has no effect, and what its own rules judge.
NATIVE_KEYS_ASIDE = ("transformers_version", "dtype", "model_type", "architectures")
SHOWN = 20
SENTENCES = {
    "refused": "$engine could not serve this draft",
    "wrong": "$engine would load this draft and compute something else than was trained",
    "invalid": "this draft breaks the published format",
}


def judge(path: Path, export: ExportSettings) -> ExportPlan:
    """What becomes of a published draft in the engine that `export` asks for.

    Args:
        path: a published folder, or its config.json alone.
        export: its target and version.

    Returns:
        The engine if it serves the draft as it was trained, else None; all findings; what to print.

    Raises:
        ValueError: there is nothing to judge, or a file of the folder cannot be read.
    """
    config = strict.read_config(path)
    engine = chosen_engine(export, str(config.get("speculators_model_type")))
    facts, found = _verifier(config)
    found = sorted(gravest([*found, *check_folder(path, facts, engine)]), key=lambda f: GRAVEST_FIRST.index(f.level))
    # A wrong number of layers is a line a tensor.
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
        Findings, one a key; with none of them bad it is a good folder.

    Raises:
        ValueError: a file cannot be read.
    """
    config = strict.read_config(path)
    found = strict.problems(config, facts) if engine is None else preflight(engine, config, facts)
    name = str(config.get("speculators_model_type"))
    if path.is_file() or name not in AlgorithmSettings.names():
        return gravest(found)
    if not (path / TENSORS).is_file():
        return gravest([*found, _no_tensors(path, engine)])
    layout, header = Layout.named(name), read_header(path / TENSORS)
    if (specs := layout.described(_with_defaults(config))) is not None:
        found += check_tensors(header, specs, FORMAT)
    draft = engine.draft(name) if engine else None
    if engine is not None and draft is not None and draft.refusal is None:
        found += _engine(path, config, layout, header, engine, draft, facts)
    return gravest(found)


def read_header(file: Path) -> Header:
    """Shape and dtype of every tensor of a safetensors file, without reading one.

    Raises:
        ValueError: it is none, or it was cut off.
    """
    try:
        with safe_open(file, framework="np") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118  it is no dict
            return {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: cannot be read as safetensors: {error}; copy or export it again") from error


def check_tensors(
    header: Header, specs: Mapping[str, TensorSpec], rules: TensorRules, unused: Collection[str] = ()
) -> Iterator[Finding]:
    """Names, shapes and kinds.

    Args:
        header: of the file.
        specs: what belongs there.
        rules: what happens to what does not.
        unused: further names that may stand there.
    """
    for name, spec in specs.items():
        if rules.skips(name):
            continue
        if name not in header:
            if spec.required:
                reason = f"is missing; a tensor of shape {list(spec.shape)} belongs here"
                yield Finding(rules.of_missing(name), name, None, reason)
            continue
        shape, dtype = header[name]
        if shape != spec.shape:
            reason = f"has the wrong shape; the config makes it {list(spec.shape)}"
            yield Finding(rules.of_shape(name, shape, spec.shape), name, list(shape), reason)
        if rules.dtype is not None and KINDS.get(dtype) != spec.kind:
            yield Finding(rules.dtype, name, dtype, f"has the wrong dtype; it must be {spec.kind}")
    for name in header:
        if name not in specs and name not in unused and not rules.skips(name):
            reason = "is no tensor of this draft, as its config describes it"
            yield Finding(rules.of_unknown(name), name, list(header[name][0]), reason)


def check_values(folder: Path) -> Iterator[Finding]:
    """Numbers that are wrong although their shapes are right; the one check here that reads tensors, and needs torch.

    Args:
        folder: its config and tensors have been found good.
    """
    header = read_header(folder / TENSORS)
    vocab = lookup(strict.read_config(folder), "transformer_layer_config.vocab_size")
    with safe_open(folder / TENSORS, framework="pt") as tensors:
        for name, (_, dtype) in header.items():
            if KINDS.get(dtype) == "float" and not tensors.get_tensor(name).isfinite().all():
                yield Finding("wrong", name, "NaN or infinity", "a published tensor must be finite; train again")
        if "d2t" not in header:
            return
        offset_D = tensors.get_tensor("d2t")
        target_D = [i + offset for i, offset in enumerate(offset_D.tolist())]
        if len(set(target_D)) != len(target_D) or not all(0 <= t < vocab for t in target_D):
            reason = f"i + d2t[i] must be a different token of 0 ... {vocab - 1} for each i: d2t holds offsets"
            yield Finding("wrong", "d2t", offset_D.tolist()[:4], reason)
        elif "t2d" in header and set(tensors.get_tensor("t2d").nonzero().flatten().tolist()) != set(target_D):
            yield Finding("wrong", "t2d", None, "marks other tokens than those that d2t reaches")


def _no_tensors(folder: Path, engine: Engine | None) -> Finding:
    if others := sorted(file.name for file in folder.glob("*.safetensors")):
        return Finding("note", TENSORS, None, f"is not there; {', '.join(others)} were not looked at")
    return Finding("refused" if engine else "invalid", TENSORS, None, "is missing; copy or export the folder again")


def _verifier(config: Mapping[str, Any]) -> tuple[VerifierFacts | None, list[Finding]]:
    name = lookup(config, VERIFIER)
    if not isinstance(name, str) or not name:
        return None, []  # strict reading says so
    if "://" in name:
        return None, [Finding("refused", VERIFIER, name, "must be a hub id or a folder, or engines cannot load it")]
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
    header: Header,
    engine: Engine,
    draft: EngineDraft,
    facts: VerifierFacts | None,
) -> Iterator[Finding]:
    """The tensors, and the engine's own format, as the engine reads them."""
    specs = layout.described(draft.as_read(config, facts))
    if specs is None:
        return  # preflight says so
    if draft.native:
        inner = folder / engine.name
        missing = [name for name in (CONFIG, TENSORS) if not (inner / name).is_file()]
        if missing:
            yield Finding("refused", inner.name, missing, "is the engine's own folder, and incomplete; export again")
            return
        yield from _native(inner, layout.native(config, engine.name) or {}, draft)
        if (served := read_header(inner / TENSORS)) != header:
            yield Finding("wrong", f"{inner.name}/{TENSORS}", None, "holds other tensors than the published file")
            header = served
    yield from check_tensors(header, specs, draft.tensors, draft.unread_tensors(config))


def _native(folder: Path, expected: Mapping[str, Any], draft: EngineDraft) -> Iterator[Finding]:
    """The engine's own config: what it must hold, and that it says what the published one says."""
    place = f"{folder.name}/{CONFIG}:"
    written = strict.read_json(folder / CONFIG)
    for finding in draft.native_problems(written):
        yield replace(finding, key=place + finding.key)
    for key in expected:
        if key not in NATIVE_KEYS_ASIDE and written.get(key) != expected[key]:
            yield Finding("wrong", place + key, written.get(key), f"the published config says {expected[key]!r}")
