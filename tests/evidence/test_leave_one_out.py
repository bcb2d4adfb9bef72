"""Leave-one-out in closed form against fitting N times."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from petl.evidence.leave_one_out import nearest_neighbours, prototypes, ridge


def blobs(count: int, size: int, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % classes
    centres = torch.randn(classes, size, generator=generator, dtype=torch.float64)
    return centres[y] + torch.randn(count, size, generator=generator, dtype=torch.float64), y


def solved(x: Tensor, targets: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Ridge with an unpenalised intercept, by the normal equations."""
    centre, base = x.mean(0), targets.mean(0)
    inner = (x - centre).T @ (x - centre) + penalty * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(inner, (x - centre).T @ (targets - base))
    return weight, base - centre @ weight


@pytest.mark.parametrize("shape", [(40, 5), (12, 30)], ids=["more images", "more features"])
@pytest.mark.parametrize("penalty", [0.1, 10.0])
def test_ridge_equals_fitting_it_once_without_each_image(shape: tuple[int, int], penalty: float) -> None:
    x, y = blobs(*shape)
    x = (x - x.mean(0)) / (x - x.mean(0)).square().mean().sqrt()  # then scaling inside changes nothing
    targets = torch.nn.functional.one_hot(y, 3).double()
    fitted = ridge(x, y, 3, [penalty])
    for image in range(len(x)):
        others = torch.arange(len(x)) != image
        weight, bias = solved(x[others], targets[others], penalty)
        expected = x[image] @ weight + bias - targets[others].mean(0) + targets.mean(0)
        torch.testing.assert_close(fitted.left_out[image], expected, rtol=1e-9, atol=1e-10)
    weight, bias = solved(x, targets, penalty)
    torch.testing.assert_close(fitted.weight, weight.T, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(fitted.bias, bias, rtol=1e-9, atol=1e-10)


def test_ridge_scores_raw_features_and_chooses_the_penalty_with_the_least_error() -> None:
    x, y = blobs(60, 200)
    x = x * 1e3 + 5
    fitted = ridge(x, y, 3)
    targets = torch.nn.functional.one_hot(y, 3)
    errors = [float((ridge(x, y, 3, [p]).left_out - targets).square().sum()) for p in (1e-3, 10.0, 1e6)]
    chosen = float((fitted.left_out - targets).square().sum())
    assert chosen <= min(errors) and (fitted.left_out.argmax(1) == y).double().mean() > 0.9
    assert ((x @ fitted.weight.T + fitted.bias).argmax(1) == y).all()


def test_ridge_on_noise_is_at_chance_and_columns_that_do_not_vary_change_nothing() -> None:
    x = torch.randn(300, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(300) % 3
    assert abs(float((ridge(x, y, 3).left_out.argmax(1) == y).double().mean()) - 1 / 3) < 4 * (2 / 9 / 300) ** 0.5
    wider = torch.cat([x, torch.full((300, 1), 7.3, dtype=torch.float64)], 1)
    scale = 401 / 400  # of the mean variance; the penalties follow it
    torch.testing.assert_close(
        ridge(wider, y, 3, [7.0 * scale]).left_out, ridge(x, y, 3, [7.0]).left_out, rtol=1e-9, atol=1e-10
    )


def test_neighbours_are_the_other_images() -> None:
    x, y = blobs(50, 8)
    scores = nearest_neighbours(x, y, 3, k=5)
    unit = torch.nn.functional.normalize(x, dim=1)
    for image in range(50):
        others = torch.tensor([i for i in range(50) if i != image])
        near, places = (unit[others] @ unit[image]).topk(5)
        expected = torch.zeros(3, dtype=torch.float64).index_add_(0, y[others][places], torch.softmax(near / 0.07, 0))
        torch.testing.assert_close(scores[image], expected)
    torch.testing.assert_close(scores.sum(1), torch.ones(50, dtype=torch.float64))


def test_prototypes_are_computed_without_the_image() -> None:
    x, y = blobs(30, 6)
    scores, unit = prototypes(x, y, 3), torch.nn.functional.normalize(x - x.mean(0), dim=1)
    for image in range(30):
        others = torch.arange(30) != image
        for number in range(3):
            mean = unit[others & (y == number)].mean(0)
            torch.testing.assert_close(scores[image, number], torch.cosine_similarity(unit[image], mean, dim=0))


def test_a_class_of_one_image_can_not_be_found_without_it() -> None:
    x, y = blobs(30, 6)
    y[0] = 3
    assert prototypes(x, y, 4)[0, 3] == -1 and nearest_neighbours(x, y, 4)[0, 3] == 0


HEADS = {"ridge": ridge, "prototypes": prototypes, "neighbours": nearest_neighbours}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("words", ["expected \\[N, D\\]", "not finite", "from 0 to 2"])
def test_what_is_no_set_of_features_is_refused(head: str, words: str) -> None:
    x, y = blobs(9, 4)
    bad = {"not finite": (x / 0, y), "from 0 to 2": (x, y + 1)}.get(words, (x, y[:5]))
    with pytest.raises(ValueError, match=words):
        HEADS[head](*bad, 3)
