"""`speculators data`: what a source of conversations gives a run, in the terminal and as a page."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from speculators.data.view import Example, View


def data(
    arguments: Annotated[
        list[str], typer.Argument(metavar="[PATH] [OVERRIDES]...", help="conversations, and overrides as for train")
    ],
    examples: Annotated[int, typer.Option(min=0, help="documents to show")] = 3,
    output: Annotated[Path | None, typer.Option(help="also write an HTML page to this file")] = None,
) -> None:
    """Show what conversations become: decoded examples with the supervised tokens marked, lengths, what is skipped and why.

    Without a PATH the overrides choose the data, e.g. `data=hub data.name=...`. Exits with 2 if nothing can be used.
    """
    from speculators.composition.compose import compose
    from speculators.data.files import sources_of
    from speculators.data.prepare import nothing
    from speculators.data.template import ChatTemplate
    from speculators.data.view import view
    from speculators.report.data_page import write_data_page
    from speculators.utils.messages import WrongInput, stop

    path, overrides = _split(arguments)
    chosen, values = ([], {}) if path is None else (["data=jsonl"], {Path(path): {"data.path": path}})
    try:
        run = compose([*chosen, *overrides], values)
        found = view(run.data, ChatTemplate.of(run.verifier, run.data), examples)
    except WrongInput as error:
        stop(error.messages)
    except ValueError as error:
        stop(str(error).splitlines())
    title = ", ".join(str(source.path or source.name) for source in sources_of(run.data))
    _print(found, title)
    if output is not None:
        typer.echo(write_data_page(found, title, run.verifier.name_or_path, output))
    if not found.used:
        print(nothing(found.skipped), file=sys.stderr)
        sys.exit(2)


def _split(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The path, if the first argument is one, and the overrides."""
    first = arguments[0]
    is_path = Path(first).exists() or "=" not in first and not first.startswith("~")
    return (first, arguments[1:]) if is_path else (None, arguments)


def _print(found: "View", title: str) -> None:
    from speculators.utils.terminal import console
    from speculators.utils.untrusted import printable

    shown = console()
    for example in found.examples:
        cut = f", {example.cut} more are cut" if example.cut else ""
        heading = f"{example.place}: {example.tokens} tokens, {example.supervised} supervised{cut}"
        shown.rule(printable(heading), align="left")
        shown.print(_marked(example, colours=shown.is_terminal), soft_wrap=True, highlight=False)
    if found.examples:
        shown.rule()
    shown.print(printable(title), soft_wrap=True, highlight=False)
    for line in _lines(found):
        shown.print(f"  {printable(line)}", soft_wrap=True, highlight=False)


def _marked(example: "Example", colours: bool) -> "Text":
    """The text of an example with the supervised tokens in colour, or in double brackets."""
    from rich.text import Text

    from speculators.utils.untrusted import printable_lines

    text = Text()
    for piece, supervised in example.pieces:
        marked = printable_lines(piece)
        text.append(marked if colours or not supervised else f"⟦{marked}⟧", "black on green" if supervised else "dim")
    return text


def _lines(found: "View") -> list[str]:
    """The counts of a source."""
    lines = [
        f"{found.used} of {found.rows} conversations used, as {len(found.lengths)} documents of "
        f"{found.tokens:,} tokens, {found.supervised:,} of them supervised"
    ]
    if found.lengths:
        lines.append(
            f"tokens of a document: half have at most {found.quantile(0.5)}, 90 % at most {found.quantile(0.9)}, the "
            f"longest has {found.quantile(1)}; {found.cut['documents']} are cut at data.max_length={found.max_length}"
        )
    lines.append(f"{found.same} repeat an earlier conversation, {found.same_prompt} more only its prompt")
    for counted, form in (
        (found.skipped, "{} skipped {}"),
        (found.left_out, "{} {}, which the chat template leaves out"),
    ):
        lines += [f"{form.format(n, what)} (first: {counted.first[what]})" for what, n in counted.counts.items()]
    return lines
