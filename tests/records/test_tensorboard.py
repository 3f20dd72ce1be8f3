import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.plugins.custom_scalar import metadata as custom_scalars
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.util.tensor_util import make_ndarray
from torch import nn

from nasenv.agents import PPO
from nasenv.errors import InputError
from nasenv.plots import draw_diagram, to_png
from nasenv.records.journal import Journal
from nasenv.records.tensorboard import TensorBoardWriter, flat_config
from nasenv.results.conclude import conclude
from nasenv.search.budget import Budget
from nasenv.search.history import Finding, History, Outcome
from nasenv.search.search import Search
from nasenv.spaces.space import Decision, SearchSpace
from nasenv.trial import Measurement
from tests.fakes import TASK, Hashed


class Stack(SearchSpace):
    def __init__(self, depths=2) -> None:
        super().__init__([Decision("depth", tuple(range(1, 1 + depths))), Decision("width", (4, 8, 16))], TASK)

    def build(self, architecture):
        width = (4, 8, 16)[architecture[1]]
        return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))


def outcome_of(k, val_accuracy, history, cached=False):
    """Return the answer to architecture k, taken into the history."""
    error = "out of memory" if val_accuracy is None else None
    measurement = Measurement(val_accuracy, error, train_seconds=2.0, metrics={"params": 10.0 * k})
    architecture = (k % 2, k % 3, k)  # the space has two decisions; the last tells architectures apart
    proposals = history.propose([architecture], list, fidelity=1.0)
    return history.take(proposals, [Finding(measurement, val_accuracy or -1.0, cached)])[0]


def record_search(directory, accuracies, cached=()):
    history = History(Stack().num_choices)
    record = TensorBoardWriter(directory)
    for k, accuracy in enumerate(accuracies, start=1):
        record.evaluation(outcome_of(k, accuracy, history, cached=k in cached), history.scalars())
    return record, history


