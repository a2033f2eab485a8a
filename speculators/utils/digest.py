"""SHA-256 of files and of settings. Torch-free."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any


def of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_file_once(path: Path) -> str:
    """As `of_file`; a file is read again in the same process only if its size or times changed."""
    stat = path.stat()
    return _of_file(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def of_files(paths: Iterable[Path]) -> str:
    """SHA-256 of the names and bytes of files, independent of their order; each is read as by `of_file_once`."""
    return of_words({path.name: of_file_once(path) for path in paths})


def of_parts(parts: Iterable[bytes]) -> str:
    """SHA-256 of a sequence of byte strings; their lengths are hashed with them, so their borders count."""
    hash = hashlib.sha256()
    for part in parts:
        hash.update(len(part).to_bytes(8, "little") + part)
    return hash.hexdigest()


def of_words(words: Mapping[str, Any]) -> str:
    """SHA-256 of JSON-serialisable values by key, independent of the order of the keys."""
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


@cache  # verifiers and data of many GB are hashed for several entries of the cache and keys of a run
def _of_file(path: Path, size: int, modified_ns: int, changed_ns: int) -> str:
    return of_file(path)
