"""Times create_pretraining_data.py as a whole process, in both of its modes.

    python3 -m benchmarks.pretraining_data --input_file='/data/wiki_*' --tokenizer=demo/minilm

Writes the text, one sentence a line, into a temporary folder: once for the faithful mode and
--copies times for the fast one. Runs the script on each file --runs times with dupe_factor 1.

Ratios are to the original's script, which was measured once to need 16 s of one core for 4.1 MB
of Wikipedia text with dupe_factor 1: 0.25 MB/s.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import compare
from pretraining import text
import tokenization

ORIGINAL_MEGABYTES_PER_SECOND = 0.25
ROOT = pathlib.Path(__file__).parent.parent


def write_lines(patterns: str, files: dict[pathlib.Path, int]) -> None:
  """Writes the documents, one sentence a line, to each file as often as `files` says."""
  sources = text.find_sources(patterns)
  lines = "".join("".join(f"{' '.join(sentence.split())}\n" for sentence in document) + "\n"
                 for document in text.read_documents(sources))
  for file, copies in files.items():
    file.write_text(lines * copies, "utf-8")


def write_vocabulary(tokenizer_dir: str, file: pathlib.Path) -> None:
  """Writes a tokenizer's entries as a vocab.txt."""
  vocabulary = tokenization.load_tokenizer(tokenizer_dir, None).get_vocab()
  file.write_text("".join(f"{word}\n" for word in sorted(vocabulary, key=vocabulary.get)), "utf-8")


def run(input_file: pathlib.Path, vocab_file: str, *arguments: str) -> dict[str, float]:
  """Runs the script once; returns wall_seconds and cpu_seconds (with its workers')."""
  with tempfile.TemporaryDirectory(dir=input_file.parent) as folder:
    command = [sys.executable, str(ROOT / "create_pretraining_data.py"),
               f"--input_file={input_file}", f"--vocab_file={vocab_file}",
               f"--output_file={folder}/out", "--dupe_factor=1", *arguments]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
      sys.exit("error: the script failed")
  return {"wall_seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime}


def measure(mode: str, input_file: pathlib.Path, cores: int, args: argparse.Namespace,
            vocab_file: pathlib.Path, *arguments: str) -> dict[str, Any]:
  """Returns the table's row of one mode: medians over several runs."""
  results = [run(input_file, str(vocab_file), *arguments) for _ in range(args.runs)]
  wall, cpu = (statistics.median(result[key] for result in results)
               for key in ("wall_seconds", "cpu_seconds"))
  megabytes = input_file.stat().st_size / 1e6
  original = megabytes / wall / ORIGINAL_MEGABYTES_PER_SECOND
  return {"mode": mode, "cores": cores, "MB": megabytes, "s": wall, "CPU s": cpu,
          "MB/s": megabytes / wall, "times the original": original,
          "times the original, per core": original / cores,
          "all": [result["wall_seconds"] for result in results]}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--input_file", required=True, help="text in any format of text.py")
  parser.add_argument("--tokenizer", required=True)
  parser.add_argument("--copies", type=int, default=5, help="of the text, for the fast mode")
  parser.add_argument("--num_workers", type=int, default=2)
  parser.add_argument("--shard_megabytes", type=float, default=4.0)
  parser.add_argument("--runs", type=int, default=3)
  parser.add_argument("--output", default="", help="the JSON file")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    once, copies, vocab_file = folder / "once.txt", folder / "copies.txt", folder / "vocab.txt"
    write_vocabulary(args.tokenizer, vocab_file)
    write_lines(args.input_file, {once: 1, copies: args.copies})
    rows = [measure("faithful", once, 1, args, vocab_file),
            measure(f"fast, {args.num_workers} workers", copies, args.num_workers, args, vocab_file,
                    f"--num_workers={args.num_workers}",
                    f"--shard_megabytes={args.shard_megabytes}")]
  compare.report(rows, args.output)


if __name__ == "__main__":
  main()
