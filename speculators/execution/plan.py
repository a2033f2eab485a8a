"""Prints a dry run: the published config on stdout; the composed config and the estimated cost on stderr.

docs/plan.md has the formula of every figure. No weights are loaded: data and tokenizer are read, all else is computed
with fake or meta tensors.
"""

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from heapq import nlargest
from typing import Any, NamedTuple

import psutil

import speculators.execution.run  # noqa: F401  a run's libraries are a part of its memory
from speculators.config import SpeculatorModelConfig
from speculators.data import served_answers
from speculators.data.collate import collate
from speculators.data.evaluation_data import KEY, EvaluationData, evaluation_data
from speculators.data.prepare import Prepared, prepare
from speculators.data.states_server import arguments, delivered
from speculators.data.template import ChatTemplate, Document
from speculators.data.vllm_server import command
from speculators.execution.hours import BANDWIDTH, CARD, basis, decoding_hours, hours
from speculators.execution.machine import device_kind, folder_bytes, running_dtype, states_bytes
from speculators.execution.memory import Moment, simulated
from speculators.format.published import speculator_dict
from speculators.model import SpeculatorModel
from speculators.protocols.batch import Batch
from speculators.settings.answers import ServedAnswers
from speculators.settings.run_config import RunConfig
from speculators.settings.states import ServedStates
from speculators.train.build import on_meta
from speculators.train.order import Order
from speculators.utils.dtypes import dtype_of
from speculators.utils.yaml_lines import dump
from speculators.verifier.facts import VerifierFacts

# glibc's heap overhead relative to the bytes of the working tensors in it: 0.5 to 0.7 in benchmarks/results/plan.md.
HEAP_SLACK = 0.6
# Tokens that hours are given for where the run's own are not known.
TOKENS = 10**8


@dataclass(frozen=True)
class Cost:
    """Peak memory and FLOP of a run.

    Attributes:
        device: `cpu`, where resident memory of the process counts, or the kind of accelerator, where allocated bytes.
        phases: peak bytes of each phase.
        parts: bytes by part in the phase with the largest peak.
        training_flop: FLOP of the training for each of its tokens.
        states_flop: FLOP for each token whose states are cached or served.
        verifier: bytes of the whole verifier's weights.
    """

    device: str
    phases: dict[str, int]
    parts: dict[str, int]
    training_flop: float
    states_flop: float
    verifier: int

    @property
    def peak(self) -> int:
        """Peak bytes of the whole run."""
        return sum(self.parts.values())


class Tokens(NamedTuple):
    """Tokens of a run.

    Attributes:
        seen: of all steps.
        stored: of the data, whose states are computed once if they are kept.
        answers: of the data's answers.
    """

    seen: int
    stored: int
    answers: int


def print_plan(run: RunConfig) -> None:
    """Print what a run would publish, and estimates of its data, steps and memory.

    Args:
        run: validated; its verifier's config.json is readable.
    """
    facts = VerifierFacts.read(run.verifier.name_or_path, run.verifier.revision)
    published = speculator_dict(run, facts)
    print("# the composed run", dump(run.model_dump(mode="json")), sep="\n", file=sys.stderr, flush=True)
    print(dump(published), end="", flush=True)
    lines = figures(run, published, facts)
    width = max(len(name) for name, _ in lines)
    print("\n# estimates", *(f"{n:<{width}}  {v}".rstrip() for n, v in lines), sep="\n", file=sys.stderr)


