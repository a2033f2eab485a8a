"""Train every algorithm there is on the embedded verifier, and measure it by decoding, before and after.

    python benchmarks/algorithms.py FOLDER --write docs/algorithms/README.md

and those that draft for verifiers of another class alone, here on the one that a script of this project makes:

    python tools/train_tiny_mimo.py --output runs/tiny_mimo
    python benchmarks/algorithms.py FOLDER --verifier runs/tiny_mimo --write docs/algorithms/README.md

Each algorithm runs with the settings of its YAML, in a process of its own with one thread. FOLDER gets a run for each, which
a second call does not repeat. The same held-out prompts are decoded with 1, 2, ... speculative tokens, as many as it can draft,
with the draft as training starts with it and as it ends.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

COST_RATIOS = (0.02, 0.05, 0.1)
MEASURED = "measured.json"
BEGIN, END = "<!-- written by benchmarks/algorithms.py{} -->\n", "<!-- end -->\n"
# The embedded conversations as data=chat has them, which goes with the embedded verifier alone.
CHAT = (
    "data=jsonl",
    "data.path=pkg://speculators.assets/chat.jsonl",
    "data.max_length=320",
    "data.heldout_fraction=0.08",
)


def measure(name: str, folder: Path, verifier_folder: str | None) -> dict[str, Any]:
    """Train one algorithm and publish its draft.

    Args:
        name: of the algorithm.
        folder: of its run; there is none yet.
        verifier_folder: a verifier that gives the embedded one's answers; None is the embedded one.

    Returns:
        What it is, what its training took, and what is accepted of it.
    """
    import torch
    from accelerate.utils import set_seed

    from speculators.composition.compose import compose
    from speculators.config import SpeculatorModelConfig
    from speculators.data.prepare import prepare
    from speculators.data.template import ChatTemplate
    from speculators.evaluate.evaluate import evaluate, modelled_speedup
    from speculators.evaluate.what_if import what_if
    from speculators.export.preflight import plan
    from speculators.export.publish import publish
    from speculators.format.published import speculator_dict
    from speculators.protocols.initialisation import Initialisation
    from speculators.runfolder.run_yaml import write_pin
    from speculators.train.build import build
    from speculators.train.loop import train
    from speculators.utils.device import resolve
    from speculators.verifier.facts import VerifierFacts
    from speculators.verifier.in_process import Verifier
    from speculators.verifier.tensors import VerifierTensors

    torch.set_num_threads(1)
    of_another = [f"verifier.name_or_path={verifier_folder}", *CHAT] if verifier_folder else []
    run = compose([f"algorithm={name}", "proposal=greedy", "tracker=none", *of_another])
    folder.mkdir(parents=True)
    write_pin(run, folder)
    device = resolve(run.device)
    facts = VerifierFacts.read(run.verifier.name_or_path)
    verifier = Verifier.load(run.verifier, device)
    set_seed(run.seed)
    prepared = prepare(run.data, ChatTemplate.of(run.verifier, run.data), facts.vocab_size, run.seed)
    set_seed(run.seed)
    published = speculator_dict(run, facts)
    config = SpeculatorModelConfig.from_dict(published)
    given = Initialisation(verifier.head, prepared.token_count_V, partial(VerifierTensors, run.verifier))
    model = build(config, given, device)
    proposals = [run.proposal.with_tokens(count) for count in range(1, run.proposal.nodes + 1)]
    prompts = prepared.prompts[: run.evaluation.num_prompts]

    def lengths() -> list[float]:
        found = what_if(model, verifier, prompts, proposals, run.evaluation, run.seed)
        return [decoded.acceptance_length for decoded in found]

    untrained = lengths()
    start = time.process_time()
    trained = train(model, verifier, prepared, run, folder)
    seconds = time.process_time() - start
    publish(model, run, facts, folder)
    if not evaluate(model, verifier, prompts, run.proposal, run.evaluation, run.seed).matches_plain_decoding:
        raise RuntimeError(f"{name}: the text is not the verifier's")
    engine, accepted = plan(run, published, facts).engine, lengths()
    return {
        "name": name,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "cpu_seconds": seconds,
        "steps": trained.steps,
        "num_prompts": len(prompts),
        "max_new_tokens": run.evaluation.max_new_tokens,
        "verifier": run.verifier.name_or_path,
        "served_by": None if engine is None else str(engine),
        "one_pass": model.one_pass,
        "untrained": untrained,
        "trained": accepted,
        "speedups": [
            [modelled_speedup(length, model.passes(p.levels), ratio) for length, p in zip(accepted, proposals, strict=True)]
            for ratio in COST_RATIOS
        ],
    }  # fmt: skip


def text(measured: list[dict[str, Any]]) -> str:
    """The table, with what was measured and how."""
    first, most = measured[0], max(len(m["trained"]) for m in measured)
    ratios = [f"{ratio:g}" for ratio in COST_RATIOS]
    columns = ["algorithm", "trainable parameters", "training", "draft", *(f"K={k}" for k in range(1, most + 1))]
    columns += [*(f"speed-up at {ratio}" for ratio in ratios), "served by"]
    lines = [columns, ["---"] * len(columns), *(row for m in measured for row in rows(m, most))]
    one_pass, passes = [m["name"] for m in measured if m["one_pass"]], "K tokens take K passes"
    if len(one_pass) > 1:
        them = f"{', '.join(one_pass[:-1])} and {one_pass[-1]}"
        passes = f"{them} draft all K tokens in one pass, the others take K passes"
    return (
        f"Verifier {first['verifier']}, embedded chat data, the settings of each algorithm's YAML, {first['steps']} steps; "
        f"{first['num_prompts']} held-out prompts of at most {first['max_new_tokens']} new tokens, greedy, float32, every text "
        "equal to the verifier's own. `training` is processor time of one process with one thread, not wall time, on "
        f"{platform.machine()} with torch {version('torch')}. Other work on the machine lengthens it: small differences mean "
        "nothing.\n\n"
        + "".join("| " + " | ".join(line) + " |\n" for line in lines)
        + "\nK is `proposal.speculative_tokens`; the columns under it are acceptance lengths, 1 + accepted / drafts. `speed-up` "
        "is modelled, as in `speculators evaluate`: acceptance length / (1 + ratio × passes), where the ratio is the time of a "
        f"draft pass over that of a verifier pass, {', '.join(ratios[:-1])} or {ratios[-1]}, for the best K. "
        f"{passes}; what a pass costs differs between algorithms. `served by` is what the export chooses with these settings.\n"
    )


def rows(m: dict[str, Any], most: int) -> list[list[str]]:
    """An algorithm's cells: its trained draft, and below it the untrained one.

    Args:
        m: what `measure` returned.
        most: the most tokens that any algorithm drafts.
    """

    def accepted(draft: str) -> list[str]:
        return [draft, *(f"{length:.2f}" for length in m[draft]), *["-"] * (most - len(m[draft]))]

    own = [f"[{m['name']}]({m['name']}.md)", f"{m['parameters'] / 1e6:.2f} M", f"{m['cpu_seconds']:.0f} s"]
    best = [max(enumerate(by_tokens, 1), key=lambda pair: pair[1]) for by_tokens in m["speedups"]]
    speedups = [f"{speedup:.2f} (K={k})" for k, speedup in best]
    served = [m["served_by"] or "only here"]
    return [
        [*own, *accepted("trained"), *speedups, *served],
        [*[""] * len(own), *accepted("untrained"), *[""] * len([*speedups, *served])],
    ]


def main() -> None:
    """Each algorithm in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="gets a run for each algorithm")
    parser.add_argument("--algorithm", help="measure this one here, and stop")
    parser.add_argument("--verifier", help="folder of one of another class, that gives the embedded verifier's answers")
    parser.add_argument("--write", type=Path, help="put the table into this page, between its two marks")
    args = parser.parse_args()
    if args.algorithm:
        own = args.folder / args.algorithm
        found = measure(args.algorithm, own, args.verifier)
        (own / MEASURED).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        return
    from speculators.settings.algorithm import AlgorithmSettings
    from speculators.verifier.facts import VerifierFacts

    own_class = set(VerifierFacts.read(args.verifier).architectures) if args.verifier else set[str]()
    option = [f"--verifier={args.verifier}"] if args.verifier else []
    measured = []
    for name in AlgorithmSettings.names():
        classes = set(AlgorithmSettings.named(name).verifier_architectures)
        if not (classes & own_class if args.verifier else not classes):
            continue  # does not draft for the verifier, or has been measured with the embedded one
        if not (file := args.folder / name / MEASURED).is_file():
            subprocess.run([sys.executable, __file__, str(args.folder), f"--algorithm={name}", *option], check=True)
        measured.append(json.loads(file.read_text(encoding="utf-8")))
    written = text(measured)
    print(written)
    if args.write:
        page, begin = args.write.read_text(encoding="utf-8"), BEGIN.format(" --verifier" if args.verifier else "")
        head, _, rest = page.partition(begin)
        args.write.write_text(head + begin + written + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
