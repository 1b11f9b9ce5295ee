"""A visitor of the page without a browser: what its script sends."""

import http.client
import json
import re


class Visitor:
    """Do what a page does, without a browser."""

    def __init__(self, link: str):
        self.host, _, path = link.removeprefix("http://").partition("/")
        _, headers, _ = self.request("GET", f"/{path}")
        self.cookie = headers["set-cookie"].partition(";")[0]
        found = re.search(r'data-annotator="(\d+)"', self.request("GET", "/")[2].decode())
        self.annotator = found[1] if found else ""  # none on the page of the results

    def request(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=30)
        headers = {"cookie": getattr(self, "cookie", "")}
        headers |= {"x-annotator": getattr(self, "annotator", "")}
        headers |= {"origin": f"http://{self.host}", "content-type": "application/json"} if body is not None else {}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        reply = connection.getresponse()
        return reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()

    def state(self) -> dict:
        return json.loads(self.request("GET", "/api/state")[2])

    def next_question(self) -> dict | None:
        """Return the next question when it is drawn, None after the last."""
        while not (state := self.state())["questions"]:
            if state["finished"]:
                return None
        return state["questions"][0]

    def answer(self, question: int, choice: str) -> int:
        return self.request("POST", "/api/answer", {"question": question, "choice": choice, "seconds": 1.0})[0]
