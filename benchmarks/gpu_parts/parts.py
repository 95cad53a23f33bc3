"""The table of parts: name, estimated minutes on an H200, what runs. In the order to run them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from benchmarks.gpu_parts.bench import Bench


@dataclass(frozen=True)
class Part:
    """`module.function(bench)` emits rows. minutes: an estimate, with a cold cache."""

    name: str
    minutes: float
    title: str
    module: str
    function: str

    def run(self, bench: Bench) -> None:
        """Measure and emit every row."""
        module = import_module(f"benchmarks.gpu_parts.{self.module}")
        getattr(module, self.function)(bench)


PARTS: dict[str, Part] = {
    p.name: p
    for p in [
        Part("correct.ops", 6, "The tests of ops and runtime, on the device", "corpora", "ops"),
        Part("correct.models", 2, "Small models train as on the CPU", "corpora", "models"),
        Part("correct.losses", 6, "Losses have PyTorch's gradients", "corpora", "losses"),
        Part("correct.bits", 2, "Three runs give the same bits", "steady", "bits"),
        Part("correct.memory", 2, "What is planned is what is allocated", "steady", "memory"),
        Part("correct.replays", 1, "10,000 replays without growth", "steady", "replays"),
        Part("correct.sanitizer", 6, "compute-sanitizer", "sanitizer", "sanitizer"),
        Part("speed.ceilings", 0.5, "What this machine reaches", "ceilings", "ceilings"),
        Part("speed.elementwise", 3, "Elementwise", "rows", "elementwise"),
        Part("speed.softmax", 4, "Softmax", "rows", "softmax"),
        Part("speed.norms", 8, "Layer norm and RMS norm", "rows", "norms"),
        Part("speed.cross_entropy", 5, "Cross entropy", "rows", "cross_entropy"),
        Part("speed.matmul", 4, "Products in bfloat16", "products", "matmul"),
        Part("speed.linear_gelu", 4, "Linear, bias and GELU", "products", "linear_gelu"),
        Part("speed.head", 6, "Linear and a loss, 131,072 classes", "losses", "head"),
        Part("speed.head_wide", 6, "Linear and a loss, 256,000 classes", "losses", "head_wide"),
        Part("speed.attention", 6, "Causal attention", "attention", "attention"),
        Part("speed.adamw", 3, "AdamW over 124M parameters", "updates", "adamw"),
        Part("speed.small_steps", 4, "Whole steps of small networks", "steps", "small_steps"),
        Part("speed.gpt2", 9, "GPT-2 124M, one training step", "steps", "gpt2"),
        Part("host.step", 3, "Host time of a compiled step", "host", "step"),
        Part("host.first_call", 8, "First call of GPT-2's step", "host", "first_call"),
    ]
}
