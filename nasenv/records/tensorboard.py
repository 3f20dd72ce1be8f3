"""TensorBoard of one search: one event file, and in it one event an evaluation that carries all its scalars."""

from __future__ import annotations

import os
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.compat.proto.versions_pb2 import VersionDef
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalars
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import fx, nn

from nasenv.files import open_again, writing
from nasenv.spaces.space import SearchSpace
from nasenv.training.reproducibility import default_settings
from nasenv.trial import Architecture, Outcome

if TYPE_CHECKING:
    from nasenv.plots import Figure

MEAN_OF = 32  # scores, the last ones, in the mean score
_HISTOGRAM_OF = 10  # evaluations or more
_CHARTS: dict[str, dict[str, tuple[str, ...]]] = {  # of CUSTOM SCALARS: category -> title -> how the tags begin
    "search": {
        "best and mean score": ("evaluation/best_val_", "evaluation/mean_val_"),
        "share of proposals that are repeats": ("search/repeat_share",),
    },
    "cost": {
        "training seconds so far": ("search/train_seconds",),
        "training seconds of each evaluation": ("measurement/train_seconds",),
        "parameters of each evaluation": ("measurement/params",),
    },
    "policy": {
        "entropy loss (entropy times -1)": ("train/entropy_loss",),
        "KL divergence to the policy before the update": ("train/approx_kl",),
        "clip fraction": ("train/clip_fraction",),
        "explained variance of the value function": ("train/explained_variance",),
        "value loss": ("train/value_loss",),
    },
}


