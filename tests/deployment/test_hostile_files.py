"""Files that would run code, take the memory, hold up the program or paint the terminal get one line, and code 2."""

import gzip
import json
import os
import struct
import subprocess
import sys
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from nasenv.benchmarks.nas_bench_macro import NASBenchMacroJSON
from nasenv.commands.cli import main
from nasenv.comparison.run import Run
from nasenv.data.dataset import load_dataset, load_images
from nasenv.deployment.export import load_model, save_model
from nasenv.errors import InputError, printable
from nasenv.files import parse_json, read_whole
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.tables.table import read_table

MINE = """
from pathlib import Path
from nasenv import ChainCNN

Path("it_ran").touch()

class Mine(ChainCNN):
    pass
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder, space = tmp_path_factory.mktemp("sound") / "model", ChainCNN(max_layers=1)
    architecture = space.from_text("conv3x8")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        save_model(folder, space, architecture, space.build(architecture), load_dataset())
    return folder


@pytest.fixture
def hostile(model, tmp_path, monkeypatch):
    """Return what writes a run directory whose description was changed, and a function to classify images with it."""
    monkeypatch.chdir(tmp_path)
    np.savez("new.npz", x=load_images("digits")[0][:3].numpy())

    def write(change) -> list[str]:
        description = json.loads((model / "architecture.json").read_text())
        change(description)
        Path("run/model").mkdir(parents=True, exist_ok=True)
        Path("run/model/architecture.json").write_text(json.dumps(description))
        Path("run/model/weights.safetensors").write_bytes((model / "weights.safetensors").read_bytes())
        return ["predict", "run", "npz:new.npz"]

    return write


def refusal(capsys, words: list[str]) -> str:
    """Return the one line that a command is refused with."""
    try:
        code = main(words)
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert printable(err[:-1]) + "\n" == err
    return err


# Code


@pytest.mark.parametrize("name", ["lying_here.Mine", "os.system", "antigravity.x", "nasenv.spaces.chain_cnn.nn.Module"])
def test_no_file_chooses_code_that_runs(hostile, capsys, name):
    Path("lying_here.py").write_text(MINE)
    words = hostile(lambda description: description["space"].update(class_path=name))
    assert "--space" in refusal(capsys, words)
    assert not Path("it_ran").exists()
    assert "antigravity" not in sys.modules


def test_a_space_of_the_users_own_is_named_by_the_user(hostile, capsys):
    Path("mine_named.py").write_text(MINE)
    words = hostile(lambda description: description["space"].update(class_path="mine_named.Mine"))
    assert "--space mine_named.Mine" in refusal(capsys, words)
    assert main([*words, "--space", "mine_named.Mine"]) == 0
    assert Path("it_ran").exists()
    capsys.readouterr()
    assert "not of" in refusal(capsys, [*hostile(lambda _: None), "--space", "mine_named.Mine"])


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['touch it_ran']", "!!python/name:os.system"])
def test_yaml_makes_no_objects(tmp_path, monkeypatch, capsys, text):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(f"seed: {text}\n")
    assert "could not determine a constructor" in refusal(capsys, ["train", "--config", "c.yaml"])
    assert not Path("it_ran").exists()


def test_arrays_of_objects_are_not_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it_ran"),)

    np.savez(tmp_path / "o.npz", x=np.array([Bomb()] * 12, dtype=object), y=np.arange(12))
    with pytest.raises(InputError, match="Object arrays cannot be loaded"):
        load_dataset(f"npz:{tmp_path / 'o.npz'}")
    assert not (tmp_path / "it_ran").exists()


def test_a_picture_that_is_a_program_is_not_run(tmp_path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(it_ran) (w) file closefile\n%%EOF\n"
    (tmp_path / "eps.png").write_bytes(eps)
    with pytest.raises(InputError, match="it is no picture of a known format"):
        load_images(str(tmp_path / "eps.png"))


# Memory and time


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_layers": 10**9},
        {"widths": [10**9]},
        {"a": 1e300},
        {"task": {"outputs": 10**6}},
        {"task": {"outputs": 1e300}},
    ],
)
def test_what_a_description_asks_for_is_checked_before_it_is_built(hostile, capsys, arguments):
    def change(description):
        task = description["space"]["init_args"]["task"] | arguments.get("task", {})
        description["space"]["init_args"].update({**arguments, "task": task})

    started = time.monotonic()
    refusal(capsys, hostile(change))
    assert time.monotonic() - started < 10


def test_a_network_whose_layers_would_fill_the_memory_is_refused(hostile, capsys):
    def huge(description):  # its weights are as small as before
        for task in (description["task"], description["space"]["init_args"]["task"]):
            task["inputs"]["shape"] = [1, 65536, 65536]

    assert "a quarter of free memory" in refusal(capsys, hostile(huge))


def _zeros(path: Path, header: bytes, size: int) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        member.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        for _ in range(size // 2**20):
            member.write(bytes(2**20))


def _bombs(folder: Path) -> dict[str, Path]:
    bombs = {kind: folder / f"bomb.{kind}" for kind in ("npz", "csv.gz", "png", "csv")}
    _zeros(bombs["npz"], b"{'descr': '|u1', 'fortran_order': False, 'shape': (300, 1024, 1024), }\n", 300 * 2**20)
    bombs["csv.gz"].write_bytes(gzip.compress(b"a\n" * 2**19) * 300)  # members of one file
    size = struct.pack(">IIBBBBB", 13_000, 13_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", size), (b"IDAT", zlib.compress(bytes(13_000 * 13_001), 1)), (b"IEND", b"")]
    bombs["png"].write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    )
    bombs["csv"].write_bytes(b"architecture," + b"x," * 5_000_000 + b"\n")
    return bombs


IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from nasenv.data.dataset import load_images
from nasenv.errors import InputError
from nasenv.tables.table import read_table

npz, gz, png, csv = sys.argv[1:]
pages = int(Path("/proc/self/statm").read_text().split()[0])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
limit = pages * resource.getpagesize() + 400 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for read in (
    lambda: load_images(f"npz:{npz}"),
    lambda: read_table(gz),
    lambda: load_images(png),
    lambda: read_table(csv),
):
    try:
        read()
        print("taken")
    except InputError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_bombs_are_refused_within_a_bound_of_memory(tmp_path):
    bombs = _bombs(tmp_path)
    line = [sys.executable, "-c", IN_LITTLE_MEMORY, *map(str, bombs.values())]
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=100, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    npz, table, picture, columns, megabytes = done.stdout.splitlines()
    assert "half of what is free" in npz
    assert "of the memory that is free" in table
    assert "13000x13000 pixels" in picture
    assert "of the memory that is free" in columns or "at most 1000 columns" in columns
    assert int(megabytes) < 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", "an alias refers to a node that contains it"),
        ("[" * 50_000, "nested too deeply"),
        ("seed: 1\n" + "x" * 10_000_000, "10,000,008 bytes"),
        ("seed: " + "1" * 10_000, "limit"),
        ("seed: 2001-99-99", "expected an integer"),
        ("seed: \x1b[2J", "unacceptable character"),
        ("seed: 1\nseed: 2", "given twice"),
        ('agent: {class_path: "\\e[2J.x"}', r"\x1b[2J"),
    ],
)
def test_hostile_options_are_refused_in_a_moment(tmp_path, capsys, text, message):
    (tmp_path / "c.yaml").write_text(text)
    started = time.monotonic()
    assert message in refusal(capsys, ["train", "--config", str(tmp_path / "c.yaml")])
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, "NaN,", b"\xff", "{'a': 1}"])
def test_what_is_no_json_that_can_be_kept_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


READERS = {
    "npz": lambda path: load_dataset(f"npz:{path}"),
    "table": read_table,
    "benchmark": lambda path: NASBenchMacroJSON().read("cifar10", Path(path)),
    "run": lambda path: Run.read(Path(path)),
    "identity": lambda path: Run.matches(Path(path), "i"),
    "any": lambda path: read_whole(Path(path), 100),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("kind", ["folder", "loop", "missing", "long" * 100])
def test_what_is_no_file_is_refused(tmp_path, read, kind):
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    with pytest.raises(InputError):
        read(str(path))


@pytest.mark.parametrize("name", ["architecture.json", "weights.safetensors"])
def test_a_model_of_other_things_than_files_is_refused(model, tmp_path, name):
    for file in ("architecture.json", "weights.safetensors"):
        (tmp_path / file).write_bytes((model / file).read_bytes())
    path = tmp_path / name
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=name):
        load_model(tmp_path)


# The terminal, and what listens


def test_class_names_cannot_paint_the_terminal(hostile, capsys):
    names = [f"\x1b[2J\u202e{i}\r" for i in range(10)]
    words = hostile(lambda description: description["encoding"].update(class_names=names))
    assert main(words) == 0
    said = capsys.readouterr().out
    assert printable(said.replace("\n", "")) == said.replace("\n", "")
    assert r"\x1b[2J\u202e" in said
    assert main([*words, "--output", "classes.csv"]) == 0
    assert "\x1b[2J\u202e" in Path("classes.csv").read_text(encoding="utf-8")  # data stay what they are


def test_a_message_is_one_printable_line_of_bounded_length():
    message = str(InputError(f"a\x1b[2J\x07\n\u202eb\ud800{'x' * 100_000}the end"))
    assert printable(message) == message
    assert message.startswith(r"a\x1b[2J\x07 \u202eb\ud800x")
    assert message.endswith("the end")
    assert len(message) < 2100


def _listening(pids: set[int]) -> list[str]:
    """Return the lines of the system's tables of sockets that are open to others and held by one of the processes."""
    inodes = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(os.readlink(handle).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] in inodes and (words[3] == "0A" or table.startswith("udp")):  # 0A: LISTEN
                found.append(line)
    return found


def _family(pid: int) -> set[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return set()
    return {pid}.union(*(_family(int(child)) for child in children))


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="not Linux")
def test_nothing_listens_while_workers_train(tmp_path):
    words = ["train", "--run_dir", str(tmp_path / "r"), "--cache", "none", "--budget.evaluations", "4"]
    words += ["--budget.finalists", "1", "--budget.final_seeds", "1", "--space.max_layers", "1"]
    words += [
        "--agent",
        "RandomSearch",
        "--evaluator.concurrency",
        "2",
        "--evaluator.epochs",
        "1",
        "--evaluator.final_epochs",
        "1",
    ]
    code = "import sys; from nasenv.commands.cli import main; sys.exit(main(sys.argv[1:]))"
    line = [sys.executable, "-c", code, *words]
    most, open_to_others = 0, []
    with subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as search:
        while search.poll() is None:
            family = _family(search.pid)
            most = max(most, len(family))
            open_to_others += _listening(family)
            time.sleep(0.2)
        assert search.returncode == 0, search.stdout.read()
    assert most >= 3  # the workers were seen
    assert open_to_others == []
