"""The page in a real browser: keys, undo, ties, reloads, two annotators, a phone, and foreign pages."""

import http.server
import threading

import pytest

pytest.importorskip("starlette", reason="needs pip install 'aihf_control[label]'")

from aihf_control.label.app import Page
from aihf_control.label.hosts import LOOPBACK
from aihf_control.label.server import Server, bind
from aihf_control.label.store import Store
from tests.label.browser import browser, press, wait_for_question
from tests.label.conftest import add_plain_questions, write_clips

pytestmark = pytest.mark.slow
PRESS_TWICE = """() => new MutationObserver((changes, observer) => {
  if (!document.getElementById("stage").dataset.question) return;
  observer.disconnect();
  document.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true, cancelable: true }));
  window.twice = true;
}).observe(document.getElementById("stage"), { attributes: true })"""
"""Presses the left arrow as soon as the next pair appears."""
SIDES = {"ArrowLeft": "left", "ArrowRight": "right", "ArrowDown": "tie", "s": "skip"}


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


@pytest.fixture
def site_folder(tmp_path):
    """A store for two annotators with 20 questions each, 4 more than they have to answer, and its page."""
    store = Store(tmp_path / "labels")
    store.add_annotators(["ann", "bob"])
    for who in (1, 2):
        add_plain_questions(store, who, 20, first=100 * who)
    write_clips(store)
    return store, Page("Hopper-v4", "Which?", 16)


@pytest.fixture
def site(site_folder):
    """Its running page, and its store."""
    store, page = site_folder
    with bind("127.0.0.1", 0) as listening, Server(store, page, listening, LOOPBACK) as server:
        yield server.links, store


