"""The hosts of a run: one process each, with its own devices; their start, agreement and end.

A run on one host needs none of this: every function then does nothing, or returns what is there.
With several hosts (--config.distributed) JAX's coordination service on host 0 connects them. What
they tell each other lies in that service's key-value store, and a thread of each host watches it:
a host that stops with an error, or that is silent for too long, ends all others with a line that
names it. So no host ever waits for one that will not come, and waiting needs no time limit.

Only host 0 touches the run's folder. What the others need of it they are told (`told_by_first`).
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import ctypes
import dataclasses
import functools
import json
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn, ParamSpec, TypeVar

import ml_collections
import numpy as np

from support import reporting, stopping
from support.errors import first_line, one_line, shown, UserError

P = ParamSpec("P")
T = TypeVar("T")

_CONNECT_SECONDS = 300  # that hosts wait for each other at the start
_BEAT_SECONDS = 1.0  # between two signs of life
_SILENT_SECONDS = 30.0  # without one, until a host counts as dead
_BROKEN_SECONDS = 8.0  # the same, once a step has failed for want of a host
_GOODBYE_SECONDS = 10.0  # that host 0, whose end ends the service, leaves the others for theirs
_CHUNK = 1 << 24  # 32-bit words that are sent to other hosts at a time
_AGAIN = "the same command on all hosts continues from the last checkpoint, if there is one"


@dataclasses.dataclass
class _Group:
  """The hosts, as one of them sees them."""

  me: int
  names: list[str]
  client: Any  # of JAX's coordination service
  address: str
  told: int = 0  # number of messages of `told_by_first`, and of `agree`
  broken: bool = False  # a step has failed
  heard: dict[int, float] = dataclasses.field(default_factory=dict)  # host -> when, last
  abort_handler: Any = None  # kept, or the C library would call freed memory
  ending: threading.Lock = dataclasses.field(default_factory=threading.Lock)

  def named(self, host: int) -> str:
    return f"host {host} ({self.names[host]})"

  def put(self, key: str, value: Any) -> None:
    self.client.key_value_set(f"hosts/{key}", json.dumps(value), allow_overwrite=True)

  def find(self, key: str) -> Any:
    """Waits for a value; the watch ends this process where none can come any more."""
    while True:
      with contextlib.suppress(RuntimeError):  # not there yet, or the service is gone
        return json.loads(self.client.key_value_try_get(f"hosts/{key}"))
      time.sleep(0.05)

  def all(self, kind: str) -> dict[int, Any]:
    """Returns {host: its value} of the keys KIND/HOST."""
    return {int(key.rsplit("/", 1)[1]): json.loads(value)
            for key, value in self.client.key_value_dir_get(f"hosts/{kind}/")}


_group: _Group | None = None  # of several hosts


def several() -> bool:
  """Returns whether the run has more than one host."""
  return _group is not None


def is_first() -> bool:
  """Returns whether this is host 0, the only one that prints and writes."""
  return _group is None or _group.me == 0


def own_devices() -> slice:
  """Returns the positions of this host's devices among those of all hosts, as pmap has them."""
  if _group is None:
    return slice(None)
  import jax  # here, as below: commands that need no JAX import this file too

  here = jax.local_device_count()
  return slice(_group.me * here, (_group.me + 1) * here)


# --- The start --------------------------------------------------------------------------------


def start(config: ml_collections.ConfigDict) -> None:
  """Connects the hosts, if `config.distributed`; call before anything asks JAX for its devices.

  Raises:
    UserError: no coordinator, a wrong process_id, or hosts that do not all come in time.
  """
  if _group is not None:
    return  # a program that runs both scripts
  given = [name for name in ("coordinator_address", "num_processes", "process_id")
           if config[name] not in ("", None)]
  if not config.distributed:
    if given:
      raise UserError(f"{given[0]} is for several hosts: give --config.distributed=True too")
    return
  if given and len(given) < 3:
    raise UserError("coordinator_address, num_processes and process_id belong together; give all "
                    "three, or none where JAX detects them (Slurm, Open MPI, TPU pods, Kubernetes)")
  _check_address(config)
  import jax

  logging.getLogger("jax._src.distributed").setLevel(logging.WARNING)
  # The service's own handler would take SIGTERM from `stopping`.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    # Its own heartbeat ends a process with pages of C++: the watch below must come first.
    jax.distributed.initialize(
        config.coordinator_address or None, config.num_processes, config.process_id,
        initialization_timeout=_CONNECT_SECONDS, heartbeat_timeout_seconds=600)
  except (RuntimeError, ValueError, TypeError, KeyError) as error:
    raise UserError(f"the hosts could not be connected: {first_line(error)[:300]}") from error
  _join()


def _check_address(config: ml_collections.ConfigDict) -> None:
  if config.process_id is None:
    return
  if config.process_id >= config.num_processes:
    raise UserError(f"process_id must be from 0 to {config.num_processes - 1} (num_processes - 1), "
                    f"not {config.process_id}")
  host, _, port = config.coordinator_address.rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
    raise UserError("coordinator_address must be HOST:PORT of host 0, such as node1:12321, not "
                    f"{shown(config.coordinator_address)}")


