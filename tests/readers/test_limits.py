"""Files that would need too much memory, time or stack are refused in under a second and 100 MB, with one message."""

import gzip
import json
import logging
import os
import re
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vllm_verdicts import VERIFIER, read_golden, write_folder

from speculators.cache.entry import Manifest
from speculators.composition.compose import compose, pinned
from speculators.data.files import files_of
from speculators.data.mixture import conversations
from speculators.data.unused import Unused
from speculators.evaluate.checkpoint import read_strictly
from speculators.execution.launch import launch
from speculators.runfolder.folder import RunFolder
from speculators.runfolder.run_yaml import load
from speculators.utils import manifest
from speculators.utils.messages import RunFailed, WrongInput, stop
from speculators.utils.process import start_log
from speculators.verifier.facts import VerifierFacts

TALK = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]}
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def refusal(read: Callable[[], Any]) -> str:
    """The message of an error that comes quickly and needs little memory."""
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises((ValueError, WrongInput)) as caught:
            read()
        seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < 5 and peak < 100e6, (seconds, peak)
    message = str(caught.value)
    assert len(message) < 1000, message[:2000]
    return message


PINS = {
    "digits": ("schema_version: 3\nrun:\n  seed: " + "9" * 6000, "a number of 6000 digits .*line 3"),
    "hexadecimal digits": ("run: {seed: 0x" + "f" * 6000 + "}", "a number of 6002 digits"),
    "brackets": ("a: " + "[" * 40_000 + "]" * 40_000, "nested deeper than 50 levels"),
    "dashes": ("- " * 40_000, "nested deeper than 50 levels"),
    "mappings": ("{a: " * 40_000, "nested deeper than 50 levels"),
    "aliases": (LAUGHS, r"line 2 has the alias \*a; write the value there"),
    "an alias of itself": ("run: &run {a: *run}", r"alias \*run"),
    "a tag": ("run: !!python/object/apply:os.system [ls]", "tag:yaml.org,2002:python/object/apply:os.system"),
    "many lists": ("a: [" + "[]," * 300_000 + "]", "more than 50000 keys and values"),
    "size": ("a: " + "x" * 2**20, "larger than 1048576 bytes"),
    "UTF-16": ("run: 1".encode("utf-16"), "cannot be read as YAML: 'utf-8' codec"),
    "an unfinished list": ("run: [", "invalid YAML"),
}


@pytest.mark.parametrize("name", PINS)
def test_run_yaml(name: str, tmp_path: Path) -> None:
    text, message = PINS[name]
    file = tmp_path / "run.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = refusal(lambda: load(tmp_path))
    assert str(file) in found and re.search(message, found.replace("\n", " ")), found


def test_numbers_and_types_of_a_run_yaml(tmp_path: Path) -> None:
    """Values of other types at migrated keys, and at those that name a group's class, have a message, not a traceback."""
    pinned(["algorithm=medusa"], tmp_path)
    text = (tmp_path / "run.yaml").read_text()
    for line, other in (
        ("schema_version: 3", "schema_version: 2"),
        ("  verifier_states:\n    source: in_process", "  verifier_states: [1]"),
        ("  seed: 0", "  seed: " + "[" * 20 + "7," * 10_000 + "]" * 20),
        ("    source: chat", "    1: chat"),
    ):
        assert line in text
        text = text.replace(line, other)
    (tmp_path / "run.yaml").write_text(text)
    assert "seed" in refusal(lambda: load(tmp_path))


VERIFIERS: dict[str, tuple[dict[str, Any] | str, str]] = {
    "labels": ({"num_labels": 10**9}, "num_labels=1000000000; at most 1000"),
    "labels of a part": ({"vision_config": {"num_labels": 10**9}}, "num_labels=1000000000"),
    "layers": ({"num_hidden_layers": 10**6}, "num_hidden_layers=1000000; at most 1000"),
    "layers of a part": ({"text_config": {"n_layer": 10**6}}, "n_layer=1000000"),
    "hidden size": ({"hidden_size": 10**12}, "hidden_size=1000000000000"),
    "digits": ('{"a":' + "9" * 6000 + "}", "a number of 6000 digits"),
    "depth": ('{"a":' + "[" * 40_000 + "]" * 40_000 + "}", "nested deeper than 50 levels"),
    "a kernel of the Hub": ({"attn_implementation": "someone/kernel"}, "attn_implementation='someone/kernel'"),
    "a kernel in a part": ({"text_config": {"_attn_implementation": "a/b:c"}}, "_attn_implementation='a/b:c'"),
    "a list": ({"rope_parameters": [0] * 10**5}, "rope_parameters in its config.json must be a mapping"),
}


