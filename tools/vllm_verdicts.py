"""Asks vLLM to load and run valid and broken drafts, and writes its verdicts to tests/golden/vllm_verdicts/ALGORITHM.json.

    python tools/vllm_verdicts.py --vllm-python ENV/bin/python --scratch FOLDER [--algorithm NAME]

vLLM is installed in an environment of its own, which this script uses and does not make. The cases of an algorithm are in
`vllm_cases/NAME.py`: each is a base, as this project publishes it, with a few changes. The golden file holds both and
vLLM's verdict, so that tests/export/test_verdicts.py can rebuild every folder and compare this project's own check without
vLLM. Verdicts that an earlier call left in the scratch folder are reused: only new cases are run.
"""

import argparse
import copy
import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from train_tiny_mimo import convert
from vllm_cases import MIMO, discovered

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden" / "vllm_verdicts"
VERIFIER = ROOT / "speculators" / "assets" / "tiny"
# What stands in the golden files for the folders of verifiers. Of the small MiMo the tests have config.json alone.
PLACES = {"$verifier": VERIFIER, "$mimo": MIMO}
BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "BOOL": 1}


def base(overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """An untrained draft as this project publishes it: its config, its tensors' kinds and shapes, its native config.

    Args:
        overrides: of the composed run.
        folder: is written to.
    """
    import torch

    from speculators.composition.compose import compose
    from speculators.config import SpeculatorModelConfig
    from speculators.export.publish import publish
    from speculators.format.layout import Layout
    from speculators.format.published import speculator_dict
    from speculators.format.tensors import read_tensors
    from speculators.protocols.head import VerifierHead
    from speculators.protocols.initialisation import Initialisation
    from speculators.train.build import build
    from speculators.verifier.facts import VerifierFacts
    from speculators.verifier.tensors import VerifierTensors

    run = compose([*overrides, "export=none"])  # vLLM is to be asked of what this project would not export, too
    facts = VerifierFacts.read(run.verifier.name_or_path)
    torch.manual_seed(0)
    config = SpeculatorModelConfig.from_dict(speculator_dict(run, facts))
    embedding_VH, head_VH = (torch.randn(facts.vocab_size, facts.hidden_size) for _ in range(2))
    head = VerifierHead(embedding_VH, head_VH)
    given = Initialisation(head, torch.arange(facts.vocab_size), partial(VerifierTensors, run.verifier))
    draft = build(config, given, torch.device("cpu"))
    checkpoint = publish(draft, run, facts, folder)
    published = json.loads((checkpoint / "config.json").read_text())
    place = "$verifier" if Path(published["speculators_config"]["verifier"]["name_or_path"]) == VERIFIER else "$mimo"
    published["speculators_config"]["verifier"]["name_or_path"] = place
    tensors = read_tensors(checkpoint)
    return {
        "config": published,
        "native": Layout.named(run.algorithm.name).native(published, "vllm"),
        "tensors": {name: [t.dtype, list(t.shape)] for name, t in sorted(tensors.items())},
    }


def write_folder(
    bases: Mapping[str, Any], case: Mapping[str, Any], folder: Path, places: Mapping[str, Path] = PLACES
) -> None:
    """A case's folder, its tensors all zero; a native config is changed with the published one and then by itself.

    Args:
        bases: those of the golden file.
        case: one of the golden file's.
        folder: is made.
        places: folders of the verifiers.
    """
    from speculators.format.layout import Layout

    chosen = copy.deepcopy(bases[case["base"]])
    config, native, tensors = chosen["config"], chosen["native"], chosen["tensors"]
    verifier = config["speculators_config"]["verifier"]
    verifier["name_or_path"] = str(places.get(verifier["name_or_path"], verifier["name_or_path"]))
    values, gone = case.get("set", {}), case.get("delete", [])
    patch(config, {k: v for k, v in values.items() if "/" not in k}, [k for k in gone if "/" not in k])
    tensors |= case.get("tensors", {})
    write(folder, config, tensors)
    if native is None:
        return
    layout = Layout.named(bases[case["base"]]["config"]["speculators_model_type"])
    changed = layout.native(config, "vllm") or native
    inner = {k.removeprefix("vllm/"): v for k, v in values.items() if k.startswith("vllm/")}
    patch(changed, inner, [k.removeprefix("vllm/") for k in gone if k.startswith("vllm/")])
    write(folder / "vllm", changed, {layout.native_name(name): spec for name, spec in tensors.items()})


def patch(config: dict[str, Any], values: Mapping[str, Any], gone: Sequence[str]) -> None:
    """Set and delete dotted paths, where a number is a list's index."""
    from speculators.utils.dotted import holder

    for path in [*values, *gone]:
        group, name = holder(config, path)
        if path in values:
            group[name] = values[path]
        else:
            del group[name]


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """config.json and a model.safetensors of zeros, which take no room on the disk; t2d agrees with d2t."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    header, end = {}, 0
    for name, spec in sorted(tensors.items()):
        if spec is None:
            continue
        dtype, shape = spec
        size = BYTES[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
        if "t2d" in header and "d2t" in header:
            # Offsets of zero reach the first tokens, which t2d marks.
            file.seek(header["t2d"]["data_offsets"][0], os.SEEK_CUR)
            file.write(b"\1" * min(header["d2t"]["shape"][0], header["t2d"]["shape"][0]))


def job(case: Mapping[str, Any], kind: str, folder: Path, verifier: Path) -> dict[str, Any]:
    """How vLLM is asked for a folder: as the model card says."""
    from speculators.export.engines import engine_version

    if not (folder / "vllm").is_dir():
        return {"name": case["name"], "model": str(folder), "speculative": None}
    config = json.loads((folder / "config.json").read_text())
    tokens = config["speculators_config"]["proposal_methods"][0]["speculative_tokens"]
    draft = engine_version("vllm", "0.32.0").draft(kind)
    assert draft is not None
    serving = draft.serving(config, str(folder), str(verifier), tokens)
    return {"name": case["name"], "model": serving.model, "speculative": dict(serving.options)}


def main() -> None:
    """Build the folders of every chosen algorithm, run vLLM on them, write the golden files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", required=True, type=Path, help="interpreter of an environment with vLLM")
    parser.add_argument("--scratch", required=True, type=Path, help="folder for drafts, logs and verdicts so far")
    algorithms = discovered()
    parser.add_argument("--algorithm", choices=algorithms, help="run the cases of this algorithm alone")
    options = parser.parse_args()
    for name in [options.algorithm] if options.algorithm else algorithms:
        ask(name, options.vllm_python, options.scratch.resolve() / name)


def ask(algorithm: str, python: Path, scratch: Path) -> None:
    """Write one algorithm's golden file.

    Args:
        algorithm: a module of `vllm_cases`.
        python: interpreter of an environment with vLLM.
        scratch: folder for drafts, logs and verdicts.
    """
    cases = discovered()[algorithm]
    places = PLACES | {"$mimo": scratch / "mimo"}
    convert(VERIFIER, places["$mimo"])
    bases = {
        name: base([o.replace(str(MIMO), str(places["$mimo"])) for o in overrides], scratch / "bases" / name)
        for name, overrides in cases.bases.items()
    }
    names = [case["name"] for case in cases.listed]
    if len(set(names)) < len(names):
        sys.exit(f"{algorithm}: cases with the same name: {sorted({n for n in names if names.count(n) > 1})}")
    jobs = []
    for i, case in enumerate(cases.listed):
        write_folder(bases, case, scratch / "drafts" / str(i), places)
        config = bases[case["base"]]["config"]
        verifier = places[config["speculators_config"]["verifier"]["name_or_path"]]
        asked = job(case, config["speculators_model_type"], scratch / "drafts" / str(i), verifier)
        jobs.append(asked | {"runner": cases.runner})
    (scratch / "jobs.json").write_text(json.dumps(jobs))
    (scratch / "logs").mkdir(exist_ok=True)
    worker = Path(__file__).with_name("vllm_verdicts_worker.py")
    files = [str(scratch / name) for name in ("jobs.json", "answers.json", "logs")]
    subprocess.run([str(python), str(worker), *files], check=True, cwd=scratch)
    answers = json.loads((scratch / "answers.json").read_text())
    judged = []
    for i, case in enumerate(cases.listed):
        answer = json.dumps(answers[case["name"]])
        answer = answer.replace(str(scratch / "drafts" / str(i)), "$checkpoint")
        for place, verifier in places.items():
            answer = answer.replace(str(verifier), place)
        judged.append(case | json.loads(answer))
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / f"{algorithm}.json").write_text(golden_text(answers["vllm"], bases, judged))


def golden_text(version: str, bases: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]) -> str:
    """A golden file with one line a base and a case."""
    lines = ",\n".join(f"    {json.dumps(case)}" for case in cases)
    each = ",\n".join(f'    "{name}": {json.dumps(one)}' for name, one in bases.items())
    return f'{{\n  "vllm": "{version}",\n  "bases": {{\n{each}\n  }},\n  "cases": [\n{lines}\n  ]\n}}\n'


def read_golden() -> dict[str, Any]:
    """The golden files of all algorithms together.

    Returns:
        `vllm`, the one version that all were asked of; `bases` by their names; `cases` by their names.

    Raises:
        ValueError: the files have verdicts of different vLLM versions.
    """
    files = [json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*.json"))]
    versions = {file["vllm"] for file in files}
    if len(versions) != 1:
        raise ValueError(f"{GOLDEN}: verdicts of vLLM {sorted(versions)}; run all algorithms with one version")
    bases = {name: base for file in files for name, base in file["bases"].items()}
    return {"vllm": versions.pop(), "bases": bases, "cases": {c["name"]: c for file in files for c in file["cases"]}}


if __name__ == "__main__":
    main()
