"""The page: stories of runs as one HTML file that needs no other file and no network."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from importlib import resources

from hrm.report.story import Row, Story


def page(stories: Sequence[Story], curves: Sequence[bytes], command: str) -> str:
    """The HTML of a report; `curves` are SVGs of the trainings, `command` what made the page."""
    names = ", ".join(story.name for story in stories)
    parts = [_comparison(stories), _curves(curves)] if len(stories) > 1 else [_curves(curves)]
    parts += [_story(story, len(stories) > 1, i) for i, story in enumerate(stories)]
    fields = {
        "title": html.escape(f"Report: {names}"),
        "lead": html.escape(stories[0].lead if len(stories) == 1 else f"{len(stories)} runs side by side."),
        "heading": html.escape(names),
        "main": "\n".join(filter(None, parts)),
        "command": html.escape(command),
    }
    template = resources.files("hrm.report").joinpath("page.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], template)


def _comparison(stories: Sequence[Story]) -> str:
    rows = []
    for story in stories:
        facts = {row.name: row.value for row in story.facts}
        cells = (story.name, story.family, facts["parameters"], facts["updates"], facts["training"],
                 f"{story.score.value} ({story.score.name})")  # fmt: skip
        rows.append(cells)
    head = ("run", "family", "parameters", "updates", "training", "score")
    return _section("comparison", "Side by side", _table(head, rows))


def _curves(curves: Sequence[bytes]) -> str:
    if not curves:
        return ""
    alt = "Loss and held-out score against steps and seconds; the numbers are in the run's metrics.jsonl."
    return _section(
        "curves",
        "Training",
        "".join(f"<figure>{_image(each, alt)}</figure>" for each in curves) + f"<p class=soft>{alt}</p>",
    )


def _story(story: Story, several: bool, number: int) -> str:
    level = 3 if several else 2
    parts = [
        ("What it is", _definitions(story.facts)),
        ("Results", _definitions(story.results) if story.results else "<p>Nothing was measured yet.</p>"),
        ("Inside", _figures(story)),
        ("Samples", "".join(f"<figure class=sample><figcaption>{html.escape(title)}</figcaption>{body}</figure>"
                            for title, body in story.samples)),
        ("What others published", _published(story)),
        ("Limits", "<ul>" + "".join(f"<li>{html.escape(one)}</li>" for one in story.limits) + "</ul>"),
        ("Do it again", _commands(story)),
    ]  # fmt: skip
    body = "".join(
        f'<div class="card"><h{level}>{title}</h{level}>{content}</div>' for title, content in parts if content
    )
    if not several:
        return f'<div class="stack">{body}</div>'
    lead = html.escape(story.lead)
    return f'<section class="stack" aria-labelledby="run{number}"><h2 id="run{number}">{html.escape(story.name)}</h2><p>{lead}</p>{body}</section>'  # noqa: E501


def _figures(story: Story) -> str:
    found = []
    for figure in story.figures:
        said = " ".join(figure.says)
        caption = f"<figcaption><b>{html.escape(figure.title)}</b> {html.escape(said)}</figcaption>"
        found.append(
            f'<figure id="{html.escape(figure.question)}">{_image(figure.picture, figure.title)}{caption}</figure>'
        )
    return "".join(found)


def _published(story: Story) -> str:
    rows = [(one.model, one.on, one.value, one.source) for one in story.published]
    if not rows:
        return ""
    table = _table(("model", "measured on", "value", "source"), rows)
    if len(rows) > 6:
        return f"<details><summary>{len(rows)} published numbers</summary>{table}</details>"
    return table


def _commands(story: Story) -> str:
    lines = "\n".join(story.commands)
    return (
        f"<pre tabindex=0>{html.escape(lines)}</pre><details><summary>settings.yaml</summary>"
        f"<pre tabindex=0>{html.escape(story.settings)}</pre></details>"
    )


def _definitions(rows: Sequence[Row]) -> str:
    return "<dl>" + "".join(
        f"<div><dt>{html.escape(row.name)}</dt><dd>{html.escape(row.value)}"
        + (f"<small>{html.escape(row.note)}</small>" if row.note else "") + "</dd></div>"
        for row in rows
    ) + "</dl>"  # fmt: skip


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    body = "".join(
        "<tr>" + "".join(
            f'<th scope="row">{html.escape(cell)}</th>' if i == 0 else f"<td>{html.escape(cell)}</td>"
            for i, cell in enumerate(row)
        ) + "</tr>"
        for row in rows
    )  # fmt: skip
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(head[0])}"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'  # noqa: E501


def _image(picture: bytes, alt: str) -> str:
    data = base64.b64encode(picture).decode()
    image = f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{data}">'
    return f'<div class="picture" tabindex="0" role="region" aria-label="{html.escape(alt)}">{image}</div>'


def _section(name: str, title: str, body: str) -> str:
    return f'<section class="card" aria-labelledby="{name}"><h2 id="{name}">{title}</h2>{body}</section>'
