"""A manifest: the SHA-256 of files of a folder, for detecting damage when they are read. Torch-free."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from speculators.utils import digest, files
from speculators.utils.untrusted import inside, read_json, shortened

MANIFEST = "manifest.json"


def write(folder: Path, covered: Iterable[Path]) -> None:
    """Sync files of a folder to disk, then write their hashes to its `manifest.json`, the last file written."""
    hashes = {}
    for file in sorted(covered):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        hashes[file.name] = digest.of_file(file)
    files.write(folder / MANIFEST, json.dumps(hashes, indent=1))


def damage(folder: Path, needed: Iterable[str] = ()) -> str | None:
    """Compare the files that a folder's manifest names with their hashes; None if they match.

    Args:
        folder: holds the manifest.
        needed: names of files that it must have.

    Returns:
        A message with the path of the first file that does not match and what is wrong with it, or None.
    """
    try:
        hashes = read_json(inside(folder, MANIFEST))
    except ValueError as error:
        return str(error)
    for name in needed:
        if name not in hashes:
            return f"{folder / MANIFEST} has no {name}"
    for name, written in hashes.items():
        file = folder / name
        try:
            if file.parent != folder:
                return f"{folder / MANIFEST}: {shortened(name)} is not the name of a file in this folder"
            if not inside(folder, name).is_file():
                return f"{file} is missing"
            if digest.of_file(file) != written:
                return f"{file} is damaged: its SHA-256 differs from the one in {MANIFEST}"
        except (OSError, ValueError) as error:  # the name may be none that a file can have
            return f"{folder / MANIFEST}: {shortened(name)} cannot be read: {error}"
    return None
