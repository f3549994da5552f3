"""Linear Transformer (arXiv:2006.16236): a product of feature maps for the softmax, so the past is a sum."""

from typing import TYPE_CHECKING, Any

from longatlas import Cost, Method
from longatlas.flops import Call
from longatlas.lazy import lazy_exports

if TYPE_CHECKING:
    from longatlas_plugins.efficient_attention.linear_transformer.operation import linear_attention
    from longatlas_plugins.efficient_attention.linear_transformer.state import LinearState

__all__ = ["METHOD", "LinearState", "linear_attention"]

__getattr__ = lazy_exports(__name__, {"linear_attention": ".operation", "LinearState": ".state"})


def linear_mixer(config: Any, *, impl: str = "auto") -> Any:
    """The `mixer` slot: a LinearMixer."""
    from longatlas_plugins.efficient_attention.linear_transformer.mixer import LinearMixer

    return LinearMixer(config, impl=impl)


def _flops(call: Call) -> float:
    """S and z are updated and read once per token: k v^T, q S and q z."""
    return call.tokens * call.heads * (4 * call.head_size**2 + 2 * call.head_size)


METHOD = Method(
    name="linear_transformer",
    title="Linear Transformer",
    family="efficient_attention/approximated/kernelized",
    paper="2006.16236",
    summary="Replaces the softmax by products of positive features of query and key, so all the past is "
    "kept in one matrix and one vector per head.",
    fills={"mixer": linear_mixer},
    cost=Cost(time="T", state="1"),
    flops=_flops,
    state_size=lambda call: call.heads * call.head_size * (call.head_size + 1),
    impls=("torch", "reference"),
    deviations="No positions: the paper adds an embedding of the position to the tokens; here only causality"
    " and, in a host that has one, the short convolution tell places apart. Sums are kept in "
    "fp32; a normaliser below 1e-30 counts as 1e-30.",
    source="Checked in fp64 against the quadratic form and the recurrence token by token.",
    equations=(
        r"\phi(x) = \mathrm{elu}(x) + 1",
        r"o_i = \frac{\phi(q_i)^\top \sum_{j \le i} \phi(k_j)\, v_j^\top}"
        r"{\phi(q_i)^\top \sum_{j \le i} \phi(k_j)}",
        r"S_i = S_{i-1} + \phi(k_i)\, v_i^\top, \qquad z_i = z_{i-1} + \phi(k_i), \qquad"
        r" o_i = \frac{\phi(q_i)^\top S_i}{\phi(q_i)^\top z_i}",
    ),
)
