"""Serving of the page: the web server, its links, and the background process beside it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from aihf_control.core.errors import BadInput
from aihf_control.core.files import lock
from aihf_control.label.database import cannot_write
from aihf_control.label.hosts import every_interface
from aihf_control.label.process import CLIPS, Background
from aihf_control.label.store import Store

LOCK = "lock"
STOP_SECONDS = 2.0


class Links(NamedTuple):
    """Addresses to open in a browser, each with a secret token."""

    annotators: dict[str, str]
    results: str


def check_installed() -> None:
    """Raise BadInput if a package that the page needs is missing."""
    try:
        import av
        import jinja2
        import starlette
        import uvicorn
    except ImportError as e:
        raise BadInput(f"{e}; the page needs: pip install 'aihf_control[label]'") from e
    assert av and jinja2 and starlette and uvicorn


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from serving the page of this folder. Raises BadInput if one does.

    It raises it for a folder that cannot be written, too.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).open("ab").close()
    except OSError as e:
        raise cannot_write(folder, e.strerror) from e
    file = lock(folder / LOCK, f"{folder} is in use by a running page; end it first")
    try:
        yield
    finally:
        file.close()


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens there. Raises BadInput if the address is in use or not this machine's.

    It raises it for a host that is every interface, too.
    """
    if not 0 <= port < 65536:
        raise BadInput(f"--port must be from 0 (any free one) to 65535, got {port}")
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((host, port))
        server.listen(128)
    except (OSError, UnicodeError) as e:  # UnicodeError: no host name, for example one with two dots in a row
        server.close()
        reason = e.strerror if isinstance(e, OSError) else e
        raise BadInput(f"cannot listen on {host}:{port}: {reason}; give another --port or --host") from e
    if server.getsockname()[0] == "0.0.0.0":  # "0" and some names
        server.close()
        raise every_interface(host)
    return server


class Server:
    """The web server in a thread of its own, from the start of the block to its end.

    The links name the first of the `hosts` under which it is requested.
    """

    def __init__(self, store: Store, page: Any, listening: socket.socket, hosts: tuple[str, ...]):
        import uvicorn

        from aihf_control.label.app import make_app
        from aihf_control.label.clip_folder import ClipFolder
        from aihf_control.label.security import Access, make_tokens

        port = listening.getsockname()[1]
        known, tokens = make_tokens(list(store.annotators()))
        access = Access(store, port, known)
        app = make_app(store, ClipFolder(store.folder / CLIPS), access, page, hosts)
        base = f"http://{hosts[0]}:{port}"
        names = store.annotators().items()
        self.links = Links(
            {name: f"{base}/?token={tokens[who]}" for who, name in names}, f"{base}/results?token={tokens[None]}"
        )
        # no access log: it would print the tokens
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=int(STOP_SECONDS),
        )
        self.server, self.listening = uvicorn.Server(config), listening
        self.thread = threading.Thread(target=self._run, daemon=True, name="page")

    def _run(self) -> None:
        self.server.run(sockets=[self.listening])

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.should_exit = True
        self.thread.join(2 * STOP_SECONDS)
        self.listening.close()

    def check(self) -> None:
        """Raise RuntimeError if the server has ended by itself."""
        if not self.thread.is_alive():
            raise RuntimeError("the web server ended; its message is above")


def serve_until(
    server: Server, background: Background, ended: Callable[[], bool], step_timeout: float, every: float = 0.2
) -> None:
    """Return when `ended`. Raises RuntimeError, BadInput or EnvTimeout if the server or the other process fails."""
    while not ended():
        server.check()
        background.check(step_timeout)
        time.sleep(every)
