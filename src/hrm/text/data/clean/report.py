"""What each filter removed: counts, shares, reasons and samples, as JSON and as one static page."""

from __future__ import annotations

import json
import re
from collections import Counter
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

from hrm.files.reading import lines_of
from hrm.files.records import Json
from hrm.text.data.clean.plan import Plan

SAMPLES, SHOWN = 5, 400
"""Removed documents that the report shows of each filter, and characters of each."""
REMOVED = (
    "language", "gopher_repetition", "gopher_quality", "c4", "fineweb_quality", "contamination", "duplicate",
    "near_duplicate",
)  # fmt: skip
WORDS = {
    "language": "Another language", "gopher_repetition": "Repetition (Gopher)", "gopher_quality": "Quality (Gopher)",
    "c4": "Quality (C4)", "fineweb_quality": "Quality (FineWeb)", "contamination": "Text of an evaluation",
    "duplicate": "Equal to another document", "near_duplicate": "Nearly equal to another document",
}  # fmt: skip


_GAP, _LINE = re.compile(r"\n\s*\n"), "\n\n"
"""Empty lines, of which one is shown."""


def facts(plan: Plan, labels: dict[str, list[str]]) -> Json:
    """What happened to the documents of each source; `labels`: what the steps of each stage are called."""
    sources: dict[str, Json] = {
        source.name: {"licence": source.licence, "origin": source.origin or source.hub or Path(str(source.path)).name,
                      "read": 0, "characters": 0, "without_text": 0, "removed": {}, "held_out": 0, "kept": 0,
                      "tokens": 0}
        for source in plan.recipe.sources
    }  # fmt: skip
    seen: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    cut = 0
    reasons: dict[str, Counter[str]] = {}
    seconds: Counter[str] = Counter()
    for stage, named in labels.items():
        for rank, (source, *_) in enumerate(plan.shares):
            of = sources[source.name]
            path = plan.work / "logs" / stage / "stats" / f"{rank:05d}.json"
            for label, told in zip(named, json.loads(path.read_text("utf-8")), strict=True):
                counts = {name: _total(value) for name, value in told["stats"].items()}
                seconds[label or stage] += _total(told.get("time_stats", 0))
                if label == "read":
                    of["read"] += counts.get("total", 0)
                    of["characters"] += counts.get("characters", 0)
                    of["without_text"] += counts.get("total", 0) - counts.get("forwarded", 0)
                elif label == "held_out":
                    of["held_out"] += counts.get("dropped", 0)
                elif label == "kept":
                    of["kept"] += counts.get("total", 0)
                elif label == "packed":
                    of["tokens"] += counts.get("tokens", 0)
                elif label in REMOVED:
                    seen[label] += counts.get("total", 0)
                    gone = counts.get("dropped", 0)
                    removed[label] += gone
                    of["removed"][label] = of["removed"].get(label, 0) + gone
                    cut += sum(n for name, n in counts.items() if name.startswith("line-filter-"))
                    why = {name[8:]: n for name, n in counts.items() if name.startswith("dropped_")}
                    reasons.setdefault(label, Counter()).update(why)
    steps = [
        {"step": label, "seen": seen[label], "removed": removed[label], "share": removed[label] / max(1, seen[label]),
         "reasons": dict(reasons[label].most_common()), "samples": _samples(plan.work / "removed" / label)}
        for label in REMOVED if label in seen
    ]  # fmt: skip
    c4 = plan.recipe.filters.c4
    for step in steps:
        if step["step"] == "c4" and c4 is not None and c4.cut_lines:
            step["lines_cut"] = cut
    totals = {name: sum(of[name] for of in sources.values()) for name in ("read", "kept", "held_out", "tokens")}
    spent = {name: round(value, 2) for name, value in seconds.items() if value}
    return {**totals, "sources": sources, "steps": steps, "seconds": spent}


def _total(told: Any) -> Any:
    return told.get("total", 0) if isinstance(told, dict) else told


