"""Tells paths from overrides among the words of a command. Torch-free."""

from pathlib import Path


def is_path(word: str) -> bool:
    """Whether a word of a command is a path and no override."""
    # Folders of sweeps contain = in their names.
    return Path(word).exists() or ("=" not in word and not word.startswith("~"))
