"""The dtypes that settings and configs name."""

import torch

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}


def dtype_of(name: str) -> torch.dtype:
    """The dtype of a name such as `bfloat16`.

    Raises:
        ValueError: it is not the name of a floating-point dtype of `DTYPES`.
    """
    if name not in DTYPES:
        raise ValueError(f"dtype {name}: it is not supported; choose one of {', '.join(DTYPES)}")
    return DTYPES[name]
