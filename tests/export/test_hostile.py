"""Folders that somebody made to do harm: refused in under a second and 100 MB, and nothing outside the folder is read."""

import json
import os
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner
from vllm_verdicts import VERIFIER as TINY
from vllm_verdicts import read_golden, write_folder

from speculators.cli.main import app
from speculators.export.checklist import judge
from speculators.model import SpeculatorModel
from speculators.settings.export import ExportSettings
from tests.export.conftest import export_settings

BASES = read_golden()["bases"]
LAYER, K = "transformer_layer_config", "speculators_config.proposal_methods.0.speculative_tokens"
HUGE = 10**12


def export(target: str) -> ExportSettings:
    return export_settings(target)


def verdict(folder: Path, target: str) -> str:
    """What is said of a folder; `refused` levels and unreadable files alike."""
    try:
        plan = judge(folder, export(target))
    except ValueError as error:
        return str(error)
    assert any(finding.bad for finding in plan.findings), plan.summary
    return plan.summary


def measured(folder: Path, target: str) -> str:
    """`verdict`, whose CPU time and peak of memory must be small."""
    start = time.process_time()
    verdict(folder, target)
    seconds = time.process_time() - start
    tracemalloc.start()
    try:
        text, peak = verdict(folder, target), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < 5 and peak < 100e6, (seconds, peak)
    assert text.isprintable() or text.replace("\n", "").isprintable(), text
    return text


