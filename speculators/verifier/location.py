"""Location of a verifier: Hub, folder or installed package. Torch-free."""

import os
import re
from importlib.resources import files
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from speculators.utils.discovery import is_known
from speculators.utils.hub import offline_unless_reachable
from speculators.utils.untrusted import read_json

SCHEME = "pkg://"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def local_path(name_or_path: str) -> str:
    """A real path for `pkg://package/folder` and for `~/folder`; anything else unchanged.

    Raises:
        FileNotFoundError: the package has no such folder, or is neither this one nor one that adds to it.
    """
    if not name_or_path.startswith(SCHEME):
        return os.path.expanduser(name_or_path)
    package, _, inside = name_or_path.removeprefix(SCHEME).partition("/")
    if not is_known(package):
        raise FileNotFoundError(
            f"{name_or_path}: {package} is neither a package of speculators nor one that adds to it by an entry point; give "
            "the path of the file or folder"
        )
    try:
        path = Path(str(files(package))) / inside
    except (ImportError, ValueError):
        raise FileNotFoundError(f"{name_or_path}: there is no installed package {package}") from None
    if not path.exists():
        raise FileNotFoundError(f"{name_or_path}: {path} does not exist")
    return str(path)


def public_name(name_or_path: str) -> str:
    """A name to publish: of an absolute path the Hub id in its config.json, or else its last part; others unchanged."""
    if not Path(name_or_path).expanduser().is_absolute():
        return name_or_path
    folder = Path(name_or_path).expanduser()
    try:
        known = read_json(folder / "config.json").get("_name_or_path")
    except ValueError:
        known = None
    return known if isinstance(known, str) and HUB_ID.fullmatch(known) else folder.name


def config_file(name_or_path: str, revision: str | None) -> Path:
    """A verifier's config.json on the local disk, downloaded from the Hub if needed.

    Raises:
        ValueError: there is no such verifier.
    """
    try:
        folder = Path(local_path(name_or_path))
    except FileNotFoundError as error:
        raise ValueError(f"verifier.name_or_path: {error}") from error
    if folder.is_dir():
        file = folder / "config.json"
        if not file.is_file():
            raise ValueError(f"verifier.name_or_path: {folder} has no config.json; give the folder of a model")
        return file
    # A missing path must not be looked up on the Hub: the Hub's error would be misleading.
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        raise ValueError(f"verifier.name_or_path: the folder {name_or_path} does not exist")
    offline_unless_reachable()
    try:
        return Path(hf_hub_download(name_or_path, "config.json", revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"verifier.name_or_path: the config.json of {name_or_path} cannot be downloaded from the Hub "
            f"({type(error).__name__}); check the name and the network, or give a folder"
        ) from error


def commit_of(config: Path, name_or_path: str) -> str | None:
    """The Hub's commit of a verifier; None of a folder.

    Args:
        config: as `config_file` gives it.
        name_or_path: hub id, folder, or pkg://package/folder.
    """
    # The Hub's cache: .../snapshots/COMMIT/config.json
    return None if Path(local_path(name_or_path)).is_dir() else config.parent.name
