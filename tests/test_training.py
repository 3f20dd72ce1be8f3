import os
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nasenv.datasets import load_dataset
from nasenv.errors import InputError
from nasenv.evaluators.training import TrainingEvaluator
from nasenv.fitting import Diverged, Recipe, accuracy, fit, one_cycle
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.choice_space import ChoiceSpace

DIGITS = load_dataset("digits")


def build(input_shape, num_classes, what):
    if what == "raises":
        raise RuntimeError("two\nlines")
    if what == "dies":
        os._exit(3)
    if what == "sleeps":
        time.sleep(1.5)
    linear = nn.Linear(int(np.prod(input_shape)), num_classes)
    if what == "nan":
        nn.init.constant_(linear.weight, float("nan"))
    return nn.Sequential(nn.Flatten(), linear)


def faulty():
    return ChoiceSpace({"what": ("works", "raises", "nan", "dies", "sleeps")}, build=build)


def test_a_network_that_fails_costs_its_own_evaluation_only():
    with TrainingEvaluator(faulty(), DIGITS, epochs=1, workers=2) as evaluator:
        works, raises, nan, dies, again = evaluator.evaluate([(0,), (1,), (2,), (3,), (0,)])
        after = evaluator.evaluate([(0,)])
    assert raises.error == "RuntimeError: two lines"
    assert nan.error.startswith("diverged")
    assert "exit code" in dies.error
    assert works.val_accuracy == again.val_accuracy == after[0].val_accuracy > 0.5


def test_a_training_that_takes_too_long_is_a_failed_measurement():
    evaluator = TrainingEvaluator(faulty(), DIGITS, epochs=50, workers=0, timeout_seconds=1e-4)
    (measurement,) = evaluator.evaluate([(0,)])
    assert measurement.error.startswith("timeout")
    assert not measurement.repeatable


def test_measurements_depend_on_neither_processes_nor_order_nor_the_global_state():
    space = ChainCNN()
    designs = space.sample(4, np.random.default_rng(5))
    state = torch.random.get_rng_state()
    alone = TrainingEvaluator(space, DIGITS, epochs=1, workers=0)
    here = alone.evaluate(designs)
    assert torch.equal(state, torch.random.get_rng_state())
    with TrainingEvaluator(space, DIGITS, epochs=1, workers=2) as evaluator:
        there = evaluator.evaluate(designs[::-1])[::-1]
    assert [replace(m, train_seconds=0.0) for m in here] == [replace(m, train_seconds=0.0) for m in there]
    other = TrainingEvaluator(space, DIGITS, epochs=1, workers=0, seed=1).evaluate(designs)
    assert [m.curve for m in other] != [m.curve for m in here]


def test_params_and_flops_are_counted():
    space = ChainCNN()
    (measurement,) = TrainingEvaluator(space, DIGITS, epochs=1).evaluate([space.from_text("conv3x8")])
    assert measurement.metrics["params"] == 9 * 8 + 2 * 8 + 8 * 10 + 10
    assert measurement.metrics["flops"] == 2 * (64 * 9 * 8 + 8 * 10)


def test_the_final_test_trains_on_training_and_validation_data_and_is_scored_on_test():
    space = ChainCNN()
    design = space.reference()
    swapped = replace(DIGITS, test=replace(DIGITS.test, labels=(DIGITS.test.labels + 1) % 10))
    evaluator = TrainingEvaluator(space, swapped, epochs=1, final_epochs=4, workers=0)
    ((first, second),) = evaluator.test([design], [0, 1])
    ((confirmed,),) = evaluator.confirm([design], [0])
    assert first.test_accuracy < 0.3 < confirmed.val_accuracy  # the labels of test are wrong, the others right
    assert len(first.curve) == 4
    assert first.curve != second.curve
    assert accuracy(first.model, swapped.test) == first.test_accuracy


