"""The `speculators` command: `train` is Hydra's command line, the other subcommands are typer's."""

import logging
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from speculators.cli import cache, data, evaluation, push
from speculators.cli.launch import launch
from speculators.cli.paths import is_path

log = logging.getLogger(__name__)
app = typer.Typer(
    help="Compose, check, train, measure and publish speculative-decoding draft models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cache.app, name="cache")
app.command("data")(data.data)
app.command("evaluate")(evaluation.evaluate)
app.command("push")(push.push)
HYDRA = {"allow_extra_args": True, "ignore_unknown_options": True}


def main() -> None:
    """Entry point of `speculators`; exits with 2 on wrong input, with 1 if a run failed."""
    if sys.argv[1:2] == ["train"]:
        from speculators.cli import hydra_app

        sys.argv = ["speculators train", *sys.argv[2:]]
        hydra_app.main()
        return
    try:
        app()
    except OSError as error:
        from speculators.utils.messages import refused

        refused(error)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"speculators-hydra {version('speculators-hydra')}")
        raise typer.Exit


@app.callback()
def of_all(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and stop")
    ] = False,
) -> None:
    """Compose, check, train, measure and publish speculative-decoding draft models."""


@app.command(add_help_option=False, context_settings=HYDRA)
def train() -> None:
    """Compose a run from groups and key=value, and run it; `speculators train --help` lists them."""


@app.command()
def run(
    path: Annotated[Path, typer.Argument(help="a run's folder, its run.yaml, or a copy of that file")],
    rights: Annotated[
        list[str] | None,
        typer.Argument(
            help="key=value of a setting that a run.yaml cannot grant itself, or of a place: data.path, verifier.name_or_path",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="repeat the run in this new folder")] = None,
    more_epochs: Annotated[
        int | None, typer.Option(min=1, help="train the draft of a finished run further, in the new folder of --output")
    ] = None,
) -> None:
    """Execute the run of a run.yaml: resume it in its own folder, or repeat it in another.

    All values are those of run.yaml; defaults that have changed since are reported and not applied. The file may be
    untrusted, so code of the verifier, a cache, a tracker or a device must be allowed on the command line. Data and verifier
    may lie elsewhere than run.yaml says; their contents are compared with the recorded hashes.
    """
    from speculators.cli.python import extend, finished, prepare
    from speculators.runfolder.folder import RunFolder
    from speculators.utils.messages import RunFailed, WrongInput, stop
    from speculators.utils.process import start_log

    try:
        if more_epochs is not None:
            if output is None:
                raise WrongInput(
                    [f"--more-epochs={more_epochs}: it makes a new run; name its folder with --output=FOLDER"]
                )
            folder, notes = extend(path, more_epochs, output, rights or []), []
        else:
            folder, notes = prepare(path, rights or [], output)
        if finished(folder) is not None:
            typer.echo(
                f"{folder}: this run is finished; --output=FOLDER repeats it in a new folder, "
                "and --more-epochs=N --output=FOLDER trains its draft further"
            )
            return
        start_log(RunFolder(folder).log)
        for note in notes:
            log.info(note)
        launch(folder)
    except WrongInput as error:
        stop(error.messages)
    except RunFailed:
        sys.exit(1)


@app.command()
def check(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="as for train; or a published folder or config.json, and export.*", show_default=False),
    ] = None,
) -> None:
    """Check a run without starting it, or a published draft: its config, and whether the engine can serve it.

    Exits with 2 if the config is invalid, the engine cannot serve the draft, the data of the run cannot be used, or this
    machine lacks what the run needs.
    """
    from speculators.composition.compose import checked
    from speculators.execution.rules import notes
    from speculators.export.preflight import plan
    from speculators.format.published import speculator_dict
    from speculators.utils.messages import WrongInput, stop
    from speculators.verifier.facts import VerifierFacts

    given = list(overrides or [])
    if given and is_path(given[0]):
        _check_published(Path(given[0]), given[1:])
        return
    try:
        chosen, lacking = checked(given)
    except WrongInput as error:
        stop(error.messages)
    facts = VerifierFacts.read(chosen.verifier.name_or_path, chosen.verifier.revision)
    typer.echo(plan(chosen, speculator_dict(chosen, facts), facts).summary)
    typer.echo("\n".join(notes(chosen)), nl=bool(notes(chosen)))
    if lacking:
        stop(lacking)


def _check_published(path: Path, overrides: list[str]) -> None:
    """Check a published draft; only overrides of the group `export` are accepted."""
    from speculators.composition.compose import compose
    from speculators.export.checklist import judge
    from speculators.runfolder.folder import RUN_YAML
    from speculators.runfolder.rights import claim, claimed
    from speculators.runfolder.run_yaml import read_pin
    from speculators.utils.messages import WrongInput, stop

    others = [o for o in overrides if not o.lstrip("+").startswith(("export=", "export."))]
    if others:
        stop([f"{o}: with a published draft, only export.target and export.engine_version can be set" for o in others])
    try:
        claims = claimed(read_pin(path)) if (path / RUN_YAML).is_file() else {}
        verdict = judge(path, compose(overrides).export)
    except WrongInput as error:
        stop(error.messages)
    except ValueError as error:
        stop([str(error)])
    bad = any(finding.bad for finding in verdict.findings)
    typer.echo(verdict.summary, err=bad)
    for key, value in claims.items():
        typer.echo(f"  note: {claim(key, value, path / RUN_YAML)}", err=bad)
    if bad:
        sys.exit(2)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="folders of runs or of sweeps")],
    output: Annotated[Path | None, typer.Option(help="file of the page; default: report.html in the first DIR")] = None,
) -> None:
    """Write one HTML page of runs and sweeps, also of those in a parent folder: settings, acceptance, cost, curves, failures.

    Files that cannot be read are named on the page and here; exits with 1 if no run can be read.
    """
    from speculators.report.page import PAGE, write_page
    from speculators.report.rows import ranked
    from speculators.report.runs import read, runs
    from speculators.utils.messages import stop
    from speculators.utils.untrusted import printable

    if empty := [folder for folder in folders if not runs(folder)]:
        stop([f"{folder}: it contains no run; give the folder of a run, with its run.yaml, or of a sweep"
              for folder in empty])  # fmt: skip
    file = output or folders[0] / PAGE
    rows = ranked(read(*folders))
    try:
        typer.echo(write_page(rows, file))
    except OSError as error:
        stop([f"{file}: cannot be written: {error}; name another file with --output"])
    for message in dict.fromkeys(message for row in rows for message in row.trial.unreadable):
        typer.echo(printable(f"unreadable: {message}"), err=True)
    if all(row.trial.status == "unreadable" for row in rows):
        sys.exit(1)
