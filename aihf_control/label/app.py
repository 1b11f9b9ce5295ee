"""The web application: the page, the questions as JSON, the clips, and the answers."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any, Literal

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from aihf_control.core.errors import BadInput
from aihf_control.label.clip_folder import ClipFolder
from aihf_control.label.plan import SECONDS
from aihf_control.label.results import summarise_answers
from aihf_control.label.schema import Question
from aihf_control.label.security import Access, Guard
from aihf_control.label.store import NotOpen, Store

HERE = Path(__file__).parent
CLIP = re.compile(r"[0-9a-f]{32}", re.ASCII)
SENT_AHEAD = 4  # questions that the page gets at a time; it loads their clips before they are shown
RECENT = 20  # answers from which the time left is estimated
MAX_SECONDS = 3600.0
REDIRECT = (
    '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={}">'
    '<link rel="icon" href="data:,"><title>...</title>'
)
Choice = Literal["left", "right", "tie", "skip"]


@dataclasses.dataclass(frozen=True)
class Page:
    """Settings of the page besides the clips, and how many questions are still to be chosen."""

    title: str
    """Environment."""
    question: str
    pairs: int | None = None
    """Pairs that each annotator answers, besides `checks` per pair; None for a run, which asks while it trains."""
    checks: float = 0.0


class Site:
    """The handlers of requests."""

    def __init__(self, store: Store, clips: ClipFolder, access: Access, page: Page):
        self.store, self.clips, self.access, self.page = store, clips, access, page
        loader = jinja2.FileSystemLoader(HERE / "static")
        self.template = jinja2.Environment(
            loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        ).get_template("page.html")

    def label(self, request: Request) -> Response:
        """Show the questions of an annotator."""
        if "token" in request.query_params:
            return self._exchange(request, owner=False)
        annotator = self._annotator(request)
        name = self.store.annotators()[annotator]
        return HTMLResponse(self.template.render(page=self.page, results=None, name=name, annotator=annotator))

    def results(self, request: Request) -> Response:
        """Show the results to the owner."""
        if "token" in request.query_params:
            return self._exchange(request, owner=True)
        if not self.access.is_owner(request):
            raise HTTPException(401, "open the link to the results that was printed; it has a token")
        return HTMLResponse(self.template.render(page=self.page, results=summarise_answers(self.store)))

    def _exchange(self, request: Request, owner: bool) -> Response:
        """Exchange the token of a link for a cookie, and load the page anew without the token.

        A redirect would do that, too, but after a link in a mail or a chat, browsers do not send a SameSite=Strict
        cookie along with it.
        """
        cookie = self.access.exchange(request.query_params["token"], owner)
        if cookie is None:
            return PlainTextResponse("wrong or old token: use the link that was printed last\n", 401)
        response = HTMLResponse(REDIRECT.format(request.url.path))
        name = self.access.cookie_name(owner)
        response.set_cookie(name, cookie, max_age=30 * 86400, httponly=True, samesite="strict")
        return response

    def _annotator(self, request: Request) -> int:
        """Return the annotator of a request. Raises HTTPException for anybody else."""
        found = self.access.annotator(request)
        if found is None:
            raise HTTPException(401, "open the link that was printed; it has a token")
        return found

    def _page_of(self, request: Request) -> int:
        """Return the annotator of a request from the page. Raises HTTPException if the page is another annotator's.

        A browser has one cookie, so the link of another annotator replaces it, while open pages stay.
        """
        annotator = self._annotator(request)
        if request.headers.get("x-annotator") != str(annotator):
            raise HTTPException(403, "another annotator's link was opened in this browser; open your own link again")
        return annotator

    def clip(self, request: Request) -> Response:
        """Send a clip by its id: one of the annotator's own questions, or any for the owner."""
        annotator = None if self.access.is_owner(request) else self._annotator(request)
        clip = request.path_params["clip"]
        known = CLIP.fullmatch(clip) and self.store.has_clip(clip, annotator)
        if not known:
            raise HTTPException(404, "there is no such clip")
        if not self.clips.has(clip):
            raise HTTPException(404, "this clip is not drawn yet: try again in some seconds")
        return FileResponse(self.clips.path(clip), media_type="video/mp4", headers={"cache-control": "private"})

    # ------------------------------------------------------------------------------------------------------------- JSON

    def state(self, request: Request) -> Response:
        """Send the next questions and the progress."""
        return JSONResponse(self.describe(self._page_of(request)))

    async def answer(self, request: Request) -> Response:
        """Store an answer, then send the next questions. The answer is on the disk before the reply is sent."""
        annotator = await run_in_threadpool(self._page_of, request)
        given = _check_answer(await _read_json(request))
        return await run_in_threadpool(self._store_answer, annotator, *given)

    def _store_answer(self, annotator: int, question: int, choice: Choice, seconds: float) -> Response:
        """Store an answer. The status is 409 if the question is not open, for example after an answer elsewhere."""
        status = 200
        try:
            self.store.answer(annotator, question, self._word(question, choice), seconds)
        except NotOpen:
            status = 409
        return JSONResponse(self.describe(annotator), status)

    def _word(self, question: int, choice: Choice) -> str:
        """Return the choice by clip in place of side."""
        left = self.store.left_of(question)
        other = {"first": "second", "second": "first"}.get(left or "", "skip")
        return {"left": left or "skip", "right": other}.get(choice, choice)

    async def undo(self, request: Request) -> Response:
        """Take back the annotator's last answer, then send the questions, that one first."""
        annotator = await run_in_threadpool(self._page_of, request)
        if await _read_json(request) != {}:
            raise HTTPException(400, "send {}")
        return await run_in_threadpool(self._undo, annotator)

    def _undo(self, annotator: int) -> Response:
        taken = self.store.undo(annotator)
        return JSONResponse(self.describe(annotator), 409 if taken is None else 200)

    def describe(self, annotator: int) -> dict[str, Any]:
        """Return what the page of an annotator shows: the next questions that are rendered, and the progress."""
        waiting, answers = self.store.open_questions(annotator), self.store.answers(annotator)
        ready = []
        for q in waiting[:SENT_AHEAD]:
            if not (self.clips.has(q.first) and self.clips.has(q.second)):
                break
            ready.append(_sides(q))
        to_choose = self._to_choose(annotator)
        seconds = statistics.median([a.seconds for a in answers[-RECENT:]] or [SECONDS])
        left = len(waiting) + to_choose
        return {
            "questions": ready,
            "done": len(answers),
            "total": len(answers) + left,
            "minutes_left": left * max(1.0, seconds) / 60,
            "undo": bool(answers),
            "finished": not left and self.page.pairs is not None,
            "running": self.page.pairs is None,
            "faults": self.store.faults()[:1],
        }

    def _to_choose(self, annotator: int) -> int:
        """Return how many questions an annotator will get beyond those that are chosen."""
        if self.page.pairs is None:
            return 0
        missing = self.page.pairs - self.store.count_pairs(annotator)
        return max(0, math.ceil(missing * (1 + self.page.checks)))


