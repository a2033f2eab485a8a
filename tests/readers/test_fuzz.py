"""Each reader of files that somebody else may have written, on thousands of broken ones: only the documented errors.

The quick tests try 300 cases a reader, and fewer of overrides, since Hydra composes each; `make fuzz` tries 10,000.
"""

import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from vllm_verdicts import VERIFIER, read_golden, write_folder

from speculators.cache.entry import Entry, Manifest, key_of
from speculators.cache.store import Store
from speculators.composition.compose import compose, pinned
from speculators.data.mixture import conversations
from speculators.data.prepare import rendered
from speculators.data.template import ChatTemplate
from speculators.data.unused import Unused
from speculators.export.checklist import judge
from speculators.format.tensors import read_header
from speculators.runfolder.identity import STATE, trained
from speculators.runfolder.rights import claimed
from speculators.runfolder.run_yaml import load
from speculators.settings.data import DataSettings
from speculators.train.checkpoint import problem_in, state_in, steps_in
from speculators.utils import manifest
from speculators.utils.messages import WrongInput
from speculators.utils.untrusted import parse_json
from speculators.utils.yaml_lines import dump
from speculators.verifier.facts import VerifierFacts
from tests.export.conftest import export_settings

from .broken import VALUES, cases, changed, documents, spoilt

BASES = read_golden()["bases"]
TALK = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "How is "}, {"type": "text", "text": "Oslo?"}]},
        {"role": "assistant", "content": None, "reasoning_content": "Look.", "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "assistant", "content": "<think>\nSo.\n</think>\nRain."},
    ],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}],
    "finish_reason": "stop",
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> DataSettings:
    """Of a file that each case writes anew."""
    return compose(["data=jsonl", f"data.path={tmp_path_factory.mktemp('data') / 'one.jsonl'}"]).data


@pytest.fixture(scope="module")
def template() -> ChatTemplate:
    """The embedded verifier's."""
    run = compose([])
    return ChatTemplate.of(run.verifier, run.data)


@cases()
@given(text=documents(TALK))
@example(text=json.dumps(TALK).encode())
@example(text=json.dumps(TALK | {"tools": '[{"name": "f", "a": ' + "9" * 6000 + "}]"}).encode())
def test_conversations(text: bytes, settings: DataSettings, template: ChatTemplate) -> None:
    """A line becomes documents with supervised tokens, or is counted once by its reason."""
    Path(settings.model_dump()["path"]).write_bytes(text.replace(b"\n", b" "))
    unused = Unused()
    found = list(conversations(settings, unused, True, []))
    assert len(found) + unused.counts.total() == bool(text.strip())
    made = list(rendered(found, template, 64, unused, Unused(), Counter()))
    assert all(any(document.supervised) for document in made)
    assert bool(made) or unused.counts.total() or not text.strip()


@cases()
@given(data=st.data(), base=st.sampled_from(["eagle3", "eagle", "medusa"]))
def test_published_configs(data: st.DataObject, base: str, tmp_path: Path) -> None:
    """A published config.json is judged, or the error names its folder."""
    write_folder(BASES, {"base": base}, tmp_path)
    (tmp_path / "config.json").write_bytes(data.draw(documents(BASES[base]["config"])))
    try:
        assert judge(tmp_path, export_settings("vllm")).summary
    except ValueError as error:
        assert str(tmp_path) in str(error)


@cases()
@given(
    text=documents(
        json.loads((VERIFIER / "config.json").read_text()) | {"text_config": {"rope_scaling": {"type": "x"}}}
    )
)
def test_verifiers_configs(text: bytes, tmp_path: Path) -> None:
    """A verifier's config.json gives its facts, or the error begins with the key that names the verifier."""
    (tmp_path / "config.json").write_bytes(text)
    try:
        assert VerifierFacts.read(str(tmp_path)).hidden_size > 0
    except ValueError as error:
        assert str(error).startswith("verifier.name_or_path: ")


@pytest.fixture(scope="module")
def pin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The contents of a run.yaml."""
    folder = tmp_path_factory.mktemp("run")
    pinned(["algorithm=medusa"], folder)
    return load(folder).model_dump(mode="json")


YAML = st.text("[]{}:,&*!|>-?#'\" \n\t01.exab~<=%@`\\", max_size=60).map(str.encode)


@cases()
@given(data=st.data())
def test_run_yaml(data: st.DataObject, pin: dict[str, Any], tmp_path: Path) -> None:
    """A run.yaml is loaded, also as of an older schema, or WrongInput has a message for each problem."""
    older = pin | {"schema_version": data.draw(st.integers(1, pin["schema_version"]))}
    kinds = changed(older).map(lambda tree: json.dumps(tree).encode())
    text = data.draw(kinds | spoilt(dump(older).encode()) | YAML)
    (tmp_path / "run.yaml").write_bytes(text)
    try:
        assert isinstance(claimed(load(tmp_path).run), dict)
    except WrongInput as error:
        assert error.messages


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, but for its state and its manifest."""
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "step_3").mkdir()
    for name in ("model.safetensors", "optimizer.safetensors"):
        (folder / "step_3" / name).write_bytes(save({}))
    (folder / "step_3" / "random_0.json").write_text("{}")
    (folder / "step_x").mkdir()
    return folder