def _samples(folder: Path) -> list[Json]:
    """Some removed documents, of different tasks where there are several."""
    files = sorted(folder.glob("*.jsonl.zst"))
    each = -(-SAMPLES // max(1, len(files)))
    found = []
    for path in files[:SAMPLES]:
        for line in islice(lines_of(path, 1 << 30), each):
            document = json.loads(line)
            about, text = document.get("metadata", {}), document["text"].strip()
            found.append({
                "source": about.get("source", ""), "place": document["id"], "reason": about.get("filter_reason", ""),
                "text": text if len(text) <= SHOWN else text[:SHOWN].rstrip() + " …",
            })  # fmt: skip
    return found[:SAMPLES]


def page(facts: Json) -> str:
    """The report as one page that needs no network."""
    left = f"{facts['kept']:,} of {facts['read']:,} documents are kept for training, {facts['held_out']:,} held out"
    sources = "".join(
        "<tr>" + f"<th scope=row>{escape(name)}</th>" + "".join(
            f"<td class=text>{escape(cell)}</td>" if isinstance(cell, str) else f"<td>{cell:,}</td>"
            for cell in (of["read"], of["characters"], sum(of["removed"].values()) + of["without_text"],
                         of["held_out"], of["kept"], of["tokens"], of["licence"] or "not given", of["origin"])
        ) + "</tr>"
        for name, of in facts["sources"].items()
    )  # fmt: skip
    steps = "".join(
        f"<tr><th scope=row>{WORDS[step['step']]}</th><td>{step['seen']:,}</td><td>{step['removed']:,}</td>"
        f"<td>{step['share']:.2%}</td><td class=bar><i style='width:{100 * step['share']:.1f}%'></i></td></tr>"
        for step in facts["steps"]
    )
    samples = "".join(_section(step) for step in facts["steps"] if step["removed"])
    return _PAGE.format(left=left, tokens=f"{facts['tokens']:,}", sources=sources, steps=steps, samples=samples)


def _section(step: Json) -> str:
    why = ", ".join(f"{escape(reason)}: {count:,}" for reason, count in step["reasons"].items())
    why += f"; {step['lines_cut']:,} lines cut out of documents" if step.get("lines_cut") else ""
    shown = "".join(
        f"<figure><figcaption>{escape(sample['source'])} · {escape(sample['place'])}"
        f"{' · ' + escape(sample['reason']) if sample['reason'] else ''}</figcaption>"
        f"<blockquote>{escape(_GAP.sub(_LINE, sample['text']))}</blockquote></figure>"
        for sample in step["samples"]
    )
    return f"<details><summary>{WORDS[step['step']]}: {step['removed']:,}</summary><p>{why}</p>{shown}</details>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>What was removed</title><style>
:root {{ color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --line: #c8c8c8; --bar: #2a5db0; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #ececec; --paper: #161616; --line: #4a4a4a; --bar: #8ab4f8; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem;
  margin: 2rem auto; padding: 0 1rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  font-variant-numeric: tabular-nums; vertical-align: top; }}
th:first-child, .text {{ text-align: left; }}
.bar {{ width: 30%; text-align: left; }}
.bar i {{ display: block; height: .8rem; background: var(--bar); min-width: 1px; }}
summary {{ cursor: pointer; font-weight: 600; padding: .4rem 0; }}
figure {{ margin: .8rem 0; }} figcaption {{ font-size: .9rem; }}
blockquote {{ margin: 0; padding: .3rem .8rem; border-left: 3px solid var(--bar); white-space: pre-wrap;
  overflow-wrap: anywhere; }}
</style></head><body>
<h1>From raw text to a corpus</h1><p>{left}: {tokens} tokens for training.</p>
<h2>Sources</h2><div class=wide><table><thead><tr><th scope=col>Source</th><th scope=col>Read</th>
<th scope=col>Characters</th><th scope=col>Removed</th><th scope=col>Held out</th><th scope=col>Kept</th>
<th scope=col>Tokens</th><th scope=col class=text>Licence</th><th scope=col class=text>Origin</th></tr></thead>
<tbody>{sources}</tbody></table></div>
<h2>What each step removed</h2><div class=wide><table><thead><tr><th scope=col>Step</th>
<th scope=col>Documents seen</th>
<th scope=col>Removed</th><th scope=col>Share</th><th scope=col></th></tr></thead><tbody>{steps}</tbody></table></div>
<h2>Samples of what was removed</h2>{samples}
</body></html>
"""
