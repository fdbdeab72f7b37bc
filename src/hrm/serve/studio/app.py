"""The studio's page and routes on the server's app, behind a door that lets one browser in."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.requests import Request

from hrm import __version__
from hrm.files.output import refusal
from hrm.files.reading import UserError

PAGE = Path(__file__).parent / "page"


def add_studio(app: FastAPI, folder: Path) -> None:
    """Add the routes and, after all others, the page: what no route answers is looked for among its files."""

    @app.get("/studio/about", tags=["studio"])
    def about() -> dict[str, str]:
        """Where the studio works, for its page."""
        return {"folder": str(folder), "version": __version__}

    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")


def create(folder: Path) -> FastAPI:
    """The app that serves a folder of runs."""
    app = FastAPI(title="hrm studio", version=__version__)

    @app.exception_handler(UserError)
    async def mistaken(request: Request, error: UserError) -> JSONResponse:
        return _error(400, str(error))

    @app.exception_handler(OSError)
    async def refused(request: Request, error: OSError) -> JSONResponse:
        return _error(400, refusal(error) or str(error))

    add_studio(app, folder)
    return app


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse(
        {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}, status
    )
