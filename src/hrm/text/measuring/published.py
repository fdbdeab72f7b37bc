"""What GPT-2 was reported to reach zero-shot, to stand beside what was measured on the same sets."""

from __future__ import annotations

from hrm.files.records import Json

SOURCE = "Radford et al. 2019, Table 3"
MODELS = ("117M", "345M", "762M", "1.5B")
GPT2: dict[str, dict[str, tuple[float, ...]]] = {
    "LAMBADA": {"perplexity": (35.1, 15.6, 10.9, 8.6), "acc": (0.460, 0.555, 0.601, 0.632)},
    "WikiText-2": {"perplexity_per_word": (29.4, 22.8, 19.9, 18.3)},
    "WikiText-103": {"perplexity_per_word": (37.5, 26.4, 22.1, 17.5)},
    "enwik8": {"bits_per_byte": (1.16, 1.01, 0.97, 0.93)},
    "text8": {"bits_per_character": (1.17, 1.06, 1.02, 0.98)},
}
_WIKITEXT_WORDS = 245_569
"""Words of the test set of both, line ends included: one text, in which the smaller set knows fewer words."""


def of_task(name: str) -> list[str]:
    """The sets that a task is."""
    return ["LAMBADA"] if name == "lambada_openai" else []


def of_text(name: str, form: str | None = None, words: int = 0) -> list[str]:
    """The sets that a text may be: by its name, or by the number of its words in a form of `words`."""
    if form is not None:
        return ["WikiText-2", "WikiText-103"] if form == "wikitext" and words == _WIKITEXT_WORDS else []
    return [known for known in ("enwik8", "text8") if known in name.lower()]


def published(sets: list[str]) -> Json:
    """The figures under `published`; nothing where there are none."""
    if not sets:
        return {}
    figures = {name: {key: dict(zip(MODELS, row, strict=True)) for key, row in GPT2[name].items()} for name in sets}
    return {"published": {"model": "GPT-2, zero-shot", "source": SOURCE, "sets": figures}}


def lines(sets: list[str]) -> list[str]:
    """The same to read."""
    if not sets:
        return []
    found = [f"{f'GPT-2 ({SOURCE})':<46}" + "".join(f"{model:>8}" for model in MODELS)]
    for name in sets:
        for key, row in GPT2[name].items():
            form = "{:>8.1%}" if key == "acc" else "{:>8.2f}" if key.startswith("bits") else "{:>8.1f}"
            found.append(f"{f'  {name}: {key}':<46}" + "".join(map(form.format, row)))
    return found
