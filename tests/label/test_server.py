"""The running server: many annotators at once, and its end."""

import collections
import threading

import pytest

pytest.importorskip("starlette", reason="needs pip install 'aihf_control[label]'")
pytest.importorskip("uvicorn", reason="needs pip install 'aihf_control[label]'")

from aihf_control.core.errors import BadInput
from aihf_control.label.app import Page
from aihf_control.label.hosts import LOOPBACK, check_host
from aihf_control.label.server import Server, bind
from aihf_control.label.store import Store
from tests.label.conftest import add_plain_questions, write_clips
from tests.label.visitor import Visitor

PEOPLE, EACH = 20, 10


def test_twenty_annotators_at_once(tmp_path):
    """Each answers all questions of their own, half of them left; none gets another one's, and none is lost."""
    store = Store(tmp_path)
    store.add_annotators([f"person{i}" for i in range(PEOPLE)])
    for who in store.annotators():
        add_plain_questions(store, who, EACH, first=100 * who)
    write_clips(store)
    statuses: collections.Counter[int] = collections.Counter()

    def answer_all(link: str) -> None:
        visitor, k = Visitor(link), 0
        while question := visitor.next_question():
            visitor.request("GET", f"/clip/{question['left']}")
            statuses[visitor.answer(question["id"], "left" if k % 2 else "right")] += 1
            k += 1

    with bind("127.0.0.1", 0) as listening, Server(store, Page("x", "?", EACH), listening, LOOPBACK) as server:
        threads = [threading.Thread(target=answer_all, args=(link,)) for link in server.links.annotators.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == {200: PEOPLE * EACH}
    answers = store.answers()
    assert collections.Counter(a.question.annotator for a in answers) == dict.fromkeys(range(1, PEOPLE + 1), EACH)
    for place, a in enumerate(answers):
        assert (a.choice == a.question.left) == bool(place % EACH % 2)


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1"])
def test_the_printed_links_have_the_name_that_was_given(tmp_path, host):
    store = Store(tmp_path)
    store.add_annotators(["ann"])
    hosts = check_host(host, trusted=False)
    with bind(host, 0) as listening, Server(store, Page("x", "?", 1), listening, hosts) as server:
        link = server.links.annotators["ann"]
        assert link.startswith(f"http://{host.lower()}:") and Visitor(link).state()["total"] == 1


@pytest.mark.parametrize("host", ["0", "0.0", "0x0"])
def test_another_word_for_every_interface_is_refused(host):
    with pytest.raises(BadInput, match="is every interface"):
        bind(host, 0)


@pytest.mark.parametrize("host", ["a..b", "a" * 70])
def test_what_is_no_host_name_is_refused_in_one_line(host):
    with pytest.raises(BadInput, match="cannot listen on"):
        bind(host, 0)


def test_the_server_ends_with_its_block(tmp_path):
    store = Store(tmp_path)
    store.add_annotators(["ann"])
    with bind("127.0.0.1", 0) as listening, Server(store, Page("x", "?", 1), listening, LOOPBACK) as server:
        link = server.links.annotators["ann"]
        assert Visitor(link).state()["total"] == 1
        server.check()
    with pytest.raises(RuntimeError, match="the web server ended"):
        server.check()
    with pytest.raises(ConnectionError):
        Visitor(link)
