"""`speculators cache`: lists, verifies and prunes the cache that runs share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from speculators.cache.store import Store

app = typer.Typer(help="List, verify and prune the cache on disk that runs share.", no_args_is_help=True)
Dir = Annotated[
    Path | None,
    typer.Option(
        exists=True, file_okay=False, help="the cache's folder; default: $SPECULATORS_CACHE, or ~/.cache/speculators"
    ),
]


@app.command("list")
def list_(dir: Dir = None) -> None:
    """List all entries, least recently used first, which is the order in which they are evicted."""
    from rich import box
    from rich.table import Table

    from speculators.cache.store import ago, gb
    from speculators.utils.terminal import console
    from speculators.utils.untrusted import printable

    store = _store(dir)
    table = Table("entry", "of", "size", "last used", "state", box=box.SIMPLE)
    entries = [(entry, entry.size) for entry in store.entries()]
    for entry, size in entries:
        state = "complete" if entry.complete else "partial"
        table.add_row(entry.name, printable(entry.manifest.about), gb(size), ago(entry.last_used), state)
    shown = console()
    if entries:
        shown.print(table)
    shown.print(f"{len(entries)} entries, {gb(sum(size for _, size in entries))} in {store.folder}", soft_wrap=True)


@app.command()
def verify(
    dir: Dir = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="remove damaged shards; the next run that needs them computes them again")
    ] = False,
) -> None:
    """Read all entries and compare checksums; exits with 1 if a shard is damaged or a folder has no valid manifest."""
    from speculators.utils.untrusted import printable

    store = _store(dir)
    damaged = [(entry, shards) for entry in store.entries() if (shards := entry.damaged())]
    for entry, shards in damaged:
        typer.echo("\n".join(printable(f"damaged: {entry.path(shard)}") for shard in shards))
        if remove:
            with entry.writing():
                entry.forget(shards)
    for folder in (strangers := store.strangers()):
        unknown = f"unknown: {folder} has no manifest that matches its name; it is not an entry of the cache and is not removed"
        typer.echo(printable(unknown))
    if damaged and not remove:
        typer.echo("--remove removes them; the next run that needs them computes them again")
    if not damaged and not strangers:
        typer.echo(f"no damage: all checksums match in {store.folder}")
    raise typer.Exit(1 if damaged or strangers else 0)


@app.command()
def prune(
    dir: Dir = None,
    limit_gb: Annotated[float | None, typer.Option(min=0, help="gigabytes that the remaining entries may take")] = None,
    all: Annotated[bool, typer.Option("--all", help="remove all entries")] = False,
) -> None:
    """Remove entries that no run uses, least recently used first, until the cache is within a limit."""
    from speculators.cache.store import gb

    if (limit_gb is None) != all:
        raise typer.BadParameter("give either --limit-gb or --all")
    store = _store(dir, int((limit_gb or 0) * 1e9))
    for name in store.make_room(0):
        typer.echo(f"removed {name}")
    left = store.entries()
    typer.echo(f"{len(left)} entries, {gb(sum(entry.size for entry in left))} remain in {store.folder}")


def _store(dir: Path | None, limit: int | None = None) -> "Store":
    from speculators.cache.store import Store, folder_of
    from speculators.utils.messages import stop

    try:
        return Store(folder_of(dir), limit)
    except ValueError as error:
        stop([str(error)])
