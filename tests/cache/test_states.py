"""Cached hidden states: the verifier's own, computed once, whoever asks and whatever happens meanwhile."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import torch

from speculators.cache.entry import MANIFEST, Entry
from speculators.cache.store import LOCKS, Store
from speculators.data.cached_states import cached_states
from speculators.data.collate import collate
from speculators.protocols.batch import Batch
from speculators.protocols.hidden_states import VerifierStates
from speculators.verifier.in_process import Verifier
from speculators.verifier.loader import VerifierLoader

from .conftest import Disk, Loaded, sequences, settings

# The residual stream of these weights goes to some tens.
close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
ROOT = Path(__file__).parents[2]


class Counting(Verifier):
    """The verifier, and how often it was run."""

    runs = 0

    def __call__(self, batch: Batch, layer_ids: Sequence[int]) -> VerifierStates:
        self.runs += 1
        return super().__call__(batch, layer_ids)


@pytest.fixture
def counting(verifier: Verifier) -> Counting:
    return Counting(verifier.model)  # pyright: ignore[reportArgumentType]


def at(folder: Path, limit_gb: float | None = None) -> Store:
    """A store in a folder."""
    (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    return Store(folder, None if limit_gb is None else int(limit_gb * 1e9))


def fill(store: Store, verifier: Verifier, folder: Path, layer_ids: Sequence[int] = (1, 2), count: int = 70) -> Entry:
    """Have the states of the tests' sequences computed, if they are not there."""
    with cached_states(store, Loaded(settings(folder), verifier), sequences(count), layer_ids):
        (entry,) = [e for e in store.entries() if e.name.startswith("states")]
        return entry


def files(entry: Entry) -> dict[str, tuple[int, int]]:
    """Inode and time of each shard."""
    return {f.name: (f.stat().st_ino, f.stat().st_mtime_ns) for f in entry.folder.glob("*.safetensors")}


def content(entry: Entry) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in entry.folder.glob("*.safetensors")}


def test_they_are_those_of_the_verifier_and_of_each_document_alone(
    verifier: Verifier, folder: Path, tmp_path: Path
) -> None:
    """As the verifier in process gives them, and as transformers gives them for a document that has no neighbours."""
    packed = sequences()
    with cached_states(at(tmp_path), Loaded(settings(folder), verifier), packed, [0, 2, 3]) as states:
        for chosen in ([69, 3, 17], [5], [16, 15]):
            batch = collate([packed[i] for i in chosen], 3)
            there_BT = batch.document_BT >= 0
            for layer_ids in ([0, 2, 3], [2], []):
                cached, online = states(batch, layer_ids), verifier(batch, layer_ids)
                close(cached.last_BTH[there_BT], online.last_BTH[there_BT])
                assert cached.last_BTH.shape == online.last_BTH.shape and not cached.last_BTH[~there_BT].any()
                assert (cached.aux_BTA is None) == (not layer_ids)
                if cached.aux_BTA is not None and online.aux_BTA is not None:
                    close(cached.aux_BTA[there_BT], online.aux_BTA[there_BT])
            cached = states(batch, [0, 2, 3])
            for b, sequence in enumerate(chosen):
                start = 0
                for document in packed[sequence]:
                    with torch.no_grad():
                        alone = verifier.model(torch.tensor([document.tokens]), output_hidden_states=True)
                    end = start + len(document.tokens)
                    layers = cached.aux_BTA[b, start:end].chunk(3, dim=-1)
                    close(cached.last_BTH[b, start:end], alone.hidden_states[-1][0])
                    close(layers[0], alone.hidden_states[0][0])
                    close(layers[1], alone.hidden_states[2][0])
                    close(verifier.decoder.norm(layers[2]), alone.hidden_states[-1][0])
                    start = end
        single = collate([packed[7]], 3)
        assert torch.equal(states(single, [2]).last_BTH, verifier(single, [2]).last_BTH)


