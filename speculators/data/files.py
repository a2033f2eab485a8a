"""The files that a setting names, and what they hold. Torch-free."""

from glob import glob
from pathlib import Path

from speculators.utils import digest
from speculators.verifier.location import local_path

# A small verifier, its answers to prompts, and prompts for any verifier.
EMBEDDED = "pkg://speculators.assets/tiny"
CHAT = "pkg://speculators.assets/chat.jsonl"
PROMPTS = "pkg://speculators.assets/prompts.jsonl"
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
ENDINGS = (".jsonl", ".json", ".ndjson", ".parquet")


def files_of(path: str) -> list[Path]:
    """The files behind a path, in order of their names.

    Args:
        path: a file, a folder, a pattern (`data/*.parquet`), or pkg://package/file. A folder's files are those whose
            names end in .jsonl, .json, .ndjson (also .gz, .bz2, .xz, .zst) or .parquet.

    Raises:
        ValueError: there are none.
    """
    try:
        place = Path(local_path(path))
    except FileNotFoundError as error:
        raise ValueError(f"data.path: {error}") from error
    if place.is_dir():
        files = sorted(f for f in place.iterdir() if f.is_file() and bare_suffix(f) in ENDINGS)
        if not files:
            raise ValueError(f"data.path: the folder {place} has no file that ends in {', '.join(ENDINGS)}")
        return files
    files = [place] if place.exists() else sorted(f for f in map(Path, glob(str(place))) if f.is_file())
    if not files:
        raise ValueError(f"data.path: there is no file {place}")
    return files


def bare_suffix(file: Path) -> str:
    """A file's ending, that of a compression left out."""
    return (file.with_suffix("") if file.suffix in COMPRESSED else file).suffix


def content(path: str) -> str:
    """A name for what the files behind a path hold now.

    Raises:
        ValueError: there are none.
    """
    files = files_of(path)
    return digest.of_file(files[0]) if len(files) == 1 else digest.of_files(files)
