"""Model cards: what a run of text is, learned from and reached, in facts that the run itself holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
import yaml

from hrm.files.reading import SMALL, json_of
from hrm.files.records import Json
from hrm.runs import Run
from hrm.settings import presets
from hrm.text.config import TALKS, TextConfig, calibration
from hrm.text.data import Packed, is_packed, open_text
from hrm.text.data.tokenizers import characters_of
from hrm.text.load import TextModel, form_of, load_tokenizer
from hrm.text.measuring import origins
from hrm.text.measuring.fresh import prompts_of
from hrm.text.model import HRMConfig, HRMForCausalLM

MEASURES = (
    ("exact_match", "answers exact", ".1%"),
    ("reward_accuracy", "pairs in which the chosen answer is preferred", ".1%"),
    ("reward_margin", "by how much, as a reward", "+.3f"),
    ("preference_loss", "loss of preferences (DPO), nats a pair", ".4f"),
    ("loss", "loss, nats a token", ".4f"),
    ("perplexity", "perplexity", ".2f"),
    ("bits_per_byte", "bits per byte", ".4f"),
    ("bits_per_character", "bits per character", ".4f"),
    ("token_accuracy", "token accuracy", ".2%"),
    ("ece", "calibration error (ECE) of the best token's probability", ".3f"),
    ("ece_q", "calibration error (ECE) of the Q head's confidence", ".3f"),
    ("mean_segments", "mean depth, segments", ".2f"),
)


def model_card(run: Run[TextConfig], hub: str | None = None, licence: Json | None = None) -> str:
    """README.md of a run: data, settings, results per depth, use and limits; what was not measured is not said. `hub`
    is the name of a repository in which it is published, under a licence (`license` and more)."""
    name, model = run.path.resolve().name, form_of(run.path)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in HRMForCausalLM(model).parameters())
    result = json_of(run.result, SMALL) if run.result.is_file() else {}
    depth = "one segment" if model.max_segments == 1 else f"up to {model.max_segments} segments"
    kind = f"of {depth} a token" if model.hierarchy else "without hierarchy, a plain Transformer"
    version = "" if run.version == "unknown" else f"with hrm {run.version} "
    head = [
        _front(licence),
        f"# {name if hub is None else hub.rpartition('/')[2]}",
        f"A causal language model with {parameters:,} parameters: a hierarchical reasoning model {kind}, "
        f"trained {version}on {run.created[:10]}.",
    ]
    parts = {
        "Data": _data(run),
        "Settings": _table(("setting", "value"), _settings(run.config, model, _tokens(run))),
        "Results": _results(run, result),
        "Use": _use(run, name, hub),
        "Limits": "\n".join(f"- {limit}" for limit in _limits(run, model, result)),
    }
    return "\n\n".join((*head, *(f"## {title}\n\n{part}" for title, part in parts.items()))) + "\n"


def _data(run: Run[TextConfig]) -> str:
    config, rows, digests = run.config, [], []
    for words, packed in origins.parts(run).items():
        sizes = [packed.count, getattr(packed, "characters", 0), getattr(packed, "bytes", 0)]
        rows.append((words, *(f"{size:,}" if size else "unknown" for size in sizes)))
        if words != "trained on" or "data_sha256" not in run.board:
            digests.append(f"{words} `{origins.digest(packed)}`")
    if "data_sha256" in run.board:
        digests.insert(0, f"trained on `{run.board['data_sha256']}`")
    source = ", ".join(f"`{name}`" for name in origins.names(config.data))
    held = f" Held out: `{Path(config.validation).name}`." if config.validation else ""
    answers = " Only answers count in the loss." if config.text.kind in TALKS else ""
    said = [f"From {source or 'unknown sources'}.{held}{answers}", *_sources(origins.sources_of(run))]
    said += [_table(("part", "tokens", "characters", "bytes"), rows)] if rows else []
    said += [f"SHA-256 of the tokens: {', '.join(digests)}."] if digests else []
    if earlier := origins.before_of(run):
        said.append(f"It continues `{earlier[-1]['name']}`. What was learned before, the oldest first:")
        said.append("\n".join(f"- `{each['name']}`, {_learned(each)}" for each in earlier))
    return "\n\n".join(said)


def _sources(sources: list[Json]) -> list[str]:
    """A table of the sources of a corpus, if there are any."""
    rows = [
        (each["name"], f"{each['share']:.1%}", f"{each['tokens']:,}", each["licence"], _place(each["origin"]))
        for each in sources
    ]
    head = ("source", "share of the rows", "tokens", "licence", "origin")
    return [_table(head, [tuple(map(_cell, row)) for row in rows])] if rows else []


def _learned(before: Json) -> str:
    """What an earlier model learned from, in words."""
    names = ", ".join(f"`{name}`" for name in before.get("data", []))
    told = ", ".join(f"{each['name']} ({each['licence'] or 'licence unknown'})" for each in before.get("sources", []))
    return f"from {names or 'unknown data'}" + (f": {told}" if told else "")


def _place(origin: str) -> str:
    """A page as it is, a file by its name."""
    return origin if "://" in origin else Path(origin).name


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _settings(config: TextConfig, model: HRMConfig, tokens: str) -> list[tuple[str, str]]:
    layers = f"{model.fast_layers} fast" + ("" if model.shared else f", {model.slow_layers} slow")
    found: list[tuple[str, Any]] = [
        ("width, heads, keys' heads", f"{model.hidden_size}, {model.num_attention_heads}, {model.num_key_value_heads}"),
        ("layers", layers if model.hierarchy else model.fast_layers + model.slow_layers),
        ("cycles and steps of a segment", f"{model.h_cycles}, {model.l_cycles}" if model.hierarchy else "none"),
        ("halting", model.halting if model.max_segments > 1 else "fixed"),
        ("vocabulary", f"{model.vocab_size:,} ({tokens})"),
        ("tokens of a row", config.text.length),
        ("steps, rows of a step", f"{config.train.steps:,}, {config.train.batch_size}"),
        ("optimizer, learning rate", f"{config.optim.name}, {config.optim.lr:g}"),
        ("precision", config.train.precision),
        ("seed", config.seed),
    ]
    if config.model is not None:
        found.insert(0, ("architecture", Path(config.model).name))
    if config.train.learn == "q":
        found.insert(0, ("what learned", "the Q head alone"))
    if config.text.kind == "preference":
        found.insert(0, ("what learned", f"preferences (DPO), beta {config.text.beta:g}"))
    if config.lora:
        found.insert(0, ("rank of the adapters (LoRA)", config.lora))
    return [(name, str(value)) for name, value in found]


def _tokens(run: Run[TextConfig]) -> str:
    """What the tokens are, in a word or two."""
    config, tokenizer = run.config, load_tokenizer(run.path)
    if characters_of(tokenizer) is not None or config.text.frame:
        return "characters"
    kind = type(tokenizer.backend_tokenizer.model).__name__
    if config.model and config.model not in presets(TextConfig):
        return f"{kind}, the tokenizer of {Path(config.model).name}"
    if "data_sha256" in run.board and config.data:
        return f"{kind}, the tokenizer of {Path(config.data).name}"
    return Path(config.text.tokenizer).name


def _results(run: Run[TextConfig], result: Json) -> str:
    known = [(words, format(result[key], form)) for key, words, form in MEASURES if result.get(key) is not None]
    if not known:
        return "Not measured: nothing was held out."
    step = (run.best or {}).get("step")
    after = "" if step is None else f", weights of step {step:,}"
    unit = "pairs of answers" if "reward_accuracy" in result else "tokens"
    said = [f"On {result['n']:,} held-out {unit}{after}:" if "n" in result else f"On held-out text{after}:"]
    said.append(_table(("measure", "value"), known))
    losses = result.get("loss_by_depth") or []
    if len(losses) > 1:
        rows, head = [(str(i), f"{loss:.4f}") for i, loss in enumerate(losses, 1)], ("segments", "loss, nats a token")
        if shares := result.get("exact_match_by_depth"):
            rows, head = [(*row, f"{share:.1%}") for row, share in zip(rows, shares, strict=True)], (*head, "exact")
        said += ["With every token at the same depth:", _table(head, rows)]
    if (found := calibration(run.path)) is not None:
        depth = f"{found['mean_segments']:.2f} of {found['max_segments']} segments"
        said.append(
            f"This was measured before tokens halted by a calibrated readout. By that they think {depth}, and "
            f"{found['accuracy']:.1%} right where full depth has {found['accuracy_at_full_depth']:.1%}."
        )
    return "\n\n".join(said)


def card_of(
    loaded: TextModel, hub: str, licence: Json, kept: str = "", data: str = "Not recorded beside the model."
) -> str:
    """The card of a published model that comes from no training run; `kept` is the card that it has, and `data` says
    what it learned from, where it has none."""
    model, talks = loaded.model.config, bool(loaded.tokenizer.chat_template)
    body = (kept[4:].partition("\n---\n")[2] if kept.startswith("---\n") else kept).strip()
    sections = re.split(r"(?m)^(?=## )", body)
    form = ", its matrices in 8 bits" if getattr(model, "quantization_config", None) else ""
    about = f"A causal language model with {loaded.model.num_parameters():,} parameters: a hierarchical reasoning model"
    opening = sections[0].strip() or f"# {hub.rpartition('/')[2]}\n\n{about}{form}."
    others = [section.strip() for section in sections[1:] if not section.startswith("## Use")]
    if not body:
        others = [f"## Data\n\n{data}", "## Results\n\nNot recorded: `hrm eval` measures it on a text of yours."]
        others.append("## Limits\n\n- It knows what its data says; what it writes is neither checked nor filtered.")
    return "\n\n".join([_front(licence), opening, *others, f"## Use\n\n{_published(hub, talks)}"]) + "\n"


def _front(licence: Json | None) -> str:
    """The head of a card, which the Hub reads."""
    tags: Json = {"library_name": "hrm", "pipeline_tag": "text-generation", "tags": ["hrm", "adaptive-computation"]}
    return f"---\n{yaml.safe_dump({**(licence or {}), **tags}, sort_keys=False).strip()}\n---"


def _published(hub: str, talks: bool) -> str:
    """How to load a published model; no text of its data is given away."""
    begin = '"Once"'
    if talks:
        message = '[{"role": "user", "content": "..."}]'
        begin = f"tokenizer.apply_chat_template({message}, tokenize=False, add_generation_prompt=True)"
    verb = "chat FOLDER" if talks else 'generate FOLDER "..."'
    return f"""\
