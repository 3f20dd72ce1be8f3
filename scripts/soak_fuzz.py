"""Every reader of files, given damaged and hostile ones: it returns what it is to return, or says in one line why not.

Nothing but InputError may come out (SystemExit with code 2 after one line on stderr, of the command line), within
seconds, and what it says is one line that a terminal can show. Inputs are hypothesis's: the same for the same seed. A
reader that fails is told with the smallest input that it fails on.
"""

import argparse
import contextlib
import io
import json
import shutil
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import at_least, cores, goal, run, table
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from soak_inputs import any_bytes, changed, json_files, json_lines, npz_files

from nasenv import Cache, ChainCNN, InputError, Measurement
from nasenv.benchmarks.nas_bench_macro import NASBenchMacroJSON
from nasenv.commands.parser import Parser
from nasenv.commands.train import starting_designs
from nasenv.comparison.run import Run
from nasenv.comparison.tables import PublishedResults
from nasenv.data import pictures
from nasenv.data.dataset import load_dataset
from nasenv.deployment.export import load_model, save_model
from nasenv.errors import printable
from nasenv.records.journal import Journal
from nasenv.records.trials import TrialLog
from nasenv.results.result import Result
from nasenv.tables.table import read_table

_SLOWEST = timedelta(seconds=60)  # for one input, by the clock, on a machine that does other things too
_SHOWN = 600  # characters of a failure


@dataclass(frozen=True)
class Reader:
    """One reader of files.

    Args:
        name: what it reads.
        inputs: valid, damaged and hostile content.
        read: writes the content to a file and reads it; returns what it read.
    """

    name: str
    inputs: st.SearchStrategy[Any]
    read: Callable[[Any], object]


def fuzz(inputs: int = 100_000, seed: int = 0, workers: int | None = None) -> dict[str, Any]:
    """Return, by reader, how many inputs it was given, accepted and refused, the seconds that took, and what failed.

    Args:
        inputs: number of them for each reader.
        seed: of the inputs.
        workers: readers that are fuzzed side by side, in processes; one for each core where not given.
    """
    with every_reader() as readers:
        names = [reader.name for reader in readers]
    with ThreadPoolExecutor(workers or cores()) as threads:
        return dict(zip(names, threads.map(_fuzzed_apart, names, repeat(inputs), repeat(seed)), strict=True))


def _fuzzed_apart(name: str, inputs: int, seed: int) -> dict[str, Any]:
    """Return the figures of one reader, fuzzed in a process of its own, which a library may crash."""
    started = time.perf_counter()
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(_fuzzed, name, inputs, seed).result()
    except BrokenProcessPool as error:
        counts = dict.fromkeys(("inputs", "accepted", "refused"), 0)
        return {**counts, "seconds": time.perf_counter() - started, "failure": f"its process died: {error}"}


def _fuzzed(name: str, inputs: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    counts = {True: 0, False: 0}

    def counted(content: object) -> None:
        counts[accepts(reader, content)] += 1

    with every_reader() as readers:
        reader = next(reader for reader in readers if reader.name == name)
        started, failure = time.perf_counter(), None
        try:
            check(reader, counted, inputs, seed)
        except Exception as error:  # whatever it raised that it should not
            failure = f"{type(error).__name__}: {error} {' '.join(getattr(error, '__notes__', []))}"[:_SHOWN]
        seconds = time.perf_counter() - started
    figures = {"inputs": sum(counts.values()), "accepted": counts[True], "refused": counts[False]}
    print(f"{name}: {figures} in {seconds:.0f} s; {failure or 'no failure'}", flush=True)
    return {**figures, "seconds": seconds, "failure": failure}


def check(reader: Reader, property_of: Callable[[Any], object], inputs: int, seed: int | None = None) -> None:
    """Hold so many inputs of a reader against a property, which raises where it does not hold; raise what it raised.

    Args:
        reader: whose inputs.
        property_of: is given each.
        inputs: number of them.
        seed: of the inputs; None are the same ones always.
    """
    quiet = settings(
        max_examples=inputs,
        database=None,
        deadline=_SLOWEST,
        derandomize=seed is None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )

    @quiet
    @given(reader.inputs)
    def holds(content: Any) -> None:
        property_of(content)

    (holds if seed is None else seeded(seed)(holds))()


def accepts(reader: Reader, content: object) -> bool:
    """Return whether the reader takes the content, False where it refuses it as it should; raise where neither."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reader.read(content)
        except InputError as error:
            said = str(error)
            if not said or printable(said) != said:
                raise AssertionError(f"said {said!r}, which is not one line that can be printed") from error
            return False
    return True


@contextmanager
def every_reader() -> Iterator[list[Reader]]:
    """Give the readers, whose files are in a folder that is removed at the end."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield [
            *_data_readers(folder),
            *_table_readers(folder),
            *_model_readers(folder),
            *_run_readers(folder),
            *_option_readers(folder),
        ]


