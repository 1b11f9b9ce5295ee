"""Requests that have to be refused, and the headers of those that are not. No browser: Starlette's client."""

import json
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs pip install 'aihf_control[label]'")
pytest.importorskip("httpx2", reason="needs httpx2, of the extra dev")

from starlette.testclient import TestClient

from aihf_control.core.errors import BadInput
from aihf_control.label.app import Page, make_app
from aihf_control.label.clip_folder import ClipFolder
from aihf_control.label.hosts import LOOPBACK, check_host
from aihf_control.label.process import CLIPS
from aihf_control.label.security import MAX_BODY, Access, make_tokens
from aihf_control.label.store import Store
from tests.label.conftest import add_plain_questions, clip_id, write_clips

PORT = 8321
BASE = f"http://127.0.0.1:{PORT}"


def make_site(folder: Path):
    """An application, the tokens by annotator (None: the owner's), and the store."""
    store = Store(folder)
    store.add_annotators(["ann", "bob"])
    add_plain_questions(store, 1, 3)
    add_plain_questions(store, 2, 1, first=50)
    write_clips(store)
    known, tokens = make_tokens([1, 2])
    app = make_app(
        store, ClipFolder(store.folder / CLIPS), Access(store, PORT, known), Page("Hopper-v4", "?", 3), LOOPBACK
    )
    return app, tokens, store


def sign_in(app, tokens, store):
    client = TestClient(app, base_url=BASE, follow_redirects=False, headers={"x-annotator": "1"})
    assert client.get("/", params={"token": tokens[1]}).status_code == 200
    return client, tokens, store


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory):
    """The site of all tests that store nothing."""
    return make_site(tmp_path_factory.mktemp("site") / "labels")


@pytest.fixture
def site(shared_site):
    """A client without a cookie."""
    app, tokens, store = shared_site
    return TestClient(app, base_url=BASE, follow_redirects=False), tokens, store


@pytest.fixture
def ann(shared_site):
    """A client with ann's cookie."""
    return sign_in(*shared_site)


@pytest.fixture
def fresh_ann(tmp_path):
    """The same with a store of its own."""
    return sign_in(*make_site(tmp_path / "labels"))


def post(client, path="/api/answer", body=None, headers=None):
    body = {"question": 1, "choice": "left", "seconds": 1.0} if body is None else body
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"origin": BASE, "content-type": "application/json"} | (headers or {})
    return client.post(path, content=content, headers={k: v for k, v in given.items() if v is not None})


def test_a_token_is_exchanged_for_a_strict_cookie_and_leaves_the_address(site):
    client, tokens, _ = site
    reply = client.get("/", params={"token": tokens[1]})
    cookie = reply.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and tokens[1] not in cookie + reply.text
    assert 'content="0; url=/"' in reply.text
    page = client.get("/")
    assert page.status_code == 200 and "ann" in page.text and tokens[1] not in page.text


@pytest.mark.parametrize("token", ["", "wrong", "a" * 5000, "\u00e9\ud83d\ude00".encode("utf-8", "replace").decode()])
def test_a_wrong_token_gives_no_cookie(site, token):
    client, tokens, store = site
    before = store.db.read("SELECT COUNT(*) FROM sessions")
    for path in ("/", "/results"):
        reply = client.get(path, params={"token": token})
        assert reply.status_code == 401 and "set-cookie" not in reply.headers
    assert client.get("/", params={"token": tokens[None]}).status_code == 401  # the owner gives no answers
    assert client.get("/results", params={"token": tokens[1]}).status_code == 401
    assert store.db.read("SELECT COUNT(*) FROM sessions") == before


@pytest.mark.parametrize("path", ["/", "/results", "/api/state", f"/clip/{clip_id(0)}"])
def test_nothing_is_shown_without_a_cookie(site, path):
    client, _, _ = site
    assert client.get(path).status_code == 401
    client.cookies.set(f"aihf_label_{PORT}", "guess")
    client.cookies.set(f"aihf_results_{PORT}", "guess")
    assert client.get(path).status_code == 401


def test_nothing_is_stored_without_a_cookie(site):
    client, _, store = site
    assert post(client).status_code == post(client, "/api/undo", {}).status_code == 401
    assert store.answers() == []