class TensorBoardWriter:
    """The TensorBoard of one search, in a single event file.

    The file begins anew: a search that is resumed repeats its evaluations from the journal and so writes its curves
    again, without a seam. Its events have the same lengths as before, so a TensorBoard that is watching goes on reading
    where it was. Every event is in the file when the method returns, so that the page is always up to date, or
    all are when it is closed. TensorBoard's own `EventFileWriter` does none of this: it names its file by the time, and
    a thread of it writes later.

    | tags | what they show | step |
    |---|---|---|
    | ``evaluation/*`` | best, mean and own score of each distinct evaluation; a histogram of scores | its number |
    | ``incumbent/architecture`` | the best architecture so far, a picture | evaluation |
    | ``measurement/*`` | parameters, seconds and other metrics of each distinct evaluation | its number |
    | ``search/*`` | rewards, repeats, cache hits and seconds of the search | evaluation |
    | ``search/choice_shares`` | what was chosen over time, a picture | evaluation |
    | the tags given to ``scalars``, ``curve`` | an agent's own figures, learning curves | as given, the epoch |
    | the tags given to ``text``, ``figure`` | configuration, the winner | 0 |
    | CUSTOM SCALARS | charts of search, cost and policy, see ``layout`` | evaluation |
    | HPARAMS, GRAPHS | configuration beside final metrics, the winner's graph | |

    TensorBoard sorts groups, and tags within them, by their names: scores come first, and what has one value, the
    winner's, last. A tag stands for one kind of thing: it shows a text and a picture of one tag as the first of them.

    Args:
        directory: where the event file is written, made where missing; older event files in it are deleted.
        live: whether somebody may be watching; else events wait in memory to be written together.
        started: when the search was begun, in seconds since 1970; now by default. It is in the file's name.
        clock: how long it has been going on, in seconds, in all its starts; by default since this object was made.
        metric: name of the score, in tags.

    Raises:
        InputError: the directory, or later the file, cannot be written (a full disk, say).
    """

    def __init__(
        self,
        directory: Path,
        live: bool = True,
        started: float | None = None,
        clock: Callable[[], float] | None = None,
        metric: str = "accuracy",
    ) -> None:
        begun = time.monotonic()
        self._started = time.time() if started is None else started
        self._clock = clock or (lambda: time.monotonic() - begun)
        self._path = Path(directory) / f"events.out.tfevents.{int(self._started)}.nasenv"
        self._live, self._metric = live, metric
        self._best: tuple[float, float] | None = None  # fidelity and score
        self._last_scores: deque[float] = deque(maxlen=MEAN_OF)
        self._new_scores: list[float] = []  # that are in no histogram yet
        self._drawn: int | None = None  # the evaluation of the incumbent in the last picture
        with writing(f"run_dir {directory}", "; give another one"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            for old in self._path.parent.glob("events.out.tfevents.*"):
                if old != self._path:
                    old.unlink()
            self._file: BinaryIO = open(self._path, "w+b")  # noqa: SIM115, closed by close()
        self._write(file_version="brain.Event:2")

    def evaluation(self, outcome: Outcome, scalars: Mapping[str, float]) -> None:
        """Write the scalars of a distinct evaluation, in one event, and from time to time a histogram of scores.

        ``evaluation/best_val_<metric>`` is the highest score at the highest fidelity so far, whatever the objective;
        ``evaluation/mean_val_<metric>`` is the mean of the last 32 scores. Both begin, as ``evaluation/val_<metric>``
        does, at the first evaluation that did not fail. A histogram holds the scores since the one before: those of
        10 evaluations, later of a ninth of all, so that 200 evaluations have 16 and 100,000 have 68.

        Args:
            outcome: the first answer that it gave.
            scalars: what the search says of itself by now, by tag.
        """
        measurement, score = outcome.measurement, outcome.measurement.score
        values = {f"measurement/{name}": value for name, value in measurement.metrics.items()}
        values |= {
            "search/reward": outcome.reward,
            **scalars,
            "measurement/train_seconds": measurement.train_seconds,
            "measurement/failed": outcome.status == "failed",
        }
        if score is not None:
            self._best = max(self._best or (0.0, score), (outcome.fidelity, score))
            self._last_scores.append(score)
            self._new_scores.append(score)
            values[f"evaluation/val_{self._metric}"] = score
        if self._best is not None:
            values[f"evaluation/best_val_{self._metric}"] = self._best[1]
            values[f"evaluation/mean_val_{self._metric}"] = sum(self._last_scores) / len(self._last_scores)
        self.scalars(values, outcome.evaluation)
        if len(self._new_scores) >= max(_HISTOGRAM_OF, outcome.evaluation // 9):
            self.score_histogram(self._new_scores, outcome.evaluation)
            self._new_scores = []

    def score_histogram(self, scores: Sequence[float], step: int) -> None:
        """Write a histogram of the scores of some evaluations, the last of which is ``step``."""
        self._write(step=step, summary=histogram_pb(f"evaluation/val_{self._metric}_histogram", scores))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write one event with a value for each tag, as float32: infinite where it is too large for that."""
        self._summary([{"tag": tag, "simple_value": float(value)} for tag, value in values.items()], step)

    def curve(self, tag: str, values: Sequence[float]) -> None:
        """Write a learning curve: values[k] at step k + 1, the epoch."""
        for epoch, value in enumerate(values, start=1):
            self.scalars({tag: value}, epoch)

    def text(self, tag: str, markdown: str) -> None:
        """Write a text, which TensorBoard shows as Markdown."""
        self._write(summary=text_pb(tag, markdown))

    def figure(self, tag: str, figure: Figure, step: int = 0) -> None:
        """Write a picture; pictures of one tag and several steps have a slider."""
        from nasenv.plots import to_png

        png = to_png(figure)
        width, height = struct.unpack(">II", png[16:24])  # where a PNG file says it
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        self._summary([{"tag": tag, "image": image}], step)

    def best_architecture(self, space: SearchSpace, best: Outcome | None, step: int) -> bool:
        """Write the picture of the incumbent with its score; return whether it is another than in the last one."""
        if best is None or best.measurement.score is None or best.evaluation == self._drawn:
            return False
        from nasenv.plots import draw_diagram  # matplotlib takes half a second to import

        self._drawn = best.evaluation
        title = f"validation {space.task.metric} {space.task.shown(best.measurement.score)}"
        self.figure("incumbent/architecture", draw_diagram(space.diagram(best.architecture), title), step)
        return True

    def choice_shares(self, space: SearchSpace, architectures: Sequence[Architecture]) -> None:
        """Write the picture of what was chosen in the evaluations so far; nothing before the first."""
        from nasenv.plots import choice_shares

        if architectures:
            self.figure("search/choice_shares", choice_shares(space, architectures), len(architectures))

    @default_settings()
    def graph(self, model: nn.Module, input_shape: Sequence[int]) -> None:
        """Write the network's graph; where it cannot be traced, a text of tag ``graph`` says why.

        Args:
            model: a network on the CPU.
            input_shape: (channels, height, width) of one input.
        """
        was_training = model.training
        try:
            program = torch.export.export(model.eval(), (torch.zeros(1, *input_shape),), strict=False)
        except Exception as error:  # a user's network may do, and so raise, anything
            self.text("graph", f"This network cannot be traced: {type(error).__name__}: {error}")
        else:
            self._write(graph_def=_graph_def(program).SerializeToString())
        finally:
            model.train(was_training)

    def layout(self) -> None:
        """Write which charts the CUSTOM SCALARS tab shows."""
        categories = [
            layout_pb2.Category(
                title=category,
                chart=[
                    layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
                    for title, tags in charts.items()
                ],
            )
            for category, charts in _CHARTS.items()
        ]
        content = layout_pb2.Layout(category=categories).SerializeToString()
        tensor = TensorProto(dtype=DT_STRING, string_val=[content])
        about = custom_scalars.create_summary_metadata()
        self._summary([{"tag": custom_scalars.CONFIG_SUMMARY_TAG, "metadata": about, "tensor": tensor}], 0)

    def start_hparams(self, config: Mapping[str, Any]) -> None:
        """Write what this run is, its nested configuration, for the table of the HPARAMS tab.

        No `experiment` is written, on purpose: TensorBoard would take the columns of the first run's for all runs,
        though agents differ in theirs. Without one it shows, of all runs, the settings that differ, then the last
        values of all scalars by their tags' order.
        """
        self._write(summary=hparams_pb(flat_config(config), start_time_secs=self._started))

    def finish_hparams(self, metrics: Mapping[str, float]) -> None:
        """Write the final metrics, as scalars too, and that the run has ended well; to be called last."""
        self.scalars(metrics, 0)
        end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
        about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
        tag = metadata.SESSION_END_INFO_TAG
        self._summary([{"tag": tag, "metadata": about, "tensor": metadata.NULL_TENSOR}], 0)

    def close(self) -> None:
        """Write what waits, and close the file."""
        with writing(self._path):
            self._file.close()

    def reopen(self) -> None:
        """Open the file again after `close`, to write more at its end."""
        with writing(self._path):
            self._file = open(self._path, "a+b")  # noqa: SIM115, closed by close()

    def _summary(self, values: Sequence[Mapping[str, Any]], step: int) -> None:
        self._write(step=step, summary={"value": values})  # messages made of dicts take half the time

    def _write(self, **event: Any) -> None:
        """Append an event; where somebody has deleted the file, all of it is written again."""
        content = Event(wall_time=self._started + self._clock(), **event).SerializeToString()
        with writing(self._path):
            RecordWriter(self._file).write(content)
            if self._live:
                self._file.flush()
                if os.fstat(self._file.fileno()).st_nlink == 0:
                    self._file = open_again(self._file, self._path)


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Return a nested configuration with dotted names, as the command line has them; lists and None become text.

    >>> flat_config({"agent": {"class_path": "nasenv.agents.PPO", "init_args": {"lr": 0.1, "net": [8, 8]}}, "seed": 0})
    {'agent': 'PPO', 'agent.lr': 0.1, 'agent.net': '[8, 8]', 'seed': 0}
    """
    flat: dict[str, bool | int | float | str] = {}
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and "class_path" in value:
            flat[name] = str(value["class_path"]).rpartition(".")[2]
            flat |= flat_config(value.get("init_args") or {}, name)
        elif isinstance(value, Mapping):
            flat |= flat_config(value, name)
        else:
            flat[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


def _graph_def(program: torch.export.ExportedProgram) -> GraphDef:
    """Return the program's operations, each within the modules that it belongs to; parameters are left out."""
    inputs = set(program.graph_signature.user_inputs)
    names: dict[fx.Node, str] = {}
    nodes = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name not in inputs:
            continue
        names[node] = "/".join([*_scopes(node), node.name])
        sources = [names[source] for source in node.all_input_nodes if source in names]
        nodes.append(NodeDef(name=names[node], op=str(node.target), input=sources, attr=_output_shape(node)))
    return GraphDef(node=nodes, versions=VersionDef(producer=22))


def _scopes(node: fx.Node) -> list[str]:
    """Return the modules around an operation from the outermost, as in ["Sequential[layers.0]", "Conv2d[0]"]."""
    scopes: list[str] = []
    outer = ""
    for path, kind in node.meta.get("nn_module_stack", {}).values():
        if path:  # the network itself would hide all within one box
            inner = path.removeprefix(outer).removeprefix(".")
            scopes.append(f"{kind.rpartition('.')[2]}[{inner}]")
            outer = path
    return scopes


def _output_shape(node: fx.Node) -> dict[str, AttrValue]:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return {}
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=int(size)) for size in value.shape])
    return {"_output_shapes": AttrValue(list=AttrValue.ListValue(shape=[shape]))}