def test_a_flipped_bit_is_found_before_it_is_read(verifier: Verifier, folder: Path, tmp_path: Path) -> None:
    """In every shard, in its header and in its middle; the message names the file and the remedy."""
    store, packed = at(tmp_path), sequences(20)
    entry = fill(store, verifier, folder, [2], count=20)
    for shard, payload in content(entry).items():
        for place in range(0, len(payload), len(payload) // 2):
            flipped = bytearray(payload)
            flipped[place] ^= 1
            entry.path(shard).write_bytes(flipped)
            with cached_states(store, Loaded(settings(folder), verifier), packed, [2]) as states:
                batch = collate([packed[0], packed[19]], 3)
                with pytest.raises(ValueError, match=rf"{shard}: it is damaged; `speculators cache verify"):
                    states(batch, [2])
        entry.path(shard).write_bytes(payload)


def test_every_flipped_bit_and_cut_of_a_shard_is_found(verifier: Verifier, folder: Path, tmp_path: Path) -> None:
    """At random places of every file."""
    entry, draw = fill(at(tmp_path), verifier, folder, [2], count=20), random.Random(0)
    for shard, payload in content(entry).items():
        damaged = [bytearray(payload) for _ in range(10)]
        for copy in damaged:
            copy[draw.randrange(len(payload))] ^= 1 << draw.randrange(8)
        for harmed in [*damaged, *(payload[: draw.randrange(len(payload))] for _ in range(5))]:
            entry.path(shard).write_bytes(harmed)
            assert not entry.sound(shard)
        entry.path(shard).write_bytes(payload)
    assert entry.damaged() == []


def test_they_are_computed_once_and_other_layers_are_added(counting: Counting, folder: Path, tmp_path: Path) -> None:
    """A second run computes nothing; one that reads a layer more writes that one alone."""
    store = at(tmp_path)
    first = files(fill(store, counting, folder, [1, 2]))
    assert counting.runs == 70 and len(first) == 3 * 5
    assert files(fill(store, counting, folder, [2])) == first and counting.runs == 70
    entry = fill(store, counting, folder, [2, 3])
    added = files(entry).items() - first.items()
    assert counting.runs == 140 and first.items() <= files(entry).items()
    assert sorted(name for name, _ in added) == [f"layer_003-{n:06d}.safetensors" for n in range(5)]
    assert entry.manifest.extractions == 2 and entry.complete


def test_what_decides_them_names_them(verifier: Verifier, folder: Path, tmp_path: Path) -> None:
    """Another weight, dtype, text or place of a document's border is another entry; another place of the files is not."""
    store, packed = at(tmp_path / "cache"), sequences(2)
    moved, retrained = tmp_path / "moved", tmp_path / "retrained"
    for copy in (moved, retrained):
        copy.mkdir()
        for file in folder.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
    weights = bytearray((retrained / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (retrained / "model.safetensors").write_bytes(weights)
    one_border_less = [[type(d)(d.tokens + e.tokens, d.supervised + e.supervised)] for d, e in packed]

    def name(where: Path, dtype: Literal["auto", "bfloat16"], sequences: list) -> str:
        before = {entry.name for entry in store.entries()}
        with cached_states(store, VerifierLoader(settings(where, dtype), verifier.device), sequences, []):
            after = {entry.name for entry in store.entries()}
        return next(iter(after - before), "known")

    names = [
        name(folder, "auto", packed),
        name(retrained, "auto", packed),
        name(folder, "bfloat16", packed),
        name(folder, "auto", packed[:1]),
        name(folder, "auto", one_border_less),
        name(folder, "auto", sequences(2, seed=1)),
    ]
    assert "known" not in names and len(set(names)) == len(names)
    assert name(moved, "auto", packed) == "known"


def test_a_damaged_or_lost_shard_is_made_again(counting: Counting, folder: Path, tmp_path: Path) -> None:
    """A flipped bit once `verify --remove` has found it, a short file at once; only that shard's sequences are run."""
    store = at(tmp_path)
    entry = fill(store, counting, folder)
    before, original = files(entry), content(entry)
    damaged, short = entry.path("layer_001-000002.safetensors"), entry.path("last-000003.safetensors")
    damaged.write_bytes(original[damaged.name][:-1] + bytes([original[damaged.name][-1] ^ 1]))
    short.write_bytes(b"")
    command = [sys.executable, "-m", "speculators", "cache", "verify", "--remove", "--dir", str(tmp_path)]
    assert subprocess.run(command, capture_output=True).returncode == 1
    counting.runs = 0
    again = fill(store, counting, folder)
    assert counting.runs == 32 and content(again) == original and again.damaged() == []
    changed = {name for name, stat in files(again).items() if stat != before[name]}
    assert changed == {damaged.name, short.name}


def test_a_full_disk_stops_cleanly_and_the_next_run_goes_on(
    counting: Counting, folder: Path, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was finished before stays and is whole; with room again, the rest is made as if nothing had been."""
    undisturbed = content(fill(at(tmp_path / "calm"), counting, folder))
    store, run = at(disk.folder / "cache"), Counting.__call__

    def interrupted(verifier: Counting, batch: Batch, layer_ids: Sequence[int]) -> VerifierStates:
        if verifier.runs == 40:  # in the third shard
            disk.fill()
        return run(verifier, batch, layer_ids)

    counting.runs = 0
    with monkeypatch.context() as patch:
        patch.setattr(Counting, "__call__", interrupted)
        with pytest.raises(
            ValueError, match=r"verifier_states=cached: the disk of .* is full.*verifier_states=in_process"
        ):
            fill(store, counting, folder)
    (entry,) = store.entries()
    finished = {name: stat for name, stat in files(entry).items() if name in entry.whole()}
    assert len(finished) == 6 and not entry.complete and entry.damaged() == []
    assert {f.name for f in entry.folder.iterdir()} == {MANIFEST, *finished}
    disk.clear()
    counting.runs = 0
    entry = fill(store, counting, folder)
    assert counting.runs == 70 - 32 and content(entry) == undisturbed
    assert finished.items() <= files(entry).items()


def test_what_cannot_fit_is_said_before_anything_is_computed(counting: Counting, folder: Path, tmp_path: Path) -> None:
    """The need is that of the files, and the message names the keys."""
    store = at(tmp_path / "small", limit_gb=0.0001)
    with pytest.raises(ValueError, match=r"verifier_states=cached: .* MB are needed") as stopped:
        fill(store, counting, folder)
    assert counting.runs == 0 and not list(store.folder.rglob("*.safetensors"))
    found = re.search(r"([\d.]+) MB are needed", str(stopped.value))
    assert found
    written = sum(map(len, content(fill(at(tmp_path / "large"), counting, folder)).values())) / 1e6
    # Files have headers, which are all that these short sequences are not.
    assert 0.85 * written < float(found[1]) <= written


@pytest.mark.slow
def test_two_processes_compute_once(folder: Path, tmp_path: Path) -> None:
    """Started together, the second waits and reads."""
    store = at(tmp_path)
    processes = [started(folder, store.folder, 0.01) for _ in range(2)]
    assert [p.wait(timeout=200) for p in processes] == [0, 0]
    (entry,) = store.entries()
    assert entry.manifest.extractions == 1 and entry.complete


@pytest.mark.slow
def test_a_killed_process_is_gone_on_from(counting: Counting, folder: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle: finished shards are not touched again, and the whole is that of an undisturbed run."""
    store = at(tmp_path / "killed")
    process = started(folder, store.folder, 0.03)
    while len(list(store.folder.glob("states-*/layer_002-*.safetensors"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (entry,) = store.entries()
    finished = {name: stat for name, stat in files(entry).items() if name in entry.whole()}
    assert len(finished) in (6, 9) and not entry.complete and entry.damaged() == []
    entry = fill(store, counting, folder)
    assert counting.runs == 70 - 16 * len(finished) // 3
    assert finished.items() <= files(entry).items()
    assert content(entry) == content(fill(at(tmp_path / "calm"), counting, folder))
    assert json.loads((entry.folder / MANIFEST).read_text())["extractions"] == 2


def started(folder: Path, store: Path, seconds: float) -> subprocess.Popen[bytes]:
    """A process that computes the states of the tests' sequences."""
    command = [sys.executable, "-m", "tests.cache.worker", str(folder), str(store), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
