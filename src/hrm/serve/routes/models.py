"""Which models there are."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from hrm.files.reading import UserError
from hrm.serve.puzzles.about import Board, board_of

router = APIRouter(prefix="/v1")


class ModelInfo(BaseModel):
    """A run that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["hrm"] = "hrm"
    kind: Literal["text", "puzzles"]
    loaded: bool
    checkpoint: str | None
    """The one in memory."""
    puzzles: Board | None = None
    """What it solves, if it solves puzzles of a task that this package has."""


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


FIRST = "$response.body#/data/0/id"
LINKS: dict[int | str, dict[str, Any]] = {
    200: {
        "links": {
            "about the first": {"operationId": "get_model", "parameters": {"name": FIRST}},
            "write": {"operationId": "complete", "requestBody": {"model": FIRST, "prompt": "the"}},
            "solve": {"operationId": "solve", "requestBody": {"model": FIRST, "puzzle": "1"}},
        }
    }
}
"""What may be asked of a model in the list."""


@router.get("/models", responses=LINKS)
async def list_models(request: Request) -> ModelList:
    """The models by name; loads none."""
    offered = request.app.state.models
    found = []
    for name in offered.names():
        with suppress(UserError):  # one that is gone is in no list
            found.append(await _info(request, name))
    return ModelList(data=found)


@router.get("/models/{name}")
async def get_model(request: Request, name: str) -> ModelInfo:
    """One of them."""
    return await _info(request, name)


async def _info(request: Request, name: str) -> ModelInfo:
    known = await run_in_threadpool(request.app.state.models.about, name)
    path = known.pop("path")
    board = await run_in_threadpool(board_of, path) if known["kind"] == "puzzles" else None
    return ModelInfo(id=known.pop("name"), puzzles=board, **known)
