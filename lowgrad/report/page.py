"""The page itself: data into templates, with style and script inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowgrad.errors import MissingDependencyError
from lowgrad.report.data import Data
from lowgrad.runtime.memory import human

TEMPLATES = Path(__file__).parent / "templates"


def report(compiled: Any, path: str | Path, *, arch: str | None = None) -> Path:
    """Write the report of `compiled` to `path`; return it.

    arch: compile the kernels for this target ("cuda:90") and show registers, spills, occupancy.
    Raises MissingDependencyError without Jinja2 or Pygments.
    """
    try:
        import jinja2
        import pygments
    except ImportError as error:
        raise MissingDependencyError(
            f"report: {error.name} is not installed", fix='pip install "lowgrad[report]"'
        ) from error
    del pygments
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"human": human, "count": _count, "time": _time, "python": _python}
    data = Data(compiled, arch)
    text = environment.get_template("report.html.j2").render(
        data=data,
        compiled=compiled,
        explanation=compiled.explain(),
        css=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        js=(TEMPLATES / "report.js").read_text(encoding="utf-8"),
    )
    target = Path(path)
    target.write_text(text, encoding="utf-8")
    return target


def _count(number: float) -> str:
    """12,345; 12.3 M; 1.2 G."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,.0f}"


def _time(seconds: float) -> str:
    """1.2 s, 3.4 ms, 5.6 µs."""
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _python(source: str) -> Any:
    """Highlighted, as safe HTML."""
    import markupsafe
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    formatter = HtmlFormatter(nowrap=True)
    return markupsafe.Markup(highlight(source, PythonLexer(), formatter))  # escaped by Pygments