HOSTS = [
    "evil.example", "evil.example:8321", "127.0.0.1:9999", "127.0.0.1", "127.0.0.1.evil.example:8321", "", "[::1]:8321",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_another_host_is_refused_as_after_a_rebound_name(ann, host):
    client, _, store = ann
    for path in ("/", "/api/state", "/static/page.js", f"/clip/{clip_id(0)}"):
        assert client.get(path, headers={"host": host}).status_code == 421
    assert post(client, headers={"host": host}).status_code == 421 and store.answers() == []


REFUSED = {
    "foreign origin": ({"origin": "http://evil.example"}, 403),
    "no origin": ({"origin": None}, 403),
    "null origin": ({"origin": "null"}, 403),
    "https origin": ({"origin": BASE.replace("http", "https")}, 403),
    "other port": ({"origin": "http://127.0.0.1:9"}, 403),
    "origin as prefix": ({"origin": BASE + ".evil.example"}, 403),
    "cross site": ({"sec-fetch-site": "cross-site"}, 403),
    "same site": ({"sec-fetch-site": "same-site"}, 403),
    "form": ({"content-type": "application/x-www-form-urlencoded"}, 415),
    "text": ({"content-type": "text/plain"}, 415),
    "no type": ({"content-type": None}, 415),
    "no length": ({"content-length": ""}, 413),
    "long": ({"content-length": str(MAX_BODY + 1)}, 413),
    "negative": ({"content-length": "-1"}, 413),
}


@pytest.mark.parametrize(("headers", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_a_post_from_elsewhere_is_refused(ann, headers, status):
    client, _, store = ann
    assert post(client, headers=headers).status_code == status and store.answers() == []


BODIES = [
    b"", b"{", b"[]", b"null", b"1", b'"left"', b"\xff", b"[" * 4000,
    {}, {"question": 1}, {"question": 1, "choice": "left"}, {"question": 1, "choice": "left", "seconds": 1, "more": 1},
    {"question": "1", "choice": "left", "seconds": 1}, {"question": True, "choice": "left", "seconds": 1},
    {"question": 1.0, "choice": "left", "seconds": 1}, {"question": -1, "choice": "left", "seconds": 1},
    {"question": 2**70, "choice": "left", "seconds": 1}, {"question": 1, "choice": "first", "seconds": 1},
    {"question": 1, "choice": "undo", "seconds": 1}, {"question": 1, "choice": None, "seconds": 1},
    {"question": 1, "choice": [], "seconds": 1}, {"question": 1, "choice": "left", "seconds": -1},
    {"question": 1, "choice": "left", "seconds": "1"}, {"question": 1, "choice": "left", "seconds": 1e9},
    b'{"question": 1, "choice": "left", "seconds": NaN}', b'{"question": 1, "choice": "left", "seconds": Infinity}',
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda body: str(body)[:50])
def test_a_malformed_answer_is_refused_in_one_line(ann, body):
    client, _, store = ann
    reply = post(client, body=body)
    assert reply.status_code == 400 and reply.text.count("\n") == 1 and store.answers() == []


def test_answers_are_by_side_and_only_to_own_open_questions(fresh_ann):
    client, _, store = fresh_ann
    for question, choice in ((1, "left"), (2, "left"), (3, "right")):  # the second one is on the left in question 2
        assert post(client, body={"question": question, "choice": choice, "seconds": 2.5}).status_code == 200
    assert [a.choice for a in store.answers()] == ["first", "second", "second"]
    for question in (1, 4, 99):  # answered, another annotator's, unknown
        reply = post(client, body={"question": question, "choice": "left", "seconds": 1})
        assert reply.status_code == 409 and reply.json()["done"] == 3
    assert len(store.answers()) == 3
    assert post(client, "/api/undo", {}).json()["questions"][0]["id"] == 3
    assert post(client, "/api/undo", {"question": 1}).status_code == 400


def test_an_answer_that_the_disk_does_not_take_is_said_so_and_asked_again(fresh_ann):
    client, _, store = fresh_ann
    store.db.connection.execute("PRAGMA query_only = ON")  # as a disk that became read-only
    reply = post(client)
    assert reply.status_code == 507 and reply.text.startswith("cannot write") and reply.text.count("\n") == 1
    store.db.connection.execute("PRAGMA query_only = OFF")
    assert client.get("/api/state").json()["questions"][0]["id"] == 1
    assert post(client).status_code == 200


def test_a_page_of_another_annotator_than_the_cookies_changes_nothing(fresh_ann):
    client, tokens, store = fresh_ann
    assert 'data-annotator="1"' in client.get("/").text
    assert post(client).status_code == 200
    client.get("/", params={"token": tokens[2]})  # bob's link in the same browser: ann's page is still open
    store.answer(2, 4, "first", 1.0)
    answer = {"question": 4, "choice": "left", "seconds": 1.0}
    for reply in (client.get("/api/state"), post(client, body=answer), post(client, "/api/undo", {})):
        assert reply.status_code == 403 and reply.text.startswith("another annotator's link was opened")
    assert [a.question.id for a in store.answers()] == [1, 4]
    assert client.get("/api/state", headers={"x-annotator": "2"}).json()["done"] == 1


PATHS = [
    "/clip/../answers.sqlite", "/clip/..%2fanswers.sqlite", "/clip/%2e%2e/answers.sqlite", "/clip//etc/passwd",
    "/clip/" + "0" * 31, "/clip/" + "f" * 32, "/clip/" + "A" * 32, "/clip/", "/clip/x.mp4", f"/clip/{clip_id(0)}.mp4",
    "/static/../app.py", "/static/%2e%2e/app.py", "/static/page.html", "/static/", "/static/..%5capp.py", "/labels",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_clips_are_found_by_id_and_no_file_by_its_path(ann, path):
    client, _, _ = ann
    assert client.get(path).status_code == 404


def test_an_annotator_gets_own_clips_alone_and_the_owner_all(ann):
    client, tokens, _ = ann
    own = client.get(f"/clip/{clip_id(0)}")
    assert own.status_code == 200 and own.headers["content-type"] == "video/mp4" and own.content[4:8] == b"ftyp"
    assert client.get(f"/clip/{clip_id(50)}").status_code == 404
    assert client.get("/results").status_code == 401
    client.get("/results", params={"token": tokens[None]})
    assert client.get(f"/clip/{clip_id(50)}").status_code == 200 and client.get("/results").status_code == 200


def test_a_clip_that_was_removed_is_not_found_and_its_question_waits(fresh_ann):
    client, _, store = fresh_ann
    assert client.get(f"/clip/{clip_id(0)}").status_code == 200 and client.get("/api/state").json()["questions"]
    (store.folder / CLIPS / f"{clip_id(0)}.mp4").unlink()
    reply = client.get(f"/clip/{clip_id(0)}")
    assert reply.status_code == 404 and reply.text == "this clip is not drawn yet: try again in some seconds\n"
    assert client.get("/api/state").json()["questions"] == []


@pytest.mark.parametrize("path", ["/", "/api/state", "/static/page.js", "/static/page.css", "/nothing"])
def test_every_reply_has_the_security_headers_and_none_of_cors(ann, path):
    client, _, _ = ann
    headers = client.get(path, headers={"origin": "http://evil.example"}).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store" and headers["x-frame-options"] == "DENY"
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused(ann, method):
    client, _, _ = ann
    assert client.request(method, "/api/answer", headers={"origin": BASE}).status_code == 405


def test_the_page_has_no_inline_script_and_hides_the_source_of_its_clips(ann):
    client, _, _ = ann
    text = client.get("/").text + client.get("/api/state").text
    assert "<script>" not in text and "onclick" not in text and "style=" not in text
    assert "episode" not in text.replace("the episode is over", "") and "level" not in text and "gold" not in text


def test_names_and_questions_are_escaped(store):
    store.add_annotators(["<b>eve</b>"])
    known, tokens = make_tokens([3])
    page = Page("<i>env</i>", "<script>alert(1)</script>", 3)
    app = make_app(store, ClipFolder(store.folder / CLIPS), Access(store, PORT, known), page, LOOPBACK)
    client = TestClient(app, base_url=BASE)
    client.get("/", params={"token": tokens[3]})
    text = client.get("/").text
    assert "&lt;script&gt;alert(1)" in text and "<b>" not in text and "<i>" not in text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "*", "::1", "192.168.1.5", "example.org"])
def test_other_hosts_need_a_flag_and_every_interface_is_refused(host):
    with pytest.raises(BadInput, match="--host"):
        check_host(host, trusted=False)


def test_a_trusted_host_is_the_only_name_of_the_page():
    assert check_host("192.168.1.5", trusted=True) == ("192.168.1.5",)
    assert check_host("127.0.0.1", trusted=False) == LOOPBACK and check_host("localhost", False)[0] == "localhost"
    assert check_host("Labels.Example", trusted=True) == ("labels.example",)
    with pytest.raises(BadInput, match="every interface"):
        check_host("0.0.0.0", trusted=True)


def test_an_old_cookie_is_valid_after_a_restart_and_an_old_token_is_not(ann):
    client, tokens, store = ann
    known, _ = make_tokens([1, 2])
    app = make_app(store, ClipFolder(store.folder / CLIPS), Access(store, PORT, known), Page("x", "?", 3), LOOPBACK)
    again = TestClient(app, base_url=BASE, headers={"x-annotator": "1"})
    assert again.get("/", params={"token": tokens[1]}).status_code == 401
    again.cookies = client.cookies
    assert again.get("/api/state").json()["done"] == 0
