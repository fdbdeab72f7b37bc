"""What the chat page says of a model: its size, its form, its modes, and whether thinking longer helps it."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from hrm.files.reading import UserError, reading
from hrm.overview import listed
from hrm.runs import checkpoint, lock
from hrm.serve.models import Models, Served
from hrm.text.chat import commands, modes
from hrm.text.chat.session import Session
from hrm.text.data.growing import new_characters
from hrm.text.load import TextModel, load_text
from hrm.text.writing.generation import shown

router = APIRouter(prefix="/studio/chat", tags=["studio"])


class Mode(BaseModel):
    """How long a model may think."""

    name: str
    does: str
    deepest: int
    """Most segments of a token."""
    bits: float | None = None
    """A character of held-out text, where it was measured."""
    warning: str | None = None


class Talker(BaseModel):
    """A model to talk with."""

    name: str
    checkpoint: str
    training: bool
    parameters: int
    vocabulary: int
    knows: str | None
    """The texts or books that it has read."""
    memory: int
    """Tokens that it reads, its answer included."""
    talks: bool
    """It answers questions; else it continues what is written."""
    measured: bool
    """Whether its modes were compared."""
    modes: list[Mode]


class Asked(BaseModel):
    """Which model."""

    model: str


class Typed(Asked):
    """What is about to be said to it."""

    text: str = Field(max_length=1 << 20)


class Lacks(BaseModel):
    """What a person should know of it."""

    notice: str | None


@router.get("/about")
def about_model(request: Request, model: str) -> Talker:
    """What there is to say of a text model, which is loaded if it was not."""
    models: Models = request.app.state.models
    with models.lend(model) as served:
        return _talker(served, modes.known_modes(_text(served)))


@router.post("/modes")
def compare_modes(request: Request, asked: Asked) -> Talker:
    """Read held-out text of a run in every mode, which takes seconds, and keep the result in the run."""
    models: Models = request.app.state.models
    with models.lend(asked.model) as served:
        loaded = measured = _text(served)
        if loaded.held_out:  # the engine computes with the model in memory meanwhile: another copy is measured
            step = checkpoint.step_of(Path(loaded.name))
            measured = load_text(served.path, step, str(loaded.model.device))
        return _talker(served, modes.measure_modes(measured))


@router.post("/lacks")
def lacking(request: Request, typed: Typed) -> Lacks:
    """Which characters of a text the model cannot tell from each other."""
    models: Models = request.app.state.models
    with models.lend(typed.model) as served:
        tokenizer = _text(served).tokenizer
        with served.reading:
            unknown = new_characters(tokenizer, [typed.text])
        if not unknown or tokenizer.unk_token_id is None:  # without such a token it is refused
            return Lacks(notice=None)
        return Lacks(notice=f"the vocabulary lacks {shown(unknown)}, read as {tokenizer.unk_token}")


def _text(served: Served) -> TextModel:
    if served.text is None:
        raise UserError(f"{served.name} solves puzzles and does not talk: choose a text model")
    return served.text


def _talker(served: Served, known: modes.Modes | None) -> Talker:
    session = served.session
    conversation = session.conversation
    with reading(served.path / "modes.json", "delete it"):
        if known is not None:
            session.know(known)  # the API's auto becomes the best one as well
        told = [_mode(session, name, known or {}) for name in session.modes]
    return Talker(
        name=served.name, checkpoint=Path(session.loaded.name).name, training=lock.writer(served.path) is not None,
        parameters=sum(p.numel() for p in session.model.parameters()), vocabulary=len(session.tokenizer),
        knows=listed(served.path).task if (served.path / "run.json").is_file() else None,
        memory=conversation.most, talks=conversation.talks, measured=known is not None,
        modes=told,
    )  # fmt: skip


def _mode(session: Session, name: str, known: modes.Modes) -> Mode:
    facts = known.get(known.get(name, {}).get("takes", name), {})  # auto may be another one
    warning = modes.warning(name, known)
    return Mode(
        name=name, does=commands.describe(session, name), bits=facts.get("bits_per_character"),
        deepest=session.model.budget(**session.modes[name]).limit,
        warning=None if warning is None else warning.replace("/mode ", ""),
    )  # fmt: skip
