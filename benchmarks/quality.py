"""What drafts of one verifier have accepted, draft beside draft, on texts that it wrote or on those that they decoded.

    python benchmarks/quality.py RUN... --data topics/development.jsonl --prompts 110
    python benchmarks/quality.py RUN...

Without --data, the rounds are those of each run's own evaluation; all runs must have been evaluated on the same prompts.

The answers in --data must be the verifier's own, decoded greedily: then each token of a text is the verifier's choice, and one
pass of the verifier over a text, and one of the draft for each drafted token, give what every round of greedy decoding accepts.
Texts count whole, and their rounds begin as in decoding: each at the token after the last round's. An answer that another
precision decoded may differ from the verifier's choice at a tie; there a draft is right if it drafts that choice.

`in vocabulary` is the share of the answers' tokens that the draft has; it can have no other accepted. Intervals are 95 %
bootstrap intervals over texts. That of the ratio to the first run resamples both on the same texts.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from speculators.data.collate import collate
from speculators.data.prepare import prepare
from speculators.data.template import ChatTemplate
from speculators.evaluate.evaluate import load_draft
from speculators.evaluate.interval import LEVEL, RESAMPLES
from speculators.losses.distillation import distill
from speculators.model import SpeculatorModel, TrainingContext
from speculators.protocols.hidden_states import VerifierStates
from speculators.runfolder.result import load_result
from speculators.runfolder.run_yaml import load
from speculators.settings.run_config import RunConfig
from speculators.utils.device import resolve
from speculators.verifier.in_process import Verifier


class Texts:
    """Conversations with the verifier's states, computed once for all drafts.

    Args:
        verifier: which wrote them.
        run: whose rendering is used.
        file: conversations.
        count: how many of them, the same ones for a seed.
        layer_ids: every layer that some draft reads.
    """

    def __init__(self, verifier: Verifier, run: RunConfig, file: Path, count: int, layer_ids: Sequence[int]) -> None:
        settings = {"path": str(file), "max_conversations": count, "heldout_fraction": 0.0, "regenerate": False}
        data = run.data.model_copy(update=settings)
        template, vocab_size = ChatTemplate.of(run.verifier, run.data), len(verifier.head.embed_VH)
        found = prepare(data, template, vocab_size, run.seed)
        self.verifier, self.layer_ids = verifier, list(layer_ids)
        self.documents = [document for sequence in found.sequences for document in sequence]
        with torch.inference_mode():
            self.states = [self.verifier(collate([[own]], 1), self.layer_ids) for own in self.documents]

    def of(self, i: int, layer_ids: Sequence[int]) -> VerifierStates:
        """The states of one text, with some of the layers."""
        whole = self.states[i]
        if not layer_ids or whole.aux_BTA is None:
            return VerifierStates(whole.last_BTH, None)
        parts = whole.aux_BTA.chunk(len(self.layer_ids), dim=-1)
        return VerifierStates(whole.last_BTH, torch.cat([parts[self.layer_ids.index(n)] for n in layer_ids], dim=-1))


@torch.inference_mode()
def right(model: SpeculatorModel, run: RunConfig, texts: Texts, i: int, tokens: int) -> Tensor:
    """[K, T] bool: drafting from the state of position t, whether drafted token k is the verifier's choice for t + 1 + k."""
    algorithm = run.algorithm.model_copy(update={"ttt_steps": tokens})
    batch = collate([[texts.documents[i]]], partial(type(model).plan_rows, algorithm)).to(texts.verifier.device)
    states, head = texts.of(i, model.layer_ids), texts.verifier.head
    output = model(batch, states, head, TrainingContext(algorithm, 1.0))
    correct_R = distill(next(iter(output.rows.values())), batch, states, head, {"kl": 1.0}, 1.0).results.correct_R
    plan, right_KT = batch.rows, torch.zeros(tokens, batch.token_BT.shape[1], dtype=torch.bool, device=correct_R.device)
    right_KT[plan.slot_R[correct_R] - 1, plan.anchor_R[correct_R]] = True
    return right_KT


