"""The command line of `python train.py`: Hydra's entry point."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig

from speculators.cli.callbacks import Check
from speculators.cli.help import FLAGS, print_help
from speculators.cli.launch import launch, work
from speculators.composition.compose import EntryPointGroups, origin
from speculators.composition.hydra_errors import beyond_hydra, explain
from speculators.composition.provenance import NAME, Blame
from speculators.composition.validate import COMPOSING, validate
from speculators.utils.discovery import CONF
from speculators.utils.messages import RunFailed, WrongInput, broken_yaml, refused, stop
from speculators.utils.process import STOPPED_BY_SIGNAL, closed_pipe, keep_the_path_safe, mask_logs
from speculators.utils.secrets import displayed


def main() -> None:
    """The command line: `python train.py`, `speculators train`. Exits with 2 on wrong input, 1 if the run failed."""
    words = sys.argv[1:]
    with closed_pipe():
        if "--version" in words:
            print(f"speculators-hydra {version('speculators-hydra')}")
        elif any(word in FLAGS for word in words):
            print_help([word for word in words if word not in FLAGS])
        else:
            _run()


def _run() -> None:
    # Otherwise Hydra prints its errors itself, with advice (`use +key`) that is wrong for a closed set of settings.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    keep_the_path_safe()
    if messages := beyond_hydra(sys.argv[1:]):
        stop(messages)
    Plugins.instance().register(EntryPointGroups)
    try:
        _entry()
    except WrongInput as error:
        stop(error.messages)
    except RunFailed:
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; repeat the same command to resume", file=sys.stderr)
        sys.exit(STOPPED_BY_SIGNAL)
    except yaml.YAMLError as error:
        stop([broken_yaml(error)])
    except COMPOSING as error:
        if Check.passed:
            print(f"the sweep failed: {displayed(str(error))}", file=sys.stderr)
            sys.exit(1)
        stop([explain(error, sys.argv[1:])])
    except OSError as error:  # after Hydra's, of which the one for a missing option is an OSError too
        refused(error)


@hydra.main(version_base="1.3", config_path=f"pkg://{CONF}", config_name=NAME)
def _entry(config: DictConfig) -> float:
    mask_logs()
    hydra_config = HydraConfig.get()
    folder, run = Path(hydra_config.runtime.output_dir), validate(config)
    came_from = origin(Blame(hydra_config), run)
    if hydra_config.mode == RunMode.MULTIRUN:
        from speculators.sweep.trial import run_trial

        return run_trial(run, folder, came_from, hydra_config.job.num, launch, work)
    from speculators.execution.free import check_free
    from speculators.runfolder.folder import RunFolder
    from speculators.runfolder.run_yaml import write_pin

    with RunFolder(folder).lock():
        # Checked again under the lock: two runs started in the same second get the same folder.
        check_free(run, folder)
        write_pin(run, folder, came_from)
        return launch(folder)
