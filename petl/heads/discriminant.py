"""Linear discriminant analysis in closed form, and the scores of each image when it is left out, for all images at once."""

from __future__ import annotations

import torch
from torch import Tensor

from petl.evidence.leave_one_out import valid
from petl.evidence.principal_axes import parts, principal_axes, weighted_mean
from petl.heads.linear_head import LinearHead, settled


def lda_head(x: Tensor, y: Tensor, classes: int) -> LinearHead:
    """Returns linear discriminant analysis with one shrunk covariance for all classes (arXiv:2402.04087).

    The inverse covariance is ``D [S + t I]^-1`` with S the scatter within classes and t its trace over N - 1. Classes count as
    equally frequent. The mean of few images is longer than the class's own by noise; its expected share is taken out of the
    bias, or classes with fewer images would lose (without that, leave-one-out says .43 where a test says .55: Lite0, five images
    a class). Images are left out exactly, by a rank-one change of S and a class mean, but for t and that noise, which stay those
    of all images. A class without images is never predicted.
    """
    x, y = valid(x, y, classes)
    fitted = _Discriminant(x, y, classes)
    size = x.shape[1]
    weight = size * fitted.solved_means
    bias = size * fitted.offsets() - weight @ fitted.centre
    left_out = size * torch.cat([fitted.left_out(part) for part in parts(len(x))])
    return settled("lda", (weight, bias, left_out), y)


class _Discriminant:
    """The parts of linear discriminant analysis of centred features that scores and left-out scores are made of."""

    def __init__(self, x: Tensor, y: Tensor, classes: int) -> None:
        self.x, self.y, (count, size) = x, y, x.shape
        self.counts = torch.bincount(y, minlength=classes).double()
        self.centre = weighted_mean(x, torch.ones(count, dtype=torch.float64))
        sums = torch.zeros(classes, size, dtype=torch.float64)
        for part in parts(count):
            sums.index_add_(0, y[part], self.rows(part))
        self.means = sums / self.counts.clamp_min(1)[:, None]
        squares, self.axes = principal_axes(self.inner, count, size)
        self.shrink = float(squares.sum()) / (count - 1) or 1.0
        self.inside = 1 / (squares + self.shrink) - 1 / self.shrink
        self.solved_means = self.solve(self.means)
        self.share = self.counts / (self.counts - 1).clamp_min(1)
        self.noise = self._noise()

    def rows(self, part: slice) -> Tensor:
        return self.x[part].double() - self.centre

    def inner(self, part: slice) -> Tensor:
        """What varies within classes."""
        return self.rows(part) - self.means[self.y[part]]

    def solve(self, rows: Tensor) -> Tensor:
        """Rows times ``(S + shrink I)^-1``."""
        return rows / self.shrink + ((rows @ self.axes.T) * self.inside) @ self.axes

    def _noise(self) -> float:
        """Returns the mean squared length of an image around its class, in the metric of the others; 0 where all are alone."""
        total, images = 0.0, 0
        for part in parts(len(self.x)):
            along, gain = self._gains(part, self.solve(self.inner(part)))
            several = self.counts[self.y[part]] > 1
            noise = self.share[self.y[part]] * along * (1 + gain * along)
            total, images = total + float(noise[several].sum()), images + int(several.sum())
        return total / max(images, 1)

    def _gains(self, part: slice, solved: Tensor) -> tuple[Tensor, Tensor]:
        """Returns how long each image is within its class, and how much the inverse grows along it when it is left out."""
        along, share = (self.inner(part) * solved).sum(1), self.share[self.y[part]]
        return along, share / (1 - share * along).clamp_min(1e-12)

    def offsets(self) -> Tensor:
        """Minus half of the squared length of each class mean, without what noise adds to it."""
        return (self.noise / self.counts.clamp_min(1) - (self.solved_means * self.means).sum(1)) / 2

    def left_out(self, part: slice) -> Tensor:
        """Returns the scores of the images of a part, each by the classifier that has not seen it.

        With a the solved image (within its class), g its gain and m a class mean: the inverse without the image is the old one
        plus ``g a a'``, and the mean of its own class moves by ``-inner / (n - 1)``. Everything else is products with a.
        """
        rows, y = self.rows(part), self.y[part, None]
        solved = self.solve(self.inner(part))
        along, gain = (column[:, None] for column in self._gains(part, solved))
        plain, across, beside = rows @ self.solved_means.T, solved @ self.means.T, (solved * rows).sum(1, keepdim=True)
        rest = (self.counts[y] - 1).clamp_min(1)
        own_across, own_plain = across.gather(1, y), plain.gather(1, y) - beside / rest
        lengths = (self.solved_means * self.means).sum(1).expand_as(plain)
        own_length = lengths.gather(1, y) - 2 * own_across / rest + along / rest.square()
        across = across.scatter(1, y, own_across - along / rest)
        plain, lengths = plain.scatter(1, y, own_plain), lengths.scatter(1, y, own_length)
        noise = (self.noise / self.counts.clamp_min(1)).expand_as(plain).scatter(1, y, self.noise / rest)
        return plain + gain * across * beside + (noise - lengths - gain * across.square()) / 2
