"""The manifest of a folder: the SHA-256 of each of its files, for detecting damage when they are read. Torch-free."""

import json
import os
from pathlib import Path

from speculators.utils import digest

MANIFEST = "manifest.json"


def write(folder: Path) -> None:
    """Sync a folder's files to disk, then write their hashes to `manifest.json`, the last file written."""
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
    """Compare all files of a folder with its manifest; None if they match.

    Returns:
        A message with the path of the first file that does not match and what is wrong with it, or None.
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
