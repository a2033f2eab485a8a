"""The manifest of a folder: the SHA-256 of each of its files, by which a later reader knows them again. Torch-free."""

import json
import os
from pathlib import Path

from speculators.utils import digest

MANIFEST = "manifest.json"


def write(folder: Path) -> None:
    """Bring a folder's files to the disk and record them in `manifest.json`, which so is the last one written."""
    hashes = {}
    for file in sorted(folder.iterdir()):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        hashes[file.name] = digest.of_file(file)
    with (folder / MANIFEST).open("x", encoding="utf-8") as opened:
        json.dump(hashes, opened, indent=1)
        opened.flush()
        os.fsync(opened.fileno())


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that has a manifest; None if its files are those that were written. Reads all of them.

    Returns:
        The path of a file, and what is wrong with it.
    """
    try:
        hashes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, written in hashes.items():
            file = folder / name
            if file.parent != folder or file.is_symlink() or not file.is_file():
                return f"{file} is missing"
            if digest.of_file(file) != written:
                return f"{file} is not as it was written: its SHA-256 is not that in {MANIFEST}"
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        return f"{folder / MANIFEST} cannot be read: {error}"
    return None