@pytest.mark.parametrize("name", VERIFIERS)
def test_verifiers_config(name: str, tmp_path: Path) -> None:
    change, message = VERIFIERS[name]
    sound = json.loads((VERIFIER / "config.json").read_text())
    (tmp_path / "config.json").write_text(change if isinstance(change, str) else json.dumps(sound | change))
    assert message in refusal(lambda: VerifierFacts.read(str(tmp_path)))


@pytest.mark.parametrize(
    "text", ['{"a": ' + "9" * 6000 + "}", '{"a":' + "[" * 40_000 + "]" * 40_000 + "}", "[]", "{", "\0"]
)
def test_manifests(text: str, tmp_path: Path) -> None:
    """A checkpoint's names its file; one of the cache is as if it were not there."""
    (tmp_path / "manifest.json").write_text(text)
    damage = manifest.damage(tmp_path)
    assert damage is not None and damage.startswith(str(tmp_path / "manifest.json")) and len(damage) < 500
    assert Manifest.read(tmp_path / "manifest.json") == Manifest()


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 5000, "../x", "/etc/passwd", "/", ""])
def test_names_that_no_file_of_the_folder_has(name: str, tmp_path: Path) -> None:
    """Of a manifest; the message names the folder."""
    (tmp_path / "manifest.json").write_text(json.dumps({name: "ab"}))
    damage = manifest.damage(tmp_path)
    assert damage is not None and damage.startswith(str(tmp_path))


