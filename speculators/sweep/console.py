"""Where tables of a sweep are printed."""

from rich.console import Console


def console() -> Console:
    """A terminal as it is; a file or a pipe has no width, and a table folded to 80 columns is hard to read."""
    found = Console()
    return found if found.is_terminal else Console(width=140)