```python
import hrm
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("{hub}"), AutoTokenizer.from_pretrained("{hub}")
print(hrm.generate(model, tokenizer, {begin}).text)
```

`hrm` is the package that trained it; `hrm {verb}` works with a downloaded copy."""


def _use(run: Run[TextConfig], name: str, hub: str | None) -> str:
    if hub is not None:
        return _published(hub, run.config.text.kind in TALKS or bool(load_tokenizer(run.path).chat_template))
    begin = ""
    held = open_text(run.data / "validation") if is_packed(run.data / "validation") else None
    if isinstance(held, Packed) and (asked := next(prompts_of(held), None)):
        begin = str(load_tokenizer(run.path).decode(asked))  # to its last blank line, as it was learned
    elif held is not None:
        batch = next(held.windows(run.config.text.length, None, 1))
        words = load_tokenizer(run.path).decode(batch.input_ids[0][:12].tolist(), skip_special_tokens=True)
        begin = (str(words).strip().splitlines() or [""])[0].replace('"', "")
    begin = begin or "Once"
    return f"""\
```python
from hrm.text.writing.generation import generate
from hrm.text.load import load_text

loaded = load_text("{name}")
print(generate(loaded.model, loaded.tokenizer, {json.dumps(begin, ensure_ascii=False)}).text)
```

`hrm generate {name} "..." --trace` shows the depth of each token, `hrm eval {name}` measures again."""


def _limits(run: Run[TextConfig], model: HRMConfig, result: Json) -> list[str]:
    found = ["It knows what its data says and nothing else; what it writes is neither checked nor filtered."]
    if _tokens(run) == "characters":
        found.append("It reads only the characters of its data; others become one unknown token.")
    length = f"{run.config.text.length:,}"
    found.append(f"It was trained on rows of {length} tokens: what lies further back was never learned from.")
    losses = result.get("loss_by_depth") or []
    if losses and min(losses) < losses[-1]:
        best = f"{losses.index(min(losses)) + 1} of {len(losses)} segments"
        found.append(f"More depth is not better throughout: held-out loss is lowest after {best}.")
    if model.max_segments > 1 and model.halting == "q" and not run.config.validation and not losses:
        found.append("Whether the Q head halts where it should was not measured.")
    if run.config.seed is not None and result:
        found.append("One training with one seed: how much the numbers vary is not known.")
    return found


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
