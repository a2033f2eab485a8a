"""Migrates run.yaml files of older schema versions, by one table of changed keys. Torch-free."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from speculators.utils.dotted import find, holder


@dataclass(frozen=True)
class Added:
    """A key that a schema added.

    Attributes:
        value: the value that keeps the behaviour of the older schema.
        where: condition on another key, as (key, value), if only some runs have the key: `("run.data.source", "hub")`. With
            the value None, the other key must be there.
    """

    value: Any
    where: tuple[str, str | None] | None = None


@dataclass(frozen=True)
class Step:
    """Changes of a schema version against the previous one; keys are dotted, from the top of `run.yaml`.

    Attributes:
        renamed: old key -> new key, whose group is created if it does not exist.
        values: new name of a renamed key -> old value -> new value; other values are kept.
        added: new keys.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)
    added: Mapping[str, Added] = field(default_factory=dict)


# Each renamed or new setting or section gets an entry under the newest schema; the first one after a release starts a new
# schema.
STEPS = {
    2: Step(
        added={
            "git": Added({}),
            "overrides": Added(None),
            "searchpath": Added([]),
            "sources": Added({}),
            "run.cache": Added({"dir": None, "limit_gb": 100.0}),
            "run.data.hidden_states": Added("online"),
            "run.launch.num_processes": Added(None),
        }
    ),
    3: Step(
        renamed={"run.data.hidden_states": "run.verifier_states.source"},
        values={"run.verifier_states.source": {"online": "in_process", "cache": "cached"}},
        added={
            "run.evaluation.data": Added(None),
            "run.evaluation.top_k": Added(None),
            "run.evaluation.top_p": Added(1.0),
            "run.trainer.keep_best_prompts": Added(8),
            "run.other_proposals": Added([]),
            "run.export.num_speculative_tokens_per_batch_size": Added(None),
            "run.export.enable_adaptive_verification": Added(False),
            "run.export.stitched_verifier": Added(False),
            "run.export.hub_repo": Added(None),
            "run.export.license": Added(None),
            "run.export.base_model": Added(None),
            "run.algorithm.loss.rkl": Added(0.0),
            "run.algorithm.loss.jsd": Added(0.0),
            "run.algorithm.loss.topk": Added(0.0),
            "run.algorithm.loss.nla": Added(0.0),
            "run.algorithm.loss.lk_hybrid": Added(0.0),
            # Of the algorithms that have these keys, which an older schema had as well.
            "run.algorithm.sliding_window": Added(None, ("run.algorithm.norm_before_fc", None)),
            "run.algorithm.detach_feedback": Added(False, ("run.algorithm.layernorms", None)),
            "run.algorithm.state_noise": Added(0.0, ("run.algorithm.layernorms", None)),
            "run.data.chat_template_kwargs": Added(None),
            "run.data.chat_template_date": Added(None),
            "run.data.regenerate_temperature": Added(0.0),
            "run.data.regenerate_seed": Added(0),
            "run.data.regenerate_samples": Added(1),
            "run.data.regenerate_unfinished": Added("keep"),
            "run.trainer.init_from": Added(None),
            "run.trainer.sequences_per_step": Added(None),
            "run.launch.num_nodes": Added(1),
            "run.launch.rdzv_endpoint": Added(None),
            "run.launch.sharding": Added("ddp"),
            "run.verifier_answers": Added({"source": "in_process"}),
            "run.data.streaming": Added(False, ("run.data.source", "hub")),
        },
    ),
}
SCHEMA_VERSION = max(STEPS)


def carry(pin: dict[str, Any], steps: Mapping[int, Step] = STEPS) -> list[str]:
    """Migrate a pin to the newest schema, in place.

    Args:
        pin: contents of a run.yaml, with its schema_version.
        steps: by target schema.

    Returns:
        A line for each change.
    """
    first = pin["schema_version"]
    lines = []
    for schema in range(first + 1, max(steps) + 1):
        lines += list(_step(pin, steps[schema]))
        pin["schema_version"] = schema
    return [f"schema {first} migrated to {max(steps)}: {line}" for line in lines]


def _step(pin: dict[str, Any], step: Step) -> Iterator[str]:
    for old, new in step.renamed.items():
        group, name = holder(pin, old)
        if group is not None and name in group:
            value = group.pop(name)
            *path, name = new.split(".")
            target = pin
            for part in path:
                inner = target.setdefault(part, {})
                target = inner if isinstance(inner, dict) else {}  # validation refuses the run without that group
            renamed = step.values.get(new, {})
            target[name] = renamed.get(value, value) if isinstance(value, str) else value
            yield f"{old.removeprefix('run.')} is now {new.removeprefix('run.')}"
    for key, added in step.added.items():
        group, name = holder(pin, key)
        if group is not None and name not in group and (added.where is None or _applies(pin, added.where)):
            group[name] = added.value
            yield f"{key.removeprefix('run.')} is new, set to {added.value!r}, which keeps the earlier behaviour"


def _applies(pin: dict[str, Any], where: tuple[str, str | None]) -> bool:
    value = find(pin, where[0])
    return value is not None and where[1] in (None, value)
