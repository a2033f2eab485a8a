"""Real chat templates, and what a model of each family writes after its prompt: facts of the families, written by hand."""

import re
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import files
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from speculators.data.template import ChatTemplate

TEMPLATES = {file.stem: Path(str(file.locate())) for file in files("trl") or [] if file.suffix == ".jinja"}
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are "
    "a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A template, and what the model writes: `{a}` is an answer, `{r}` its reasoning.

    Attributes:
        template: file of trl, without its ending.
        ends: tokens at which models of the family stop, as their generation_config.json says.
        plain: an answer without reasoning.
        reasoning: an answer with reasoning, given or not.
        call: a call of weather(city="Oslo"); None if the template leaves it out, "" if it refuses tools.
        variables: what the template is given.
        documents: of two exchanges without reasoning.
    """

    template: str
    ends: tuple[str, ...]
    plain: str
    reasoning: str
    call: str | None
    variables: dict[str, Any] = field(default_factory=dict)
    documents: int = 1


IM_END = ("<|im_end|>", "<|endoftext|>")
EOT = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
DEEPSEEK = ("<｜end▁of▁sentence｜>",)
CHATML = "{a}<|im_end|>"
QWEN_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>'
XML_CALL = "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>"
DEEPSEEK_CALL = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
    '{"city": "Oslo"}\n```<｜tool▁call▁end｜>'
)
FAMILIES = {
    "smollm2": Family("", ("<|im_end|>",), CHATML, CHATML, None),
    "llama3": Family("llama3", EOT, "{a}<|eot_id|>", "{a}<|eot_id|>", None),
    "llama3_1": Family(
        "llama3_1", EOT, "{a}<|eot_id|>", "{a}<|eot_id|>", '{"name": "weather", "parameters": {"city": "Oslo"}}<|eot_id|>'
    ),
    "llama3_2": Family(
        "llama3_2", EOT, "{a}<|eot_id|>", "{a}<|eot_id|>", '{"name": "weather", "parameters": {"city": "Oslo"}}<|eot_id|>'
    ),
    "qwen2_5": Family("qwen2_5", IM_END, CHATML, CHATML, QWEN_CALL),
    "qwen3": Family("qwen3", IM_END, CHATML, "<think>\n{r}\n</think>\n\n{a}<|im_end|>", QWEN_CALL, documents=2),
    "qwen3_nothink": Family(
        "qwen3", IM_END, CHATML, CHATML, QWEN_CALL, variables={"enable_thinking": False}, documents=2
    ),
    "qwen3_2507": Family("qwen3_instruct_2507", IM_END, CHATML, CHATML, QWEN_CALL),
    "qwen3_5": Family(
        "qwen3_5_think", IM_END, CHATML, "{r}\n</think>\n\n{a}<|im_end|>", f"{XML_CALL}<|im_end|>", documents=2
    ),
    "gemma3": Family("gemma3", ("<end_of_turn>",), "{a}<end_of_turn>", "{a}<end_of_turn>", ""),
    "gemma4": Family(
        "gemma4_v5", ("<turn|>", "<|tool_response>"), "{a}<turn|>", "<|channel>thought\n{r}\n<channel|>{a}<turn|>",
        '<|tool_call>call:weather{city:<|"|>Oslo<|"|>}<tool_call|><|tool_response>',
    ),
    "phi3_5": Family("phi3_5", ("<|end|>", "<|endoftext|>"), "{a}<|end|>", "{a}<|end|>", None),
    "deepseek_v3": Family(
        "deepseekv3", DEEPSEEK, "{a}<｜end▁of▁sentence｜>", "{a}<｜end▁of▁sentence｜>",
        f"{DEEPSEEK_CALL}<｜tool▁calls▁end｜><｜end▁of▁sentence｜>",
    ),
    # Its template forgets to end a single call.
    "deepseek_r1": Family(
        "deepseek_r1_distill", DEEPSEEK, "{a}<｜end▁of▁sentence｜>", "{a}<｜end▁of▁sentence｜>", DEEPSEEK_CALL
    ),
    "gpt_oss": Family(
        "gptoss", ("<|return|>", "<|call|>"), "<|channel|>final<|message|>{a}<|return|>",
        "<|channel|>analysis<|message|>{r}<|end|><|start|>assistant<|channel|>final<|message|>{a}<|return|>",
        ' to=functions.weather<|channel|>commentary json<|message|>{"city": "Oslo"}<|call|>', documents=2,
    ),
    "cohere2": Family(
        "cohere2", ("<|END_OF_TURN_TOKEN|>",), "{a}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
        "{a}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", "",
    ),
    "lfm2": Family(
        "lfm2_v2", ("<|im_end|>",), CHATML, CHATML,
        "<|tool_call_start|>[weather(city='Oslo')]<|tool_call_end|><|im_end|>",
    ),
    "lfm2_5": Family(
        "lfm2_2_5_v2", ("<|im_end|>",), "{a}<|im_end|>\n", "<think>{r}</think>{a}<|im_end|>\n",
        "<|tool_call_start|>[weather(city='Oslo')]<|tool_call_end|><|im_end|>\n",
    ),
    "nemotron_3": Family(
        "nemotron_3_nano", IM_END, CHATML, "{r}\n</think>\n{a}<|im_end|>", f"{XML_CALL}\n<|im_end|>"
    ),
    "muse": Family(
        "muse_glimmer", ("<|eot|>",), " to=user<|message|>{a}<|eot|>",
        " to=self<|message|>{r}<|eom|><|start|>assistant to=user<|message|>{a}<|eot|>",
        ' to=weather<|message|><atem:function_calls>\n<atem:invoke name="weather">\n<atem:parameter name="city">Oslo'
        "</atem:parameter>\n</atem:invoke>\n</atem:function_calls><|eot|>",
    ),
    "smolvlm": Family("smolvlm", ("<end_of_utterance>",), " {a}<end_of_utterance>", " {a}<end_of_utterance>", None),
}  # fmt: skip


def tokenizer(template: str) -> PreTrainedTokenizerBase:
    """The embedded verifier's, with another template, whose special tokens it knows."""
    made = AutoTokenizer.from_pretrained(str(Path(str(resources("speculators.assets"))) / "tiny"))
    special = re.findall(r"<[|｜][^<>|｜{}\s]*[|｜]>|<(?:start|end)_of_[a-z]+>|<\|[a-z_]+>|<[a-z_]+\|>", template)
    made.add_special_tokens({"additional_special_tokens": sorted(set(special))})
    made.chat_template = template
    return made


def source(family: Family) -> str:
    """A family's template."""
    return TEMPLATES[family.template].read_text() if family.template else SMOLLM2


def chat_template(family: Family, template: str | None = None) -> ChatTemplate:
    """A family's template, or another one that stands in for it, with a fixed date."""
    made = tokenizer(template or source(family))
    known = [made.convert_tokens_to_ids(end) for end in family.ends if end in made.get_vocab()]
    return ChatTemplate(made, known, family.variables, date(2026, 1, 2))
