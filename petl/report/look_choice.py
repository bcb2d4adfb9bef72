"""Which images show where a model looks, and whose score is followed back to places."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from petl.evidence.leave_one_out import ridge
from petl.report.answers import Answers, most_wrong
from petl.report.before import Before
from petl.report.depth_facts import can_read
from petl.report.images import ReportImages
from petl.report.look_facts import NoMap, PixelScore, looks
from petl.report.model_passes import ModelPass, ReportModel
from petl.report.thumbnails import LOOK_SIDE, thumbnails

LOOKS_SHOWN = 8  # images


def look_facts(
    model: ReportModel, images: ReportImages, before: Before | None, after: ModelPass, answers: Answers | None
) -> dict[str, Any]:
    """Returns a few images with the places that raise the answer of the model, and of a reading of the model before."""
    if not images.pictures.is_floating_point():
        return {"why_not": "the model takes whole numbers, through which no gradient goes"}
    rows = chosen_images(images, answers)
    pictures = images.pictures[rows]
    try:
        block, grids = looks(model, pictures, _own_score(answers, rows, after.x))
    except (NoMap, RuntimeError) as error:  # torch raises RuntimeErrors where a model's code keeps no gradient
        return {"why_not": str(error).splitlines()[0]}
    facts: dict[str, Any] = {"block": block, "images": rows, "after": grids}
    facts["pictures"] = thumbnails(pictures, images.colours, LOOK_SIDE)
    if before is not None:
        try:
            score = _read_score(before.run.x, images, rows, answers)
            facts["block_before"], facts["before"] = looks(before.asked, before.pictures[rows], score)
        except (NoMap, RuntimeError) as error:
            facts["why_no_before"] = str(error).splitlines()[0]
    return facts


def chosen_images(images: ReportImages, answers: Answers | None) -> list[int]:
    """Returns the numbers of a few images: the most confidently wrong, at most half, and right ones of many classes."""
    count = len(images.pictures)
    if answers is None or answers.predicted is None or images.kind != "classes" or images.y is None:
        return _spread(list(range(count)), LOOKS_SHOWN)
    wrong = most_wrong(answers, images)[: LOOKS_SHOWN // 2]
    right = (answers.predicted == images.y).nonzero()[:, 0].tolist()
    of_class: dict[int, int] = {}
    for row in right:
        of_class.setdefault(int(images.y[row]), row)
    firsts = [of_class[k] for k in sorted(of_class)]
    rest = [row for row in right if row not in {*firsts}]
    room = LOOKS_SHOWN - len(wrong)
    return [*wrong, *(_spread(firsts, room) if len(firsts) >= room else [*firsts, *_spread(rest, room - len(firsts))])]


def _spread(rows: list[int], most: int) -> list[int]:
    """Returns at most so many of the rows, evenly spread."""
    count = min(most, len(rows))
    return [rows[(k * len(rows)) // count] for k in range(count)]


def _own_score(answers: Answers | None, rows: list[int], x: Tensor) -> PixelScore:
    """Returns the output that is the model's answer; without one for these targets, the features' distance from their mean."""
    own = answers is not None and not answers.is_reading

    def score(vector: Tensor | None, output: Tensor | None) -> Tensor:
        if own and output is not None:
            said = answers.predicted[rows] if answers.predicted is not None else output.argmax(1).cpu()  # type: ignore[union-attr]  # own
            return output.gather(1, said.to(output.device)[:, None])[:, 0]
        found = vector if vector is not None else output
        if found is None:
            raise NoMap("the model gives no vector of an image")
        return (found - (x.mean(0).to(found.device) if found.shape[1] == x.shape[1] else 0)).square().sum(1)

    return score


def _read_score(x: Tensor, images: ReportImages, rows: list[int], answers: Answers | None) -> PixelScore:
    """Returns the score of the same answers by ridge regression on features of the model before.

    Raises:
        NoMap: there are no classes that could be read from features.
    """
    why = can_read(images)
    if why or images.y is None or answers is None or answers.predicted is None:
        raise NoMap(f"the answer of the model before is a reading of classes: {why or 'there are no answers'}")
    classes = max(len(images.classes), int(images.y.max()) + 1, int(answers.predicted.max()) + 1)
    weight = ridge(x, images.y, classes).weight[answers.predicted[rows]].float()

    def score(vector: Tensor | None, output: Tensor | None) -> Tensor:
        found = vector if vector is not None else output
        if found is None or found.shape[1] != weight.shape[1]:
            raise NoMap("the classifier of the model before takes no vector of an image that could be read")
        return (found * weight.to(found.device)).sum(1)

    return score