def figures(run: RunConfig, published: dict[str, Any], facts: VerifierFacts) -> list[tuple[str, str]]:
    """All figures, as pairs of a name and a formatted value.

    Args:
        run: the validated run.
        published: its published config.
        facts: of the verifier.
    """

    config = SpeculatorModelConfig.from_dict(published)
    draft = on_meta(config)
    total = sum(p.numel() for p in draft.parameters())
    trainable = sum(p.numel() for p in draft.parameters() if p.requires_grad)
    lines = [
        ("parameters of the draft", f"{total:,}, {trainable:,} of them trainable"),
        ("run's folder", f"at least {gigabytes(folder_bytes(run, draft))} on disk"),
    ]

    prepared, own, reason = read_data(run, facts)
    tokens: Tokens | None = None
    if prepared is None:
        lines.append(("data, steps, states", f"unknown: {reason}"))
    else:
        report, order = prepared.report, Order(len(prepared.train), run.seed, run.trainer)
        size = states_bytes(run, facts, prepared, len(draft.layer_ids) + 1)
        tokens = Tokens(tokens_seen(prepared, order), prepared.tokens, prepared.answer_tokens)
        lines += [
            ("data", str(report)),
            ("optimizer steps", f"{order.steps:,} of {order.per_step} sequences"),
            ("tokens seen", f"{tokens.seen:,}"),
            ("verifier's states", f"{gigabytes(size)} on disk, with verifier_states=cached"),
        ]
        if own is not None:
            lines.append((KEY, str(own)))
        if run.data.regenerate:
            lines.append(("  estimated", "for regenerated answers of maximum length; most will be shorter"))
        if isinstance(run.verifier_answers, ServedAnswers):
            lines.append(("answers' server", answers_command(run, run.verifier_answers, facts)))
    if isinstance(run.verifier_states, ServedStates):
        lines += served_lines(run, run.verifier_states, facts, draft.layer_ids)
    try:
        cost = estimated(run, config, facts, prepared, own)
    except Exception as error:
        # Any verifier, with custom code too, may fail under FakeTensorMode; the plan then has no memory estimate.
        return [
            *lines,
            (
                "memory, time",
                f"unknown: the verifier does not run under FakeTensorMode ({type(error).__name__}: {error})",
            ),
        ]
    lines += time_lines(run, cost, tokens)
    what = "resident" if cost.device == "cpu" else "allocated"
    lines.append((f"peak memory ({cost.device})", f"{gigabytes(cost.peak)} {what}"))
    lines += [(f"  {part}", gigabytes(size)) for part, size in cost.parts.items()]
    if cost.device == "cpu" and run.precision == "bf16":
        # oneDNN compiles a kernel for each shape and caches it: measured, docs/plan.md.
        lines.append(("  not counted", "bfloat16 kernels of the CPU, which are cached for each shape: about 0.5 GB"))
    lines.append(("  by phase", ", ".join(f"{phase} {gigabytes(size)}" for phase, size in cost.phases.items())))
    return lines


def read_data(run: RunConfig, facts: VerifierFacts) -> tuple[Prepared | None, EvaluationData | None, str]:
    """The data as training reads it, regenerated answers at maximum length, and the prompts of evaluation.data.

    Of unreadable data None, None, and the reason.
    """
    try:
        template = ChatTemplate.of(run.verifier, run.data)
        end, budget = min(template.end_ids, default=0), run.data.regenerate_max_new_tokens

        def longest(prompts: list[list[int]], _sample: int) -> list[list[int]]:
            return [[0] * ((budget or run.data.max_length - len(p)) - 1) + [end] for p in prompts]

        prepared = prepare(run.data, template, facts.vocab_size, run.seed, longest, run.verifier)
        return prepared, evaluation_data(run, template, prepared.train_prompts), ""
    except ValueError as error:
        return None, None, str(error).splitlines()[0]


def time_lines(run: RunConfig, cost: Cost, tokens: Tokens | None) -> list[tuple[str, str]]:
    """FLOP of a token, and on an accelerator the hours that follow.

    Args:
        run: the validated run.
        cost: its FLOP, and the verifier's weights.
        tokens: None if the data is unknown.
    """
    states = run.verifier_states
    served = isinstance(states, ServedStates)
    lines = [("FLOP a token", f"{cost.training_flop:.3g} in training")]
    if cost.states_flop:
        lines.append(
            ("  of served states", f"{cost.states_flop:.3g}, by the server")
            if served
            else ("  of cached states", f"{cost.states_flop:.3g}, once")
        )
    if cost.device != "cpu":
        seen, stored, answers = tokens or Tokens(TOKENS, TOKENS, TOKENS)
        once = 0 if served else stored * cost.states_flop
        each = "" if tokens else f" for each {TOKENS:,} tokens"
        found = hours(seen * cost.training_flop + once, run.precision)
        lines.append(("hours of training", f"estimated {found:.2g}{each}, with {basis(run.precision)}"))
        if isinstance(states, ServedStates):
            # In half precision, whatever the draft is trained in.
            found = hours((stored if states.keep else seen) * cost.states_flop, "bf16")
            lines.append(
                ("hours of the server", f"estimated {found:.2g}{each}, with {basis('bf16')}; N of them take 1/N")
            )
        if run.data.regenerate:
            answered, every = run.verifier_answers, "" if tokens else "each "
            texts = answered.concurrency if isinstance(answered, ServedAnswers) else run.evaluation.batch_size
            found = decoding_hours(answers, texts, cost.verifier)
            lines.append(
                (
                    "hours of the answers",
                    f"at least {found:.2g} for {every}{answers:,} tokens, once; {texts} texts at a time, {CARD} that reads "
                    f"{BANDWIDTH / 1e12:.2f} TB/s",
                )
            )
    return lines


