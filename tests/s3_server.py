"""An S3 server (a process on loopback), and a proxy before it that counts requests and breaks them by script."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STARTUP_SECONDS = 30.0
REPLIES = {"503": "SlowDown", "500": "InternalError", "403": "AccessDenied", "404": "NoSuchKey"}


class S3Server:
    """moto's server as a process of its own."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ})
        self._log: deque[bytes] = deque(maxlen=50)
        threading.Thread(target=self._log.extend, args=[self._process.stderr], daemon=True).start()
        self._wait()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _wait(self) -> None:
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        self._process.kill()
        raise RuntimeError("moto's server did not start:\n" + b"".join(self._log).decode(errors="replace"))


@dataclass(frozen=True)
class Request:
    """One request that came through the proxy, and the bytes of the body that the server answered with."""

    method: str
    path: str
    range: str
    body_bytes: int


@dataclass
class Faults:
    """What happens to the next requests, one each; when none is left, `always`; an empty string is no fault.

    503, 500, 403, 404: that answer; reset: the connection is reset; stall: accepted and never answered;
    truncate: half of the body, then the end; drip: a byte at a time, without end.

    Attributes:
        only: methods of the requests that the faults apply to.
    """

    script: deque[str] = field(default_factory=deque)
    always: str = ""
    only: tuple[str, ...] = ("GET", "HEAD")


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to a server, but for the faults."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream_port = port
        self.faults = Faults()
        self.requests: list[Request] = []
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, args=[0.05], daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()

    def shutdown_request(self, request: socket.socket) -> None:
        self.close_request(request)  # no orderly end before it: a reset has to be one

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients go away in these tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def _serve(self) -> None:
        faults = self.server.faults
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = ""
        if self.command in faults.only:
            fault = faults.script.popleft() if faults.script else faults.always
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._note(0)
        elif fault == "stall":
            self._note(0)
            self.server.released.wait()
        elif fault == "drip":
            self._drip()
        elif fault in REPLIES:
            self._reply(int(fault))
            return
        else:
            self._pass_on(body, truncated=fault == "truncate")
            return
        self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = _serve  # noqa: N815  # as http.server looks them up

    def _note(self, body_bytes: int) -> None:
        self.server.requests.append(Request(self.command, self.path, self.headers.get("Range", ""), body_bytes))

    def _reply(self, status: int) -> None:
        content = f'<?xml version="1.0"?><Error><Code>{REPLIES[str(status)]}</Code><Message>no</Message></Error>'
        self._note(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content.encode())

    def _drip(self) -> None:
        self._note(0)
        self.send_response(206)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        while not self.server.released.wait(0.2):
            self.wfile.write(b"x")

    def _pass_on(self, body: bytes, truncated: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream_port)
        headers = {key: value for key, value in self.headers.items() if key.lower() != "connection"}
        connection.request(self.command, self.path, body, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        self._note(len(content))
        self.send_response_only(response.status)
        for key, value in response.getheaders():
            if key.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(key, value)
        length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if truncated else content)
        self.close_connection = truncated

    def log_message(self, format: str, *arguments: object) -> None:
        pass
