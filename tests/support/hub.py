"""A model hub on this machine that takes uploads: so much of the hub's protocol as a commit of small files needs."""

import base64
import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path


class Hub(BaseHTTPRequestHandler):
    """Writes what is committed below `folder`."""

    folder = Path()

    def log_message(self, *args):
        """Say nothing of requests."""

    def do_GET(self):
        self._answer({"id": "someone/tuned", "sha": "0" * 40, "siblings": [], "name": "someone"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self._chunks())
        if self.path.endswith("/repos/create"):
            self._answer({"url": f"http://{self.headers['Host']}/someone/tuned", "id": "someone/tuned"})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            rows = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            self._answer({"files": rows})
        elif "/commit/" in self.path:
            for row in map(json.loads, body.splitlines()):
                if row["key"] == "file":
                    path = self.folder / row["value"]["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(base64.b64decode(row["value"]["content"]))
            url = f"http://{self.headers['Host']}/someone/tuned/commit/{'1' * 40}"
            self._answer({"commitUrl": url, "commitOid": "1" * 40, "success": True})
        else:
            self._answer({"errors": [], "warnings": []})

    def _chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
