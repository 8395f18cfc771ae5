"""An S3 server on the loopback: moto's, in a process of its own, behind a network that fails."""

from collections.abc import Iterator
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

BUCKET = "bucket"


def environment(port: int) -> dict[str, str]:
  """Returns what a client of the server at a port needs."""
  return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "testing",
          "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
          "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1"}


def free_port() -> int:
  with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    return listener.getsockname()[1]


def skip_without_s3() -> None:
  """Skips the test where the client or the server is not installed."""
  pytest.importorskip("s3fs", reason="needs s3fs (requirements-dev.txt)")
  pytest.importorskip("moto", reason="needs moto (requirements-dev.txt)")


def request(port: int, method: str, path: str) -> None:
  url = f"http://127.0.0.1:{port}/{path}"
  with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5):
    pass


@contextlib.contextmanager
def serve(port: int, **settings: str) -> Iterator[subprocess.Popen]:
  """Runs a server with an empty bucket; its objects are gone when the process ends."""
  process = subprocess.Popen(
      [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {
          "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", **settings})
  try:
    deadline = time.monotonic() + 60
    while True:
      try:
        request(port, "PUT", BUCKET)
        break
      except (urllib.error.URLError, ConnectionError):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    yield process
  finally:
    process.kill()
    process.wait()


class Network:
  """Forwards a port of its own to the server's, until it is cut."""

  def __init__(self, server_port: int):
    self.port = free_port()
    self._server_port = server_port
    self._open: list[socket.socket] = []
    self.mend()

  def mend(self) -> None:
    """Forwards again."""
    self._listener = socket.create_server(("127.0.0.1", self.port))
    threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

  def cut(self) -> None:
    """Ends all connections, and refuses new ones."""
    for end in (self._listener, *self._open):
      with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
      end.close()
    self._open.clear()

  def _accept(self, listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
      while True:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", self._server_port))
        self._open += [near, far]
        for ends in ((near, far), (far, near)):
          threading.Thread(target=self._forward, args=ends, daemon=True).start()

  def _forward(self, source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
      while content := source.recv(1 << 16):
        target.sendall(content)
    with contextlib.suppress(OSError):
      target.shutdown(socket.SHUT_WR)
