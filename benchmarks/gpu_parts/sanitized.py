"""What compute-sanitizer watches: compiled steps of the tests' small models."""

from __future__ import annotations

import sys
from importlib import import_module

import lowgrad
from benchmarks.gpu_parts.bench import ROOT


def main(names: list[str]) -> None:
    """Train each model for two steps on the GPU; say so at the end."""
    from lowgrad.signature import walk

    sys.path.insert(0, str(ROOT / "tests"))
    known = import_module("models").MODELS
    for name in names or sorted(known):
        lowgrad.manual_seed(1)
        step, batch = known[name]()
        for tensor in walk(step, (), {}).tensors:
            tensor.data = tensor.data.to("cuda")
        run = lowgrad.compile(step)
        for _ in range(2):
            loss = run(*(x.to("cuda") for x in batch))
        print(f"{name}: {loss.item():.4f}")
    lowgrad.cuda.synchronize()
    print("steps done")


if __name__ == "__main__":
    main(sys.argv[1:])
