"""The store: what a crash leaves, what is removed for room, what a full disk does, and what a person sees of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from speculators.cache.entry import MANIFEST, NoRoom
from speculators.cache.store import LOCKS, Store
from speculators.cli.main import app
from speculators.composition.compose import compose
from speculators.utils.files import PARTIAL


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Of the test's folder, without a limit."""
    return opened(tmp_path / "cache", None)


def opened(folder: Path, limit_gb: float | None) -> Store:
    """As a run opens it."""
    return Store.of(
        compose([f"cache.dir={folder}", f"cache.limit_gb={'null' if limit_gb is None else limit_gb}"]).cache
    )


def filled(store: Store, key: str, size: int, age: float = 0) -> Path:
    """An entry of one shard, used `age` seconds ago."""
    with store.use("some", {"key": key}, f"about {key}") as entry, entry.writing():
        entry.begin(["shard"])
        entry.add({"shard": os.urandom(size)})
    manifest = entry.folder / MANIFEST
    os.utime(manifest, (0, manifest.stat().st_mtime - age))
    return entry.folder


def cache(store: Store, *words: str) -> tuple[int, str]:
    """`speculators cache VERB`: its exit code, and what it says."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["cache", words[0], "--dir", str(store.folder), *words[1:]])
    return result.exit_code, result.output


def test_room_is_made_by_what_was_not_used_for_longest(tmp_path: Path, store: Store) -> None:
    """Reading counts as use, whole entries go, and no more of them than needed."""
    ages = {"a": 400, "b": 300, "c": 200, "d": 100}
    folders = {key: filled(store, key, 1_000_000, age) for key, age in ages.items()}
    with store.use("some", {"key": "a"}, "") as entry:
        assert not entry.missing(["shard"])
    limited = opened(tmp_path / "cache", 0.0045)
    assert limited.make_room(200_000) == []
    assert limited.make_room(1_500_000) == [folders["b"].name, folders["c"].name]
    assert {f.name for f in (tmp_path / "cache").iterdir()} == {LOCKS, folders["a"].name, folders["d"].name}


def test_nothing_is_removed_for_what_does_not_fit_even_so(tmp_path: Path, store: Store) -> None:
    """The message says what is needed, what is there, and the keys that help."""
    filled(store, "a", 1_000_000)
    limited = opened(tmp_path / "cache", 0.002)
    with pytest.raises(NoRoom, match=r"3.0 MB are needed in .*take 1.0 MB of cache.limit_gb=0.002; 1.0 MB are missing"):
        limited.make_room(3_000_000)
    with pytest.raises(NoRoom, match="cache.dir to a folder on a larger disk"):
        store.make_room(10**17)
    assert len(store.entries()) == 1


def test_what_is_in_use_stays_until_its_user_ends_or_is_killed(store: Store) -> None:
    """Users are other processes and this one; a killed one leaves no entry that can never be removed."""
    folder = filled(store, "a", 1000)
    code = (
        "import time; from pathlib import Path; from speculators.cache.store import Store\n"
        f"with Store(Path({str(store.folder)!r}), None).use('some', {{'key': 'a'}}, ''):\n"
        "    print('in use', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "in use\n"
    everything = Store(store.folder, limit=0)
    assert everything.make_room(0) == []
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with store.use("some", {"key": "a"}, ""):
        assert everything.make_room(0) == []
    assert everything.make_room(0) == [folder.name]
    assert [f.suffix for f in (store.folder / LOCKS).iterdir() if f.suffix == ".use"] == []


def test_what_a_killed_writer_left_is_removed_by_the_next(store: Store) -> None:
    """Half files and shards that no manifest records go; what was finished stays as it is."""
    folder = filled(store, "a", 1000)
    before = (folder / "shard").stat()
    (folder / "other.partial").write_bytes(b"half")
    (folder / "unrecorded").write_bytes(b"whole, but who knows")
    with store.use("some", {"key": "a"}, "") as entry, entry.writing():
        assert entry.missing(["shard", "unrecorded"]) == ["unrecorded"]
    assert sorted(f.name for f in folder.iterdir()) == [MANIFEST, "shard"]
    assert (folder / "shard").stat().st_ino == before.st_ino
    (folder / MANIFEST).write_text("{")
    with store.use("some", {"key": "a"}, "") as entry, entry.writing():
        assert entry.missing(["shard"]) == ["shard"]
        entry.begin(["shard"])
        entry.add({"shard": b"anew"})
    assert (folder / "shard").read_bytes() == b"anew" and store.entries()[0].complete


def test_verify_names_what_is_damaged_and_removes_it_if_asked(store: Store) -> None:
    """One flipped bit is found; a missing byte is seen without reading."""
    first, second, third = (filled(store, key, 1000) / "shard" for key in "abc")
    assert cache(store, "verify") == (0, f"no damage: all checksums match in {store.folder}\n")
    payload = bytearray(first.read_bytes())
    payload[500] ^= 1
    first.write_bytes(payload)
    second.write_bytes(second.read_bytes()[:-1])
    (third.parent / MANIFEST).write_text("{")
    code, output = cache(store, "verify")
    assert code == 1 and first.exists() and second.exists()
    found = sorted(line.removeprefix("damaged: ") for line in output.splitlines() if line.startswith("damaged"))
    assert found == sorted(str(path) for path in (first, second))
    assert f"unknown: {third.parent} has no manifest that matches its name" in output
    assert cache(store, "verify", "--remove")[0] == 1
    assert not first.exists() and not second.exists() and third.exists()
    assert json.loads((first.parent / MANIFEST).read_text())["shards"] == {"shard": None}


def test_only_what_the_cache_made_is_its_own(tmp_path: Path, store: Store) -> None:
    """Pruning, verifying and a run that needs room leave alone: other people's folders, links, forged manifests."""
    entry = filled(store, "a", 1000)
    outside = tmp_path / "outside"
    victims = [store.folder / "thesis", store.folder / f"states-{'0' * 16}", store.folder / ".removed", outside]
    for victim in victims:
        victim.mkdir()
        (victim / "chapter.txt").write_text("years of work")
    shutil.copytree(entry, store.folder / "some-0123456789abcdef")
    shutil.copytree(entry, outside / entry.name)
    (store.folder / "link").symlink_to(outside)
    victims += [store.folder / "some-0123456789abcdef", outside / entry.name, store.folder / "link"]

    assert cache(store, "verify", "--remove")[0] == 1
    assert opened(store.folder, 1e-9).make_room(0) == [entry.name]
    (store.folder / entry.name).symlink_to(outside / entry.name)
    with (
        pytest.raises(ValueError, match="is a symbolic link"),
        store.use("some", {"key": "a"}, "") as linked,
        linked.writing(),
    ):
        pass
    code, output = cache(store, "prune", "--all")
    assert code == 0 and output.startswith("0 entries")
    assert all(victim.exists() for victim in victims) and (outside / entry.name / "shard").exists()
    assert all((victim / "chapter.txt").exists() for victim in victims[:4])


