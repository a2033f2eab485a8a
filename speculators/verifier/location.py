"""Where a verifier is: on the Hub, in a folder, or inside an installed package."""

from importlib.resources import files
from pathlib import Path

SCHEME = "pkg://"


def local_path(name_or_path: str) -> str:
    """A real path for `pkg://package/folder`; anything else unchanged.

    Raises:
        FileNotFoundError: the package has no such folder.
    """
    if not name_or_path.startswith(SCHEME):
        return name_or_path
    package, _, inside = name_or_path.removeprefix(SCHEME).partition("/")
    try:
        path = Path(str(files(package))) / inside
    except ModuleNotFoundError:
        raise FileNotFoundError(f"{name_or_path}: there is no installed package {package}") from None
    if not path.exists():
        raise FileNotFoundError(f"{name_or_path}: {path} does not exist")
    return str(path)