def rounds(right_KT: Tensor, first: int) -> list[int]:
    """Tokens that each round accepts, from the draft that follows the answer's first token, at position `first`."""
    accepted_T, at, found = right_KT.cumprod(0).sum(0).tolist(), first - 1, []
    while at < right_KT.shape[1] - 2:
        found.append(accepted_T[at])
        at += found[-1] + 1
    return found


def covered(model: SpeculatorModel, texts: Texts) -> float:
    """Share of the answers' tokens, all but the first of each, that are in the draft's vocabulary."""
    kept_D = getattr(model, "kept_D", None)
    if kept_D is None:
        return 1.0
    answers = [torch.tensor(own.tokens)[torch.tensor(own.supervised)][1:] for own in texts.documents]
    return torch.isin(torch.cat(answers), kept_D.cpu()).double().mean().item()


def on_texts(folders: Sequence[Path], data: Path, prompts: int, tokens: int) -> Iterator[tuple[str, list[list[int]]]]:
    """The share of the answers' tokens that each draft has, and what its rounds accept in each text."""
    first = load(folders[0]).run
    # Another trainer's draft has a checkpoint alone.
    pins = [load(folder).run if (folder / "run.yaml").exists() else first for folder in folders]
    torch.set_num_threads(first.launch.num_threads or torch.get_num_threads())
    verifier = Verifier.load(first.verifier, resolve(first.device))
    models = [load_draft(folder / "checkpoint", verifier).eval() for folder in folders]
    layer_ids = sorted({i for model in models for i in model.layer_ids})
    texts = Texts(verifier, first, data, prompts, layer_ids)
    for run, model in zip(pins, models, strict=True):
        starts = [list(document.supervised).index(True) for document in texts.documents]
        own = [rounds(right(model, run, texts, i, tokens), start) for i, start in enumerate(starts)]
        yield f"{covered(model, texts):.1%}", own


def as_decoded(folders: Sequence[Path]) -> Iterator[tuple[str, list[list[int]]]]:
    """What the rounds of each evaluation accepted in each text."""
    asked = load_result(folders[0]).prompts
    for folder in folders:
        result = load_result(folder)
        if result.prompts != asked:
            raise SystemExit(f"{folder} was evaluated on other prompts than {folders[0]}")
        yield "-", result.rounds


def main() -> None:
    """A row for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        help="folders of finished runs; with --data of recurrent drafts, such as eagle3's, and after the first also folders "
        "with a checkpoint of the same algorithm from another trainer",
    )
    parser.add_argument("--data", type=Path, help="conversations with the verifier's greedy answers")
    parser.add_argument("--prompts", type=int, default=110, help="how many of them")
    parser.add_argument("--tokens", type=int, default=3, help="drafted tokens, with --data")
    args = parser.parse_args()
    measured = on_texts(args.runs, args.data, args.prompts, args.tokens) if args.data else as_decoded(args.runs)
    titles = "run", "in vocabulary", f"accepted tokens a draft ({LEVEL:.0%})", "by position", "of the first run's"
    print(f"| {' | '.join(titles)} |\n|---|--:|---|---|---|")
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    first_R: Tensor | None = None
    for folder, (in_vocabulary, own) in zip(args.runs, measured, strict=True):
        accepted_P, drafts_P = (torch.tensor(list(map(f, own)), dtype=torch.float64) for f in (sum, len))
        drawn_RP = torch.randint(len(own), (RESAMPLES, len(own)), generator=torch.Generator().manual_seed(0))
        drawn_R = accepted_P[drawn_RP].sum(1) / drafts_P[drawn_RP].sum(1)
        first_R = drawn_R if first_R is None else first_R
        (low, high), (least, most) = drawn_R.quantile(ends).tolist(), (drawn_R / first_R).quantile(ends).tolist()
        longest = max(n for one in own for n in one)
        by_position = [sum(n > k for one in own for n in one) / drafts_P.sum().item() for k in range(longest)]
        cells = [
            folder.name,
            in_vocabulary,
            f"{accepted_P.sum() / drafts_P.sum():.3f} ({low:.3f} to {high:.3f})",
            ", ".join(f"{share:.3f}" for share in by_position),
            f"{least:.2f} to {most:.2f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