def read(directory):
    accumulator = EventAccumulator(str(directory), size_guidance=dict.fromkeys(("scalars", "images", "tensors"), 0))
    return accumulator.Reload()


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The run directory of a search by PPO that was concluded."""
    folder, space = tmp_path_factory.mktemp("runs") / "run", Stack(depths=40)
    with Search(
        space, Hashed(space), PPO(num_envs=8), Budget(60, finalists=2, final_seeds=1), run_dir=folder
    ) as search:
        search.run()
        conclude(search)
    return folder


def series(accumulator, tag):
    return {event.step: round(event.value, 5) for event in accumulator.Scalars(tag)}


def test_each_evaluation_is_one_event_with_all_its_scalars(tmp_path):
    record, history = record_search(tmp_path, [0.5, None, 0.75, 0.25], cached=(3,))
    assert outcome_of(1, 0.5, history).repeat
    record.evaluation(outcome_of(5, 0.5, history), history.scalars())
    (path,) = tmp_path.iterdir()
    events = [e for e in EventFileLoader(str(path)).Load() if e.HasField("summary")]
    assert [e.step for e in events] == [1, 2, 3, 4, 5]
    page = read(tmp_path)
    assert set(page.Tags()["scalars"]) == {
        *("evaluation/" + t for t in ("best_val_accuracy", "mean_val_accuracy", "val_accuracy")),
        *("measurement/" + t for t in ("params", "train_seconds", "failed")),
        *("search/" + t for t in ("reward", "mean_reward_32", "repeat_share", "train_seconds", "cache_hit_share")),
    }
    assert series(page, "evaluation/val_accuracy") == {1: 0.5, 3: 0.75, 4: 0.25, 5: 0.5}
    assert series(page, "evaluation/best_val_accuracy") == {1: 0.5, 2: 0.5, 3: 0.75, 4: 0.75, 5: 0.75}
    assert series(page, "evaluation/mean_val_accuracy") == {1: 0.5, 2: 0.5, 3: 0.625, 4: 0.5, 5: 0.5}
    assert series(page, "search/mean_reward_32")[3] == round((0.5 - 1 + 0.75) / 3, 5)
    assert series(page, "search/train_seconds") == {1: 2, 2: 4, 3: 4, 4: 6, 5: 8}
    assert series(page, "search/repeat_share")[5] == round(1 / 6, 5)
    assert series(page, "search/cache_hit_share")[4] == 0.25
    assert series(page, "measurement/failed") == {1: 0, 2: 1, 3: 0, 4: 0, 5: 0}
    assert series(page, "measurement/params")[5] == 50


def test_best_of_a_metric_below_zero(tmp_path):
    record = TensorBoardWriter(tmp_path, metric="neg_rmse")
    for k, score in enumerate((None, -3.0, -1.0, -2.0), start=1):
        measurement = Measurement(score, "diverged" if score is None else None)
        record.evaluation(Outcome((), measurement, 0.0, k, k), {})
    page = read(tmp_path)
    assert series(page, "evaluation/val_neg_rmse") == {2: -3, 3: -1, 4: -2}
    assert series(page, "evaluation/best_val_neg_rmse") == {2: -3, 3: -1, 4: -1}


def test_mean_is_of_the_last_32_scores(tmp_path):
    record_search(tmp_path, [0.5] * 8 + [None, 0.25] * 32)
    assert list(series(read(tmp_path), "evaluation/mean_val_accuracy").values())[-3:] == [0.25781, 0.25781, 0.25]


def test_numbers_are_float32s_whatever_they_were(tmp_path):
    numbers = {"a": 1e300, "whole": 3, "of numpy": np.float32(0.1), "no axes": np.array(0.5), "nan": float("nan")}
    TensorBoardWriter(tmp_path).scalars(numbers, 1 << 40)
    page = read(tmp_path)
    found = [page.Scalars(tag)[0].value for tag in numbers]
    assert found == pytest.approx([float("inf"), 3.0, np.float32(0.1), 0.5, float("nan")], nan_ok=True)
    assert page.Scalars("whole")[0].step == 1 << 40


def test_events_wait_where_nobody_watches(tmp_path):
    record = TensorBoardWriter(tmp_path, live=False)
    record.text("config", "text")
    (path,) = tmp_path.iterdir()
    assert not path.read_bytes()
    record.close()
    assert "config" in read(tmp_path).Tags()["tensors"]


def test_a_resumed_search_leaves_one_file_with_unbroken_steps(tmp_path):
    record_search(tmp_path, [0.5] * 7)
    record_search(tmp_path, [0.5] * 9)
    assert len(list(tmp_path.iterdir())) == 1
    assert list(series(read(tmp_path), "search/reward")) == list(range(1, 10))


def test_first_on_the_page_are_the_best_and_the_mean_score_and_last_what_has_one_value(searched):
    page = read(searched)
    tags = sorted(page.Tags()["scalars"])
    assert tags[:3] == ["evaluation/best_val_accuracy", "evaluation/mean_val_accuracy", "evaluation/val_accuracy"]
    points = {tag: len(page.Scalars(tag)) for tag in tags}
    assert [points[tag] for tag in tags[:2]] == [60, 60]
    assert points[tags[2]] > 40  # of those that did not fail
    alone = [tag for tag in tags if points[tag] == 1]
    assert alone == tags[-len(alone) :] == [f"winner/{t}_accuracy" for t in ("mean_test", "mean_val", "test")]


def test_best_architecture_is_drawn_when_it_has_changed_at_gaps_that_double(searched):
    (_, entries), space = Journal.read(searched / "journal.jsonl"), Stack(depths=40)
    rewards = [entry["reward"] for entry in entries]
    rises = [k for k, reward in enumerate(rewards, start=1) if reward > max(rewards[: k - 1], default=-1)]
    due, expected = 1, {}
    for step in range(1, 61):
        best = max(rise for rise in rises if rise <= step)
        if (step >= due or step == 60) and best not in expected.values():
            expected[step], due = best, 2 * step
    pictures = {event.step: event.encoded_image_string for event in read(searched).Images("incumbent/architecture")}
    assert list(pictures) == list(expected)
    assert 3 <= len(pictures) <= 8
    for step, best in expected.items():
        title = f"validation accuracy {100 * rewards[best - 1]:.2f} %"
        assert pictures[step] == to_png(draw_diagram(space.diagram(entries[best - 1]["architecture"]), title))


def test_custom_scalars_tell_of_search_cost_and_policy(searched):
    page = read(searched)
    tag = custom_scalars.CONFIG_SUMMARY_TAG
    assert page.SummaryMetadata(tag).plugin_data.plugin_name == custom_scalars.PLUGIN_NAME
    (event,) = page.Tensors(tag)
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == ["search", "cost", "policy"]
    for category in layout.category:
        for wanted in (tag for chart in category.chart for tag in chart.multiline.tag):
            assert any(re.match(wanted, tag) for tag in page.Tags()["scalars"]), wanted


def test_histograms_hold_every_score_once(tmp_path):
    scores = [None if k % 7 == 0 else k / 1000 for k in range(1000)]
    record_search(tmp_path, scores)
    histograms = read(tmp_path).Tensors("evaluation/val_accuracy_histogram")
    assert 10 <= len(histograms) <= 40
    begin = 0
    for event in histograms:
        buckets = make_ndarray(event.tensor_proto)  # (k, 3): from, to, how many
        window = [score for score in scores[begin : event.step] if score is not None]
        assert (buckets[0, 0], buckets[-1, 1], buckets[:, 2].sum()) == (min(window), max(window), len(window))
        begin = event.step
    assert begin > 850


def test_text_pictures_curves_and_an_agents_scalars_are_on_the_page(tmp_path):
    record, history = record_search(tmp_path, [0.5, 0.75])
    space = Stack()
    record.text("config", "**bold** é")
    record.figure("architecture", draw_diagram(space.diagram((0, 1))))
    record.choice_shares(space, history.architectures)
    record.curve("winner/train_loss", [3.0, 2.0])
    record.scalars({"train/loss": np.float32(0.5), "rollout/ep_rew_mean": 1}, 2)
    page = read(tmp_path)
    assert page.Tensors("config")[0].tensor_proto.string_val == ["**bold** é".encode()]
    assert [image.step for image in page.Images("search/choice_shares")] == [2]
    (picture,) = page.Images("architecture")
    assert picture.encoded_image_string.startswith(b"\x89PNG")
    assert picture.height > picture.width > 50
    assert series(page, "winner/train_loss") == {1: 3.0, 2: 2.0}
    assert series(page, "train/loss") == {2: 0.5}


def test_no_picture_of_choice_shares_before_the_first_evaluation(tmp_path):
    TensorBoardWriter(tmp_path).choice_shares(Stack(), [])
    assert read(tmp_path).Tags()["images"] == []


def test_graph_shows_modules_and_their_order(tmp_path):
    model = Stack().build((0, 0))
    model(torch.zeros(2, 1, 8, 8))
    TensorBoardWriter(tmp_path).graph(model, (1, 8, 8))
    graph = GraphDef.FromString(read(tmp_path).Graph().SerializeToString())
    nodes = {node.name: node for node in graph.node}
    assert all(source in nodes for node in graph.node for source in node.input)
    assert list(nodes["ReLU[2]/relu"].input) == ["BatchNorm2d[1]/batch_norm"]
    assert [d.size for d in nodes["Linear[4]/linear"].attr["_output_shapes"].list.shape[0].dim] == [1, 10]
    assert model.training


class Untraceable(nn.Module):
    def forward(self, images):
        return images if images.sum().item() > 0 else -images


def test_network_that_cannot_be_traced_says_so_on_the_page(tmp_path):
    TensorBoardWriter(tmp_path).graph(Untraceable(), (1, 8, 8))
    assert b"cannot be traced" in read(tmp_path).Tensors("graph")[0].tensor_proto.string_val[0]


def test_hparams_hold_configuration_and_end_of_the_run(tmp_path):
    record = TensorBoardWriter(tmp_path)
    record.start_hparams({"agent": {"class_path": "a.b.PPO", "init_args": {"lr": 0.1, "net": [8]}}, "seed": 3})
    record.finish_hparams({"winner/test_accuracy": 0.5})
    page = read(tmp_path)
    content = page.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    values = metadata.parse_session_start_info_plugin_data(content).hparams
    assert (values["agent"].string_value, values["agent.lr"].number_value, values["seed"].number_value) == (
        "PPO",
        0.1,
        3,
    )
    content = page.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    assert metadata.parse_session_end_info_plugin_data(content).status == api_pb2.STATUS_SUCCESS
    assert series(page, "winner/test_accuracy") == {0: 0.5}


def test_flat_config_takes_what_a_search_writes():
    config = {
        "agent": None,
        "cache": True,
        "objective": {"class_path": "x.Y"},
        "budget": {"evaluations": 5},
        "none": {},
    }
    assert flat_config(config) == {"agent": "None", "cache": True, "objective": "Y", "budget.evaluations": 5}


@pytest.mark.parametrize("place", ["a file", "a folder that holds one of its names"])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path, place):
    directory = tmp_path / "run"
    if place == "a file":
        directory.write_text("")
    else:
        (directory / "events.out.tfevents.1").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot be written.*give another one") as caught:
        TensorBoardWriter(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_is_one_line(tmp_path):
    record = TensorBoardWriter(tmp_path)
    with open("/dev/full", "wb", buffering=0) as full:
        os.dup2(full.fileno(), record._file.fileno())
    with pytest.raises(InputError, match="No space left"):
        record.scalars({"a": 1.0}, 1)


def test_costs_of_an_evaluation_do_not_grow(tmp_path):
    record, history = record_search(Path(tmp_path), [0.5])
    seconds = []
    for k in range(2, 1002):
        outcome = outcome_of(k, 0.5, history)
        start = time.perf_counter()
        record.evaluation(outcome, history.scalars())
        seconds.append(time.perf_counter() - start)
    early, late = np.median(seconds[:200]), np.median(seconds[-200:])
    assert late < 2 * early  # medians: other processes disturb single calls
    assert late < 1e-3