def served_lines(
    run: RunConfig, states: ServedStates, facts: VerifierFacts, layer_ids: Sequence[int]
) -> list[tuple[str, str]]:
    """What served states take on the way, and the command of their server."""
    ids, dtype = delivered(layer_ids, facts.num_hidden_layers), running_dtype(run, facts)
    longest = run.data.max_length * len(ids) * facts.hidden_size * dtype_of(dtype).itemsize
    sequences = run.trainer.batch_size * run.trainer.passes() * (states.prefetch_steps + 1)
    folder = states.folder or "FOLDER"
    given = arguments(run.verifier, dtype, ids, run.data.max_length, folder, device_kind(run) == "cpu")
    return [
        (
            "states on the way",
            f"at most {gigabytes(states.concurrency * longest)} in the server's folder, {gigabytes(sequences * longest)} in "
            "this machine's memory",
        ),
        ("server's command", " ".join([command(given), *([states.args] if states.args else [])])),
    ]


def answers_command(run: RunConfig, answers: ServedAnswers, facts: VerifierFacts) -> str:
    """The command of the server that generates answers."""
    template = ChatTemplate.of(run.verifier, run.data)
    dtype, on_cpu = running_dtype(run, facts), device_kind(run) == "cpu"
    given = served_answers.arguments(answers, run.data, run.verifier, dtype, template, on_cpu)
    return " ".join([command(given), *([answers.args] if answers.args else [])])


def tokens_seen(prepared: Prepared, order: Order) -> int:
    """Tokens of all steps, with the last, partial epoch counted as a share of the sequences."""
    sequences = min(order.steps * order.per_step, order.sequences * order.trainer.epochs)
    return round(prepared.report.train_tokens * sequences / order.sequences)


def estimated(
    run: RunConfig,
    config: SpeculatorModelConfig,
    facts: VerifierFacts,
    prepared: Prepared | None,
    own: EvaluationData | None,
) -> Cost:
    """Estimate the peak memory and the FLOP of a run.

    Args:
        run: the validated run.
        config: the published config.
        facts: of the verifier.
        prepared: the data; None assumes full batches of only answer tokens, and prompts that fill a sequence.
        own: the prompts of evaluation.data.
    """
    device = device_kind(run)
    on_cpu = device == "cpu"
    # This process has loaded the libraries, tokenizer and data that the run's process loads.
    resident = psutil.Process().memory_info().rss if on_cpu else 0
    heldout = prepared.prompts[: run.evaluation.num_prompts] if prepared else []
    decoded = [*heldout, *(prompt.tokens for prompt in own.prompts)] if own else heldout
    prompt = max(map(len, decoded), default=run.data.max_length)
    found = simulated(
        run, config, running_dtype(run, facts), facts.dtype, largest_batch(run, config, prepared), prompt, on_cpu
    )
    slack = HEAP_SLACK if on_cpu and platform.libc_ver()[0] == "glibc" else 0.0

    def parts(moment: Moment) -> dict[str, int]:
        extra = {"libraries and data": resident, "kept by the C library": round(slack * moment.small)}
        return {part: size for part, size in (extra | moment.parts).items() if size}

    totals = {m.phase: sum(parts(m).values()) for m in found.moments}
    fullest = max(found.moments, key=lambda m: totals[m.phase])
    return Cost(device, totals, parts(fullest), found.training_flop, found.states_flop, found.verifier)


def largest_batch(run: RunConfig, config: SpeculatorModelConfig, prepared: Prepared | None) -> Batch:
    """The training sequences with the most tokens as one micro-batch."""
    size, length = run.trainer.batch_size, run.data.max_length
    plan = partial(SpeculatorModel.for_config(config).plan_rows, run.algorithm)
    if prepared is None:
        return collate([[Document([0] * length, [True] * length)]] * size, plan)
    return collate(nlargest(size, prepared.train, key=lambda s: sum(len(d.tokens) for d in s)), plan)


def gigabytes(size: float) -> str:
    """A number of bytes, formatted in GB."""
    return f"{size / 1e9:.2f} GB" if size < 1e11 else f"{size / 1e9:,.0f} GB"
