"""The cache: a folder of entries with a limit on their total size. Torch-free."""

import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from speculators.cache.entry import MANIFEST, Entry, NoRoom, key_of
from speculators.cache.settings import CacheSettings

log = logging.getLogger(__name__)
VARIABLE, DEFAULT = "SPECULATORS_CACHE", "~/.cache/speculators"
# Inside the cache's folder: locks, and entries that are being removed.
LOCKS, REMOVED = ".locks", ".removed"


def folder_of(chosen: str | Path | None) -> Path:
    """The chosen folder; for None, $SPECULATORS_CACHE or ~/.cache/speculators."""
    return Path(chosen or os.environ.get(VARIABLE) or DEFAULT).expanduser()


@dataclass(frozen=True)
class Store:
    """Entries shared by all runs, across processes.

    Attributes:
        folder: holds a folder for each entry.
        limit: bytes that all entries together may take; None is limited only by the disk.
    """

    folder: Path
    limit: int | None

    def __post_init__(self) -> None:
        if self._locks.is_symlink():
            raise ValueError(f"cache.dir: {self._locks} is a symbolic link, which the cache does not follow; remove it")

    @classmethod
    def of(cls, settings: CacheSettings) -> "Store":
        """The store that the settings of a run describe.

        Raises:
            ValueError: its folder is not writable, or its locks are a symbolic link.
        """
        store = cls(folder_of(settings.dir), None if settings.limit_gb is None else int(settings.limit_gb * 1e9))
        try:
            store._locks.mkdir(parents=True, exist_ok=True)
            writable = os.access(store._locks, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            raise ValueError(
                f"cache.dir: {store.folder} is not writable; set cache.dir or ${VARIABLE} to a writable folder"
            )
        return store

    @contextmanager
    def use(self, kind: str, made_of: Mapping[str, Any], about: str) -> Iterator[Entry]:
        """An entry that is protected from removal until the block ends.

        Args:
            kind: what it holds.
            made_of: all inputs that determine its content, as JSON values.
            about: a one-line description for display.
        """
        name = f"{kind}-{key_of(made_of)}"
        mark = FileLock(self._locks / f"{name}.{uuid4().hex}.use")
        with self._lock():
            mark.acquire()
        try:
            entry = self._entry(name)
            entry.manifest.about, entry.manifest.made_of = about, dict(made_of)
            if (entry.folder / MANIFEST).exists():
                os.utime(entry.folder / MANIFEST, follow_symlinks=False)
            yield entry
        finally:
            mark.release()
            Path(mark.lock_file).unlink(missing_ok=True)

    @property
    def free(self) -> int:
        """Free bytes on the disk."""
        return shutil.disk_usage(self.folder).free

    @property
    def capacity(self) -> int:
        """Bytes that entries can take if all others are removed."""
        whole = self.free + sum(entry.size for entry in self.entries())
        return whole if self.limit is None else min(whole, self.limit)

    def entries(self) -> list[Entry]:
        """All entries, least recently used first; folders that the cache did not create are excluded."""
        found = (entry for entry in self._folders() if entry.own)
        return sorted(found, key=lambda entry: (entry.last_used, entry.name))

    def strangers(self) -> list[Path]:
        """Paths in the cache's folder without a manifest that matches their name."""
        return sorted(entry.folder for entry in self._folders() if not entry.own)

    def make_room(self, need: int) -> list[str]:
        """Remove entries that no process uses, the least recently used first, until `need` bytes fit.

        Returns:
            Names of the removed entries.

        Raises:
            NoRoom: removing all of them would not free enough; none is removed.
        """
        if not self.folder.is_dir():
            return []
        with self._lock():
            entries, free = self.entries(), self.free
            used = sum(entry.size for entry in entries)
            over = max(need - free, 0 if self.limit is None else used + need - self.limit)
            removable = []
            for entry in entries:
                if over > 0 and not self._in_use(entry):
                    removable.append(entry)
                    over -= entry.size
            if over > 0 and need:
                limit = (
                    ""
                    if self.limit is None
                    else f", and its entries take {gb(used)} of cache.limit_gb={self.limit / 1e9:g}"
                )
                raise NoRoom(
                    f"{gb(need)} are needed in {self.folder}, whose disk has {gb(free)} free{limit}; "
                    f"{gb(over)} are missing even after removing all other entries. Raise cache.limit_gb, or set "
                    "cache.dir to a folder on a larger disk"
                )
            return [self._remove(entry) for entry in removable]

    def _remove(self, entry: Entry) -> str:
        # Renamed first: a process killed here leaves no partial entry, and the next removal deletes the rest.
        for left in self._locks.glob(f"*{REMOVED}"):
            shutil.rmtree(left, ignore_errors=True)
        removed = self._locks / f"{entry.name}{REMOVED}"
        entry.folder.rename(removed)
        shutil.rmtree(removed)
        log.info("cache: removed %s to make room", entry.name)
        return entry.name

    def _in_use(self, entry: Entry) -> bool:
        for path in self._locks.glob(f"{entry.name}.*.use"):
            mark = FileLock(path, timeout=0)
            try:
                mark.acquire()
            except Timeout:
                return True
            mark.release()  # its process was killed
            path.unlink(missing_ok=True)
        return False

    def _folders(self) -> list[Entry]:
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return [self._entry(path.name) for path in found if path.is_dir() and not path.name.startswith(".")]

    def _entry(self, name: str) -> Entry:
        return Entry(self.folder / name, self._locks / f"{name}.lock")

    def _lock(self) -> FileLock:
        """Lock held while a process starts to use an entry, and while unused entries are removed."""
        return FileLock(self._locks / "store.lock")

    @property
    def _locks(self) -> Path:
        return self.folder / LOCKS


def gb(size: float) -> str:
    """A size in bytes, formatted for display."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def ago(moment: float) -> str:
    """How long ago a time in seconds since 1970 was, formatted for display."""
    seconds = time.time() - moment
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now"
