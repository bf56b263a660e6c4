"""An S3 on loopback to test against: moto's, with a lock around it, and with faults where a test asks for them.

moto looks whether an object is there and then puts it, which two threads may do at once; S3 does not. The lock makes
that one step.
"""

from __future__ import annotations

import logging
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from dist_zero_common.store.obstore import ObjectStore, S3Access

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]
Fault = Callable[[dict[str, Any], Any, WsgiApp], Iterable[bytes]]
"""Answers a request: (environ, start_response, the S3)."""

_buckets = count(1)


class S3Server:
    """The server of this process. `fault` stands before it as long as it is set."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self.requests: list[str] = []
        self._fault: Fault | None = None
        self._lock = threading.Lock()
        self._s3: WsgiApp = DomainDispatcherApplication(create_backend_app)
        server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, name="s3", daemon=True).start()

    def bucket(self) -> str:
        """The name of a new bucket."""
        name = f"bucket-{next(_buckets)}"
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200
        return name

    @contextmanager
    def with_fault(self, fault: Fault) -> Iterator[None]:
        """Requests go to `fault` meanwhile."""
        self._fault = fault
        try:
            yield
        finally:
            self._fault = None

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        fault = self._fault
        if fault is None or not environ["PATH_INFO"].strip("/").count("/"):
            return self._locked(environ, start_response)
        return fault(environ, start_response, self._locked)

    def _locked(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._lock:
            return list(self._s3(environ, start_response))


@cache
def s3_server() -> S3Server:
    """The one that all tests of this process share; it ends with that."""
    return S3Server()


def access(server: S3Server) -> S3Access:
    """How it is reached. Its keys open everything."""
    return S3Access(server.endpoint, "us-east-1", "test", "test")


def new_store(prefix: str = "shop") -> ObjectStore:
    """A store in a bucket of its own."""
    server = s3_server()
    return ObjectStore(f"s3://{server.bucket()}/{prefix}", access(server))


def refusal(status: str, code: str, text: str = "no") -> Fault:
    """Every request is answered so."""

    def answer(environ: dict[str, Any], start_response: Any, _: WsgiApp) -> Iterable[bytes]:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return answer
