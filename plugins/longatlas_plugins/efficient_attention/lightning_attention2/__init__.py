"""Lightning Attention-2 (arXiv:2401.04658): linear attention with a fixed decay per head, in tiles."""

from typing import TYPE_CHECKING, Any

from longatlas import Cost, Method, Option, Peer
from longatlas.flops import Call
from longatlas.lazy import lazy_exports

if TYPE_CHECKING:
    from longatlas_plugins.efficient_attention.lightning_attention2.decay import decay_slopes
    from longatlas_plugins.efficient_attention.lightning_attention2.mixer import LightningState
    from longatlas_plugins.efficient_attention.lightning_attention2.operation import (
        chosen_impl,
        lightning_attention,
        lightning_decode_,
    )

__all__ = [
    "METHOD",
    "LightningState",
    "chosen_impl",
    "decay_slopes",
    "lightning_attention",
    "lightning_decode_",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "lightning_attention": ".operation",
        "lightning_decode_": ".operation",
        "chosen_impl": ".operation",
        "decay_slopes": ".decay",
        "LightningState": ".mixer",
    },
)


def lightning_mixer(config: Any, *, decay: str, impl: str = "auto") -> Any:
    """The `mixer` slot: a LightningMixer."""
    from longatlas_plugins.efficient_attention.lightning_attention2.mixer import LightningMixer

    return LightningMixer(config, decay=decay, impl=impl)


def fla_mixer(config: Any, *, decay: str) -> Any:
    """The same by flash-linear-attention: a LightningMixer whose operation is its simple_gla."""
    from longatlas_plugins.efficient_attention.lightning_attention2.fla import FlaMixer

    return FlaMixer(config, decay=decay, impl="auto")


def _flops(call: Call) -> float:
    """S is updated and read once per token: k^T v and q S."""
    return call.tokens * call.heads * 4 * call.head_size**2


METHOD = Method(
    name="lightning_attention2",
    title="Lightning Attention-2",
    family="efficient_attention/io_aware/lightning",
    paper="2401.04658",
    summary="Linear attention with a fixed decay per head, exact and in tiles: ordinary products within a"
    " block, a small state between blocks, the same speed per token at any length.",
    fills={"mixer": lightning_mixer},
    options=(
        Option(
            "decay",
            "official",
            "decay rates of the heads: the authors' code (ALiBi slopes, falling with depth) or the "
            "TransNormerLLM paper (8h/H, falling with depth)",
            choices=("official", "transnormer"),
        ),
    ),
    cost=Cost(time="T", state="1"),
    flops=_flops,
    state_size=lambda call: call.heads * call.head_size**2,
    impls=("triton", "torch", "reference"),
    peers={"fla": Peer(fla_mixer, install="flash-linear-attention")},
    deviations="The block around it is TransNormerLLM's (arXiv:2307.14995): SiLU on queries and keys, "
    "RMSNorm over the output of all heads together, a sigmoid gate, an output projection; the "
    "norm has weights. No LRPE: the decay alone tells places apart. The rates are not trained. "
    "The state after T tokens is the exact sum; the authors' kernel carries one more factor λ and"
    " decays a ragged last block too far. With a single layer the authors' factor for depth, 0/0,"
    " is taken as that of a first layer.",
    source="Checked in fp64 against the recurrence token by token and the closed form of the state; in fp32 against "
    "the authors' PyTorch form and slopes (OpenNLPLab/lightning-attention) and, with states, against the naive "
    "simple_gla of flash-linear-attention.",
    equations=(
        r"S_t = \lambda S_{t-1} + k_t^\top v_t, \qquad o_t = q_t S_t, \qquad \lambda = e^{-\mathrm{decay}}",
        r"O_{t+1} = \left[(Q_{t+1} K_{t+1}^\top) \odot M\right] V_{t+1} + \Lambda\, Q_{t+1}\, KV_t,"
        r"\quad M_{ij} = \lambda^{i-j}\ (i \ge j)",
        r"KV_{t+1} = \lambda^{B} KV_t + \sum_{j=1}^{B} \lambda^{B-j} k_{tB+j}^\top v_{tB+j}",
        r"y = \left(\mathrm{RMSNorm}(o) \odot \sigma(x W_g)\right) W_o, \qquad"
        r" q, k = \mathrm{SiLU}(x W_q), \mathrm{SiLU}(x W_k)",
    ),
)
