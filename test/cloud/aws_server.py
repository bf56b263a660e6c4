"""An AWS on this machine to test against: moto's EC2, S3, IAM and STS, with what moto leaves out and tests need.

Left out are client tokens: here, as at Amazon's, the same token with the same request is the same instance, with
another request an error, and one whose instance has ended is used up. Tests may stand between: a fault sees each call
(its action's name and its parameters) and may refuse it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl

import boto3
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from test.cloud.s3_server import WsgiApp

REGION = "us-east-1"
KEY_ID, SECRET = "test", "test"
Parameters = dict[str, str]
Fault = Callable[[str, Parameters], str | None]
"""The code of the error with which to answer this call, None to let it through."""


class AwsServer:
    """The server, at a port of this address."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self.lock = threading.RLock()
        """Held while moto works on what it holds."""
        self.calls: list[tuple[str, Parameters]] = []
        self.fault: Fault | None = None
        self._tokens: dict[str, tuple[Parameters, bytes, str]] = {}
        self._moto: WsgiApp = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(host, 0, self._answer, threaded=True)
        self.endpoint = f"http://{host}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, name="aws", daemon=True).start()

    def close(self) -> None:
        """End it. What moto holds stays in this process."""
        self._server.shutdown()
        self._server.server_close()

    def client(self, service: str) -> Any:
        """A client that may do everything."""
        make: Any = boto3.client
        return make(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
        )

    def instances(self) -> list[Any]:
        """All instances that moto has, ended ones, too."""
        with self.lock:
            return list(ec2_backends[DEFAULT_ACCOUNT_ID][REGION].all_instances())

    @contextmanager
    def with_fault(self, fault: Fault) -> Iterator[None]:
        """Meanwhile calls are seen by it first."""
        self.fault = fault
        try:
            yield
        finally:
            self.fault = None

    def called(self, action: str) -> list[Parameters]:
        """The parameters of the calls of this action, in order, refused ones too."""
        return [parameters for name, parameters in self.calls if name == action]

    # -- inside ----------------------------------------------------------------------------------------------

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        parameters: Parameters = {}
        if environ["REQUEST_METHOD"] == "POST" and environ["PATH_INFO"] == "/":
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = BytesIO(body)
            parameters = dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
        action = parameters.get("Action", "")
        if action:
            self.calls.append((action, parameters))
            refused = self.fault(action, parameters) if self.fault is not None else None
            if refused is not None:
                return _error(start_response, refused)
        with self.lock:
            if action == "RunInstances" and parameters.get("ClientToken"):
                return self._run_once(parameters, environ, start_response)
            return list(self._moto(environ, start_response))

    def _run_once(
        self, parameters: Parameters, environ: dict[str, Any], start_response: Any
    ) -> Iterable[bytes]:
        token = parameters["ClientToken"]
        if token in self._tokens:
            asked, answer, instance = self._tokens[token]
            if asked != parameters:
                return _error(start_response, "IdempotentParameterMismatch")
            if self._has_ended(instance):
                return _error(start_response, "IdempotentInstanceTerminated")
            start_response("200 OK", [("Content-Type", "text/xml"), ("Content-Length", str(len(answer)))])
            return [answer]
        before = {each.id for each in self.instances()}
        answer = b"".join(self._moto(environ, start_response))
        new = [each.id for each in self.instances() if each.id not in before]
        if new:
            self._tokens[token] = parameters, answer, new[0]
        return [answer]

    def _has_ended(self, instance: str) -> bool:
        return all(each.state == "terminated" for each in self.instances() if each.id == instance)


def tags_of(instance: Any) -> dict[str, str]:
    """The tags of one of moto's instances."""
    return {tag["key"]: tag["value"] for tag in instance.get_tags()}


def _error(start_response: Any, code: str) -> Iterable[bytes]:
    """As EC2 refuses."""
    throttled = code in ("RequestLimitExceeded", "Throttling")
    status = "503 Service Unavailable" if throttled else "400 Bad Request"
    body = (
        f"<?xml version='1.0'?><Response><Errors><Error><Code>{code}</Code><Message>a fault of the test</Message>"
        "</Error></Errors><RequestID>0</RequestID></Response>"
    ).encode()
    start_response(status, [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
    return [body]
