"""What a task works with: builds decoders, trains hosts, and keeps trained hosts by content."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from longatlas.combination import Combination
from longatlas.decoder.config import DecoderConfig
from longatlas.decoder.decoder import Decoder
from longatlas.errors import UnsupportedError
from longatlas.harness.cells import environment_digest
from longatlas.harness.sources import source_digest
from longatlas.tasks.corpus import Corpus, load_corpus

Batches = Iterator[tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Session:
    """One task on one method.

    settings  the preset's values
    corpus    path of the text, "" = the standard library's source
    cache     folder where trained hosts are kept
    """

    combination: Combination
    impl: str
    device: str
    dtype: torch.dtype
    seed: int
    settings: Mapping[str, Any]
    corpus: str
    cache: str

    def text(self) -> Corpus:
        return load_corpus(self.corpus)

    def decoder(
        self, config: DecoderConfig, batches: Callable[[], Batches], *, lr: float, content: str = ""
    ) -> Decoder:
        """The method in a trained decoder, ready to be evaluated.

        The host (the method without its retrofit parts) is trained on `batches`: pairs of tokens [B, T] and labels
        [B, T] (-100 = no label; None = the objective's own loss). Methods with the same host share it. `content`
        names what the batches are made of, beside the settings and the seed.

        Raises UnsupportedError when training diverges.
        """
        host = self.combination.host
        path = self._host_path(host, config, lr, content)
        torch.manual_seed(self.seed)
        decoder = Decoder(config, self.combination, impl=self.impl).to(self.device)
        if path.exists():
            weights = torch.load(path, map_location=self.device, weights_only=True)
        else:
            torch.manual_seed(self.seed)
            trained = decoder if host is self.combination else Decoder(config, host).to(self.device)
            self._train(trained, batches(), lr)
            weights = trained.state_dict()
            _save(weights, path)
        decoder.load_state_dict(weights)
        return decoder.to(self.dtype).eval()

    def _host_path(self, host: Combination, config: DecoderConfig, lr: float, content: str) -> Path:
        facts = {
            "host": host.spec,
            "options": host.options,
            "impl": host.resolve_impl("auto", self.device) if host is not self.combination else self.impl,
            "config": asdict(config),
            "settings": dict(self.settings),
            "lr": lr,
            "seed": self.seed,
            "content": content,
            "source": source_digest(host),
            "environment": environment_digest(),
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
        return Path(self.cache) / f"{host.name}-{digest}.pt"

    def _train(self, decoder: Decoder, batches: Batches, lr: float) -> None:
        steps = int(self.settings["steps"])
        optimiser = torch.optim.AdamW(decoder.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _learning_rate(step, steps))
        for _ in range(steps):
            tokens, labels = next(batches)
            optimiser.zero_grad(set_to_none=True)
            loss = decoder.loss(tokens) if labels is None else labelled_loss(decoder, tokens, labels)
            if not math.isfinite(loss.item()):
                raise UnsupportedError(f"training diverged: the loss became {loss.item()}")
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            optimiser.step()
            schedule.step()


def labelled_loss(decoder: Decoder, tokens: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy where there is a label (not -100); tokens and labels [B, T]."""
    logits, _ = decoder(tokens)
    chosen = labels >= 0
    return functional.cross_entropy(logits[chosen].float(), labels[chosen])


def _learning_rate(step: int, steps: int) -> float:
    """Linear warm-up over a tenth, then a cosine to a tenth."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _save(weights: Mapping[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    torch.save(dict(weights), partial)
    partial.replace(path)
