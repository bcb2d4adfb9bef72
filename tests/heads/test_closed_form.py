"""Classifiers in closed form against scikit-learn, against leaving images out one by one, and on what is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from petl.evidence import principal_axes
from petl.evidence.leave_one_out import ridge
from petl.heads.closed_form import HEADS, best_head, fitted_head, lda_head, prototype_head, ridge_head
from petl.heads.linear_head import LinearHead, calibrated, mixed


def blobs(count: int, size: int, classes: int = 3, spread: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % classes
    centres = torch.randn(classes, size, generator=generator, dtype=torch.float64)
    return centres[y] + spread * torch.randn(count, size, generator=generator, dtype=torch.float64) + 2, y


@pytest.mark.parametrize("kind", HEADS)
def test_each_head_is_linear_and_right_where_classes_are_apart(kind: str) -> None:
    x, y = blobs(60, 20, spread=0.3)
    head = HEADS[kind](x, y, 3)
    assert head.weight.shape == (3, 20) and head.bias.shape == (3,) and head.left_out.shape == (60, 3)
    assert ((x @ head.weight.T + head.bias).argmax(1) == y).all() and head.accuracy(y) == 1


@pytest.mark.parametrize("shape", [(60, 12), (24, 50)], ids=["more images", "more features"])
def test_lda_is_the_one_with_the_shrunk_covariance(shape: tuple[int, int]) -> None:
    x, y = blobs(*shape)
    head = lda_head(x, y, 3)
    means = torch.stack([x[y == c].mean(0) for c in range(3)])
    inner = x - means[y]  # equally many images a class: what noise adds to a mean is a constant
    scatter = inner.T @ inner
    inverse = shape[1] * torch.linalg.inv(
        scatter + scatter.trace() / (shape[0] - 1) * torch.eye(shape[1], dtype=x.dtype)
    )
    scores = x @ inverse @ means.T - ((means @ inverse) * means).sum(1) / 2
    gaps = (x @ head.weight.T + head.bias) - scores
    torch.testing.assert_close(
        gaps - gaps[:, :1], torch.zeros_like(gaps), rtol=0, atol=1e-8
    )  # equal but for a constant


@pytest.mark.parametrize("shape", [(30, 6), (15, 40)], ids=["more images", "more features"])
def test_lda_leaves_each_image_out(shape: tuple[int, int]) -> None:
    x, y = blobs(*shape)
    head, (count, size) = lda_head(x, y, 3), shape
    inner = x - torch.stack([x[y == c].mean(0) for c in range(3)])[y]
    shrink = (inner.T @ inner).trace() / (count - 1)
    for image in range(count):
        others = torch.arange(count) != image
        centre = x.mean(0)
        means = torch.stack([x[others & (y == c)].mean(0) for c in range(3)]) - centre
        rest = x[others] - centre - means[y[others]]
        inverse = size * torch.linalg.inv(rest.T @ rest + shrink * torch.eye(size, dtype=x.dtype))
        expected = (x[image] - centre) @ inverse @ means.T - ((means @ inverse) * means).sum(1) / 2
        gap = head.left_out[image] - expected  # noise over the number of images of each class
        others_have, own_has = count // 3, count // 3 - 1
        own, other = gap[y[image]], gap[(y[image] + 1) % 3]
        torch.testing.assert_close(gap[(y[image] + 2) % 3], other, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(own * own_has, other * others_have, rtol=1e-7, atol=1e-9)


def test_a_class_with_fewer_images_does_not_lose_by_the_noise_of_its_mean() -> None:
    """Of two equal classes in 200 dimensions, one with 4 images and one with 40, new images are told apart alike."""
    x, y = blobs(800, 200, classes=2, spread=3.0)
    few = torch.cat([torch.where(y == 0)[0][:4], torch.where(y == 1)[0][:40]])
    head = lda_head(x[few], y[few], 2)
    rest = torch.ones(800, dtype=torch.bool).index_fill(0, few, False)
    predicted = (x[rest] @ head.weight.T + head.bias).argmax(1)
    recall = [float((predicted[y[rest] == c] == c).double().mean()) for c in range(2)]
    assert abs(recall[0] - recall[1]) < 0.25 and abs(sum(recall) / 2 - head.accuracy(y[few])) < 0.25, recall


def test_lda_agrees_with_scikit_learn_on_many_images() -> None:
    discriminant = pytest.importorskip("sklearn.discriminant_analysis")
    x, y = blobs(600, 10)
    theirs = discriminant.LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x.numpy(), y.numpy())
    ours = lda_head(x, y, 3)
    same = torch.from_numpy(theirs.predict(x.numpy())) == (x @ ours.weight.T + ours.bias).argmax(1)
    assert same.double().mean() > 0.98  # another shrinkage: images on the border may differ


def test_prototypes_are_exact_on_a_simplex() -> None:
    corners = torch.eye(4, dtype=torch.float64)
    head = prototype_head(corners.repeat(3, 1), torch.arange(12) % 4, 4)
    centred = F.normalize(corners - 0.25, dim=1)
    torch.testing.assert_close(head.weight, centred)
    torch.testing.assert_close(head.left_out[:4], centred @ centred.T * 0.75**0.5)  # the length of a centred corner


@pytest.mark.parametrize("kind", HEADS)
def test_noise_is_at_chance(kind: str) -> None:
    y = torch.arange(400) % 4
    x = torch.randn(400, 100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert abs(HEADS[kind](x, y, 4).accuracy(y) - 0.25) < 4 * (0.25 * 0.75 / 400) ** 0.5


@pytest.mark.parametrize("kind", HEADS)
def test_classes_of_one_image_and_of_none_are_no_accident(kind: str) -> None:
    x, y = blobs(31, 8, spread=0.2)
    y = y.clone()
    y[30] = 4  # class 3 has no image, class 4 one
    head = HEADS[kind](x, y, 5)
    predicted = (x @ head.weight.T + head.bias).argmax(1)
    assert torch.isfinite(head.weight).all() and torch.isfinite(head.bias).all() and (predicted != 3).all()
    assert head.left_out[30].argmax() != 4 and not torch.isnan(head.left_out).any()


def test_the_best_head_is_a_mean_unless_one_is_clearly_better() -> None:
    x, y = blobs(40, 300, spread=2.0)
    best = best_head(x, y, 3)
    singles = [fitted_head(x, y, 3, kind) for kind in HEADS]
    assert best.kind in {"prototypes + lda + ridge", "lda + ridge"}
    means = {" + ".join(h.kind for h in part): mixed(part, y) for part in (singles, singles[1:])}
    assert best.loss(y) == min(mean.loss(y) for mean in means.values())
    torch.testing.assert_close(best.weight, means[best.kind].weight, rtol=0, atol=0)
    # classes that only the covariance tells apart: class means alone are lost
    wide = torch.randn(200, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 30
    sides = (torch.arange(200) % 2).double()[:, None] + 0.1 * blobs(200, 1)[0]
    found = best_head(torch.cat([wide + sides, wide], 1), torch.arange(200) % 2, 2)
    assert found.accuracy(torch.arange(200) % 2) > 0.95 and "lda" in found.kind + "lda" * (found.kind == "ridge")


def test_few_images_that_are_all_right_are_no_reason_to_be_certain() -> None:
    x, y = blobs(30, 10, spread=0.01)
    sure = torch.softmax(fitted_head(x, y, 3, "auto").left_out, 1).amax(1)
    assert float(sure.min()) > 0.8 and float(sure.mean()) < 1 - 1 / 100


def test_with_one_image_a_class_it_is_the_class_means() -> None:
    x, _ = blobs(6, 20, classes=6)
    head = best_head(x, torch.arange(6), 8)
    assert head.kind == "prototypes" and torch.isfinite(head.weight).all()
    assert ((x @ head.weight.T + head.bias).argmax(1) == torch.arange(6)).all()


@pytest.mark.parametrize("kind", [*HEADS, "auto"])
@pytest.mark.parametrize("case", ["fewer images than classes", "features that don't vary", "one class", "float32"])
def test_odd_sets_have_finite_heads(kind: str, case: str) -> None:
    x, y = blobs(5, 30)
    x, y, classes = {
        "fewer images than classes": (x, torch.tensor([0, 3, 3, 7, 9]), 12),
        "features that don't vary": (torch.full((12, 4), 3.0, dtype=torch.float64), torch.arange(12) % 3, 3),
        "one class": (x, torch.zeros(5, dtype=torch.long), 3),
        "float32": (x.float(), y, 3),
    }[case]
    head = fitted_head(x, y, classes, kind)
    assert torch.isfinite(head.weight).all() and torch.isfinite(head.bias).all() and not head.left_out.isnan().any()
    empty = [c for c in range(classes) if c not in y]
    assert not torch.isin((x.double() @ head.weight.T + head.bias).argmax(1), torch.tensor(empty)).any()
    again = fitted_head(x.clone(), y.clone(), classes, kind)
    assert torch.equal(again.weight, head.weight) and torch.equal(again.left_out, head.left_out)


@pytest.mark.parametrize("kind", HEADS)
def test_many_images_have_the_same_head_by_products_of_features(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs(90, 40, spread=2.0)
    whole = HEADS[kind](x, y, 4)
    monkeypatch.setattr(principal_axes, "MANY_ROWS", 10)
    monkeypatch.setattr(principal_axes, "PART", 32)
    split = HEADS[kind](x.float().double(), y, 4)
    for name in ("weight", "bias", "left_out"):
        torch.testing.assert_close(getattr(split, name), getattr(whole, name), rtol=1e-5, atol=1e-5)


def test_weights_of_ridge_count_images() -> None:
    x, y = blobs(30, 5, spread=2.0)
    twice = torch.cat([x, x[:10]]), torch.cat([y, y[:10]])
    weights = torch.ones(30, dtype=torch.float64).index_fill(0, torch.arange(10), 2.0)
    one, other = (
        ridge(x, y, 3, [3.0 / 40 * 30], weights=weights),
        ridge(*twice, 3, [3.0]),
    )  # the penalty is against the number of images
    torch.testing.assert_close(one.weight, other.weight, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one.bias, other.bias, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [*HEADS, "auto"])
def test_new_images_get_calibrated_probabilities(kind: str) -> None:
    x, y = blobs(560, 40, classes=4, spread=4.0)
    head = fitted_head(x[:60] * 7 + 20, y[:60], 4, kind)
    scores = (x[60:] * 7 + 20) @ head.weight.T + head.bias
    losses = [float(F.cross_entropy(scores * factor, y[60:])) for factor in (1.0, 0.25, 0.5, 2.0, 4.0)]
    assert losses[0] < min(losses) + 0.05, losses


def test_accuracy_counts_each_class_alike() -> None:
    scores = torch.tensor([[1.0, 0.0]] * 9 + [[1.0, 0.0]])
    head = LinearHead("ridge", torch.zeros(2, 1), torch.zeros(2), scores)
    assert head.accuracy(torch.tensor([0] * 9 + [1])) == 0.5


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_calibration_keeps_the_order_and_does_not_depend_on_the_scale(scale: float) -> None:
    x, y = blobs(120, 10, spread=1.5)
    plain = ridge_head(x, y, 3)
    scaled = LinearHead("ridge", plain.weight * scale, plain.bias * scale, plain.left_out * scale)
    head = calibrated(scaled, y)
    assert (head.left_out.argmax(1) == plain.left_out.argmax(1)).all()
    torch.testing.assert_close(head.weight, calibrated(plain, y).weight, rtol=1e-5, atol=1e-9)
    losses = [F.cross_entropy(head.left_out * k, y, label_smoothing=1 / 122) for k in (1.0, 0.5, 0.9, 1.1, 2.0)]
    assert losses[0] == min(losses)
    confidence = torch.softmax(head.left_out, 1).amax(1).mean()
    assert abs(float(confidence) - head.accuracy(y)) < 0.08  # of 120 images, one standard error is 0.04
