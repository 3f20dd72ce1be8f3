"""Every file reader of nasenv, with the inputs that the soak gives it."""

import contextlib
import gzip
import io
import json
import sqlite3
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from nasenv import Cache, ChainCNN, InputError, Measurement, Trial
from nasenv.benchmarks.nas_bench_macro import NASBenchMacroJSON
from nasenv.cache.keys import ProblemKey
from nasenv.commands.parser import Parser
from nasenv.commands.train import starting_architectures
from nasenv.comparison.run import Run
from nasenv.comparison.tables import PublishedResults
from nasenv.data.dataset import load_dataset, load_images
from nasenv.deployment.export import load_model, save_model
from nasenv.errors import printable
from nasenv.records.journal import Journal
from nasenv.records.trials import TrialLog
from nasenv.results.result import Result
from nasenv.tables.table import read_table
from scripts.soak.inputs import any_bytes, changed, json_files, json_lines, npz_files


@dataclass(frozen=True)
class Reader:
    """Describes one file reader.

    Args:
        name: what it reads.
        inputs: valid, damaged and hostile content.
        read: writes the content to a file and reads it; returns what it read.
    """

    name: str
    inputs: st.SearchStrategy[Any]
    read: Callable[[Any], object]


@contextmanager
def every_reader() -> Iterator[list[Reader]]:
    """Yield the readers, whose files are in a temporary folder."""
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
            _of_file(folder / "picture", lambda p: load_images(str(p))),
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
    architecture = space.from_text("conv3x8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_model(folder / "model", space, architecture, space.build(architecture), data)
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
    contender = {"role": "winner", "architecture": [0, 1], "text": "a", "validation_scores": [0.5], "params": 3}
    contender |= {"test_scores": [0.5], "flops": 9, "seeds": [0], "test_seeds": [0]}
    contender |= {"validation_rewards": [0.5], "test_rewards": [0.5]}
    result = {"winner": contender, "others": [contender], "finalists": [contender], "test_score": 0.5, "ended": "e"}
    result["evaluations"] = 1
    result |= {"metric": "accuracy", "repeats": 0, "train_seconds": 1.0}
    trial = {**Trial((0, 1)).to_json(), **measured}
    entry = {"evaluation": 1, "proposal": 1, "by": "agent", "text": "a", "reward": 0.5, "cost": 1.0, **trial}
    journal = [{"journal": 2, "config": {"a": 1}}, {**entry, "cached": False, "seconds": 1.0}]
    trials = [journal[0], trial]
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
        return Run.matches(path, "i"), Run.read(path)

    return [
        Reader("result.json", json_files(result), _of_file(folder / "result.json", Result.read)),
        Reader("run.json", json_lines([{"identity": "i"}, ended]), _of_file(folder / "run.json", read_run)),
        Reader("journal.jsonl", json_lines(journal), _of_file(folder / "journal.jsonl", read_journal)),
        Reader("trials.jsonl", json_lines(trials), _of_file(folder / "trials.jsonl", _read_trials)),
        _cache_reader(folder, measured),
    ]


def _read_trials(path: Path) -> object:
    log = TrialLog(path, {"a": 1})
    log.close()
    return log.measurements


def _cache_reader(folder: Path, measured: dict[str, Any]) -> Reader:
    path, sound = folder / "c.db", folder / "sound.db"
    with Cache(sound) as cache:
        cache.add(ProblemKey("s", "e"), {Trial((0, 1)): Measurement.from_json(measured)})
    with contextlib.closing(sqlite3.connect(sound)) as database:
        database.execute("PRAGMA journal_mode=DELETE")

    def read(path: Path) -> object:
        for ending in ("-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        with Cache(path) as cache:
            return cache.find(ProblemKey("s", "e"), [Trial((0, 1))])

    return Reader("cache.db", any_bytes(sound.read_bytes()), _of_file(path, read))


def _option_readers(folder: Path) -> list[Reader]:
    options = b'seed: 3\nname: "a b"\nrates: &r [0.1, 1e-3]\nmore: {a: 1, b: *r, c: {d: null}}\n'
    space = ChainCNN(max_layers=2)
    architectures = b"# known ones\nconv3x16|max_pool3\n\nsep_conv5x32\n"
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
            any_bytes(architectures),
            _of_file(folder / "s.txt", lambda path: starting_architectures(space, str(path))),
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