def _sides(q: Question) -> dict[str, Any]:
    left, right = (q.first, q.second) if q.left == "first" else (q.second, q.first)
    return {"id": q.id, "left": left, "right": right}


async def _read_json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError):
        raise HTTPException(400, "this is no JSON") from None


def _check_answer(given: Any) -> tuple[int, Choice, float]:
    """Return question, choice and seconds of an answer. Raises HTTPException for anything else."""
    if not isinstance(given, dict) or given.keys() != {"question", "choice", "seconds"}:
        raise HTTPException(400, "send question, choice and seconds")
    question, choice, seconds = given["question"], given["choice"], given["seconds"]
    if type(question) is not int or not 0 < question < 2**53:
        raise HTTPException(400, "question is no whole number")
    if choice not in ("left", "right", "tie", "skip"):
        raise HTTPException(400, "choice is none of left, right, tie, skip")
    if type(seconds) not in (int, float) or not 0 <= seconds <= MAX_SECONDS:
        raise HTTPException(400, f"seconds is no number from 0 to {MAX_SECONDS:g}")
    return question, choice, float(seconds)


def make_app(store: Store, clips: ClipFolder, access: Access, page: Page, hosts: tuple[str, ...]) -> Starlette:
    """Build the application, to be served under these `hosts` alone."""
    site = Site(store, clips, access, page)
    routes = [
        Route("/", site.label),
        Route("/results", site.results),
        Route("/clip/{clip}", site.clip),
        Route("/api/state", site.state),
        Route("/api/answer", site.answer, methods=["POST"]),
        Route("/api/undo", site.undo, methods=["POST"]),
        Mount("/static", _OwnFiles(directory=HERE / "static")),
    ]
    guard = Middleware(Guard, hosts=hosts, port=access.port)
    handlers = {HTTPException: _refusal, BadInput: _not_stored}
    return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers)


class _OwnFiles(StaticFiles):
    """The page's script and style; its template is not sent."""

    def lookup_path(self, path: str) -> Any:
        return super().lookup_path(path) if path in ("page.js", "page.css") else ("", None)


def _not_stored(request: Request, e: Exception) -> Response:
    """Reply that the answers cannot be read, or that one cannot be stored; the page asks again."""
    return PlainTextResponse(f"{e}\n", 507)


def _refusal(request: Request, e: Exception) -> Response:
    assert isinstance(e, HTTPException)
    return PlainTextResponse(f"{e.detail}\n", e.status_code, headers=e.headers)
