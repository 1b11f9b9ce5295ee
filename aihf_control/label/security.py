"""Access to the page: tokens, cookies, and the checks of every request.

The page runs on a machine whose browser also shows other sites. Host allow-list: a site that rebinds its name to
127.0.0.1 is refused. Origin and JSON: another site cannot post. SameSite=Strict and no CORS: it cannot read, either.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import secrets
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aihf_control.label.store import Store

MAX_BODY = 4096  # bytes of a request
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def digest(secret: str) -> str:
    """Return the hash under which a secret is stored or compared."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


@dataclasses.dataclass(frozen=True)
class Access:
    """The tokens of the printed links, new at every start, and the cookies that they are exchanged for.

    An annotator's cookie gives the questions, the owner's gives the results; a browser may have both.
    """

    store: Store
    port: int
    tokens: dict[str, int | None]
    """Annotator by the hash of a token; None is the owner."""

    def cookie_name(self, owner: bool) -> str:
        """Return the cookie's name. Cookies do not know ports, so two pages of one machine need two names."""
        return f"aihf_{'results' if owner else 'label'}_{self.port}"

    def exchange(self, token: str, owner: bool) -> str | None:
        """Return a new cookie for a token of an annotator or the owner, or None if it is wrong."""
        given = digest(token)
        for known, annotator in self.tokens.items():
            if hmac.compare_digest(known, given) and (annotator is None) == owner:
                cookie = secrets.token_urlsafe(32)
                self.store.add_session(digest(cookie), annotator)
                return cookie
        return None

    def annotator(self, request: Request) -> int | None:
        """Return the annotator of a request's cookie, or None without a valid one."""
        found = self._session(request, owner=False)
        return found[0] if found else None

    def is_owner(self, request: Request) -> bool:
        """Return whether a request has the owner's cookie."""
        return self._session(request, owner=True) == (None,)

    def _session(self, request: Request, owner: bool) -> tuple[int | None] | None:
        cookie = request.cookies.get(self.cookie_name(owner))
        return self.store.session(digest(cookie)) if cookie else None


def make_tokens(annotators: Sequence[int]) -> tuple[dict[str, int | None], dict[int | None, str]]:
    """Return annotators by the hashes of new tokens, and the tokens by annotator; None is the owner."""
    tokens: dict[int | None, str] = {who: secrets.token_urlsafe(24) for who in (*annotators, None)}
    return {digest(token): who for who, token in tokens.items()}, tokens


class Guard:
    """Middleware that refuses requests from elsewhere, limits their bodies, and adds the security headers.

    A request needs a Host of `hosts`. One that is not GET or HEAD needs an Origin of the same, no other site behind it,
    and a body of JSON.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], port: int):
        self.app = app
        names = {host.lower() for host in hosts}
        self.hosts = {f"{name}:{port}" for name in names} | (names if port == 80 else set())
        self.origins = {f"http://{host}" for host in self.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in own]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        refused = self._refuse(Request(scope))
        app = PlainTextResponse(f"{refused[1]}\n", refused[0]) if refused else self.app
        await app(scope, receive, with_headers)

    def _refuse(self, request: Request) -> tuple[int, str] | None:
        """Return the status and the reason with which a request is refused, or None."""
        headers = request.headers
        if len(headers.getlist("host")) != 1 or headers["host"].lower() not in self.hosts:
            return 421, "wrong host: use the link that was printed"
        if request.method in ("GET", "HEAD"):
            return None
        if request.method != "POST":
            return 405, "only GET and POST are served"
        if headers.get("origin", "").lower() not in self.origins:
            return 403, "wrong origin: answers are only taken from this page"
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return 403, "another site sent this request"
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return 415, "send JSON"
        length = headers.get("content-length", "")
        if not length.isascii() or not length.isdigit() or int(length) > MAX_BODY:
            return 413, f"send a content-length of at most {MAX_BODY} bytes"
        return None
