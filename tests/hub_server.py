"""A small HuggingFace hub on the loopback, with tiny BERTs and a tiny GLUE under real names.

It answers the requests that `huggingface_hub` and `datasets` make: about a repository and its
commit, its file tree, and its files. With TOKEN it also takes commits to models; the content of
all files, even of large ones, travels in the commit.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import hashlib
import http.server
import itertools
import json
import os
import pathlib
import threading
from typing import Any
import urllib.parse

from conftest import WORDS
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import safetensors.numpy
import tokenizers

KINDS = ("models", "datasets")
BERTS = ("google-bert/bert-base-uncased", "google-bert/bert-large-uncased")
OLD_NAMES = {"bert-base-uncased": BERTS[0]}  # the hub redirects them
GLUE = "nyu-mll/glue"
TOKEN = "hf_of_the_tests"

# --- The server -------------------------------------------------------------------------------


@contextlib.contextmanager
def serve(root: pathlib.Path) -> Iterator[str]:
  """Serves root/models/OWNER/NAME and root/datasets/OWNER/NAME; yields the endpoint's URL."""
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
  server.root = root
  thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
  thread.start()
  try:
    yield f"http://127.0.0.1:{server.server_port}"
  finally:
    server.shutdown()
    server.server_close()
    thread.join()


def environment(endpoint: str, home: pathlib.Path) -> dict[str, str]:
  """The environment of a user's process: the hub at `endpoint`, caches and home folder in `home`.

  The tests' own settings (tests/conftest.py: no hub, several devices) are left out.
  """
  ours = ("HF_HUB_OFFLINE", "XLA_FLAGS")
  return {name: value for name, value in os.environ.items() if name not in ours} | {
      "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HOME": str(home)}


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers one connection's requests from the server's `root`."""

  protocol_version = "HTTP/1.1"

  def do_GET(self) -> None:
    self._answer()

  def do_HEAD(self) -> None:
    self._answer()

  def do_POST(self) -> None:
    self._answer()

  def log_message(self, *_: Any) -> None:
    """Nothing: the tests' output stays clean."""

  def _answer(self) -> None:
    body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
    url = urllib.parse.urlsplit(self.path)
    path = urllib.parse.unquote(url.path).strip("/").split("/")
    if path[1:] in (["repos", "create"], ["validate-yaml"]) or {"preupload", "commit"} & {*path}:
      self._change(path[1:], body)
      return
    form = urllib.parse.parse_qs(body)
    old = path[2] if path[:2] == ["api", "models"] else path[0]
    if old in OLD_NAMES:
      location = self.path.replace(f"/{old}/", f"/{OLD_NAMES[old]}/", 1)
      self._send(b"", {"Location": location}, status=307)
      return
    if path[0] == "api" and len(path) >= 4:
      self._describe(path[1], "/".join(path[2:4]), path[4:],
                     urllib.parse.parse_qs(url.query) | form)
      return
    kind = path.pop(0) if path[0] in KINDS else "models"
    if len(path) >= 5 and path[2] == "resolve":
      self._send_file(kind, "/".join(path[:2]), "/".join(path[4:]))
    else:
      self._refuse("RepoNotFound")

  def _change(self, path: Sequence[str], body: str) -> None:
    """Answers the requests that end in a commit to a model."""
    if self.headers.get("Authorization") != f"Bearer {TOKEN}":
      self._send(json.dumps({"error": "Invalid credentials"}).encode(),
                 {"Content-Type": "application/json"}, status=401)
      return
    url = f"http://{self.headers['Host']}"
    if path[0] == "repos":
      asked = json.loads(body)
      name = f"{asked['organization']}/{asked['name']}"
      (self.server.root / "models" / name).mkdir(parents=True, exist_ok=True)
      content = {"url": f"{url}/{name}"}
    elif path[0] == "validate-yaml":
      content = {"errors": [], "warnings": []}
    elif path[3] == "preupload":
      content = {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                           for file in json.loads(body)["files"]]}
    else:
      repository = self.server.root.joinpath(*path[:3])
      for entry in map(json.loads, body.splitlines()):
        if entry["key"] == "file":
          file = repository / entry["value"]["path"]
          file.parent.mkdir(parents=True, exist_ok=True)
          file.write_bytes(base64.b64decode(entry["value"]["content"]))
      content = {"commitUrl": f"{url}/{'/'.join(path[1:3])}/commit/{_commit(repository)}",
                 "commitOid": _commit(repository)}
    self._send(json.dumps(content).encode(), {"Content-Type": "application/json"})

  def _describe(self, kind: str, name: str, question: Sequence[str],
                arguments: Mapping[str, Sequence[str]]) -> None:
    """Answers /api/KIND/OWNER/NAME/..., the questions about a repository."""
    repository = self.server.root / kind / name
    if kind not in KINDS or not repository.is_dir():
      self._refuse("RepoNotFound")
      return
    entries = _tree(repository)
    if question and question[0] == "paths-info":
      content = [entry for entry in entries if entry["path"] in arguments["paths"]]
    elif question and question[0] == "tree":
      folder = repository.joinpath(*question[2:])
      inside = folder.rglob("*") if arguments["recursive"] == ["true"] else folder.glob("*")
      names = {path.relative_to(repository).as_posix() for path in inside}
      content = [entry for entry in entries if entry["path"] in names]
    else:
      content = {"id": name, "sha": _commit(repository), "private": False, "gated": False,
                 "disabled": False, "tags": [], "downloads": 0, "likes": 0,
                 "siblings": [{"rfilename": entry["path"]} for entry in entries
                              if entry["type"] == "file"]}
    self._send(json.dumps(content).encode(), {"Content-Type": "application/json"})

  def _send_file(self, kind: str, name: str, path: str) -> None:
    repository = self.server.root / kind / name
    if not repository.is_dir():
      self._refuse("RepoNotFound")
    elif not (repository / path).is_file():
      self._refuse("EntryNotFound", {"X-Repo-Commit": _commit(repository)})
    else:
      content = (repository / path).read_bytes()
      self._send(content, {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": _commit(repository)})

  def _refuse(self, code: str, headers: Mapping[str, str] | None = None) -> None:
    self._send(b"", {"X-Error-Code": code, **(headers or {})}, status=404)

  def _send(self, content: bytes, headers: Mapping[str, str], status: int = 200) -> None:
    self.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(content))}.items():
      self.send_header(name, value)
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)


