"""An OpenAI-compatible endpoint on the loopback that replies as a test says."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Refuse(Exception):
    """Makes the endpoint answer with an HTTP status instead of a reply."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status


class Misbehave(Exception):
    """Has the endpoint write what it likes: ``write(send)`` is given what sends bytes, and the rest is its own."""

    def __init__(self, write: Callable[[Callable[[bytes], None]], None]):
        super().__init__()
        self.write = write


class Endpoint:
    """What was asked, and how many at once."""

    def __init__(self, reply: Callable[[str], str]):
        self.reply = reply
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.busy = 0
        self.busiest = 0
        self.lock = threading.Lock()
        self.url = ""

    @property
    def texts(self):
        return [request["messages"][0]["content"] for request in self.requests]


def completion(model, text, finish_reason="stop"):
    """The body of a reply."""
    return {
        "id": "1",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


@contextmanager
def endpoint(reply: Callable[[str], Any]):
    """Serve; ``reply`` turns the request's text into the reply's or a whole body, or raises Refuse or Misbehave."""
    state = Endpoint(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with state.lock:
                state.requests.append(request)
                state.headers.append(dict(self.headers))
                state.busy += 1
                state.busiest = max(state.busiest, state.busy)
            try:
                reply = state.reply(request["messages"][0]["content"])
                status, body = 200, completion(request["model"], reply) if isinstance(reply, str) else reply
            except Misbehave as deed:
                with suppress(OSError):  # whoever asked has had enough
                    deed.write(self.wfile.write)
                self.close_connection = True
                return
            except Refuse as refusal:
                status, body = refusal.status, {"error": {"message": "not now", "type": "refused"}}
            finally:
                with state.lock:
                    state.busy -= 1
            payload = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