def _join() -> None:
  """Learns the hosts' names and starts to watch them, if there are several."""
  global _group
  from jax._src import distributed  # JAX has no public way to its key-value store

  state = distributed.global_state
  if state.num_processes == 1:
    return
  group = _Group(state.process_id, [""] * state.num_processes, state.client,
                 state.coordinator_address)
  group.put(f"name/{group.me}", socket.gethostname())
  group.names = [group.find(f"name/{host}") for host in range(state.num_processes)]
  group.heard = dict.fromkeys(range(state.num_processes), time.monotonic())
  for target in (_listen, _judge):
    threading.Thread(target=target, args=(group,), daemon=True).start()
  _group = group
  stopping.leave_to_all()
  if group.me:
    _expect_the_services_end(group)
    reporting.say(f"{group.named(group.me)} of {len(group.names)}: works for "
                  f"{group.named(0)}, which prints and writes everything")
    reporting.mute()
    stopping.advise(lambda: f"{group.named(0)} says what is saved")
  else:
    reporting.say("hosts: " + ", ".join(
        f"{host} ({name})" for host, name in enumerate(group.names)))


# --- Agreement --------------------------------------------------------------------------------


def told_by_first(make: Callable[[], T]) -> T:
  """Returns make(), which only host 0 calls; its JSON goes to the others. All hosts call this."""
  if _group is None:
    return make()
  _group.told += 1
  key = f"told/{_group.told}"
  if _group.me == 0:
    value = make()
    _group.put(key, value)
    return value
  return _group.find(key)


def only_first(function: Callable[P, None]) -> Callable[P, None]:
  """Makes a function, which writes to the run's folder, do nothing on all hosts but host 0."""

  @functools.wraps(function)
  def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
    if is_first():
      function(*args, **kwargs)

  return guarded


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
  """A block that host 0 goes through before the others, all of these at once.

  What host 0 leaves in a cache on a shared disk is then there for all; where disks are not
  shared, each makes its own.
  """
  if _group and _group.me:
    told_by_first(lambda: None)
  yield
  if _group and not _group.me:
    told_by_first(lambda: None)


def agree(facts: Mapping[str, Any]) -> None:
  """Compares facts, name -> JSON value, with those of all hosts.

  Raises:
    UserError: they differ; all hosts raise it, with the same differences.
  """
  if _group is None:
    return
  _group.told += 1
  mine = json.loads(json.dumps(facts))
  _group.put(f"facts{_group.told}/{_group.me}", mine)
  others = [_group.find(f"facts{_group.told}/{host}") for host in range(len(_group.names))]
  first = others[0]
  differences = [
      f"{name} is {shown(first.get(name))} on {_group.named(0)} and {shown(other.get(name))} on "
      f"{_group.named(host)}"
      for host, other in enumerate(others) for name in sorted(first.keys() | other.keys())
      if first.get(name) != other.get(name)]
  if differences:
    raise UserError(f"the hosts must agree; {'; '.join(differences[:5])}")


def same_as_first(tree: Any) -> Any:
  """Returns host 0's arrays, bit for bit, on every host; the others' give the shapes.

  Args:
    tree: arrays of equal shapes and types on all hosts.

  Returns:
    The tree with numpy arrays, or `tree` itself on one host.
  """
  if _group is None:
    return tree
  import jax
  from jax.experimental import multihost_utils

  leaves, treedef = jax.tree.flatten(jax.device_get(tree))
  leaves = [np.asarray(leaf) for leaf in leaves]
  content = np.concatenate([np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
                            for leaf in leaves])
  # As integers: -0.0 + 0.0, which a broadcast of floats comes to, is 0.0.
  size, content = len(content), np.pad(content, (0, -len(content) % 4)).view(np.uint32)
  content = np.concatenate([
      multihost_utils.broadcast_one_to_all(chunk)
      for chunk in np.split(content, range(_CHUNK, len(content), _CHUNK))]).view(np.uint8)[:size]
  parts = np.split(content, np.cumsum([leaf.nbytes for leaf in leaves])[:-1])
  return treedef.unflatten([part.view(leaf.dtype).reshape(leaf.shape)
                            for part, leaf in zip(parts, leaves, strict=True)])


def connect_devices() -> None:
  """Connects the devices of all hosts with each other; call right after `agree`.

  Gloo, which connects CPUs, gives a group of devices 30 seconds to come together, once. A host
  that finds its step in the compile cache would not wait longer for one that compiles it. Once
  they are connected, they wait for each other as long as it takes.
  """
  if _group is None:
    return
  import jax
  from jax.experimental import multihost_utils

  multihost_utils.broadcast_one_to_all(np.zeros(1, np.uint32))  # devices of one number
  everywhere = jax.pmap(lambda number: jax.lax.psum(number, "devices"), axis_name="devices")
  jax.block_until_ready(everywhere(np.zeros(jax.local_device_count(), np.float32)))


