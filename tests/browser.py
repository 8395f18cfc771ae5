"""A headless Chromium, driven over a pipe by its DevTools protocol."""

import base64
import contextlib
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile

CHROMIUM = next(filter(None, map(shutil.which, (
    "chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Browser:
  """One page. `messages` are the console's and the log's; `requests` the URLs it asked for."""

  def __init__(self, to_browser, from_browser):
    self._to, self._from = to_browser, from_browser
    self._number, self._session, self._unread = 0, None, b""
    self.messages, self.requests, self._events = [], [], []

  def call(self, method, **params):
    """Sends a command; returns its result."""
    self._number += 1
    session = {"sessionId": self._session} if self._session else {}
    command = {"id": self._number, "method": method, "params": params, **session}
    os.write(self._to, json.dumps(command).encode() + b"\0")
    while (message := self._read()).get("id") != self._number:
      pass
    assert "error" not in message, message
    return message["result"]

  def open(self, path, *, width=1280, height=900, dark=False):
    """Loads a file into a new page, and waits for it."""
    target = self.call("Target.createTarget", url="about:blank")["targetId"]
    self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self.call(f"{domain}.enable")
    self.call("Emulation.setEmulatedMedia", features=[
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
    self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
              deviceScaleFactor=1, mobile=width < 600)
    self.messages, self.requests, self._events = [], [], []
    self.call("Page.navigate", url=pathlib.Path(path).absolute().as_uri())
    while "Page.loadEventFired" not in self._events:
      self._read()

  def value(self, expression):
    """Evaluates JavaScript in the page."""
    return self.call("Runtime.evaluate", expression=expression, returnByValue=True)[
        "result"].get("value")

  def screenshot(self, path):
    """Writes the whole page as PNG."""
    data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
    pathlib.Path(path).write_bytes(base64.b64decode(data))

  def _read(self):
    while b"\0" not in self._unread:
      assert select.select([self._from], [], [], 120)[0], "the browser hangs"
      more = os.read(self._from, 1 << 16)
      assert more, "the browser has ended"
      self._unread += more
    raw, self._unread = self._unread.split(b"\0", 1)
    message = json.loads(raw)
    method, params = message.get("method", ""), message.get("params", {})
    self._events.append(method)
    if method == "Network.requestWillBeSent":
      self.requests.append(params["request"]["url"])
    elif method == "Log.entryAdded":
      self.messages.append(params["entry"]["text"])
    elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
      self.messages.append(json.dumps(params))
    return message


@contextlib.contextmanager
def chromium():
  """A running browser with a fresh profile; it has no sandbox, as containers allow none."""
  to_read, to_write = os.pipe()
  from_read, from_write = os.pipe()
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    # Its commands come in as file 3 and its answers go out as file 4.
    process = subprocess.Popen(
        ["bash", "-c", f'exec 3<&{to_read} 4>&{from_write}; exec "$@"', "bash", CHROMIUM,
         "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--remote-debugging-pipe", f"--user-data-dir={profile}"],
        pass_fds=(to_read, from_write), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        start_new_session=True)
    os.close(to_read)
    os.close(from_write)
    try:
      yield Browser(to_write, from_read)
    finally:
      os.killpg(process.pid, signal.SIGKILL)  # its helpers too
      process.wait()
      os.close(to_write)
      os.close(from_read)
