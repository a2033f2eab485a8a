"""Locations of data sources, and hashes of the content of their files. Torch-free."""

from collections.abc import Sequence
from glob import glob
from pathlib import Path

from speculators.settings.data import ChatData, DataSettings, HubData, JsonlData, MixtureData, Source
from speculators.utils import digest
from speculators.verifier.location import local_path

# A small verifier, its answers to prompts, and prompts for any verifier.
EMBEDDED = "pkg://speculators.assets/tiny"
CHAT = "pkg://speculators.assets/chat.jsonl"
PROMPTS = "pkg://speculators.assets/prompts.jsonl"
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
ENDINGS = (".jsonl", ".json", ".ndjson", ".parquet")


def sources_of(data: DataSettings) -> list[Source]:
    """The sources that data settings of any kind name, in order."""
    match data:
        case ChatData():
            return [Source(path=CHAT)]
        case JsonlData():
            return [Source(path=data.path)]
        case HubData():
            return [Source(**data.model_dump(include={"name", "subset", "split", "revision", "streaming"}))]
        case MixtureData():
            return data.sources
    raise TypeError(f"there is no reader for {type(data).__name__}")


def key_of(data: DataSettings, number: int) -> str:
    """The config key of a source, to which `.path` and `.name` are appended."""
    return f"data.sources.{number}" if isinstance(data, MixtureData) else "data"


def files_of(path: str, key: str = "data") -> list[Path]:
    """The files behind a path, in order of their names.

    Args:
        path: a file, a folder, a pattern (`data/*.parquet`), or pkg://package/file. A folder's files are those whose
            names end in .jsonl, .json, .ndjson (also .gz, .bz2, .xz, .zst) or .parquet.
        key: config key named in the message.

    Raises:
        ValueError: there are none.
    """
    try:
        place = Path(local_path(path))
    except FileNotFoundError as error:
        raise ValueError(f"{key}.path: {error}") from error
    if place.is_dir():
        files = sorted(f for f in place.iterdir() if f.is_file() and _bare_suffix(f) in ENDINGS)
        if not files:
            raise ValueError(f"{key}.path: the folder {place} has no file with the ending {', '.join(ENDINGS)}")
        return files
    if place.exists() and not place.is_file():
        raise ValueError(f"{key}.path: {place} is not a regular file")
    files = [place] if place.exists() else sorted(f for f in map(Path, glob(str(place))) if f.is_file())
    if not files:
        raise ValueError(f"{key}.path: no file matches {place}")
    return files


def content_of(files: Sequence[Path]) -> str:
    """An identifier of the current content of files."""
    return digest.of_file_once(files[0]) if len(files) == 1 else digest.of_files(files)


def _bare_suffix(file: Path) -> str:
    """A file's suffix without that of a compression."""
    return (file.with_suffix("") if file.suffix in COMPRESSED else file).suffix
