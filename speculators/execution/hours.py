"""Estimates the hours of a run on a stated accelerator: of its training from FLOP, of its answers from the memory bandwidth.

docs/plan.md has the formulas.
"""

CARD = "an H100"
# FLOP a second of matrix products without sparsity: NVIDIA's data sheet of the H100 SXM. By `precision`.
PEAK = {"bf16": 989e12, "tf32": 494e12, "fp32": 67e12}
# Share of the peak that a training reaches: 0.38 to 0.43 in Llama 3's (Dubey et al. 2024, arXiv:2407.21783, table 4). Small
# batches reach less.
UTILISATION = 0.4
# Bytes a second that are read from its memory, by the same data sheet.
BANDWIDTH = 3.35e12


def hours(flop: float, precision: str) -> float:
    """Hours of one accelerator.

    Args:
        flop: of the whole training.
        precision: of the run, a key of `PEAK`.
    """
    return flop / (PEAK[precision] * UTILISATION) / 3600


def decoding_hours(tokens: int, texts: int, weights: int) -> float:
    """Hours in which one accelerator decodes without a draft, bound by reading the weights.

    Args:
        tokens: that are generated, over all texts.
        texts: decoded at a time; a pass yields one token of each.
        weights: bytes of the model, which a pass reads once.
    """
    return tokens / texts * weights / BANDWIDTH / 3600


def basis(precision: str) -> str:
    """The accelerator and the speed that are assumed."""
    return f"{CARD} at {UTILISATION:.0%} of {PEAK[precision] / 1e12:.0f} TFLOPS"
