"""Checks the folder of a new run, and loads a run.yaml to resume or repeat its run. Torch-free."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from speculators.execution.rules import broken
from speculators.runfolder.folder import RUN_YAML, RunFolder, run_yaml_of
from speculators.runfolder.identity import check_same, identity, trained
from speculators.runfolder.keys import WEIGHTS, processes, weights_key
from speculators.runfolder.rights import allow, command, elsewhere
from speculators.runfolder.run_yaml import Pin, load, read
from speculators.settings.run_config import RunConfig
from speculators.utils.dotted import flat
from speculators.utils.messages import WrongInput, key_of, set_by


def check_free(run: RunConfig, folder: Path) -> None:
    """Check that a run can start or resume in a folder: no other run has trained, or is training, weights there.

    Raises:
        WrongInput: another run has, or the folder contains symbolic links.
    """
    own = RunFolder(folder)
    own.check_links()
    in_the_making = own.is_running() and not own.lock().is_locked
    if own.run_yaml.is_file() and (in_the_making or any(own.checkpoints.glob("*"))):
        _check_settings(run, load(folder).run, folder)
    if theirs := trained(own.checkpoints):
        # Imports torch, for seconds: a refusal, or a run in an empty folder, does not wait for it here.
        from speculators.execution.input_hashes import hashes

        try:
            read = hashes(run)
        except (OSError, ValueError) as error:
            raise WrongInput([str(error)]) from error
        check_same(identity(run, read), theirs, own.checkpoints)


def _check_settings(run: RunConfig, there: RunConfig, folder: Path) -> None:
    if weights_key(there) != weights_key(run):
        now, then = (flat(r.model_dump(mode="json", include=set(WEIGHTS))) for r in (run, there))
        differing = [key for key in now if now[key] != then.get(key, ...)]
        differing += ["number of processes"] if processes(run) != processes(there) else []
        raise WrongInput(
            [
                f"hydra.run.dir={folder}: it holds another run, with another {', '.join(differing) or 'data file'}; "
                f"choose another folder, or resume that run: {command(folder, there)}"
            ]
        )


def place(path: Path, output: Path | None = None) -> Path:
    """The folder in which a run.yaml is executed.

    Args:
        path: a run's folder, or the `run.yaml` itself; valid.
        output: another folder, to which run.yaml is copied; None uses the folder of the file.

    Raises:
        WrongInput: `output` holds a run, run.yaml is in a published draft or has another name, or its folder contains
            symbolic links.
    """
    file = run_yaml_of(path)
    if output is not None:
        RunFolder(output).check_links()
        copy = RunFolder(output).run_yaml
        if copy.exists():
            raise WrongInput([f"--output={output}: it already holds a run; choose another folder"])
        output.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        return output
    if (file.parent / "config.json").exists():
        raise WrongInput([f"{file}: it belongs to a published draft; choose a folder for the run with --output=FOLDER"])
    if file.name != RUN_YAML:
        raise WrongInput(
            [f"{file}: a run resumes from a file named {RUN_YAML}; choose a folder for the run with --output=FOLDER"]
        )
    RunFolder(file.parent).check_links()
    return file.parent


def load_again(path: Path, typed: Sequence[str] = ()) -> tuple[Pin, list[str]]:
    """Load a run.yaml to run it again, and check the rules between settings, since it may have been edited.

    Args:
        path: a run's folder, or the `run.yaml` itself.
        typed: rights given on the command line, as for `speculators.runfolder.rights.allow`.

    Returns:
        The pin, and a line for each key that was migrated from an older schema.

    Raises:
        WrongInput: as `load`, or a rule is broken, or the run needs a right that was not given.
    """
    pin, notes, blame = read(path)
    pin = pin.model_copy(update={"run": allow(pin.run, typed, run_yaml_of(path))})
    try:
        problems = [f"{problem}{set_by(blame(f'run.{problem.key}'))}" for problem in broken(pin.run)]
    except ValueError as error:
        problems = [f"{error}{elsewhere(error)}{set_by(blame(f'run.{key_of(error)}'))}"]
    if problems:
        raise WrongInput(problems)
    return pin, notes