@pytest.fixture
def open_page(chromium):
    """Open an address in a context (cookies) of its own; errors of the page fail the test."""
    contexts, errors = [], []

    def opened(link: str, **options):
        context = chromium.new_context(viewport={"width": 1280, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("console", lambda m: m.type == "error" and errors.append(f"{m.text} {m.location}"))
        page.goto(link)
        return page

    opened.allowed = []  # parts of messages that a test expects in the browser's log, perhaps after its end
    yield opened
    for context in contexts:
        context.close()
    assert [e for e in errors if not any(part in e for part in opened.allowed)] == []


def choices(store, annotator=1):
    return [a.choice for a in store.answers(annotator)]


def test_twenty_pairs_by_keys(site, open_page):
    links, store = site
    page = open_page(links.annotators["ann"])
    keys = ["ArrowLeft", "ArrowRight", "ArrowDown", "ArrowRight", "s"] * 4
    shown, expected = None, []
    for key in keys:
        shown = wait_for_question(page, shown)
        left = store.left_of(int(shown))
        other = {"first": "second", "second": "first"}[left]
        expected.append({"left": left, "right": other}.get(SIDES[key], SIDES[key]))
        press(page, key)
    page.get_by_text("Finished: all 20 answers are stored").wait_for()
    assert choices(store) == expected and choices(store, 2) == []
    assert all(0.2 < a.seconds < 20 for a in store.answers())
    assert "token" not in page.url and page.inner_text("#progress") == "20 answers"
    press(page, "z")
    wait_for_question(page)
    assert choices(store) == expected[:-1]


def test_undo_replay_and_keys_that_mean_nothing(site, open_page):
    links, store = site
    page = open_page(links.annotators["ann"])
    first = wait_for_question(page)
    for key in ("x", "ArrowUp", "Enter", "Control+ArrowLeft", " ", "z"):
        press(page, key)
    page.wait_for_timeout(300)
    assert choices(store) == [] and wait_for_question(page) == first
    page.evaluate(PRESS_TWICE)
    press(page, "ArrowLeft")
    second = wait_for_question(page, first)
    page.wait_for_function("() => window.twice")
    assert choices(store) and wait_for_question(page) == second
    press(page, "z")
    assert wait_for_question(page, second) == first and choices(store) == []
    press(page, "ArrowDown")
    assert wait_for_question(page, first) == second and choices(store) == ["tie"]


def test_a_pair_that_appears_while_the_page_is_hidden_can_be_answered_at_once(site, open_page):
    links, store = site
    page = open_page(links.annotators["ann"])
    hide = """hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
        document.dispatchEvent(new Event('visibilitychange')); }"""
    first = wait_for_question(page)
    page.wait_for_timeout(280)
    page.evaluate(hide, True)
    page.wait_for_timeout(2000)
    page.keyboard.press("ArrowLeft")
    second = wait_for_question(page, first)
    page.evaluate(hide, False)
    press(page, "ArrowRight")
    wait_for_question(page, second)
    assert len(choices(store)) == 2 and all(0 < a.seconds < 20 for a in store.answers())


def test_a_clip_that_does_not_load_is_loaded_again(site, open_page):
    links, _ = site
    page = open_page(links.annotators["ann"])
    first = wait_for_question(page)
    failed = []

    def fail_once(route):
        clip = route.request.url
        route.continue_() if clip in failed else (failed.append(clip), route.abort())

    page.route("**/clip/*", fail_once)
    page.reload()
    assert wait_for_question(page) == first and failed
    press(page, "ArrowLeft")
    wait_for_question(page, first)
    open_page.allowed.append("ERR_FAILED")


def test_a_page_whose_program_was_killed_goes_on_after_its_restart(site_folder, open_page):
    store, page_of_site = site_folder
    with bind("127.0.0.1", 0) as listening, Server(store, page_of_site, listening, LOOPBACK) as server:
        port, page = listening.getsockname()[1], open_page(server.links.annotators["ann"])
        shown = wait_for_question(page)
    press(page, "ArrowLeft")
    page.get_by_text("No connection to the page's program").wait_for()
    assert store.answers() == [] and page.locator("video.chosen").count() == 0
    with bind("127.0.0.1", port) as listening, Server(store, page_of_site, listening, LOOPBACK):
        press(page, "ArrowDown")
        wait_for_question(page, shown)
        assert choices(store) == ["tie"] and page.locator("#message").is_hidden()
    open_page.allowed.append("ERR_CONNECTION_REFUSED")


def test_another_annotators_link_in_the_same_browser_ends_the_page(site, open_page):
    links, store = site
    page = open_page(links.annotators["ann"])
    wait_for_question(page)
    other = page.context.new_page()
    other.goto(links.annotators["bob"])
    wait_for_question(other)
    press(page, "ArrowLeft")
    page.get_by_text("another annotator's link was opened").wait_for()
    press(page, "z")
    assert store.answers() == []
    open_page.allowed.append("403")


def test_a_reload_goes_on_where_it_was(site, open_page):
    links, store = site
    page = open_page(links.annotators["ann"])
    shown = wait_for_question(page)
    for _ in range(3):
        press(page, "ArrowRight")
        shown = wait_for_question(page, shown)
    page.reload()
    assert wait_for_question(page) == shown and len(choices(store)) == 3
    again = page.context.new_page()  # a second window with the same cookie
    again.goto(page.url)
    assert wait_for_question(again) == shown
    press(again, "ArrowLeft")
    after = wait_for_question(again, shown)
    press(page, "ArrowRight")  # answered already: nothing is stored, and the page catches up
    assert wait_for_question(page, shown) == after and len(choices(store)) == 4
    open_page.allowed.append("409")


def test_two_annotators_at_once(site, open_page):
    links, store = site
    pages = [open_page(links.annotators[name]) for name in ("ann", "bob")]
    shown = [wait_for_question(page) for page in pages]
    for key in ("ArrowLeft", "ArrowRight", "ArrowDown"):
        for page in pages:
            press(page, key)
        shown = [wait_for_question(page, old) for page, old in zip(pages, shown, strict=True)]
    assert [len(choices(store, who)) for who in (1, 2)] == [3, 3] and shown[0] != shown[1]


def test_a_phone_shows_both_clips_and_takes_touches(site, open_page):
    links, store = site
    page = open_page(links.annotators["ann"], has_touch=True, is_mobile=True)
    page.set_viewport_size({"width": 390, "height": 844})
    shown = wait_for_question(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [page.locator(f"[data-choice={c}]").bounding_box() for c in ("left", "tie", "right", "skip", "undo")]
    boxes += [page.locator(".pair.shown video").nth(i).bounding_box() for i in (0, 1)]
    assert all(b["height"] >= 44 and b["width"] >= 44 and b["x"] >= 0 and b["x"] + b["width"] <= 390 for b in boxes)
    assert all(b["y"] + b["height"] <= 844 for b in boxes)
    page.wait_for_timeout(300)
    page.locator("[data-choice=tie]").tap()
    after = wait_for_question(page, shown)
    page.wait_for_timeout(300)
    page.locator(".pair.shown video").nth(1).tap()
    wait_for_question(page, after)
    right = {"first": "second", "second": "first"}[store.left_of(int(after))]
    assert choices(store) == ["tie", right]


def test_both_clips_loop_in_step(site, open_page):
    links, _ = site
    page = open_page(links.annotators["ann"])
    wait_for_question(page)
    page.evaluate("""window.loops = [0, 0];
        document.querySelectorAll('.shown video').forEach((v, i) => { v.onplay = () => loops[i]++; })""")
    page.wait_for_timeout(1500)
    loops, times = page.evaluate("[loops, [...document.querySelectorAll('.shown video')].map(v => v.currentTime)]")
    assert min(loops) >= 2 and abs(loops[0] - loops[1]) <= 1 and abs(times[0] - times[1]) < 0.1


def test_a_wrong_token_shows_nothing(site, open_page):
    links, store = site
    link = links.annotators["ann"]
    page = open_page(link[:-1] + ("A" if link[-1] != "A" else "B"))
    assert "wrong or old token" in page.inner_text("body")
    page.goto(link.partition("?")[0])
    assert "open the link that was printed" in page.inner_text("body")
    assert page.context.cookies() == [] and store.answers() == []
    open_page.allowed += ["401", "favicon.ico"]  # the browser logs both refusals, and that they have no icon


def test_a_foreign_page_cannot_answer_or_read(site, open_page):
    """Another local site, on another port, posts with the annotator's cookie in the same browser."""
    links, store = site
    page = open_page(links.annotators["ann"])
    base = page.url.rstrip("/")
    question = int(wait_for_question(page))
    foreign = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=foreign.serve_forever, daemon=True).start()
    other = page.context.new_page()
    other.goto(f"http://127.0.0.1:{foreign.server_port}/nothing")
    script = """async ([url, type, mode]) => { try {
        const answer = JSON.stringify({question: QUESTION, choice: 'left', seconds: 1});
        const body = url.endsWith('answer') ? answer : undefined;
        const r = await fetch(url, {method: body ? 'POST' : 'GET', mode, body, credentials: 'include',
          headers: body ? {'content-type': type} : {}});
        return r.type === 'opaque' ? 'opaque' : String(r.status);
    } catch (e) { return 'refused'; } }""".replace("QUESTION", str(question))
    tried = [("/api/answer", "application/json", "cors"), ("/api/answer", "text/plain", "no-cors")]
    tried += [("/api/state", "", "cors"), ("/", "", "cors")]
    outcomes = [other.evaluate(script, [base + path, *rest]) for path, *rest in tried]
    foreign.shutdown()
    assert outcomes == ["refused"] * 4 and store.answers() == []


def test_the_owner_sees_results_and_looks_at_clips_again(site, open_page):
    links, store = site
    for q in store.open_questions(1, 3):
        store.answer(1, q.id, "first", 2.0)
    page = open_page(links.results)
    assert "30.0" in page.inner_text("table") and "token" not in page.url
    page.locator(".looks button").first.click()
    page.locator(".pair.shown video").first.wait_for()
    assert page.locator(".pair.shown video").count() == 2
