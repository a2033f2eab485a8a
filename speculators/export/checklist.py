"""A written folder against what its engine reads: silent failures first, since engines name few of them. Torch-free."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from speculators.export.engine_table import EngineTable
from speculators.export.layout import Layout, TensorSpec
from speculators.export.preflight import Finding, preflight
from speculators.verifier.facts import VerifierFacts

Header = Mapping[str, tuple[tuple[int, ...], str]]
KINDS = {"I64": "int64", "BOOL": "bool", "F64": "float", "F32": "float", "F16": "float", "BF16": "float"}
# Of no effect on a loaded file, and written by transformers into every config.
NATIVE_KEYS_ASIDE = ("transformers_version", "dtype")


def check_folder(folder: Path, facts: VerifierFacts, table: EngineTable | None) -> list[Finding]:
    """Everything that would keep a published folder from being loaded as it was trained.

    Args:
        folder: holds config.json and model.safetensors.
        facts: the verifier's.
        table: the engine it is for; None checks the published format alone.

    Returns:
        Findings; none of them `refused` is a good folder.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    layout = Layout.named(config["speculators_model_type"])
    header = read_header(folder / "model.safetensors")
    found = [
        *check_config(config),
        *check_tensors(header, layout.tensors(config)),
        *check_values(folder, header, config),
    ]
    if table is None:
        return found
    found += preflight(table, config, facts)
    native = layout.native(config, table.engine)
    if native is not None:
        found += check_native(folder / table.engine, native, header)
    return found


def read_header(file: Path) -> Header:
    """Shape and dtype of every tensor of a safetensors file, without reading one."""
    with safe_open(file, framework="np") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118  it is no dict
        return {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}


def check_config(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Keys that must or must not stand in the published config.json of any algorithm."""
    for key in ("model_type", "auto_map"):
        if key in config:
            reason = "must not stand in a published config: loaders would take it for another format"
            yield Finding("refused", key, config[key], reason)
    verifier = config["speculators_config"]["verifier"]["name_or_path"]
    if not verifier or "://" in verifier:
        reason = "must be a hub id or a folder, or nobody can load the verifier"
        yield Finding("refused", "speculators_config.verifier.name_or_path", verifier, reason)
    elif Path(verifier).is_absolute() and not (Path(verifier) / "config.json").is_file():
        reason = "this folder holds no config.json"
        yield Finding("refused", "speculators_config.verifier.name_or_path", verifier, reason)


def check_tensors(header: Header, specs: Mapping[str, TensorSpec]) -> Iterator[Finding]:
    """Names, shapes and kinds; engines load a file with a tensor missing, and compute with what memory held."""
    for name, spec in specs.items():
        if name not in header:
            if spec.required:
                yield Finding("refused", name, None, f"is missing; a tensor of shape {list(spec.shape)} belongs here")
            continue
        shape, dtype = header[name]
        if shape != spec.shape:
            yield Finding("refused", name, list(shape), f"has the wrong shape; the config makes it {list(spec.shape)}")
        if KINDS.get(dtype) != spec.kind:
            yield Finding("refused", name, dtype, f"has the wrong dtype; it must be {spec.kind}")
    for name in header:
        if name not in specs:
            reason = "is no tensor of this draft: engines stop at its name, or drop it without a word if it is a bias"
            yield Finding("refused", name, list(header[name][0]), reason)


def check_values(folder: Path, header: Header, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Numbers that are wrong although their shapes are right."""
    with safe_open(folder / "model.safetensors", framework="pt") as tensors:
        for name, (_, dtype) in header.items():
            if KINDS.get(dtype) == "float" and not tensors.get_tensor(name).isfinite().all():
                yield Finding("refused", name, "NaN or infinity", "a published tensor must be finite; train again")
        if "d2t" not in header:
            return
        offset_D = tensors.get_tensor("d2t")
        target_D = [i + offset for i, offset in enumerate(offset_D.tolist())]
        vocab = config["transformer_layer_config"]["vocab_size"]
        if len(set(target_D)) != len(target_D) or not all(0 <= t < vocab for t in target_D):
            reason = f"i + d2t[i] must be a different token of 0 ... {vocab - 1} for each i: d2t holds offsets"
            yield Finding("refused", "d2t", offset_D.tolist()[:4], reason)
        elif "t2d" in header and set(tensors.get_tensor("t2d").nonzero().flatten().tolist()) != set(target_D):
            yield Finding("refused", "t2d", None, "marks other tokens than those that d2t reaches")


def check_native(folder: Path, expected: Mapping[str, Any], published: Header) -> Iterator[Finding]:
    """The engine's own format beside the published one: the config it needs, and the very same tensors."""
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        yield Finding("refused", folder.name, missing, "the engine's native folder is incomplete; export again")
        return
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key in expected:
        if key not in NATIVE_KEYS_ASIDE and written.get(key) != expected[key]:
            reason = f"the published config says {expected[key]!r}"
            yield Finding("refused", f"{folder.name}/config.json:{key}", written.get(key), reason)
    if read_header(folder / "model.safetensors") != published:
        yield Finding(
            "refused", f"{folder.name}/model.safetensors", None, "holds other tensors than the published file"
        )
