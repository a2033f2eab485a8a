"""`speculators.run`: what the command `speculators run` does, as a function."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from speculators.cli.launch import launch

if TYPE_CHECKING:
    from speculators.settings.run_config import RunConfig


def run(folder: str | PathLike[str], config: "RunConfig | None" = None, allow: Sequence[str] = ()) -> float:
    """Execute a run in a folder: start it, or resume the one that is there. A finished run is not repeated.

    Args:
        folder: of the run; gets train.log, the checkpoints, the published draft and the evaluation.
        config: of a new run, from `speculators.compose`; None takes the folder's run.yaml.
        allow: `key=value` of settings that a run.yaml cannot grant itself, as for the command `speculators run`.

    Returns:
        The value of evaluation.objective; NaN if nothing was evaluated. `speculators.load_result` has all measurements.

    Raises:
        speculators.utils.messages.WrongInput: with every problem; nothing was started.
        speculators.utils.messages.RunFailed: the run failed; the traceback is in FAILED in the folder.
    """
    from speculators.execution.free import check_free
    from speculators.runfolder.folder import RunFolder
    from speculators.runfolder.run_yaml import write_pin
    from speculators.utils.process import logging_to

    place = Path(folder)
    if config is not None:
        check_free(config, place)
        check_start(config, place, used=False)
        write_pin(config, place)
    else:
        place, _ = prepare(place, allow)
    if (done := finished(place)) is not None:
        return done
    with logging_to(RunFolder(place).log):
        return launch(place)


def prepare(path: Path, allow: Sequence[str] = (), output: Path | None = None) -> tuple[Path, list[str]]:
    """Check the run of a run.yaml, its inputs and the machine, and make it ready to be launched.

    Args:
        path: a run's folder, or a run.yaml.
        allow: rights, as for `speculators.runfolder.rights.allow`.
        output: another folder to run it in.

    Returns:
        The folder to launch, and lines about keys that were migrated and defaults that changed.

    Raises:
        speculators.utils.messages.WrongInput: with every problem.
    """
    from speculators.composition.moved import moved
    from speculators.execution.again import load_again, place
    from speculators.runfolder.folder import RunFolder, run_yaml_of
    from speculators.runfolder.identity import check_same, identity, trained
    from speculators.runfolder.run_yaml import load, rewrite

    if output is None and finished(path) is not None:
        # An edited run.yaml describes another run than the one that finished here.
        checkpoints, pin = RunFolder(run_yaml_of(path).parent).checkpoints, load(path)
        check_same(identity(pin.run, pin.read), trained(checkpoints), checkpoints)
        return path, []
    pin, notes = load_again(path, allow)
    # Imports torch, for seconds, so it comes after what is refused without.
    from speculators.execution import input_hashes

    input_hashes.check(pin, path)
    check_start(pin.run, output or path, used=bool(pin.read))
    folder = place(path, output)
    rewrite(folder, pin)
    return folder, [*notes, *moved(pin)]


def extend(path: Path, epochs: int, output: Path, allow: Sequence[str] = ()) -> Path:
    """Make a new run that trains a finished run's draft further; optimizer state and learning-rate schedule start anew.

    Args:
        path: the finished run's folder.
        epochs: passes over the data of the new run.
        output: its folder, without a run.
        allow: rights, as for `speculators.runfolder.rights.allow`.

    Returns:
        `output`, ready to be launched.

    Raises:
        speculators.utils.messages.WrongInput: with every problem.
    """
    from speculators.execution.again import load_again
    from speculators.runfolder.folder import RunFolder
    from speculators.runfolder.run_yaml import write_pin
    from speculators.utils.messages import WrongInput

    if finished(path) is None:
        raise WrongInput([f"{path}: it is not finished; `speculators run {path}` resumes it"])
    if RunFolder(output).run_yaml.exists():
        raise WrongInput([f"--output={output}: it holds a run already; name a new folder"])
    run = load_again(path, allow)[0].run
    first = {"epochs": epochs, "max_steps": None, "init_from": str(RunFolder(path).checkpoint.resolve())}
    run = run.model_copy(update={"trainer": run.trainer.model_copy(update=first)})
    check_start(run, output, used=False)
    write_pin(run, output)
    return output


def check_start(run: "RunConfig", folder: Path, used: bool) -> None:
    """Check a run's data and the machine.

    Args:
        run: the run.
        folder: in which it will write.
        used: whether it has read its data before, which is then not read here.

    Raises:
        speculators.utils.messages.WrongInput: something is missing.
    """
    from speculators.data.check import check_run
    from speculators.execution.machine import lacking
    from speculators.utils.messages import WrongInput

    try:
        if not used:
            check_run(run)
        messages = lacking(run, folder)
    except ValueError as error:
        raise WrongInput([str(error)]) from error
    if messages:
        raise WrongInput(messages)


def finished(folder: Path) -> float | None:
    """The objective of a run that is done and whose result can be read, NaN if it was not evaluated; None for another."""
    from speculators.runfolder.folder import RunFolder, run_yaml_of
    from speculators.runfolder.result import load_result
    from speculators.runfolder.run_yaml import load

    own = RunFolder(run_yaml_of(folder).parent)
    try:
        if (done := own.read_done()) is None:
            return None
        if load(own.path).run.evaluation.num_prompts:
            load_result(own.path)
    except ValueError:
        return None  # a broken file is written again
    return done.objective
