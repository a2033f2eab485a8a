"""Checks that a folder is free for a new run."""

from pathlib import Path

from speculators.execution.input_hashes import hashes
from speculators.runfolder.folder import RunFolder
from speculators.runfolder.identity import check_same, identity, trained
from speculators.runfolder.keys import WEIGHTS, processes, weights_key
from speculators.runfolder.rights import command
from speculators.runfolder.run_yaml import load
from speculators.settings.run_config import RunConfig
from speculators.utils.dotted import flat
from speculators.utils.messages import WrongInput


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