STATES = {
    "step": 3,
    "tokens": 9,
    "best_step": 3,
    "heldout": {"loss": 1.0},
    "fresh": {"w": [0.5]},
    "identity": {"seed": 0},
}


@cases()
@given(data=st.data())
def test_checkpoint_manifests(data: st.DataObject, checkpoints: Path) -> None:
    """A checkpoint can be resumed, or one message names the file that is damaged; so for a state under a sound manifest."""
    (folder,) = checkpoints.glob("step_3")
    (folder / manifest.MANIFEST).unlink(missing_ok=True)
    (folder / STATE).write_text(json.dumps(STATES))
    written = list(folder.iterdir())
    if data.draw(st.booleans()):
        (folder / STATE).write_bytes(data.draw(documents(STATES)))
        manifest.write(folder, written)
    else:
        manifest.write(folder, written)
        sound = json.loads((folder / manifest.MANIFEST).read_text())
        (folder / manifest.MANIFEST).write_bytes(data.draw(documents(sound)))
    assert steps_in(checkpoints) == [3]
    problem = problem_in(checkpoints, 3, needs_best=False)
    assert isinstance(trained(checkpoints), dict)
    if problem is None:
        assert isinstance(state_in(checkpoints, 3).step, int)
    else:
        assert str(folder) in problem


MADE_OF = {"kind": "x", "seed": 0}


@cases()
@given(text=documents({"about": "of x", "made_of": MADE_OF, "extractions": 1,
                       "shards": {"a.safetensors": {"bytes": 3, "sha256": "ab"}, "b": None}}))  # fmt: skip
def test_cache_manifests(text: bytes, tmp_path: Path) -> None:
    """An entry whose manifest is broken has none: the folder is no longer the cache's own, or its shards are missing."""
    folder = tmp_path / f"tokenised-{key_of(MADE_OF)}"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(text)
    read = Manifest.read(folder / "manifest.json")
    assert isinstance(read.about, str) and all(isinstance(name, str) for name in read.shards)
    entry, store = Entry(folder, tmp_path / "lock"), Store(tmp_path, None)
    assert entry.damaged() == [] or not entry.complete
    assert len(store.entries()) + len(store.strangers()) == 1 and entry.size == len(text)


KEYS = st.sampled_from(
    [
        "seed",
        "data",
        "data.path",
        "data.chat_template_kwargs",
        "algorithm",
        "optimizer.lr",
        "recipe",
        "a.b",
        "hydra.x",
        "",
    ]
)
TEXTS = st.text("[]{}():,=+~$@.-_'\" \\\t01e9ax", max_size=20) | st.text(max_size=5) | VALUES.map(json.dumps)
OVERRIDES = st.builds(
    "{}{}{}{}".format, st.sampled_from(["", "", "+", "++", "~"]), KEYS, st.sampled_from(["=", "=", "@", ""]), TEXTS
)


@cases(share=0.3)
@given(override=OVERRIDES)
@example(override="data.chat_template_kwargs=" + "[" * 40_000)
@example(override="seed=" + "9" * 6000)
@example(override="+=")
@example(override="data=[[]]")
@example(override="data=" + "x" * 5000)
def test_overrides(override: str) -> None:
    """A run, or a message for each problem."""
    try:
        assert compose([override]).seed >= 0
    except WrongInput as error:
        assert error.messages


def header(entries: Any, data: int = 0) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * data


def entry(shape: Any, begin: int = 0, end: int = 0, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SIDES = st.lists(st.integers(-1, 5) | st.sampled_from([True, 2**70, 1.5, None]), max_size=3)
ENTRIES = st.dictionaries(
    st.text(max_size=3) | st.just("__metadata__"),
    st.builds(entry, SIDES, st.integers(-1, 40), st.integers(-1, 80), st.sampled_from(["F32", "BF16", "BOOL", "X"]))
    | st.dictionaries(st.text(max_size=2), st.text(max_size=2) | st.integers())
    | st.none(),
    max_size=3,
)


@cases()
@given(entries=ENTRIES, data=st.integers(0, 80))
@example(entries={"a": entry([2], 0, 8), "b": entry([], 8, 12)}, data=12)
@example(entries={"a": entry([0], 0, 0), "b": entry([3], 0, 12)}, data=12)
def test_safetensors_headers(entries: dict[str, Any], data: int, tmp_path: Path) -> None:
    """What this reader accepts, the library accepts, and both say the same of every tensor."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(header(entries, data))
    try:
        with safe_open(file, framework="np") as opened:
            names = list(opened.keys())
            theirs = {n: (tuple(opened.get_slice(n).get_shape()), opened.get_slice(n).get_dtype()) for n in names}
    except SafetensorError:
        theirs = None
    try:
        ours = {name: (tensor.shape, tensor.dtype) for name, tensor in read_header(file).items()}
    except ValueError as error:
        ours = None
        assert str(file) in str(error)
    assert ours == theirs


@cases()
@given(contents=st.binary(max_size=200))
@example(contents=b"\xff\xfe")
def test_any_bytes_for_tensors(contents: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(contents)
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        read_header(file)


@cases()
@given(st.binary(max_size=60) | st.text('{}[]",:0123456789e-.\\u truefalsn', max_size=60).map(str.encode))
def test_any_bytes_for_json(text: bytes) -> None:
    """The one error that is documented, and else what the standard library reads."""
    try:
        value = parse_json(text)
    except ValueError:
        return
    assert value == json.loads(text)
