"""`speculators push`: a published draft to the Hub."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def push(
    path: Annotated[Path, typer.Argument(help="a run's folder, or its published folder")],
    repo: Annotated[
        str, typer.Argument(help="repository of the Hub, as OWNER/NAME; it is created if it does not exist")
    ],
    license: Annotated[
        str | None, typer.Option(help="licence of the draft, such as apache-2.0; default: export.license of its run")
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(help="the verifier's name on the Hub; default: export.base_model, or the name that is known"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be pushed, and send nothing")] = False,
) -> None:
    """Push a measured draft to the Hub: its files, and a model card with its result and the commands that serve it.

    The token comes from HF_TOKEN or from `hf auth login`. The draft is checked first, as by `speculators check`. After a lost
    connection the same command completes the push; files that have arrived are not sent again. Exits with 2 if something is
    wrong with the draft or a name, with 1 if the Hub cannot be reached or refuses the draft.
    """
    from speculators.export.push import PushFailed, command, prepare
    from speculators.export.push import push as send
    from speculators.utils.hub import repository
    from speculators.utils.messages import WrongInput, stop
    from speculators.utils.secrets import displayed
    from speculators.utils.untrusted import printable, printable_lines

    try:
        repository(repo)
    except ValueError as error:
        stop([f"REPO={repo}: {error}"])
    try:
        prepared = prepare(path, repo, license, base_model)
        if dry_run:
            typer.echo(f"would be pushed to {repo}:")
            for name, size in prepared.sizes().items():
                typer.echo(printable(f"{size:>15,} bytes  {name}"))
            typer.echo(f"front matter of the model card:\n{printable_lines(prepared.front_matter())}")
            return
        typer.echo(f"pushed: {send(prepared)}")
    except WrongInput as error:
        stop(error.messages)
    except PushFailed as error:
        again = command(path, repo, license, base_model)
        print(displayed(f"not pushed: {error}\n  repeat it with `{again}`"), file=sys.stderr)
        sys.exit(1)
