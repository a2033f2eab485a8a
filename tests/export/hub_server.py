"""A server on this machine that speaks the part of the Hub's HTTP API by which its client makes, reads and fills a repository.

What huggingface_hub sends is specified by https://huggingface.co/docs/hub/api and, for large files, by
https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md; the multipart transfer is the Hub's own.
"""

import base64
import hashlib
import json
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import yaml

TOKEN = "hf_" + "a1B2" * 9
LARGE = (".safetensors", ".png")  # what the Hub keeps as large files, whatever their size


class Hub(ThreadingHTTPServer):
    """The server and what it holds.

    Attributes:
        repos: files of each repository, by name.
        objects: large files that have arrived, by SHA-256.
        received: SHA-256 of each large file that has arrived, in order, repetitions included.
        part_size: bytes of a part in the multipart transfer; None takes each large file whole.
        cuts: after how many bytes the next uploads lose their connection, one each.
        xet: address of the storage to which hf_xet sends large files by itself; the commit then has their hashes alone.
        lost_commits: how many commits lose their connection before they arrive.
        lost: addresses whose upload lost its connection.
        refused: whether a second upload to such an address is refused, as with an expired link.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.received: list[str] = []
        self.parts: dict[tuple[str, int], bytes] = {}
        self.part_size: int | None = None
        self.cuts: list[int] = []
        self.xet: str | None = None
        self.lost_commits = 0
        self.lost: set[str] = set()
        self.refused = False
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def arrive(self, sha256: str, content: bytes) -> bool:
        """Keep a large file; False if it is damaged."""
        if hashlib.sha256(content).hexdigest() != sha256:
            return False
        self.objects[sha256] = content
        self.received.append(sha256)
        return True


@contextmanager
def serving() -> Iterator[Hub]:
    """A running server."""
    with Hub() as hub:
        Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        """The Hub's start page, or the size of a file."""
        self._answer(b"") if self.path == "/" else self._file()

    def do_GET(self) -> None:
        """A repository's files, or one of them."""
        if tree := re.fullmatch(r"/api/models/([\w-]+/[\w.-]+)/tree/main\?.*", self.path):
            files = self.server.repos[tree[1]]
            found = [{"type": "file", "path": name, "size": len(files[name]), "oid": "0" * 40} for name in files]
            self._answer(found) if self._may() else None
        elif self.path.endswith("/xet-write-token/main"):
            given = {"casUrl": self.server.xet, "accessToken": "t", "exp": 4102444800}
            self._answer(given) if self._may() else None
        else:
            self._file()

    def do_POST(self) -> None:
        """Everything that the client asks for before and after it sends large files."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if whole := re.fullmatch(r"/large/(\w+)/complete", self.path):
            numbers = [part["partNumber"] for part in json.loads(body)["parts"]]
            content = b"".join(self.server.parts[whole[1], number] for number in numbers)
            self._answer({}, 200 if self.server.arrive(whole[1], content) else 400)
        elif not self._may():
            return
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif repo := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            self._answer({"files": [self._upload_mode(repo[1], file) for file in json.loads(body)["files"]]})
        elif re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", self.path):
            transfer = "multipart" if self.server.part_size else "basic"
            self._answer({"transfer": transfer, "objects": [self._large(o) for o in json.loads(body)["objects"]]})
        elif re.fullmatch(r"/(.+)\.git/verify", self.path):
            asked = json.loads(body)
            there = self.server.objects.get(asked["oid"], b"")
            self._answer({}, 200 if len(there) == asked["size"] else 404)
        elif self.path.endswith("/commit/main") and self.server.lost_commits:
            self.server.lost_commits -= 1
            self._lose()
        elif repo := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            self._commit(repo[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._answer({"error": "not found"}, 404)

    def do_PUT(self) -> None:
        """A large file or a part of it, to an address that the server gave out; no token is sent there."""
        length = int(self.headers["Content-Length"])
        if self.server.refused and self.path in self.server.lost:
            self.rfile.read(length)
            self._answer({"error": "Request has expired"}, 403)
            return
        if self.server.cuts and length > self.server.cuts[0]:
            self.server.lost.add(self.path)
            self.rfile.read(self.server.cuts.pop(0))
            self._lose()
            return
        content, (_, _, sha256, *part) = self.rfile.read(length), self.path.split("/")
        if part:
            self.server.parts[sha256, int(part[0])] = content
            self._answer({}, headers={"ETag": hashlib.md5(content).hexdigest()})
        else:
            self._answer({}, 200 if self.server.arrive(sha256, content) else 400)

    def _lose(self) -> None:
        """Close the connection with a reset, as a router does that has lost it."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _may(self) -> bool:
        if self.headers["Authorization"] == f"Bearer {TOKEN}":
            return True
        self._answer({"error": "Invalid username or password."}, 401)
        return False

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        exists = name in self.server.repos
        self.server.repos.setdefault(name, {})
        self._answer({"url": f"{self.server.url}/{name}"}, 409 if exists else 200)

    def _validate(self, card: str) -> None:
        front = yaml.safe_load(card.split("---\n")[1])
        good = front.get("license") in ("apache-2.0", "llama3.1") and isinstance(front.get("base_model"), str)
        errors = [] if good else [{"message": '"license" must be one of the known ones'}]
        self._answer({"errors": errors, "warnings": []}, 200 if good else 400)

    def _upload_mode(self, repo: str, file: dict[str, Any]) -> dict[str, Any]:
        answer = {
            "path": file["path"],
            "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
            "shouldIgnore": False,
        }
        there = self.server.repos[repo].get(file["path"])
        if there is None:
            return answer
        git = hashlib.sha1(b"blob %d\0" % len(there) + there)
        oid = hashlib.sha256(there) if answer["uploadMode"] == "lfs" else git
        return answer | {"oid": oid.hexdigest()}

    def _large(self, asked: dict[str, Any]) -> dict[str, Any]:
        sha256, size, step = asked["oid"], asked["size"], self.server.part_size
        if sha256 in self.server.objects:
            return asked
        address = f"{self.server.url}/large/{sha256}"
        upload = {"href": address, "header": {}}
        if step is not None:
            numbers = range(1, -(-size // step) + 1)
            header = {"chunk_size": str(step)} | {f"{n:05}": f"{address}/{n}" for n in numbers}
            upload = {"href": f"{address}/complete", "header": header}
        verify = {"href": f"{self.server.url}{self.path.removesuffix('/info/lfs/objects/batch')}/verify"}
        return asked | {"actions": {"upload": upload, "verify": verify}}

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.server.repos[repo])
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    oid = value["oid"]
                    files[value["path"]] = self.server.objects[oid] if self.server.xet is None else oid.encode()
                case "deletedFile":
                    del files[value["path"]]
        self.server.repos[repo] = files
        self._answer({"commitUrl": f"{self.server.url}/{repo}/commit/1", "commitOid": "1" * 40})

    def _file(self) -> None:
        path = re.fullmatch(r"/([\w-]+/[\w.-]+)/resolve/main/(.+)", self.path)
        content = self.server.repos.get(path[1], {}).get(path[2]) if path else None
        if content is None:
            self._answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
        else:
            self._answer(content, headers={"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": "1" * 40})

    def _answer(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
