"""The studio: its page and routes, and the API that every server has, for the runs of one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from hrm import __version__
from hrm.files.output import Refused, refusal
from hrm.puzzles import solvers
from hrm.serve import errors
from hrm.serve.app import create_app
from hrm.serve.models import Models
from hrm.serve.settings import LOOPBACK, Settings
from hrm.serve.studio import conversations, examples, inside, talking
from hrm.serve.studio.books import sweep
from hrm.serve.studio.routes import router
from hrm.serve.studio.runs import BOOKS, Folder, Shown

PAGE = Path(__file__).parent / "page"
_SHIPPED = {name: solvers.HOME / name for name in solvers.names()}
"""Solvers that come with the package."""
_API = ("/v1/", "/health", "/metrics", "/openapi.json")


class Studio:
    """An ASGI app: the API answers its own paths, the studio the others. Both know the runs of the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Folder(folder)
        sweep(self.folder.path / BOOKS)
        self.models = Models(_SHIPPED)
        self.api = create_app(self.models, Settings(hosts=LOOPBACK))
        self.page = FastAPI(title="hrm studio", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
        self.page.state.folder, self.page.state.models, self.page.state.offer = self.folder, self.models, self.offer
        self.page.state.works = inside.Works()
        errors.install(self.page)
        for kind in (OSError, Refused):
            self.page.add_exception_handler(kind, _refused)
        self.page.add_exception_handler(Exception, _failed)
        for each in (router, talking.router, examples.router, inside.router, conversations.routes(self.folder.path)):
            self.page.include_router(each)
        self.page.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
        self.offer(self.folder.shown())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_api = scope["type"] == "lifespan" or scope["path"].startswith(_API)
        await (self.api if is_api else self.page)(scope, receive, send)

    def offer(self, shown: Sequence[Shown]) -> None:
        """Let the API have the runs that are there, and no others."""
        kept = {each.name for each in shown if each.kind and each.parameters and each.state != "damaged"}
        offered = _SHIPPED | {name: self.folder.path / name for name in kept}
        for name, path in offered.items():
            self.models.add(name, path)
        for name in {*self.models.names()} - offered.keys():
            self.models.remove(name)


async def _refused(request: Request, error: Any) -> JSONResponse:
    return errors.answer(507, refusal(error) or "the system refused it: the terminal of hrm studio says more")


async def _failed(request: Request, error: Any) -> JSONResponse:
    return errors.answer(500, "the studio has made a mistake: its terminal says where")
