"""Composes and checks every trial of a sweep before the first one starts; lists the trials on a dry run."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from speculators.composition.hydra_errors import beyond_hydra, explain
from speculators.composition.provenance import NAME, Blame
from speculators.composition.validate import COMPOSING, check_data, check_machine, validate
from speculators.report.runs import varying
from speculators.runfolder.keys import result_key, weights_key
from speculators.sweep.points import CAP, points
from speculators.utils.messages import WrongInput, stop
from speculators.utils.terminal import console

if TYPE_CHECKING:
    from speculators.settings.run_config import RunConfig

# Settings on which the check of the machine depends.
OF_THE_MACHINE = {
    "device": True, "tracker": True, "cache": True, "export": True, "data": True, "verifier": True, "verifier_states": True,
    "verifier_answers": True, "algorithm": True, "trainer": {"init_from"},
}  # fmt: skip
# Hydra's launcher that runs trials on this machine; others may run them elsewhere.
HERE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def check(config: DictConfig) -> None:
    """Raise an error that lists every problem of every trial; on a dry run print the trials and exit.

    Data and machine are checked once the settings of all trials are right.

    Args:
        config: composed for a multirun, with its `hydra` node.
    """
    try:
        trials, more = points(config)
    except COMPOSING as error:
        stop([explain(error, Blame(config.hydra).overrides)])
    loader = GlobalHydra.instance().config_loader()
    # Hydra's own overrides apply to every trial; hydra.searchpath sets where config options are looked up.
    own: Any = OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False)
    searched = [f"hydra.searchpath={json.dumps(Blame(config.hydra).searchpath)}"]
    names = [f"trial {i} ({' '.join(differing)})" for i, differing in enumerate(varying(trials))]
    messages, composed, runs, read = [], [], [], set[str]()
    for name, trial in zip(names, trials, strict=True):
        try:
            if found := beyond_hydra(trial):
                raise WrongInput(found)
            composed.append(loader.load_configuration(NAME, [*own, *trial], RunMode.RUN))
            runs.append(validate(composed[-1]))
        except WrongInput as error:
            messages += [f"{name}: {m}" for m in error.messages]
        except COMPOSING as error:
            messages.append(f"{name}: {explain(error, [*searched, *trial])}")
    if messages := messages or alike(runs, trials) or pushed_to_one(runs):
        stop(messages)
    # As in a single run, data are read once the settings are right: what reads them takes seconds to import.
    for name, own_config, run in zip(names, composed, runs, strict=True):
        try:
            # The data is read once for all trials that use the same data; the machine is checked once for each training.
            if (data := run.model_dump_json(include={"data", "verifier"})) not in read:
                read.add(data)
                check_data(own_config, run)
            machine = run.model_dump_json(include=OF_THE_MACHINE)
            if config.hydra.launcher._target_ == HERE and machine not in read:
                read.add(machine)
                check_machine(own_config, run, Path(config.hydra.sweep.dir))
        except WrongInput as error:
            messages += [f"{name}: {m}" for m in error.messages]
    if messages:
        stop(messages)
    if more:
        print(f"more than {CAP} trials: only the first {CAP} were checked", file=sys.stderr)
    if any(run.dry_run for run in runs):
        show(runs, varying(trials))
        sys.exit(0)


def alike(runs: Sequence["RunConfig"], trials: Sequence[Sequence[str]]) -> list[str]:
    """One message for each trial that duplicates an earlier trial and so would use the same folder.

    Args:
        runs: the trials, composed.
        trials: the overrides of each.
    """
    first: dict[str, int] = {}
    messages, differing = [], varying(trials)
    for i, run in enumerate(runs):
        earlier = first.setdefault(result_key(run), i)
        if earlier != i:
            own, other = (" ".join(differing[n] or trials[n]) for n in (i, earlier))
            why = "; give each value once" if own == other else f" and {other} do not change the result"
            messages.append(f"trial {i} is the same as trial {earlier}: {own}{why}")
    return messages


def pushed_to_one(runs: Sequence["RunConfig"]) -> list[str]:
    """A message for each trial whose draft would replace that of an earlier trial on the Hub."""
    first: dict[str, int] = {}
    return [
        f"trial {i}: export.hub_repo={repo}: trial {earlier} pushes there too; name it after what differs, such as "
        f"export.hub_repo='{repo}-${{algorithm.name}}', or push the best trial with `speculators push`"
        for i, run in enumerate(runs)
        if (repo := run.export.hub_repo) is not None and (earlier := first.setdefault(repo, i)) != i
    ]


def show(runs: Sequence["RunConfig"], differing: Sequence[Sequence[str]]) -> None:
    """Print the trials as a table: the overrides of each, and which of them share a training."""
    trainings = {key: n for n, key in enumerate(dict.fromkeys(weights_key(run) for run in runs))}
    shared = "1 training" if len(trainings) == 1 else f"{len(trainings)} trainings"
    table = Table(title=f"{len(runs)} trials, {shared}", title_justify="left")
    for name in ("trial", "overrides", "folder", "training"):
        table.add_column(name, justify="right" if name in ("trial", "training") else "left", overflow="fold")
    for i, (run, overrides) in enumerate(zip(runs, differing, strict=True)):
        own = " ".join(o for o in overrides if not o.startswith("dry_run"))
        table.add_row(str(i), own, result_key(run), str(trainings[weights_key(run)]))
    console().print(table)