@pytest.mark.parametrize("words", [["prune", "--all"], ["verify", "--remove"], ["list"]])
def test_locks_are_not_followed_out_of_the_cache(words: list[str], tmp_path: Path, store: Store) -> None:
    """Removing would move an entry there, and delete what looks like the rest of an earlier one."""
    entry, victim = filled(store, "a", 1000), tmp_path / "victim"
    shutil.rmtree(store.folder / LOCKS)
    (victim / "thesis.removed").mkdir(parents=True)
    (store.folder / LOCKS).symlink_to(victim)
    code, output = cache(store, *words)
    assert code == 2 and f"{store.folder / LOCKS} is a symbolic link" in output, output
    assert entry.exists() and [path.name for path in victim.iterdir()] == ["thesis.removed"]
    with pytest.raises(ValueError, match="is a symbolic link"):
        opened(store.folder, None)


@pytest.mark.parametrize("name", ["../../victim.txt", "/victim.txt", "a/b", "..", "", MANIFEST, ".hidden", "x" * 101])
def test_a_manifest_names_files_of_its_folder_alone(name: str, tmp_path: Path, store: Store) -> None:
    """One that names another is no manifest, so that nothing is read, replaced or removed through it."""
    victim = tmp_path / "victim.txt"
    victim.write_text("years of work")
    manifest = filled(store, "a", 1000) / MANIFEST
    forged = json.loads(manifest.read_text())
    forged["shards"][name.replace("/victim", f"{tmp_path}/victim") if name[:1] == "/" else name] = None
    manifest.write_text(json.dumps(forged))
    assert store.entries() == [] and store.strangers() == [manifest.parent]
    with store.use("some", {"key": "a"}, "") as entry, entry.writing():
        entry.begin(["shard"])
    assert victim.read_text() == "years of work"


def test_a_link_in_an_entry_is_not_written_through(tmp_path: Path, store: Store) -> None:
    """Neither where a shard is to be, nor where it is written before it gets its name."""
    victim = tmp_path / "victim.txt"
    victim.write_text("years of work")
    folder = filled(store, "a", 1000)
    (folder / "shard").unlink()
    (folder / "shard").symlink_to(victim)
    partial = folder / f"shard.{os.getpid()}{PARTIAL}"
    partial.symlink_to(victim)
    with store.use("some", {"key": "a"}, "") as entry, entry.writing():
        assert entry.missing(["shard"])
        partial.symlink_to(victim)
        entry.begin(["shard"])
        entry.add({"shard": b"anew"})
    assert victim.read_text() == "years of work" and (folder / "shard").read_bytes() == b"anew"


def test_list_and_prune(store: Store) -> None:
    """A person sees what there is and removes down to a limit, or all; neither is an accident."""
    old = filled(store, "old", 2_000_000, age=3 * 86400)
    new = filled(store, "new", 1_000_000)
    with store.use("some", {"key": "partial"}, "about partial") as entry, entry.writing():
        entry.begin(["shard"])
    rows = [line.split() for line in cache(store, "list")[1].splitlines() if "about" in line]
    assert [" ".join(row) for row in rows] == [
        f"{old.name} about old 2.0 MB 3 days ago complete",
        f"{new.name} about new 1.0 MB just now complete",
        f"{entry.name} about partial 0.0 MB just now partial",
    ]
    assert cache(store, "prune")[0] == 2 and cache(store, "prune", "--all", "--limit-gb", "1")[0] == 2
    code, output = cache(store, "prune", "--limit-gb", "0.0015")
    assert code == 0 and output.splitlines()[0] == f"removed {old.name}" and new.exists() and not old.exists()
    assert cache(store, "prune", "--all")[0] == 0 and store.entries() == []
    assert cache(Store(store.folder / "nowhere", None), "list")[0] == 2


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """Before anything is computed, in the key that helps."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cache.dir: .*is not writable"):
        opened(tmp_path / "file" / "cache", None)
