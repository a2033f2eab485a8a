"""Estimates the hours of a training on a stated accelerator from its FLOP. docs/plan.md has the formula."""

CARD = "an H100"
# FLOP a second of matrix products without sparsity: NVIDIA's data sheet of the H100 SXM. By `precision`.
PEAK = {"bf16": 989e12, "tf32": 494e12, "fp32": 67e12}
# Share of the peak that a training reaches: 0.38 to 0.43 in Llama 3's (Dubey et al. 2024, arXiv:2407.21783, table 4). Small
# batches reach less.
UTILISATION = 0.4


def hours(flop: float, precision: str) -> float:
    """Hours of one accelerator.

    Args:
        flop: of the whole training.
        precision: of the run, a key of `PEAK`.
    """
    return flop / (PEAK[precision] * UTILISATION) / 3600


def basis(precision: str) -> str:
    """The accelerator and the speed that are assumed."""
    return f"{CARD} at {UTILISATION:.0%} of {PEAK[precision] / 1e12:.0f} TFLOPS"
