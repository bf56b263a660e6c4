"""What instances are told about themselves: IMDSv2, from what moto has of them. Who asks is known by his address."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ROLE = "role-of-the-instance"


class MetadataServer:
    """At a port of this address; `instance_at` says which of moto's instances asks from an address."""

    def __init__(self, host: str, instance_at: Callable[[str], Any]) -> None:
        self.fails = False
        """Whether it answers nothing any more."""
        self._instance_at = instance_at
        self._tokens: dict[str, str] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                token = ""
                if self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]:
                    token = server._new_token(self.client_address[0])
                self._say(token)

            def do_GET(self) -> None:
                here = self.client_address[0]
                allowed = server._tokens.get(self.headers["X-aws-ec2-metadata-token"] or "") == here
                self._say(server._answer(self.path, here) if allowed else None, 401)

            def _say(self, text: str | None, refusal: int = 404) -> None:
                if server.fails:
                    text, refusal = None, 500
                self.send_response(200 if text else refusal)
                body = (text or "").encode()
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: object) -> None:
                pass

        self._http = ThreadingHTTPServer((host, 0), Handler)
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, name="metadata", daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._http.shutdown()
        self._http.server_close()

    def _new_token(self, address: str) -> str:
        token = uuid.uuid4().hex
        self._tokens[token] = address
        return token

    def _answer(self, path: str, address: str) -> str | None:
        instance = self._instance_at(address)
        if instance is None:
            return None
        what = path.removeprefix("/latest/")
        tags = "meta-data/tags/instance/"
        if what == "user-data":
            return str(instance.user_data.decode())
        if what == "meta-data/instance-id":
            return str(instance.id)
        if what == "meta-data/placement/availability-zone":
            return str(instance.availability_zone)
        if what.startswith(tags) and instance.metadata_options.instance_metadata_tags == "enabled":
            found: dict[str, str] = {tag["key"]: tag["value"] for tag in instance.get_tags()}
            return found.get(what.removeprefix(tags))
        if what.rstrip("/") == "meta-data/iam/security-credentials":
            return ROLE
        if what == f"meta-data/iam/security-credentials/{ROLE}":
            until = datetime.now(UTC) + timedelta(hours=6)
            said = {
                "Code": "Success",
                "Type": "AWS-HMAC",
                "LastUpdated": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "AccessKeyId": "ASIATEST",
                "SecretAccessKey": "secret-of-the-role",
                "Token": "token-of-the-role",
                "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            return json.dumps(said)
        return None