SIZES: list[tuple[str, dict[str, Any], str]] = [
    ("eagle3", {f"{LAYER}.hidden_size": HUGE}, "hidden_size=1000000000000"),
    ("eagle3", {f"{LAYER}.intermediate_size": HUGE}, "intermediate_size"),
    ("eagle3", {f"{LAYER}.vocab_size": HUGE}, "vocab_size"),
    ("eagle3", {f"{LAYER}.num_hidden_layers": 10**6}, "num_hidden_layers"),
    ("eagle3", {f"{LAYER}.num_attention_heads": 10**9}, "num_attention_heads"),
    ("eagle3", {f"{LAYER}.max_position_embeddings": HUGE}, "max_position_embeddings"),
    ("eagle3", {f"{LAYER}.num_labels": 10**9}, "num_labels"),
    ("eagle3", {"num_labels": 10**9}, "num_labels"),
    ("eagle3", {"num_labels": "many"}, "num_labels"),
    ("eagle3", {"draft_vocab_size": HUGE}, "draft_vocab_size"),
    ("eagle3", {"target_hidden_size": HUGE}, "target_hidden_size"),
    ("eagle3", {K: HUGE}, "speculative_tokens"),
    ("eagle3", {K: 10**5}, "speculative_tokens"),
    ("eagle3", {"eagle_aux_hidden_state_layer_ids": list(range(10**4))}, "eagle_aux_hidden_state_layer_ids"),
    ("eagle3", {f"{LAYER}.layer_types": ["full_attention"] * 10**4}, "layer_types"),
    ("eagle3", {"\x1b[2J\x07": 1}, "\\x1b[2J\\x07"),
    ("eagle3", {"architectures": ["x" * 10**5]}, "architectures"),
    ("eagle3", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config"),
    ("medusa", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config"),
    ("eagle", {f"{LAYER}.hidden_size": HUGE}, "hidden_size"),
    ("eagle", {f"{LAYER}.num_hidden_layers": 10**6}, "num_hidden_layers"),
    ("medusa", {"num_heads": 10**9}, "num_heads"),
    ("medusa", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
    ("medusa", {"hidden_size": HUGE}, "hidden_size"),
    ("medusa", {"vocab_size": HUGE}, "vocab_size"),
    ("medusa", {K: HUGE}, "speculative_tokens"),
]


@pytest.mark.parametrize(("base", "values", "part"), SIZES, ids=[f"{b} {str(v)[:60]}" for b, v, _ in SIZES])
@pytest.mark.parametrize("target", ["vllm", "none"])
@pytest.mark.parametrize("alone", [False, True], ids=["folder", "config alone"])
def test_sizes_in_the_config(
    base: str, values: dict[str, Any], part: str, target: str, alone: bool, tmp_path: Path
) -> None:
    write_folder(BASES, {"base": base, "set": values}, tmp_path)
    if part == "architectures":  # long, and good
        judge(tmp_path, export(target))
        return
    assert part in measured(tmp_path / "config.json" if alone else tmp_path, target)


def sparse(file: Path, head: bytes, size: int) -> None:
    """A file of zeros behind `head`, which takes no room on the disk."""
    file.write_bytes(head)
    os.truncate(file, size)


def header(entries: Any, data: int = 0) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * data


def entry(shape: Any, begin: int = 0, end: int = 0, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a header of 100 MB": (
        lambda f: sparse(f / WEIGHTS, struct.pack("<Q", 10**8), 10**8 + 8),
        "header of 100000000 bytes is larger",
    ),
    "a header of 2**63 bytes": (lambda f: sparse(f / WEIGHTS, struct.pack("<Q", 2**63), 10**6), "is truncated"),
    "a header of brackets": (lambda f: (f / WEIGHTS).write_bytes(header(b'{"a":' + b"[" * 10**5)), "nested"),
    "a header of many tensors": (
        lambda f: (f / WEIGHTS).write_bytes(header({f"t{i}": entry([0]) for i in range(10000)})),
        "not a tensor of a draft",
    ),
    "a shape of many sides": (
        lambda f: (f / WEIGHTS).write_bytes(header({"a": entry([10**19] * 40000)})),
        "short lists of sizes",
    ),
    "a tensor of 10**12 numbers": (
        lambda f: sparse(f / WEIGHTS, header({"fc.weight": entry([10**12], 0, 4 * 10**12)}), 10**6),
        "its header needs",
    ),
    "tensors that overlap": (
        lambda f: (f / WEIGHTS).write_bytes(header({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, 24)),
        "does not begin where",
    ),
    "a name with control characters": (
        lambda f: (f / WEIGHTS).write_bytes(header({"\x1b[2J": {}})),
        "must have dtype, shape and data_offsets",
    ),
    "nested lists": (lambda f: (f / CONFIG).write_text('{"a":' + "[" * 50000 + "]" * 50000 + "}"), "nested deeper"),
    "60 levels": (lambda f: (f / CONFIG).write_text('{"a":' + "[" * 60 + "]" * 60 + "}"), "nested deeper than 50"),
    "a number of 10**5 digits": (lambda f: (f / CONFIG).write_text('{"a":' + "9" * 10**5 + "}"), "100000 digits"),
    "a config of 100 MB": (lambda f: sparse(f / CONFIG, b"{", 10**8), "larger than 1048576 bytes"),
    "a config of many lists": (
        lambda f: (f / CONFIG).write_text('{"a":[' + "[]," * 300000 + "[]]}"),
        "more than 52428 lists",
    ),
    "UTF-16": (lambda f: (f / CONFIG).write_bytes('{"speculators_config":1}'.encode("utf-16")), "cannot be read"),
    "another model's adapter": (
        lambda f: (f / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc"}'),
        "adapter_config.json: makes libraries load the weights of another model",
    ),
    "a pipe for a config": (lambda f: [(f / CONFIG).unlink(), os.mkfifo(f / CONFIG)], "there is no config.json"),
    "a link to itself": (
        lambda f: [(f / CONFIG).unlink(), (f / CONFIG).symlink_to(CONFIG)],
        "it is a link to itself",
    ),
    "a pipe for tensors": (lambda f: [(f / WEIGHTS).unlink(), os.mkfifo(f / WEIGHTS)], "there is no such file"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("target", ["vllm", "none"])
def test_files(name: str, target: str, tmp_path: Path) -> None:
    write_folder(BASES, {"base": "eagle3"}, tmp_path)
    change, part = FILES[name]
    change(tmp_path)
    assert part in measured(tmp_path, target)


@pytest.mark.parametrize("text", ['{"hidden_size": 0}', '{"a":' + "[" * 10**5, '{"a":' + "9" * 10**5 + "}"])
def test_a_verifier(text: str, tmp_path: Path) -> None:
    verifier = tmp_path / "verifier"
    verifier.mkdir()
    (verifier / CONFIG).write_text(text)
    write_folder(
        BASES, {"base": "eagle3", "set": {"speculators_config.verifier.name_or_path": str(verifier)}}, tmp_path
    )
    assert "verifier.name_or_path" in measured(tmp_path, "vllm")


def test_a_verifier_of_no_sensible_size(tmp_path: Path) -> None:
    """All its sizes are there, and one of them would fill any memory."""
    config = json.loads((TINY / CONFIG).read_text())
    (tmp_path / "verifier").mkdir()
    (tmp_path / "verifier" / CONFIG).write_text(json.dumps(config | {"vocab_size": HUGE}))
    name = {"speculators_config.verifier.name_or_path": str(tmp_path / "verifier")}
    write_folder(BASES, {"base": "eagle3", "set": name}, tmp_path)
    assert "vocab_size=1000000000000" in measured(tmp_path, "vllm")


def linked(name: str) -> Callable[[Path, Path], None]:
    """Moves a file of the folder outside and leaves a link to it."""

    def change(folder: Path, outside: Path) -> None:
        (folder / name).rename(outside / "taken")
        (folder / name).symlink_to(outside / "taken", target_is_directory=(outside / "taken").is_dir())

    return change


def indexed(file: str) -> Callable[[Path, Path], None]:
    """Moves the tensors outside and names them in an index."""

    def change(folder: Path, outside: Path) -> None:
        (folder / WEIGHTS).rename(outside / "taken.safetensors")
        name = file.replace("OUTSIDE", str(outside))
        (folder / INDEX).write_text(json.dumps({"weight_map": {"fc.weight": name}}))

    return change


def linked_file_of_an_index(folder: Path, outside: Path) -> None:
    indexed("part.safetensors")(folder, outside)
    (folder / "part.safetensors").symlink_to(outside / "taken.safetensors")


WAYS_OUT: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "config": ("eagle3", linked(CONFIG)),
    "tensors": ("eagle3", linked(WEIGHTS)),
    "vLLM's folder": ("eagle", linked("vllm")),
    "vLLM's tensors": ("eagle", linked(f"vllm/{WEIGHTS}")),
    "vLLM's config": ("eagle", linked(f"vllm/{CONFIG}")),
    "index, absolute": ("eagle3", indexed("OUTSIDE/taken.safetensors")),
    "index, upwards": ("eagle3", indexed("../outside/taken.safetensors")),
    "index, link": ("eagle3", linked_file_of_an_index),
}


@pytest.mark.parametrize("name", WAYS_OUT)
def test_ways_out_of_the_folder(name: str, tmp_path: Path) -> None:
    base, change = WAYS_OUT[name]
    folder, outside = tmp_path / "draft", tmp_path / "outside"
    write_folder(BASES, {"base": base}, folder)
    outside.mkdir()
    change(folder, outside)
    for command in ("check", "evaluate") if base == "eagle3" else ("check",):
        result = CliRunner().invoke(app, [command, str(folder)])
        assert result.exit_code == 2 and isinstance(result.exception, SystemExit), result.output
        assert "leaves the folder" in result.output or "not the name of a safetensors file" in result.output


def test_the_links_of_the_hubs_cache(tmp_path: Path) -> None:
    """A snapshot's files are links to blobs beside it; a link to the folder itself is the reader's own."""
    snapshot, blobs = tmp_path / "models--org--draft/snapshots/abc", tmp_path / "models--org--draft/blobs"
    write_folder(BASES, {"base": "eagle3"}, snapshot)
    blobs.mkdir()
    for file in (CONFIG, WEIGHTS):
        (snapshot / file).rename(blobs / file)
        (snapshot / file).symlink_to(f"../../blobs/{file}")
    (tmp_path / "best").symlink_to(snapshot)
    for folder in (snapshot, tmp_path / "best"):
        assert not any(finding.bad for finding in judge(folder, export("vllm")).findings)


def test_evaluating_refuses_sizes(tmp_path: Path) -> None:
    write_folder(BASES, {"base": "eagle3", "set": {"num_labels": 10**9}}, tmp_path)
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path)])
    assert result.exit_code == 2 and "num_labels=1000000000" in result.output


def test_a_draft_is_not_read_from_a_pickle(tmp_path: Path) -> None:
    """Also by the library's own call, which else takes one where there is no other file."""
    write_folder(BASES, {"base": "eagle3"}, tmp_path)
    torch.save(load_file(tmp_path / WEIGHTS), tmp_path / "pytorch_model.bin")
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(OSError, match="model.safetensors"):
        SpeculatorModel.from_pretrained(tmp_path)