def _of_file(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def written_and_read(content: bytes) -> object:
        path.write_bytes(content)
        return read(path)

    return written_and_read


def _data_readers(folder: Path) -> list[Reader]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 4, 4), dtype=np.uint8)
    arrays = {"x": images, "y": np.arange(12) % 2, "x_test": images[:4] / 255, "y_test": np.arange(4) % 2}
    named = dict(arrays, y=np.array(["a", "b"] * 6), y_test=np.array(["a", "b"] * 2))
    npz, parquet = folder / "d.npz", folder / "d.parquet"
    _write_parquet(parquet, images)
    return [
        Reader(
            "npz", st.one_of(npz_files(arrays), npz_files(named)), _of_file(npz, lambda p: load_dataset(f"npz:{p}"))
        ),
        Reader(
            "parquet",
            any_bytes(parquet.read_bytes()),
            _of_file(parquet, lambda p: load_dataset(f"hub:{p}")),
        ),
        Reader(
            "picture",
            st.one_of(
                *(any_bytes(_picture(images[0], kind)) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"))
            ),
            lambda content: pictures._decoded("x", [{"bytes": content, "path": None}], None),
        ),
    ]


def _picture(pixels: np.ndarray, kind: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels.repeat(2, 0)).save(buffer, kind)
    return buffer.getvalue()


def _write_parquet(path: Path, images: np.ndarray) -> None:
    import datasets

    datasets.disable_progress_bars()
    rows = {"image": [{"bytes": _picture(i, "PNG"), "path": None} for i in images], "label": [0, 1] * 6}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


def _table_readers(folder: Path) -> list[Reader]:
    import gzip

    text = b"architecture,val_accuracy,test_accuracy_percent,note\n" + b"".join(
        f'a{i},0.{i},{i},"no, {i}"\n'.encode() for i in range(5)
    )
    macro = {f"{i:03d}": {"mean_acc": 90.0 + i, "std": 0.1, "params": 1, "flops": 2} for i in range(3)}

    def read(path: Path) -> object:
        return read_table(path, ["val_accuracy"])

    return [
        Reader("table", any_bytes(text), _of_file(folder / "t.csv", read)),
        Reader(
            "table.gz",
            st.one_of(any_bytes(gzip.compress(text)), any_bytes(text).map(lambda data: gzip.compress(data, 1))),
            _of_file(folder / "t.csv.gz", read),
        ),
        Reader(
            "NAS-Bench-Macro",
            json_files(macro),
            _of_file(folder / "m.json", lambda p: NASBenchMacroJSON().read("cifar10", p)),
        ),
    ]


def _model_readers(folder: Path) -> list[Reader]:
    data, space = load_dataset(), ChainCNN(max_layers=1)
    design = space.from_text("conv3x8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_model(folder / "model", space, design, space.build(design), data)
    described, weights = ((folder / "model" / name) for name in ("architecture.json", "weights.safetensors"))
    whole = {path: path.read_bytes() for path in (described, weights)}

    def read(path: Path) -> Callable[[bytes], object]:
        def one_damaged(content: bytes) -> object:
            for other, sound in whole.items():
                other.write_bytes(content if other == path else sound)
            return load_model(folder / "model")

        return one_damaged

    return [
        Reader("architecture.json", json_files(json.loads(whole[described])), read(described)),
        Reader("weights.safetensors", any_bytes(whole[weights]), read(weights)),
    ]


def _run_readers(folder: Path) -> list[Reader]:
    measured = Measurement(0.5, None, 1.0, metrics={"params": 3.0}, curve=(1.0, 0.5)).to_json()
    contender = {"role": "winner", "architecture": [0, 1], "text": "a", "val_accuracies": [0.5], "params": 3}
    contender["test_accuracies"] = [0.5]
    result = {"winner": contender, "others": [contender], "test_accuracy": 0.5, "ended": "e", "evaluations": 1}
    result |= {"repeats": 0, "train_seconds": 1.0}
    entry = {"evaluation": 1, "proposal": 1, "architecture": [0, 1], "text": "a", "reward": 0.5, **measured}
    journal = [{"journal": 1, "config": {"a": 1}}, {**entry, "cached": False, "seconds": 1.0}]
    trials = [journal[0], {"architecture": [0, 1], "kind": "search", "seed": 0, **measured}]
    ended = {"problem": "p", "agent": "a", "seed": 0, "ended": "e", "error": None, "wall_seconds": 1.0, "proposals": 2}
    ended |= {"charged_seconds": 1.0, "architectures": ["a", "b"], "proposal": [1, 2], "early": False}
    ended |= {name: [0.5, None if "score" in name else 0.6] for name in ("seconds", "reward", "val_score")}
    ended |= {"final_val_score": [None, None], "test_score": [0.5, 0.5]}

    def read_journal(path: Path) -> object:
        opened = Journal(path, {"a": 1})
        try:
            return list(opened.entries()), opened.started, opened.made_with, Journal.read(path)
        finally:
            opened.close()

    def read_run(path: Path) -> object:
        return Run.is_of(path, "i"), Run.read(path)

    return [
        Reader("result.json", json_files(result), _of_file(folder / "result.json", Result.read)),
        Reader("run.json", json_lines([{"identity": "i"}, ended]), _of_file(folder / "run.json", read_run)),
        Reader("journal.jsonl", json_lines(journal), _of_file(folder / "journal.jsonl", read_journal)),
        Reader("trials.jsonl", json_lines(trials), _of_file(folder / "trials.jsonl", _read_trials)),
        *_cache_readers(folder, measured),
    ]


def _read_trials(path: Path) -> object:
    log = TrialLog(path, {"a": 1})
    log.close()
    return log.answers


def _cache_readers(folder: Path, measured: dict[str, Any]) -> list[Reader]:
    path, sound = folder / "c.db", folder / "sound.db"
    with Cache(sound) as cache:
        cache.add("s", "e", 1.0, {(0, 1): Measurement.from_json(measured)})
    with contextlib.closing(sqlite3.connect(sound)) as database:
        database.execute("PRAGMA journal_mode=DELETE")

    def read(path: Path) -> object:
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        with Cache(path) as cache:
            return cache.find("s", "e", 1.0, [(0, 1)])

    def read_row(text: bytes) -> object:
        shutil.copy(sound, path)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous=OFF")
            database.execute("UPDATE measurements SET measurement=?", (text.decode(errors="replace"),))
        return read(path)

    return [
        Reader("row of a cache", json_files(measured), read_row),
        Reader("cache.db", any_bytes(sound.read_bytes()), _of_file(path, read)),
    ]


def _option_readers(folder: Path) -> list[Reader]:
    options = b'seed: 3\nname: "a b"\nrates: &r [0.1, 1e-3]\nmore: {a: 1, b: *r, c: {d: null}}\n'
    space = ChainCNN(max_layers=2)
    designs = b"# known ones\nconv3x16|max_pool3\n\nsep_conv5x32\n"
    published = {"source": "s", "reward": {"a": [0.5, 0.1]}, "val_score": {"b": [0.5, 0.1]}}
    return [
        Reader("config.yaml", any_bytes(options), _of_file(folder / "o.yaml", _parsed(_parser()))),
        Reader(
            "config.json",
            json_files({"seed": 3, "name": "a", "rates": [0.1], "more": {"a": {"b": None}}}),
            _of_file(folder / "o.json", _parsed(_parser())),
        ),
        Reader(
            "start_from",
            any_bytes(designs),
            _of_file(folder / "s.txt", lambda path: starting_designs(space, str(path))),
        ),
        Reader("published", changed(published), PublishedResults.of),
    ]


def _parser() -> Parser:
    parser = Parser(prog="fuzz")
    parser.add_argument("--config", action="config")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--name", type=str)
    parser.add_argument("--rates", type=list[float])
    parser.add_argument("--more", type=dict)
    return parser


def _parsed(parser: Parser) -> Callable[[Path], object]:
    """Return what parses a file of options, and raises the line on which it is refused as InputError."""

    def parse(path: Path) -> object:
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                return parser.parse_args(["--config", str(path)])
        except SystemExit as ended:
            line = said.getvalue().removesuffix("\n")
            if ended.code != 2 or printable(line) != line:
                raise AssertionError(f"exited with {ended.code} and said {line!r}") from ended
            raise InputError(line) from ended

    return parse


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fuzz every reader, print the table, and return its figures."""
    figures = fuzz(arguments.inputs, arguments.seed)
    keys = ("inputs", "accepted", "refused")
    rows = [
        [name, *(f"{f[k]:,}" for k in keys), f"{f['seconds']:.0f}", f["failure"] or ""] for name, f in figures.items()
    ]
    table("Readers of files", ["reader", *keys, "seconds", "failure"], rows)
    failed = sum(f["failure"] is not None for f in figures.values())
    return {"readers": figures, "goal": goal("readers that fail", failed, failed == 0)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=at_least(1), default=100_000, help="for each reader")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    run(parser, main)
