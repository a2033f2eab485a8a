"""One entry of the cache: a folder of shards, and a manifest that says what they are. Torch-free.

A shard is complete once the manifest records its size and checksum: files are written to temporary names, synced and
renamed, the manifest last, so a process killed at any moment leaves complete shards and temporary files that the next
writer removes.
"""

import errno
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from speculators.utils import digest, files
from speculators.utils.untrusted import MOST_LIST_BYTES, read_json

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
# Lines that are kept one by one, before they are written as a shard.
JOURNAL = "journal.jsonl"
FULL = (errno.ENOSPC, errno.EDQUOT)
SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class NoRoom(ValueError):
    """A write would exceed the free disk space or the cache's limit; the message gives the shortfall and the remedy."""


@dataclass(frozen=True)
class Shard:
    """Recorded size and checksum of a file.

    Attributes:
        bytes: its size.
        sha256: of its bytes, in hexadecimal.
    """

    bytes: int
    sha256: str


@dataclass
class Manifest:
    """Metadata of an entry.

    Attributes:
        about: a one-line description for display.
        made_of: all inputs that determine the content; their hash is in the entry's name.
        extractions: number of times that content was computed for it.
        shards: by file name; None marks a shard that is being written, or whose writer was interrupted.
    """

    about: str = ""
    made_of: dict[str, Any] = field(default_factory=dict)
    extractions: int = 0
    shards: dict[str, Shard | None] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read a manifest file; an empty manifest if it is missing, invalid, or names a file outside its folder."""
        try:
            found = _MANIFEST.validate_python(read_json(path, MOST_LIST_BYTES))
        except ValueError:
            return cls()
        if not all(name != MANIFEST and SHARD_NAME.fullmatch(name) for name in found.shards):
            return cls()
        return found


_MANIFEST = TypeAdapter(Manifest)


class Entry:
    """A folder of the cache.

    Args:
        folder: of the entry; its name is the kind and the key.
        lock: file lock that the writing process holds.
    """

    def __init__(self, folder: Path, lock: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.read(folder / MANIFEST)
        self._lock = FileLock(lock)

    @property
    def name(self) -> str:
        """Kind and key."""
        return self.folder.name

    @property
    def own(self) -> bool:
        """Whether the cache created the folder: it is not a link, and its manifest's hash matches its name."""
        return not self.folder.is_symlink() and self.name.endswith(f"-{key_of(self.manifest.made_of)}")

    @property
    def size(self) -> int:
        """Bytes of everything in the folder."""
        total = 0
        for file in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process may have just renamed it
                total += file.lstat().st_size
        return total

    @property
    def last_used(self) -> float:
        """Time of last use, in seconds since 1970; 0 for a folder without a manifest."""
        file = self.folder / MANIFEST
        return file.stat().st_mtime if file.exists() else 0.0

    @property
    def complete(self) -> bool:
        """Whether every shard that the manifest lists is present."""
        return bool(self.manifest.shards) and not self.missing(self.manifest.shards)

    def path(self, shard: str) -> Path:
        """Path of a shard."""
        return self.folder / shard

    def whole(self) -> list[str]:
        """Shards whose files exist with the recorded size."""
        return [name for name in self.manifest.shards if self._whole(name)]

    def missing(self, shards: Iterable[str]) -> list[str]:
        """Those of the given shards whose files do not exist with the recorded size."""
        return [name for name in shards if not self._whole(name)]

    def damaged(self) -> list[str]:
        """Files that do not match their recorded checksum; reads every file in full."""
        return [name for name, shard in self.manifest.shards.items() if shard and not self.sound(name)]

    def sound(self, name: str) -> bool:
        """Whether a shard matches its recorded checksum; reads the whole file."""
        shard = self.manifest.shards.get(name)
        return shard is not None and self._whole(name) and digest.of_file(self.path(name)) == shard.sha256

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the entry's write lock; waits for another writer, then rereads the manifest."""
        try:
            held = self._lock.acquire(timeout=1)
        except Timeout:
            log.info("waiting for the process that is writing %s", self.folder)
            held = self._lock.acquire()
        with held:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.folder.is_symlink():
                raise ValueError(
                    f"cache.dir: {self.folder} is a symbolic link, which the cache does not follow; remove it"
                )
            found = Manifest.read(self.folder / MANIFEST)
            self.manifest.extractions, self.manifest.shards = found.extractions, found.shards
            # Without a manifest the files cannot be attributed; those with needed names are overwritten.
            known = found.made_of == self.manifest.made_of
            if not known or self.path(JOURNAL).is_symlink():
                self.path(JOURNAL).unlink(missing_ok=True)
            for file in self.folder.iterdir() if known else ():
                if file.name not in (MANIFEST, JOURNAL) and not self.manifest.shards.get(file.name):
                    file.unlink()
            yield

    def begin(self, shards: Iterable[str]) -> None:
        """Record which shards are about to be written. Call inside `writing`, as `add` and `forget`."""
        self.manifest.extractions += 1
        self.manifest.shards = {n: self.manifest.shards[n] for n in self.whole()} | dict.fromkeys(shards)
        self._save()

    def add(self, payloads: Mapping[str, bytes | memoryview]) -> None:
        """Write shards, all of them or none.

        Args:
            payloads: bytes of each; a view, with items of one byte, may be of a mapped file that is larger than memory.

        Raises:
            NoRoom: the disk is full; the entry is unchanged.
        """
        before = dict(self.manifest.shards)
        try:
            for name, payload in payloads.items():
                self._write(name, payload)
                self.manifest.shards[name] = Shard(len(payload), sha256(payload).hexdigest())
            self._save()
        except NoRoom:
            self.manifest.shards = before
            for name in payloads:
                self.path(name).unlink(missing_ok=True)
            raise

    def append(self, line: bytes) -> None:
        """Add a line to the journal; it stays when the process is killed. Call after `begin`.

        Raises:
            NoRoom: the disk is full.
        """
        with self._room(), self.path(JOURNAL).open("ab") as journal:
            # The line break comes first, so that a line which a killed process left unfinished does not spoil the next one.
            journal.write(b"\n" + line)

    def journal(self) -> list[bytes]:
        """The lines of the journal; the last one may be cut off. Call inside `writing`."""
        path = self.path(JOURNAL)
        return path.read_bytes().splitlines() if path.is_file() else []

    def end_journal(self) -> None:
        """Remove the journal, whose lines are in a shard."""
        self.path(JOURNAL).unlink(missing_ok=True)

    def forget(self, shards: Iterable[str]) -> None:
        """Remove shards; they are recomputed when next needed."""
        for name in shards:
            self.path(name).unlink(missing_ok=True)
            if name in self.manifest.shards:
                self.manifest.shards[name] = None
                self._save()

    def _whole(self, name: str) -> bool:
        shard, path = self.manifest.shards.get(name), self.path(name)
        if shard is None or path.is_symlink() or not path.is_file():
            return False
        return path.stat().st_size == shard.bytes

    def _save(self) -> None:
        self._write(MANIFEST, json.dumps(asdict(self.manifest), indent=1).encode())

    def _write(self, name: str, payload: bytes | memoryview) -> None:
        with self._room():
            files.write(self.path(name), payload)

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Turn the error of a write to a full disk into a NoRoom."""
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise NoRoom(
                f"the disk of {self.folder.parent} is full; completed shards are kept, and the next run resumes from them"
            ) from error


def key_of(made_of: Mapping[str, Any]) -> str:
    """The part of an entry's name that is the hash of its inputs."""
    return digest.of_words(made_of)[:16]
