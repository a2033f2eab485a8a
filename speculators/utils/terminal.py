"""The console that prints tables. Torch-free."""

from rich.console import Console


def console() -> Console:
    """A console with the terminal's width; 140 columns for a file or pipe, so that tables are not wrapped.

    Texts are printed as they are: names of folders and of settings may hold rich's markup, such as `[/x]`.
    """
    found = Console(markup=False, emoji=False)
    return found if found.is_terminal else Console(markup=False, emoji=False, width=140)
