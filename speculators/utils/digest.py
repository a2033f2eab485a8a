"""SHA-256 of files and of settings. Torch-free."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def of_file(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_files(paths: Iterable[Path]) -> str:
    """Of files' names and bytes, in whatever order they come."""
    return of_words({path.name: of_file(path) for path in paths})


def of_words(words: Mapping[str, Any]) -> str:
    """Of values that JSON can hold, in whatever order they come."""
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()
