"""LLM.int8() (arXiv:2208.07339): weights in 8 bits, products in integers, outliers in full precision."""

from typing import Any

from longatlas import Cost, Method, Option
from longatlas.flops import causal_softmax, growing_cache
from longatlas.lazy import lazy_exports


def int8_model(config: Any, *, threshold: float, activations: bool, impl: str = "auto") -> Any:
    """A function stack -> stack that puts an Int8Linear in the place of every linear layer of the blocks."""
    from functools import partial

    from longatlas_plugins.misc.int8_weights.module import quantize_blocks

    return partial(quantize_blocks, threshold=threshold, activations=activations, impl=impl)


METHOD = Method(
    name="int8_weights",
    title="LLM.int8()",
    family="misc/weight_compression/quantization",
    paper="2208.07339",
    summary="Holds the blocks' weights in 8 bits and multiplies in integers, except for outliers.",
    fills={"model": int8_model},
    options=(
        Option("threshold", 6.0, "activations above it are not quantised; 0 = all are", min=0.0),
        Option("activations", True, "quantise activations too; false = weights only"),
    ),
    cost=Cost(time="T^2", state="T"),
    flops=causal_softmax,
    state_size=growing_cache,
    impls=("torch", "reference"),
    training="retrofit",
    deviations="An outlier is one activation above the threshold, not a feature column for all tokens, so "
    "that no token depends on another. Outliers meet the 8-bit weights scaled back, not a copy in 16 bits. "
    "The embedding and the head keep their precision. Gradients go straight through to the input, and not to "
    "the quantised weights. A mixer that reads a layer's weight by itself gets it scaled back, and quantises "
    "no activations there. Rounding is a jump: a difference in the last bit of an activation can move it by "
    "a whole step, so runs in fp32 differ from fp64 by up to some 1e-3.",
    source="Checked against products of the same integers scaled back in fp64, and against rounding bounds.",
    equations=(
        r"y_{to} \approx \sum_{h:\, |x_{th}| > \alpha} x_{th} W_{oh} "
        r"+ s_t\, s_o \sum_{h:\, |x_{th}| \le \alpha} \hat x_{th} \hat W_{oh}",
        r"\hat x_{th} = \mathrm{round}\left(\frac{x_{th}}{s_t}\right), \quad "
        r"s_t = \frac{1}{127} \max_{h:\, |x_{th}| \le \alpha} |x_{th}|",
    ),
)

__getattr__ = lazy_exports(
    __name__,
    {
        "Int8Linear": ".module",
        "weight_bytes": ".module",
        "int8_linear": ".operation",
        "quantize_rows": ".fast",
    },
)
