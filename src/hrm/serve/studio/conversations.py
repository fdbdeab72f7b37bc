"""Conversations of the studio: a file each, in the form that `/save` of `hrm chat` writes, replaced in one step."""

from __future__ import annotations

import json
import re
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from hrm.files import names
from hrm.files.output import to_json
from hrm.files.reading import UserError, reason
from hrm.runs import durable
from hrm.serve.errors import Refusal
from hrm.text.chat.conversation import FORMAT

PLACE = ".studio/conversations"
LARGEST = 8 << 20
"""Bytes of a conversation."""
MOST = 2000
"""Conversations of a folder."""
_ID = re.compile(r"[0-9a-f]{16}")
Id = Annotated[str, Field(pattern=f"^{_ID.pattern}$")]
Text = Annotated[str, Field(max_length=1 << 20)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Trace = tuple[Annotated[str, Field(max_length=1000)], Annotated[int, Field(ge=0, lt=10_000)], Number, Number, Number]
"""A token: its text, depth in segments, confidence, log-probability and entropy in nats."""


class Part(BaseModel):
    """What belongs to a conversation; nothing else is kept."""

    model_config = ConfigDict(extra="forbid")


class Version(Part):
    """What was said, and of an answer how it came to be."""

    role: Literal["user", "assistant", "system"]
    content: Text
    trace: Annotated[list[Trace], Field(max_length=100_000)] | None = None
    end: Annotated[str, Field(max_length=20)] | None = None
    mode: Annotated[str, Field(max_length=20)] | None = None
    seed: Count | None = None
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class Said(Version):
    """A message, and what else was answered in its place."""

    others: Annotated[list[Version], Field(max_length=1000)] | None = None


class Begun(Part):
    """A conversation that is to be kept."""

    model: Name
    talks: bool
    """Questions and answers, or one running text."""


class Save(Part):
    """What follows the first messages of a conversation from now on. A window saves under a name of its own, and
    numbers what it saves, so that two windows do not overwrite each other."""

    after: Count
    """Messages that stay as they are."""
    messages: Annotated[list[Said], Field(max_length=10_000)]
    answers: Count
    """Answers begun: with the seed, what the next one is drawn from."""
    window: Annotated[str, Field(pattern="^[0-9a-f]{8,32}$")]
    number: Count
    seen: Annotated[str, Field(max_length=60)]
    """The `state` that this window has read."""


class Renaming(Part):
    """Another title."""

    title: Name


class Head(BaseModel):
    """A conversation in the list."""

    id: str
    title: str
    model: str
    talks: bool
    messages: int
    changed: str


class Conversation(Head):
    """All of it."""

    said: list[Said]
    answers: int
    state: str
    """Of its file; changes with every save."""


class Saved(BaseModel):
    """What a save has made of it."""

    state: str
    title: str


class Gone(Refusal):
    """There is no such conversation, or no longer."""

    status, code = 404, "conversation_not_found"


class Changed(Refusal):
    """Another window has saved it meanwhile."""

    status, code = 409, "conversation_changed"


class Conversations:
    """Those of a folder of runs. Methods may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / PLACE
        self._lock = threading.Lock()
        self._heads: dict[str, tuple[tuple[int, int], Head]] = {}

    def heads(self) -> list[Head]:
        """All that can be read, the last changed first. Only what has changed is read again."""
        found: list[Head] = []
        for path in self.place.glob("*.json"):
            if _ID.fullmatch(path.stem) is None:
                continue
            try:
                stat = path.stat()
                mark = stat.st_mtime_ns, stat.st_size
                known = self._heads.get(path.stem)
                if known is None or known[0] != mark:
                    known = self._heads[path.stem] = mark, _head(path.stem, self._read(path.stem))
            except (UserError, OSError):
                continue  # it is left where it is, and said where it is asked for
            found.append(known[1])
        self._heads = {head.id: self._heads[head.id] for head in found}
        return sorted(found, key=lambda head: (head.changed, head.id), reverse=True)

    def read(self, id: str) -> Conversation:
        """One of them."""
        return _whole(id, self._read(id))

    def begin(self, model: str, talks: bool) -> Conversation:
        """A new one, without a word in it."""
        with self._lock:
            if sum(1 for _ in self.place.glob("*.json")) >= MOST:
                raise UserError(f"the studio keeps {MOST:,} conversations, and they are all there: delete some")
            id = secrets.token_hex(8)
            facts = {
                "format": FORMAT, "talks": talks, "forgotten": 0, "answers": 0, "messages": [],
                "title": None, "model": model, "state": "",
            }  # fmt: skip
            self._write(id, facts)
        return _whole(id, facts)

    def save(self, id: str, given: Save) -> Saved:
        """Take what a window has of it; Changed where another one was faster."""
        with self._lock:
            facts = self._read(id)
            window, _, number = facts["state"].rpartition(".")
            if window == given.window and number.isdecimal():
                if given.number <= int(number):  # an earlier one that arrives late
                    return _saved(facts)
            elif facts["state"] != given.seen:
                raise Changed("this conversation was continued in another window: it is shown as it is there")
            if given.after > len(facts["messages"]):
                raise Changed("this conversation was shortened in another window: it is shown as it is there")
            said = [message.model_dump(exclude_none=True) for message in given.messages]
            facts["messages"] = facts["messages"][: given.after] + said
            facts["answers"], facts["state"] = given.answers, f"{given.window}.{given.number}"
            self._write(id, facts)
            return _saved(facts)

    def rename(self, id: str, title: str) -> Saved:
        """Give it another title."""
        with self._lock:
            facts = self._read(id)
            facts["title"] = " ".join(title.split()) or None
            self._write(id, facts)
            return _saved(facts)

    def delete(self, id: str) -> None:
        """For good."""
        with self._lock:
            names.file_in(self.place, f"{id}.json").unlink(missing_ok=True)

    def exported(self, id: str) -> str:
        """What `/save` would have written: the conversation alone."""
        facts = self._read(id)
        said = [{"role": message["role"], "content": message["content"]} for message in facts["messages"]]
        kept = {name: facts[name] for name in ("format", "talks", "forgotten", "answers")}
        return to_json({**kept, "messages": said}, indent=2, ensure_ascii=False) + "\n"

    def _read(self, id: str) -> dict[str, Any]:
        path = names.file_in(self.place, f"{id}.json")
        try:
            facts = json.loads(names.read_bytes(path, 2 * LARGEST))
            _whole(id, facts)
            if facts["format"] != FORMAT or type(facts["forgotten"]) is not int:
                raise ValueError("another version wrote it")
            return facts
        except FileNotFoundError:
            raise Gone("this conversation is not there any more: begin another") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} is damaged ({reason(error)}): delete it, or restore it from a copy") from error

    def _write(self, id: str, facts: dict[str, Any]) -> None:
        facts["changed"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        content = to_json(facts, ensure_ascii=False, separators=(",", ":")).encode()
        if len(content) > LARGEST:
            raise UserError("this conversation is as long as one may be: begin another")
        self.place.mkdir(parents=True, exist_ok=True)
        durable.write(names.place_in(self.place, f"{id}.json"), content)


def routes(folder: Path) -> APIRouter:
    """The routes of a folder's conversations."""
    kept, router = Conversations(folder), APIRouter(prefix="/studio/conversations", tags=["studio"])

    @router.get("")
    def list_conversations() -> list[Head]:
        """All of them, the last changed first."""
        return kept.heads()

    @router.post("")
    def begin_conversation(begun: Begun) -> Conversation:
        """A new one, without a word in it."""
        return kept.begin(begun.model, begun.talks)

    @router.get("/{id}")
    def read_conversation(id: Id) -> Conversation:
        """One of them."""
        return kept.read(id)

    @router.put("/{id}")
    def save_conversation(id: Id, save: Save) -> Saved:
        """Replace what follows its first messages."""
        return kept.save(id, save)

    @router.patch("/{id}")
    def rename_conversation(id: Id, renaming: Renaming) -> Saved:
        """Another title."""
        return kept.rename(id, renaming.title)

    @router.delete("/{id}", status_code=204)
    def delete_conversation(id: Id) -> None:
        """For good."""
        kept.delete(id)

    @router.get("/{id}/file")
    def export_conversation(id: Id) -> Response:
        """The file that `hrm chat --load` reads."""
        name = f"attachment; filename=conversation-{id[:6]}.json"
        return Response(kept.exported(id), media_type="application/json", headers={"Content-Disposition": name})

    return router


def _title(facts: dict[str, Any]) -> str:
    """What it is called: as a person has said, or as it begins."""
    if facts.get("title"):
        return facts["title"]
    first = next((message["content"] for message in facts["messages"] if message["role"] == "user"), "")
    words = " ".join(first.split())
    return (words[:57].rstrip() + "..." if len(words) > 60 else words) or "New conversation"


def _head(id: str, facts: dict[str, Any]) -> Head:
    return Head(
        id=id, title=_title(facts), model=facts["model"], talks=facts["talks"],
        messages=len(facts["messages"]), changed=facts["changed"],
    )  # fmt: skip


def _whole(id: str, facts: dict[str, Any]) -> Conversation:
    head = _head(id, facts).model_dump()
    return Conversation(**head, said=facts["messages"], answers=facts["answers"], state=facts["state"])


def _saved(facts: dict[str, Any]) -> Saved:
    return Saved(state=facts["state"], title=_title(facts))