def _digest(content: bytes) -> str:
  return hashlib.sha1(content).hexdigest()


def _commit(repository: pathlib.Path) -> str:
  """40 hexadecimal digits, other ones for other content."""
  return _digest(json.dumps(_tree(repository)).encode())


def _tree(repository: pathlib.Path) -> list[dict[str, Any]]:
  """All files and folders of a repository, as the hub lists them."""
  entries = []
  for path in sorted(repository.rglob("*")):
    name = path.relative_to(repository).as_posix()
    content = path.read_bytes() if path.is_file() else name.encode()
    entries.append({"type": "file" if path.is_file() else "directory", "path": name,
                    "oid": _digest(content), "size": len(content) if path.is_file() else 0})
  return entries


# --- Its repositories -------------------------------------------------------------------------


def write_hub(root: pathlib.Path) -> pathlib.Path:
  """Writes the repositories in the form that `serve` takes; returns `root`."""
  for name in BERTS:
    write_bert(root / "models" / name)
  write_glue(root / "datasets" / GLUE)
  return root


def write_bert(folder: pathlib.Path, hidden: int = 16, intermediate: int = 32,
               positions: int = 512) -> None:
  """A one-layer BERT with random weights, in the published ones' files and under their names."""
  folder.mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps({
      "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1,
      "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": hidden,
      "initializer_range": 0.02, "intermediate_size": intermediate, "layer_norm_eps": 1e-12,
      "max_position_embeddings": positions, "model_type": "bert", "num_attention_heads": 2,
      "num_hidden_layers": 1, "pad_token_id": 0, "type_vocab_size": 2,
      "vocab_size": len(WORDS)}))
  (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
  tokenizers.BertWordPieceTokenizer(
      {word: i for i, word in enumerate(WORDS)}, lowercase=True).save(
          str(folder / "tokenizer.json"))
  (folder / "tokenizer_config.json").write_text(json.dumps(
      {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"}))
  (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A tiny BERT\n")
  layer, head = "bert.encoder.layer.0", "cls.predictions"
  dense = {f"{layer}.attention.self.{name}": (hidden, hidden) for name in ("query", "key", "value")}
  dense |= {f"{layer}.attention.output.dense": (hidden, hidden),
            f"{layer}.intermediate.dense": (intermediate, hidden),
            f"{layer}.output.dense": (hidden, intermediate), "bert.pooler.dense": (hidden, hidden),
            f"{head}.transform.dense": (hidden, hidden), "cls.seq_relationship": (2, hidden)}
  norms = ("bert.embeddings.LayerNorm", f"{layer}.attention.output.LayerNorm",
           f"{layer}.output.LayerNorm", f"{head}.transform.LayerNorm")
  kernels = {f"bert.embeddings.{name}_embeddings.weight": (rows, hidden) for name, rows in
             (("word", len(WORDS)), ("position", positions), ("token_type", 2))}
  kernels |= {f"{name}.weight": shape for name, shape in dense.items()}
  biases = {f"{name}.bias": shape[:1] for name, shape in dense.items()}
  biases |= {f"{name}.beta": (hidden,) for name in norms} | {f"{head}.bias": (len(WORDS),)}
  rng = np.random.default_rng(0)
  tensors = {name: rng.normal(0, 0.02, shape) for name, shape in kernels.items()}
  tensors |= {name: np.zeros(shape) for name, shape in biases.items()}
  tensors |= {f"{name}.gamma": np.ones(hidden) for name in norms}
  safetensors.numpy.save_file(
      {name: value.astype(np.float32) for name, value in tensors.items()},
      folder / "model.safetensors", {"format": "pt"})


def write_glue(folder: pathlib.Path) -> None:
  """CoLA and MRPC of a few sentences, as parquet, with the card that names their splits."""
  rows = {"train": 40, "validation": 20, "test": 10}
  cola = (("unacceptable", "acceptable"), ("sentence",))
  mrpc = (("not_equivalent", "equivalent"), ("sentence1", "sentence2"))
  card = {"dataset_info": [], "configs": []}
  for name, (classes, texts) in (("cola", cola), ("mrpc", mrpc)):
    (folder / name).mkdir(parents=True)
    splits = [_write_split(folder / name, split, count, texts) for split, count in rows.items()]
    label = {"class_label": {"names": {str(i): value for i, value in enumerate(classes)}}}
    features = [(text, "string") for text in texts] + [("label", label), ("idx", "int32")]
    card["dataset_info"].append({
        "config_name": name, "splits": splits, "download_size": 1, "dataset_size": 1,
        "features": [{"name": column, "dtype": kind} for column, kind in features]})
    card["configs"].append({"config_name": name, "data_files": [
        {"split": split, "path": f"{name}/{split}-*"} for split in rows]})
  # JSON is YAML too.
  (folder / "README.md").write_text(f"---\n{json.dumps(card, indent=1)}\n---\n# GLUE\n")


def _write_split(folder: pathlib.Path, split: str, count: int,
                 texts: Sequence[str]) -> dict[str, Any]:
  """Writes a split whose class 1 has "good" in its last text; returns its entry in the card."""
  labels = list(itertools.islice(itertools.cycle((1, 0, 0, 1)), count))
  columns = {text: [f"the {WORDS[5 + i % 20]} film was {'good' if label else 'bad'} ."
                    for i, label in enumerate(labels)] for text in texts}
  table = pa.table({**columns,
                    # The hub hides the labels of a test split.
                    "label": pa.array([-1] * count if split == "test" else labels, pa.int64()),
                    "idx": pa.array(range(count), pa.int32())})
  pa.parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
  return {"name": split, "num_bytes": 1, "num_examples": count}
