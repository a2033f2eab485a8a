"""The layouts against hand-written lists, and against what the models really hold."""

from collections.abc import Callable
from typing import Any

import pytest

from speculators.format.layout import Layout
from speculators.model import SpeculatorModel
from speculators.settings.run_config import RunConfig

from .conftest import EAGLE, EAGLE3

MLP = {"mlp.gate_proj.weight": (128, 64), "mlp.up_proj.weight": (128, 64), "mlp.down_proj.weight": (64, 128)}


def shapes(config: dict[str, Any], required: bool) -> dict[str, tuple[int, ...]]:
    specs = Layout.named(config["speculators_model_type"]).tensors(config)
    return {name: spec.shape for name, spec in specs.items() if spec.required is required}


def test_eagle3(make_run: Callable[..., RunConfig], published: Callable[[RunConfig], dict[str, Any]]) -> None:
    config = published(make_run(EAGLE3))
    assert shapes(config, required=True) == {
        "fc.weight": (64, 192),
        "layers.0.hidden_norm.weight": (64,),
        "layers.0.input_layernorm.weight": (64,),
        "layers.0.self_attn.q_proj.weight": (64, 128),
        "layers.0.self_attn.k_proj.weight": (32, 128),
        "layers.0.self_attn.v_proj.weight": (32, 128),
        "layers.0.self_attn.o_proj.weight": (64, 64),
        "layers.0.post_attention_layernorm.weight": (64,),
        **{f"layers.0.{name}": shape for name, shape in MLP.items()},
        "norm.weight": (64,),
        "lm_head.weight": (40, 64),
        "d2t": (40,),
    }
    assert shapes(config, required=False) == {"embed_tokens.weight": (96, 64), "t2d": (96,)}


def test_eagle(make_run: Callable[..., RunConfig], published: Callable[[RunConfig], dict[str, Any]]) -> None:
    config = published(make_run(EAGLE | {"num_hidden_layers": 2}))
    layer = {
        "self_attn.q_proj.weight": (64, 64),
        "self_attn.k_proj.weight": (32, 64),
        "self_attn.v_proj.weight": (32, 64),
        "self_attn.o_proj.weight": (64, 64),
        "post_attention_layernorm.weight": (64,),
        **MLP,
    }
    assert shapes(config, required=True) == {
        "fc.weight": (64, 128),
        **{f"layers.0.{name}": shape for name, shape in layer.items()},
        **{f"layers.1.{name}": shape for name, shape in layer.items()},
        "layers.1.input_layernorm.weight": (64,),
    }


@pytest.mark.parametrize(
    "algorithm",
    [
        EAGLE,
        EAGLE | {"num_hidden_layers": 2, "intermediate_size": 96},
        EAGLE3,
        EAGLE3 | {"draft_arch": "qwen3", "num_hidden_layers": 2},
        EAGLE3 | {"draft_vocab_size": None, "fc_norm": True, "embed_requires_grad": True},
        EAGLE3 | {"norm_before_fc": True, "eagle_aux_hidden_state_layer_ids": [1, 3]},
    ],
    ids=["eagle", "eagle-2", "eagle3", "eagle3-qwen3-2", "eagle3-full", "eagle3-norm-before-fc"],
)
def test_models_hold_what_the_layout_says(
    algorithm: dict[str, Any],
    make_run: Callable[..., RunConfig],
    published: Callable[[RunConfig], dict[str, Any]],
    make_draft: Callable[[RunConfig], SpeculatorModel],
) -> None:
    run = make_run(algorithm)
    specs = Layout.named(algorithm["name"]).tensors(published(run))
    held = {name: tuple(tensor.shape) for name, tensor in make_draft(run).state_dict().items()}
    assert held.keys() <= specs.keys()
    assert {name for name, spec in specs.items() if spec.required} <= held.keys()
    assert held == {name: specs[name].shape for name in held}
