"""An ordinary Python server: http.server on $PORT ($HOST when set), knowing nothing of how it is started."""

import os
import signal
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

NAME = os.environ.get("APP_NAME", "app")
VERSION = os.environ.get("APP_VERSION", "v0")
HOST = os.environ.get("HOST", "")
INSPECT = "env; for f in /proc/self/fd/*; do readlink $f; done"


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/":
            self.answer(200, f"{NAME} {VERSION}\n")
        elif url.path == "/health":
            self.answer(200, "ok\n")
        elif url.path == "/peer":
            self.answer(200, f"{self.client_address[0]}\n")
        elif url.path == "/pid":
            self.answer(200, f"{os.getpid()}\n")
        elif url.path == "/slow":
            time.sleep(int(parse_qs(url.query).get("ms", ["0"])[0]) / 1000)
            self.answer(200, f"{NAME} {VERSION}\n")
        elif url.path == "/child":  # what a program started from here inherits
            self.answer(200, subprocess.run(["sh", "-c", INSPECT], capture_output=True, text=True, check=False).stdout)
        else:
            self.answer(404, "not found\n")

    def answer(self, status, body):
        """Sends a whole plain-text response."""
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body.encode())))
        self.send_header("X-Pid", str(os.getpid()))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        """Quiet: a line a request would drown the journal under load."""


class Server(ThreadingHTTPServer):
    """Serves the family of $HOST; waits for running requests when it ends."""

    address_family = socket.AF_INET6 if ":" in HOST else socket.AF_INET
    daemon_threads = True


server = Server((HOST, int(os.environ["PORT"])), Handler)
# shutdown() waits for the loop that this handler interrupts, so it needs a thread of its own.
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("listening", flush=True)
server.serve_forever(poll_interval=0.05)
