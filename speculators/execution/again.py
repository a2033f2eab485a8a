"""Loads a run.yaml to resume or repeat its run. Torch-free."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from speculators.execution.rules import broken
from speculators.runfolder.folder import RUN_YAML, RunFolder, run_yaml_of
from speculators.runfolder.rights import allow, elsewhere
from speculators.runfolder.run_yaml import Pin, read
from speculators.utils.messages import WrongInput, key_of, set_by


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
