"""One entry of the cache: a folder of shards, and a manifest that says what they are. Torch-free.

A shard is whole once the manifest records its size and checksum: files are written beside their place, synced and
renamed, the manifest last, so that a process killed at any moment leaves whole shards and rubbish that the next writer
removes.
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

from speculators.utils import digest, files

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
FULL = (errno.ENOSPC, errno.EDQUOT)
SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


class NoRoom(ValueError):
    """What is to be written fits neither on the disk nor in the limit; the message says by how much, and the remedy."""


@dataclass(frozen=True)
class Shard:
    """A file as it was written.

    Attributes:
        bytes: its size.
        sha256: of its bytes, in hexadecimal.
    """

    bytes: int
    sha256: str


@dataclass
class Manifest:
    """What an entry is.

    Attributes:
        about: a line for people.
        made_of: all that decides the content; its hash names the entry.
        extractions: how many times something was computed for it.
        shards: by file name; None is being made, or was when its writer was cut off.
    """

    about: str = ""
    made_of: dict[str, Any] = field(default_factory=dict)
    extractions: int = 0
    shards: dict[str, Shard | None] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """A manifest's file; an empty manifest if there is none, it is broken, or it names a file outside its folder."""
        try:
            manifest = cls(**json.loads(path.read_text(encoding="utf-8")))
            shards: Any = manifest.shards
            manifest.shards = {name: shard and Shard(**shard) for name, shard in shards.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return cls()
        if not all(name != MANIFEST and SHARD_NAME.fullmatch(name) for name in manifest.shards):
            return cls()
        return manifest


class Entry:
    """A folder of the cache.

    Args:
        folder: of the entry; its name is the kind and the key.
        lock: a file that whoever writes holds locked.
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
        """Whether the cache made the folder: it is no link, and its manifest's hash is the name's."""
        return not self.folder.is_symlink() and self.name.endswith(f"-{key_of(self.manifest.made_of)}")

    @property
    def size(self) -> int:
        """Bytes of everything in the folder."""
        total = 0
        for file in self.folder.iterdir():
            with suppress(FileNotFoundError):  # somebody writes, and has just renamed it
                total += file.lstat().st_size
        return total

    @property
    def last_used(self) -> float:
        """Seconds since 1970; 0 for a folder that has lost its manifest."""
        file = self.folder / MANIFEST
        return file.stat().st_mtime if file.exists() else 0.0

    @property
    def complete(self) -> bool:
        """Whether all is there that was last asked of it."""
        return bool(self.manifest.shards) and not self.missing(self.manifest.shards)

    def path(self, shard: str) -> Path:
        """Where a shard is."""
        return self.folder / shard

    def whole(self) -> list[str]:
        """Shards that are there in their recorded size."""
        return [name for name in self.manifest.shards if self._whole(name)]

    def missing(self, shards: Iterable[str]) -> list[str]:
        """Those of some shards that are not there in their recorded size."""
        return [name for name in shards if not self._whole(name)]

    def damaged(self) -> list[str]:
        """Files whose bytes are not those that were written; reads all of them."""
        return [name for name, shard in self.manifest.shards.items() if shard and not self.sound(name)]

    def sound(self, name: str) -> bool:
        """Whether a shard's bytes are those that were written; reads all of them."""
        shard = self.manifest.shards.get(name)
        return shard is not None and self._whole(name) and digest.of_file(self.path(name)) == shard.sha256

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one process that writes; waits for another, and sees what that one wrote."""
        try:
            held = self._lock.acquire(timeout=1)
        except Timeout:
            log.info("waiting for the process that is writing %s", self.folder)
            held = self._lock.acquire()
        with held:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.folder.is_symlink():
                raise ValueError(f"cache.dir: {self.folder} is a link, which the cache does not follow; remove it")
            found = Manifest.read(self.folder / MANIFEST)
            self.manifest.extractions, self.manifest.shards = found.extractions, found.shards
            # Without a manifest nothing says whose the files are; those of the names that are needed are written anew.
            for file in self.folder.iterdir() if found.made_of == self.manifest.made_of else ():
                if file.name != MANIFEST and not self.manifest.shards.get(file.name):
                    file.unlink()
            yield

    def begin(self, shards: Iterable[str]) -> None:
        """Note which shards are about to be made. To be called while writing, as are the next two."""
        self.manifest.extractions += 1
        self.manifest.shards = {n: self.manifest.shards[n] for n in self.whole()} | dict.fromkeys(shards)
        self._save()

    def add(self, payloads: Mapping[str, bytes]) -> None:
        """Write shards, all of them or none.

        Raises:
            NoRoom: the disk is full; the entry is as it was.
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

    def forget(self, shards: Iterable[str]) -> None:
        """Remove shards; who needs them makes them again."""
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

    def _write(self, name: str, payload: bytes) -> None:
        try:
            files.write(self.path(name), payload)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise NoRoom(
                f"the disk of {self.folder.parent} is full; what was finished stays, and is gone on from"
            ) from error


def key_of(made_of: Mapping[str, Any]) -> str:
    """The part of an entry's name that says what it is made of."""
    return digest.of_words(made_of)[:16]
