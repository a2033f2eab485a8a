"""Write down what upstream's speculators 0.9.0 does with published configs. Run it where upstream is installed.

UPSTREAM/bin/python tests/golden/make_upstream.py                 writes tests/golden/upstream.json
UPSTREAM/bin/python tests/golden/make_upstream.py read FILE...    prints each file's config as upstream reads it
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from transformers import LlamaConfig

import speculators
from speculators import SpeculatorModelConfig, SpeculatorsConfig, TokenProposalConfig, VerifierConfig
from speculators.models.dflash import DFlashSpeculatorConfig
from speculators.models.dspark import DSparkSpeculatorConfig
from speculators.models.mtp import MTPSpeculatorConfig
from speculators.models.peagle import PEagleSpeculatorConfig
from speculators.proposals import GreedyTokenProposalConfig
from speculators.utils import ClassRegistryMixin, PydanticClassRegistryMixin

GREEDY = {"proposal_type": "greedy"}
VERIFIER = {"name_or_path": "org/verifier", "architectures": ["LlamaForCausalLM"]}
SPECULATORS = {
    "algorithm": "eagle3",
    "proposal_methods": [GREEDY],
    "default_proposal_method": "greedy",
    "verifier": VERIFIER,
}
LLAMA = LlamaConfig(
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=4096,
    rope_parameters={"rope_theta": 500000.0, "rope_type": "default"},
).to_diff_dict()
EAGLE3 = {"speculators_model_type": "eagle3", "speculators_config": SPECULATORS, "transformer_layer_config": LLAMA}
PEAGLE = EAGLE3 | {"speculators_model_type": "peagle", "speculators_config": SPECULATORS | {"algorithm": "peagle"}}
DFLASH = EAGLE3 | {"speculators_model_type": "dflash", "speculators_config": SPECULATORS | {"algorithm": "dflash"}}
DSPARK = EAGLE3 | {"speculators_model_type": "dspark", "speculators_config": SPECULATORS | {"algorithm": "dspark"}}
MTP = EAGLE3 | {"speculators_model_type": "mtp", "speculators_config": SPECULATORS | {"algorithm": "mtp"}}

CONFIGS: dict[str, dict[str, Any]] = {
    "least": {"speculators_model_type": "eagle3"},
    "dflash": DFLASH,
    "dflash, every field": DFLASH
    | {
        "architectures": ["DFlashDraftModel"],
        "draft_vocab_size": 1024,
        "block_size": 16,
        "target_hidden_size": 512,
        "aux_hidden_state_layer_ids": [2, 5, 9],
        "mask_token_id": 4095,
        "sliding_window_non_causal": True,
        "sample_from_anchor": True,
    },
    "dspark": DSPARK,
    "dspark, every field": DSPARK
    | {
        "architectures": ["DSparkDraftModel"],
        "draft_vocab_size": 1024,
        "block_size": 7,
        "target_hidden_size": 512,
        "aux_hidden_state_layer_ids": [2, 5, 9],
        "mask_token_id": 4095,
        "sliding_window_non_causal": True,
        "sample_from_anchor": False,
        "markov_rank": 64,
        "markov_head_type": "gated",
        "enable_confidence_head": False,
        "confidence_head_with_markov": False,
    },
    "dflash, qwen3": DFLASH | {"transformer_layer_config": {"hidden_size": 128, "num_hidden_layers": 2}},
    "llama": EAGLE3,
    "every field": EAGLE3
    | {
        "architectures": ["Eagle3DraftModel"],
        "draft_vocab_size": 1024,
        "norm_before_residual": True,
        "target_hidden_size": 512,
        "eagle_aux_hidden_state_layer_ids": [2, 5, 9],
        "norm_before_fc": True,
        "norm_output": True,
        "embed_requires_grad": True,
        "speculators_config": SPECULATORS
        | {
            "proposal_methods": [
                GREEDY | {"speculative_tokens": 3, "verifier_accept_k": 2, "accept_tolerance": 0.5},
                GREEDY | {"speculative_tokens": 7},
            ],
            "verifier": {"name_or_path": None, "architectures": []},
        },
    },
    "fc_norm": EAGLE3 | {"fc_norm": True},
    "layer without model_type": EAGLE3 | {"transformer_layer_config": {"hidden_size": 128, "num_attention_heads": 2}},
    "qwen3 with windows": EAGLE3
    | {
        "transformer_layer_config": {
            "model_type": "qwen3",
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "head_dim": 32,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "sliding_window": 256,
            "use_sliding_window": True,
            "max_window_layers": 1,
            "layer_types": ["full_attention", "sliding_attention"],
        }
    },
    "older": EAGLE3
    | {
        "speculators_version": "0.2.0",
        "transformers_version": "4.55.0",
        "torch_dtype": "bfloat16",
        "auto_map": {"": "config.Eagle3SpeculatorConfig"},
        "transformer_layer_config": {k: v for k, v in LLAMA.items() if k != "rope_parameters"}
        | {"rope_theta": 10000.0, "rope_scaling": {"factor": 2.0, "rope_type": "linear"}},
    },
    "peagle": PEAGLE,
    "peagle, every field": PEAGLE
    | {
        "architectures": ["PEagleDraftModel"],
        "draft_vocab_size": 1024,
        "norm_before_residual": True,
        "target_hidden_size": 512,
        "eagle_aux_hidden_state_layer_ids": [2, 5, 9],
        "norm_before_fc": True,
        "norm_output": True,
        "embed_requires_grad": False,
        "mask_token_id": 4095,
    },
    "mtp": MTP | {"transformer_layer_config": {"hidden_size": 128, "num_hidden_layers": 2}},
    "mtp, every field": MTP
    | {
        "architectures": ["MTPDraftModel"],
        "num_nextn_predict_layers": 1,
        "transformer_layer_config": {"model_type": "qwen3", "hidden_size": 128, "num_hidden_layers": 2},
    },
    "foreign keys": EAGLE3 | {"dtype": "float16", "note": {"by": "someone"}, "return_dict": False, "num_labels": 3},
}

BAD: dict[str, dict[str, Any]] = {
    "empty": {},
    "no type": {"draft_vocab_size": 8},
    "unknown type": {"speculators_model_type": "eagle33"},
    "type of another kind": {"speculators_model_type": 3},
    "peagle, both norms": PEAGLE | {"norm_before_fc": True, "fc_norm": True},
    "peagle, text for a token": PEAGLE | {"mask_token_id": "mask"},
    "peagle, fraction for a token": PEAGLE | {"mask_token_id": 1.5},
    "both norms": EAGLE3 | {"norm_before_fc": True, "fc_norm": True},
    "text for a number": EAGLE3 | {"draft_vocab_size": "many"},
    "fraction for a number": EAGLE3 | {"draft_vocab_size": 1.5},
    "text for a flag": EAGLE3 | {"norm_output": "perhaps"},
    "number for a list": EAGLE3 | {"eagle_aux_hidden_state_layer_ids": 3},
    "unknown layer": EAGLE3 | {"transformer_layer_config": {"model_type": "llama_9"}},
    "number for a layer": EAGLE3 | {"transformer_layer_config": 3},
    "null for a layer": EAGLE3 | {"transformer_layer_config": None},
    "unknown default": EAGLE3 | {"speculators_config": SPECULATORS | {"default_proposal_method": "tree"}},
    "no proposals": EAGLE3 | {"speculators_config": SPECULATORS | {"proposal_methods": []}},
    "unknown proposal": EAGLE3
    | {"speculators_config": SPECULATORS | {"proposal_methods": [{"proposal_type": "tree"}]}},
    "untyped proposal": EAGLE3
    | {"speculators_config": SPECULATORS | {"proposal_methods": [{"speculative_tokens": 3}]}},
    "numbers out of bounds": EAGLE3
    | {
        "speculators_config": SPECULATORS
        | {
            "proposal_methods": [
                GREEDY | {"speculative_tokens": 0, "verifier_accept_k": 0, "accept_tolerance": -0.5},
            ]
        }
    },
    "nothing of speculators_config": EAGLE3 | {"speculators_config": {}},
    "no verifier name": EAGLE3 | {"speculators_config": SPECULATORS | {"verifier": {"architectures": []}}},
    "null speculators_config": EAGLE3 | {"speculators_config": None},
    "dflash, text for a block": DFLASH | {"block_size": "big"},
    "dflash, fraction for a token": DFLASH | {"mask_token_id": 1.5},
    "dflash, text for a flag": DFLASH | {"sample_from_anchor": "perhaps"},
    "dspark, unknown head": DSPARK | {"markov_head_type": "lstm"},
    "dspark, fraction for a rank": DSPARK | {"markov_rank": 1.5},
    "dspark, text for a flag": DSPARK | {"enable_confidence_head": "perhaps"},
    "mtp, two layers": MTP | {"num_nextn_predict_layers": 2},
    "mtp, text for a number": MTP | {"num_nextn_predict_layers": "one"},
    "mtp, unknown layer": MTP | {"transformer_layer_config": {"model_type": "llama_9"}},
    "dflash, unknown layer": DFLASH | {"transformer_layer_config": {"model_type": "llama_9"}},
}


def outcome(given: dict[str, Any]) -> dict[str, Any]:
    """What becomes of one dict: both its dict forms and the saved file, or the error."""
    try:
        config = SpeculatorModelConfig.from_dict(given)
    except ValidationError as error:
        return {"validation": [{"type": e["type"], "loc": e["loc"], "msg": e["msg"]} for e in error.errors()]}
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        saved = json.loads(Path(folder, "config.json").read_text())
    return {"class": type(config).__name__, "to_dict": config.to_dict(), "saved": saved}


def fields() -> dict[str, dict[str, Any]]:
    """Every field with its default; one that must be given counts as "required"."""
    classes: list[type[BaseModel]] = [
        SpeculatorModelConfig,
        SpeculatorsConfig,
        VerifierConfig,
        TokenProposalConfig,
        GreedyTokenProposalConfig,
        speculators.Eagle3SpeculatorConfig,
        PEagleSpeculatorConfig,
        DFlashSpeculatorConfig,
        DSparkSpeculatorConfig,
        MTPSpeculatorConfig,
    ]
    return {
        c.__name__: {
            name: "required" if field.is_required() else plain(field.get_default(call_default_factory=True))
            for name, field in c.model_fields.items()
        }
        for c in classes
    }


def plain(value: Any) -> Any:
    """A default as JSON can hold it."""
    return value if isinstance(value, str | int | float | list | None) else type(value).__name__


def registry_errors() -> dict[str, list[str]]:
    """Messages of a registry that is used wrongly."""

    class Empty(ClassRegistryMixin):
        pass

    class Full(ClassRegistryMixin):
        pass

    class Models(PydanticClassRegistryMixin):
        @classmethod
        def __pydantic_schema_base_type__(cls) -> type[Any]:
            return Models if cls.__name__ != "Models" else cls

    Full.register("int")(int)
    attempts = {
        "nothing registered": lambda: Empty.registered_classes(),
        "name is no string": lambda: Full.register(3),
        "no class": lambda: Full.register_decorator("text"),
        "name is no string, called": lambda: Full.register_decorator(float, name=3),
        "taken": lambda: Full.register("int")(float),
        "no model": lambda: Models.register("int")(int),
    }
    said = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except Exception as error:
            said[name] = [type(error).__name__, str(error)]
    return said


def main() -> None:
    """Write the golden file, or print configs as upstream reads them."""
    if sys.argv[1:2] == ["read"]:
        read = [SpeculatorModelConfig.from_pretrained(file) for file in sys.argv[2:]]
        seen = [{"class": type(c).__name__, "to_dict": c.to_dict(), "diff": c.to_diff_dict()} for c in read]
        print(json.dumps(seen, default=str))
        return
    golden = {
        "configs": {name: {"given": given, **outcome(given)} for name, given in CONFIGS.items()},
        "bad": {name: {"given": given, **outcome(given)} for name, given in BAD.items()},
        "fields": fields(),
        "registry_errors": registry_errors(),
    }
    Path(__file__).with_name("upstream.json").write_text(
        json.dumps(golden, indent=1, sort_keys=True, default=str) + "\n"
    )


if __name__ == "__main__":
    main()