def gathered(array: np.ndarray) -> np.ndarray:
  """Joins the hosts' arrays [n, devices here, ...] to [n, all devices, ...], on every host.

  They have equal shapes on all hosts, and a type that JAX keeps as it is.
  """
  if _group is None:
    return array
  from jax.experimental import multihost_utils

  return np.concatenate(multihost_utils.process_allgather(array), axis=1)


# --- The end ----------------------------------------------------------------------------------


def finish() -> None:
  """Ends this process after a run that all hosts have finished; returns on one host.

  The others wait for host 0, which still writes.
  """
  if _group is None:
    return
  if _group.me:
    _wait_for_the_end()
  _end(_group, "", 0)


def stop(message: str, status: int) -> None:
  """Ends this process and, with `message`, all others; returns on one host.

  Where all stop after the same step, the others wait for host 0, which saves it.

  Args:
    message: why this host stops, which it has printed.
    status: the exit status of all.
  """
  if _group is None:
    return
  if _group.me and stopping.learned():
    _wait_for_the_end()
  _end(_group, message, status)


def await_verdict() -> None:
  """Leaves a failed step to the watch, which ends this process if a host is gone; or returns."""
  if _group is not None:
    _group.broken = True
    time.sleep(2 * _BROKEN_SECONDS)


def _wait_for_the_end() -> NoReturn:
  while True:  # the watch ends this process
    time.sleep(1)


def _end(group: _Group, message: str, status: int, follows: bool = False) -> NoReturn:
  """Tells the others, and ends this process without Python's own end, which waits for them.

  Args:
    group: the hosts.
    message: for the others.
    status: the exit status.
    follows: this host ends because another has, which the others know from that one.
  """
  group.ending.acquire()  # never released: one thread ends the process
  with contextlib.suppress(RuntimeError):
    group.put(f"gone/{group.me}", {"message": message, "status": 0 if follows else status})
    end = time.monotonic() + (0 if group.me else _GOODBYE_SECONDS)
    while time.monotonic() < end and not group.heard.keys() <= group.all("gone").keys():
      time.sleep(0.05)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


# --- The watch --------------------------------------------------------------------------------


def _listen(group: _Group) -> None:
  """Gives signs of life, takes those of the others, and ends this process when another has."""
  beat, seen = 0, {}
  while True:
    beat += 1
    with contextlib.suppress(RuntimeError):  # the judge sees how long that lasts
      group.put(f"beat/{group.me}", beat)
      for host, count in group.all("beat").items():
        if seen.get(host) != count and host in group.heard:
          seen[host], group.heard[host] = count, time.monotonic()
      gone = group.all("gone")
      for host, end in gone.items():
        if host in group.heard:
          group.heard[host] = math.inf
        if host != group.me and (host == 0 or end["status"]):
          _end_after(group, host, end)
    time.sleep(_BEAT_SECONDS)


def _end_after(group: _Group, host: int, end: Mapping[str, Any]) -> None:
  if group.ending.locked():
    return
  if end["status"]:
    # Only host 0 knows what is saved; after an error (1) the same command would not help.
    saved = f"; {stopping.advice()}" if group.me == 0 and end["status"] > 1 else ""
    _write(f"{group.named(host)} stopped: {end['message']}{saved}")
  _end(group, "", end["status"], follows=True)


def _judge(group: _Group) -> None:
  """Ends this process when a host is silent for too long; apart, as a call may hang with it."""
  now = time.monotonic()
  while True:
    time.sleep(_BEAT_SECONDS)
    limit = _BROKEN_SECONDS if group.broken else _SILENT_SECONDS
    before, now = now, time.monotonic()
    if now - before > _BROKEN_SECONDS / 2:  # this process was suspended, and could not listen
      group.heard = {host: max(heard, now) for host, heard in group.heard.items()}
    silent = [host for host, heard in sorted(group.heard.items()) if now - heard > limit]
    if silent and not group.ending.locked():
      # Without host 0 nothing is heard of the others.
      host = 0 if 0 in silent or group.me in silent else silent[0]
      for dead in silent:
        del group.heard[dead]  # it will not say goodbye
      advice = _AGAIN if group.me else stopping.advice()  # host 0 knows what is saved
      line = f"{group.named(host)} died or cannot be reached; {advice}"
      _write(f"error: {line}")
      _end(group, line, 1)


def _expect_the_services_end(group: _Group) -> None:
  """Replaces the core dump, with which JAX ends a process whose host 0 has died, by a line."""

  def answer(number: int) -> None:
    host, _, port = group.address.rpartition(":")
    try:
      socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
      _write(f"error: {group.named(0)} died; {_AGAIN}")
      os._exit(1)
    signal.signal(number, signal.SIG_DFL)  # something else is broken
    os.kill(os.getpid(), number)

  # Not Python's own handlers: they run after abort(), which does not return.
  libc = ctypes.CDLL(None)
  group.abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(answer)
  libc.signal(signal.SIGABRT, group.abort_handler)


def _write(line: str) -> None:
  os.write(2, f"{one_line(line)}\n".encode())
