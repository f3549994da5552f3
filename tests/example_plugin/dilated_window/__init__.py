"""Dilated window (Longformer, arXiv:2004.05150): a window with gaps sees farther at the same cost."""

from longatlas import Attention, Cost, Method, Option, hookimpl


def dilated_mask(config, *, window, dilation):
    def in_window(b, h, q_idx, kv_idx):
        distance = q_idx - kv_idx
        return (distance % dilation == 0) & (distance < window * dilation)

    return Attention(mask_mod=in_window)


METHOD = Method(
    name="dilated_window",
    title="Dilated window",
    family="efficient_attention/sparse/fixed_patterns",
    paper="2004.05150",
    summary="Each token sees every second token, or every third, up to a window of them.",
    fills={"attention": dilated_mask},
    options=(
        Option("window", 256, "keys a query sees, itself included", unit="tokens", min=1),
        Option("dilation", 2, "distance between the keys it sees", min=1),
    ),
    cost=Cost(time="T*W", state="T"),
)


@hookimpl
def register_methods(register):
    register(METHOD)