@pytest.mark.parametrize(
    "changed",
    [{"epochs": 2}, {"batch_size": 32}, {"optimizer": "sgd"}, {"learning_rate": 0.1}, {"weight_decay": 0.1},
     {"label_smoothing": 0.1}, {"augment": "crop"}, {"seed": 1}, {"split_seed": 1}],
)  # fmt: skip
def test_the_fingerprint_tells_what_changes_a_measurement(changed):
    space = ChainCNN()
    plain = TrainingEvaluator(space).fingerprint()
    assert TrainingEvaluator(space, workers=0, timeout_seconds=9.0, final_epochs=3).fingerprint() == plain
    assert TrainingEvaluator(space, **changed).fingerprint() != plain


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"device": "gpu"}, "device must be"), ({"device": "cuda:77"}, "CUDA devices here"), ({"workers": -1}, "workers"),
     ({"epochs": 0}, "epochs"), ({"learning_rate": 0.0}, "learning_rate"), ({"timeout_seconds": 0}, "timeout_seconds"),
     ({"dataset": "mnist"}, "mnist5k")],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        TrainingEvaluator(ChainCNN(), **wrong)


def test_a_space_made_for_other_data_is_refused():
    with pytest.raises(InputError, match=r"make the space with input_shape=\(1, 8, 8\)"):
        TrainingEvaluator(ChainCNN(input_shape=(3, 32, 32)), DIGITS)


def test_one_cycle_rises_in_a_line_and_falls_in_a_cosine():
    rates = list(one_cycle(100, 2.0))
    assert len(rates) == 100
    assert rates[24] == max(rates) == 2.0
    np.testing.assert_allclose(rates[:25], 2.0 * np.arange(1, 26) / 25)
    np.testing.assert_allclose(rates[25:], 1 + np.cos(np.pi * np.arange(1, 76) / 75), atol=1e-12)


def test_batch_statistics_are_those_of_the_final_weights():
    torch.random.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(10))
    model(DIGITS.train.images[:2])
    recipe = Recipe(epochs=1, batch_size=len(DIGITS.train))  # one batch is all of the data
    fit(model, DIGITS.train, recipe, torch.Generator().manual_seed(0))
    with torch.no_grad():
        activations = model[0](DIGITS.train.images)
    torch.testing.assert_close(model[1].running_mean, activations.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert model[1].momentum == 0.1


def test_a_loss_that_is_not_finite_is_said():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(Diverged, match="epoch 1 of 2"), torch.no_grad():
        model[1].weight.fill_(float("inf"))
        with torch.enable_grad():
            fit(model, DIGITS.train, Recipe(epochs=2), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("augment", ["crop", "crop_flip"])
def test_augmented_images_are_shifts_and_mirrors(augment):
    from nasenv.fitting import _Batches

    images, labels = next(iter(_Batches(DIGITS.train, Recipe(1, 64, augment=augment), torch.Generator())))
    originals = nn.functional.pad(DIGITS.train.images, (1, 1, 1, 1))
    order = torch.randperm(len(DIGITS.train), generator=torch.Generator())[:64]
    assert torch.equal(labels, DIGITS.train.labels[order])
    mirrored = 0
    for image, row in zip(images, order, strict=True):
        shifts = [originals[row, :, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
        plain = any(torch.equal(image, s) for s in shifts)
        mirror = any(torch.equal(image, s.flip(2)) for s in shifts)
        assert plain or (mirror and augment == "crop_flip")
        mirrored += mirror and not plain
    assert mirrored > 0 if augment == "crop_flip" else mirrored == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_a_gpu_is_as_accurate_as_on_the_cpu():
    space = ChainCNN()
    designs = [space.reference()]
    seeds = range(4)
    means = [
        np.mean([TrainingEvaluator(space, DIGITS, device=d, workers=0, seed=s).evaluate(designs)[0].val_accuracy
                 for s in seeds])
        for d in ("cpu", "cuda")
    ]  # fmt: skip
    assert abs(means[0] - means[1]) < 0.02
