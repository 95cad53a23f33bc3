"""What is installed, and what can run here: to read oneself, or to put into a report of a fault."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

HELP = "what is installed, and what can run here"
REQUIRED = ("numpy", "ml_dtypes", "scipy", "networkx")
OPTIONAL = (
    *("triton", "cuda-bindings", "matplotlib", "scikit-learn"),
    *("rich", "jinja2", "pygments", "torch"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command is given."""
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the facts. 1 if something is missing that lowgrad cannot do without."""
    facts = environment()
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        width = max(map(len, facts))
        for name, value in facts.items():
            print(f"{name:<{width}}  {value}")
    return 1 if any(facts[name] == "missing" for name in REQUIRED) else 0


def environment() -> dict[str, str]:
    """Versions of what lowgrad needs and can use, and what can be done here."""
    import lowgrad
    from lowgrad import config

    facts = {
        "lowgrad": lowgrad.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
    }
    for name in (*REQUIRED, *OPTIONAL):
        facts[name] = _version(name)
    has_triton = facts["triton"] != "missing"
    gpus = _gpus()
    facts["gpu"] = gpus
    names = ["cpu"] + ["interpret"] * has_triton + ["cuda"] * (not gpus.startswith("none"))
    facts["devices"] = ", ".join(names)
    facts["kernels"] = "generated, checked and cross-compiled" if has_triton else "generated"
    facts["cache"] = str(config.cache_dir())
    settings = {k: v for k, v in sorted(os.environ.items()) if k.startswith("LOWGRAD_")}
    facts["settings"] = ", ".join(f"{k}={v}" for k, v in settings.items()) or "none"
    return facts


def _version(name: str) -> str:
    try:
        if name in REQUIRED:
            import_module(name)
        return version(name)
    except (PackageNotFoundError, ImportError):
        return "missing"


def _processor() -> str:
    cores = os.cpu_count() or 1
    return f"{platform.processor() or platform.machine()}, {cores} cores"


def _gpus() -> str:
    """Each GPU with its memory, or why there is none."""
    from lowgrad.errors import LowgradError
    from lowgrad.runtime.cuda import gpu
    from lowgrad.runtime.memory import human

    try:
        gpu.started()
        found = [gpu.gpu(number) for number in range(gpu.count())]
    except LowgradError as error:
        return f"none: {error.message}"
    return "; ".join(
        f"{one.properties.name} ({one.target}), {human(one.properties.total_memory)}"
        for one in found
    )
