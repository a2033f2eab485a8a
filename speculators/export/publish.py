"""Writes a trained draft into a folder that can be shared, loaded and served."""

import json
import logging
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from speculators.config import SpeculatorModelConfig
from speculators.export.checklist import check_folder
from speculators.export.model_card import CARD_NAME, model_card
from speculators.export.preflight import CannotServe, ExportPlan, plan
from speculators.export.stitch import stitch
from speculators.format.layout import Layout
from speculators.format.tensors import WHOLE, read_tensors
from speculators.model import SpeculatorModel
from speculators.runfolder.folder import RUN_YAML, RunFolder
from speculators.runfolder.public import public
from speculators.settings.run_config import RunConfig
from speculators.utils import files, manifest
from speculators.utils.dtypes import dtype_of
from speculators.utils.manifest import MANIFEST
from speculators.verifier.facts import VerifierFacts
from speculators.verifier.location import SCHEME, local_path, public_name

log = logging.getLogger(__name__)


def publish(model: SpeculatorModel, run: RunConfig, facts: VerifierFacts, folder: Path) -> Path:
    """Write `folder/checkpoint` and check it against what its engine reads; its model card has no result yet.

    With `export.stitched_verifier` also `folder/stitched_verifier`.

    Args:
        model: the trained draft, not wrapped for distribution.
        run: the run's config.
        facts: the verifier's.
        folder: the run's folder; its run.yaml is copied, without private paths.

    Returns:
        The written folder.

    Raises:
        CannotServe: the engine that the user named would not load what was written.
    """
    own = RunFolder(folder)
    checkpoint = own.checkpoint
    checkpoint.mkdir(parents=True, exist_ok=True)
    verifier = real_name(run.verifier.name_or_path)
    config = _config(model, run, verifier)
    export = plan(run, config.to_diff_dict(), facts)
    of_it = RunFolder(checkpoint)
    for file in (checkpoint / MANIFEST, of_it.result, of_it.acceptance_plot):
        file.unlink(missing_ok=True)  # of an earlier export
    config.save_pretrained(checkpoint)
    save_weights(model, dtype_of(run.export.dtype), checkpoint / WHOLE)
    if export.engine is not None:
        _write_native(checkpoint, config, export.engine.name)
    if run.export.stitched_verifier:
        stitch(run.verifier, _native_tensors(checkpoint, Layout.named(run.algorithm.name)), own.stitched_verifier)
    if own.run_yaml.is_file():
        files.write(checkpoint / RUN_YAML, public(own.run_yaml.read_text(encoding="utf-8")))
    export = _checked(checkpoint, run, facts, export)
    name = run.export.base_model or public_name(verifier)
    files.write(checkpoint / CARD_NAME, model_card(run, config.to_diff_dict(), name, export))
    manifest.write(checkpoint, [checkpoint / WHOLE])
    return checkpoint


def real_name(name_or_path: str) -> str:
    """What an engine on this machine can load: an absolute folder, or a hub id as it is."""
    path = Path(local_path(name_or_path))
    return str(path.resolve()) if path.is_dir() or name_or_path.startswith(SCHEME) else name_or_path


def save_weights(model: SpeculatorModel, dtype: torch.dtype, file: Path) -> None:
    """Write a draft's state dict; floating tensors become `dtype`, all others stay."""
    tensors = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    # A native folder of an earlier export may be a hard link to the old file.
    file.unlink(missing_ok=True)
    _save(tensors, file)


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o644)  # safetensors leaves it readable by its owner alone


def _config(model: SpeculatorModel, run: RunConfig, verifier: str) -> SpeculatorModelConfig:
    values = model.config.to_dict()
    values["speculators_config"]["verifier"]["name_or_path"] = verifier
    values["dtype"] = run.export.dtype
    return SpeculatorModelConfig.from_dict(values)


def _write_native(checkpoint: Path, config: SpeculatorModelConfig, engine: str) -> None:
    """The engine's own format: its config beside the same tensors, the same file where their names are the same."""
    layout = Layout.named(config.speculators_model_type)
    native = layout.native(config.to_diff_dict(), engine)
    if native is None:
        return
    folder = checkpoint / engine
    folder.mkdir(exist_ok=True)
    files.write(folder / "config.json", json.dumps(native, indent=2) + "\n")
    target = folder / WHOLE
    target.unlink(missing_ok=True)
    if any(layout.native_name(name) != name for name in read_tensors(checkpoint)):
        _save(_native_tensors(checkpoint, layout), target)
        return
    try:
        os.link(checkpoint / WHOLE, target)
    except OSError:  # file systems without hard links
        shutil.copyfile(checkpoint / WHOLE, target)


def _native_tensors(checkpoint: Path, layout: type[Layout]) -> dict[str, Tensor]:
    """The published tensors under the names of the engine's own format."""
    return {layout.native_name(name): tensor for name, tensor in load_file(checkpoint / WHOLE).items()}


def _checked(checkpoint: Path, run: RunConfig, facts: VerifierFacts, export: ExportPlan) -> ExportPlan:
    """The plan after the checklist: no engine if it would refuse the folder."""
    findings = tuple(check_folder(checkpoint, facts, export.engine))
    bad = "\n".join(f"  {finding}" for finding in findings if finding.bad)
    if not bad:
        return ExportPlan(export.engine, findings, export.summary)
    problem = f"was written, but does not pass its checks:\n{bad}"
    if run.export.target not in ("auto", "none"):
        raise CannotServe(f"export.target={run.export.target}: {checkpoint} {problem}", findings)
    log.warning("%s %s", checkpoint, problem)
    return ExportPlan(None, findings, f"it {problem}")
