"""SHA-256 of files and of settings. Torch-free."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_files(paths: Iterable[Path]) -> str:
    """SHA-256 of the names and bytes of files, independent of their order."""
    return of_words({path.name: of_file(path) for path in paths})


def of_words(words: Mapping[str, Any]) -> str:
    """SHA-256 of JSON-serialisable values by key, independent of the order of the keys."""
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()
