"""An S3 server on the loopback: moto's, in a process of its own, which can be killed."""

from collections.abc import Iterator
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

BUCKET = "bucket"


def environment(port: int) -> dict[str, str]:
  """Returns what a client of the server at a port needs."""
  return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "testing",
          "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
          "AWS_EC2_METADATA_DISABLED": "true"}


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
def serve(port: int) -> Iterator[subprocess.Popen]:
  """Runs an empty server; its objects are gone when the process ends."""
  process = subprocess.Popen(
      [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {
          "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"})
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