def test_a_checkpoints_manifest_must_name_its_files(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    assert manifest.damage(tmp_path) is None
    assert manifest.damage(tmp_path, ["state.json"]) == f"{tmp_path / 'manifest.json'} has no state.json"


LINES = {
    "digits": '{"messages": ' + "9" * 6000 + "}",
    "depth": "[" * 40_000 + "]" * 40_000,
    "depth of 900": '{"messages": ' + "[" * 900 + "]" * 900 + "}",
    "length": json.dumps({"prompt": "x" * 17 * 2**20}),
}


def test_conversations(tmp_path: Path) -> None:
    """Lines that are too much are counted, and the lines after them are read with their own numbers."""
    file = tmp_path / "data.jsonl.gz"
    file.write_bytes(gzip.compress("".join(f"{line}\n" for line in [*LINES.values(), json.dumps(TALK)]).encode()))
    unused = Unused()
    (found,) = conversations(compose(["data=jsonl", f"data.path={file}"]).data, unused, True, [])
    assert found.place == f"{file}:5"
    assert unused.counts == {"that are not JSON": 3, "longer than 16 MiB": 1}


def test_deep_tools_in_a_column(tmp_path: Path) -> None:
    """JSON text in a column has the same limits."""
    file = tmp_path / "data.jsonl"
    deep = '[{"name": "f", "parameters": ' + "[" * 900 + "]" * 900 + "}]"
    file.write_text(json.dumps(TALK | {"tools": deep}) + "\n")
    unused = Unused()
    assert not list(conversations(compose(["data=jsonl", f"data.path={file}"]).data, unused, True, []))
    assert unused.counts == {"with tool definitions that cannot be read": 1}


def test_text_of_a_parquet_column_that_is_not_unicode(tmp_path: Path) -> None:
    """The message names the file."""
    file = tmp_path / "data.parquet"
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    pq.write_table(pa.table({"prompt": text}), file)
    settings = compose(["data=jsonl", f"data.path={file}", "data.regenerate=true"]).data
    with pytest.raises(ValueError, match=rf"data\.path: {file} cannot be read \(UnicodeDecodeError"):
        list(conversations(settings, Unused(), False, []))


OVERRIDES = {
    "digits": ("seed=" + "9" * 6000, "a number of 6000 digits"),
    "digits in a list": (
        "algorithm.eagle_aux_hidden_state_layer_ids=[1, " + "9" * 6000 + "]",
        "a number of 6000 digits",
    ),
    "brackets": ("data.chat_template_kwargs=" + "[" * 30_000 + "]" * 30_000, "nested deeper than"),
    "interpolations": ("seed=" + "${a:" * 40_000 + "}" * 40_000, "nested deeper than|longer than"),
    "length": ("data.path=" + "x" * 10**6, "longer than 65536 characters"),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_overrides(name: str) -> None:
    override, message = OVERRIDES[name]
    found = refusal(lambda: compose([override]))
    assert re.search(message, found) and override[:15] in found, found


@pytest.mark.parametrize("key", ["launch.num_threads", "launch.num_processes", "algorithm.ttt_steps"])
def test_counts(key: str) -> None:
    """Of threads, processes and unrolled steps, each of which takes memory."""
    with pytest.raises(WrongInput, match="less than or equal to 1000"):
        compose([f"{key}=1000000000"])


def test_ordinary_overrides_are_within_the_limits() -> None:
    """A path of digits, a list of many sources, a template's variables in lists in dicts."""
    sources = ",".join(f"{{path: /data/{n:040d}.jsonl, weight: 1}}" for n in range(60))
    kwargs = "{a: {b: [1, [2, {c: {d: {e: f}}}]]}}"
    run = compose(["data=mixture", f"data.sources=[{sources}]", f"data.chat_template_kwargs={kwargs}"])
    assert len(run.data.model_dump()["sources"]) == 60


def test_what_is_printed_is_inert(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Control sequences in a key or a value do not reach the terminal; lines stay lines."""
    pinned([], tmp_path)
    text = (tmp_path / "run.yaml").read_text().replace("  seed: 0", '  "see\\e[2Jd": 0\n  seed: "\\a\\r"')
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(WrongInput) as caught:
        load(tmp_path)
    with pytest.raises(SystemExit):
        stop(caught.value.messages)
    shown = capsys.readouterr().err
    assert "see\\x1b[2Jd is not a setting" in shown and "\n    set by " in shown
    assert shown.replace("\n", "").isprintable()


def test_what_is_logged_is_inert(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """On the terminal and in train.log, such as the name of a file of data; so is FAILED."""
    start_log(tmp_path / "train.log")
    logging.getLogger("another.package").warning("skipped (first: %s)\nnext", "a\x1b[2J.jsonl:3")
    RunFolder(tmp_path).mark_failed("ValueError: a\x1b[2J.jsonl")
    failed = (tmp_path / "FAILED").read_text()
    for text in (capsys.readouterr().out, (tmp_path / "train.log").read_text(), failed):
        assert "a\\x1b[2J.jsonl" in text and text.replace("\n", "").isprintable()
    assert "3)\nnext" in (tmp_path / "train.log").read_text()


def test_the_reason_of_a_failure_is_inert(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It may be what a server or a file says."""

    def run(folder: Path) -> float:
        raise ValueError("a\x1b[2J.jsonl")

    with pytest.raises(RunFailed):
        launch(tmp_path, run)
    shown = capsys.readouterr().err
    assert "a\\x1b[2J.jsonl" in shown and shown.replace("\n", "").isprintable()


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_data_that_is_no_regular_file(kind: str, tmp_path: Path) -> None:
    """It has no end, and could not be read twice."""
    file = tmp_path / "pipe" if kind == "pipe" else Path("/dev/zero")
    if kind == "pipe":
        os.mkfifo(file)
    assert refusal(lambda: files_of(str(file))) == f"data.path: {file} is not a regular file"


TREES = {
    "levels": ("static_tree", {"depth": 10**9}, "proposal.depth: .* 1000"),
    "branches": ("static_tree", {"branching_factor": 10**9}, "proposal.branching_factor: .* 1000"),
    "nodes": ("static_tree", {"branching_factor": 1000, "depth": 1000}, "proposal.depth=1000: .*more than 1000 nodes"),
    "paths": ("static_tree", {"depth": 1, "paths": [[i] for i in range(1001)]}, "proposal.paths: .* 1000"),
    "candidates": ("dynamic_tree", {"expansion_factor": 1000, "depth": 1000, "speculative_tokens": 1000},
                   "proposal.expansion_factor=1000: .* 100000 are the most"),
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_drafted_trees(name: str) -> None:
    method, settings, message = TREES[name]
    values = {Path("config.json"): {f"proposal.{key}": value for key, value in settings.items()}}
    with pytest.raises(WrongInput, match=message):
        compose([f"proposal={method}"], values)


def test_paths_of_a_published_tree(tmp_path: Path) -> None:
    """They are refused before they are composed, which takes time for each."""
    method = {"proposal_type": "static_tree", "depth": 1, "paths": [[i] for i in range(10_000)]}
    set = {"speculators_config.proposal_methods": [method], "speculators_config.default_proposal_method": "static_tree"}
    write_folder(read_golden()["bases"], {"base": "eagle3", "set": set}, tmp_path)
    with pytest.raises(ValueError, match="at most 1000 items"):
        read_strictly(tmp_path)
