"""A Python server that takes its listener as the descriptor whose number is its argument (standard input: 0)."""

import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    """One request a connection."""

    def do_GET(self):
        body = {"/": f"{os.environ['DEPLOYD_APP']} {os.environ['DEPLOYD_RELEASE']}\n"}.get(self.path, "ok\n")
        if self.path == "/variables":
            body = "".join(f"{name}\n" for name in sorted(os.environ))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Pid", str(os.getpid()))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        """Quiet: a line a request would drown the journal under load."""


server = HTTPServer(("", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=int(sys.argv[1]))
# Several instances share the queue: who comes too late for a connection must not wait for the next one.
server.socket.setblocking(False)
# shutdown() waits for the loop that this handler interrupts, so it needs a thread of its own.
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever(poll_interval=0.05)
