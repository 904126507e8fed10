"""The tables of docs/real-models.md, from the files that are installed.

    python benchmarks/real_models.py           prints them
    python benchmarks/real_models.py --write   puts them into docs/real-models.md

tests/test_third_party.py holds the page to what this gives.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "real-models.md"
sys.path.insert(0, str(ROOT / "tests"))

import corpus  # noqa: E402
from corpus import FILES, File  # noqa: E402

# Installed with the runtime, at whatever version that is.
UNPINNED = ("onnx", "onnxruntime")
START, END = "<!-- tables: python benchmarks/real_models.py --write -->", "<!-- end of tables -->"


def package(name: str) -> str:
    return name if name in UNPINNED else f"{name} {importlib.metadata.version(name)}"


def opset(file: File) -> str:
    """The version of ONNX's own operators, else of the only domain there is."""
    domains = {o.domain: o.version for o in corpus.proto(file).opset_import}
    if "" in domains:
        return str(domains[""])
    return ", ".join(f"{domain} {version}" for domain, version in domains.items())


def batch(file: File) -> str:
    spans = [row.batched for row in corpus.rows(file) if row.batched is not None]
    single = spans.count(False)
    if not spans:
        return "-"
    return "free" if not single else "single" if single == len(spans) else f"single: {single}"


def unmeasured(file: File) -> str:
    """Why layers are not measured, each reason once with the number of its layers."""
    reasons = Counter(row.reason for row in corpus.rows(file) if row.reason is not None)
    found = [f"{n}: {reason}" for reason, n in reasons.items()]
    if hidden := corpus.hidden(file):
        found.append(f"{hidden}: inside a Loop, which is not looked into")
    return "; ".join(found) or "-"


def line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def row(file: File) -> str:
    rows = corpus.rows(file)
    total = len(rows) + corpus.hidden(file)
    spans = sum(r.reason is None for r in rows)
    return line(
        (
            f"`{file.name}`", package(file.package), corpus.producer(file), opset(file), total,
            sum(r.out_activation is not None for r in rows), batch(file), f"{spans} of {total}",
            unmeasured(file),
        )
    )  # fmt: skip


def table() -> list[str]:
    head = (
        "file", "package", "producer", "opset", "layers", "activations", "batch", "measured",
        "reasons",
    )  # fmt: skip
    return [line(head), line("---" for _ in head), *map(row, FILES)]


def totals() -> list[str]:
    head = ("models", "files", "layers", "measured", "share")
    lines = [line(head), line("---" for _ in head)]
    for kind, name in (("float", "float"), ("quantised", "quantised"), ("opaque", "predictors")):
        files = [f for f in FILES if f.kind == kind]
        layers = sum(len(corpus.rows(f)) + corpus.hidden(f) for f in files)
        spans = sum(r.reason is None for f in files for r in corpus.rows(f))
        lines.append(line((name, len(files), layers, spans, f"{100 * spans / layers:.1f} %")))
    return lines


def licences() -> list[str]:
    used = sorted({f.package for f in FILES})
    lines = [line(("package", "licence")), line(("---", "---"))]
    return lines + [line((package(name), corpus.LICENCES[name])) for name in used]


def tables() -> str:
    """All of what stands between the page's two marks."""
    return "\n\n".join("\n".join(part) for part in (totals(), table(), licences()))


def tables_of(page: str) -> str:
    return page.partition(START)[2].partition(END)[0].strip()


def main() -> None:
    if "--write" not in sys.argv[1:]:
        print(tables())
        return
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n\n{tables()}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
