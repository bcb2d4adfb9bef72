"""The reasons why ``petl.fit`` ran the whole model in every step instead of training on cached features.

Each class below is a row of a table: its docstring says when the reason comes, ``remedy`` what to do about it, and
``str(reason)`` is the sentence that the history prints and that an error quotes. petl tells reasons apart by their class, never
by their text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Reason:
    """Why features aren't used. ``reported`` tells whether the history says so: not where nothing was to be gained."""

    remedy: ClassVar[str] = ""
    reported: ClassVar[bool] = True

    def __str__(self) -> str:
        raise NotImplementedError


# Nothing to gain


class TurnedOff(Reason):
    """``cache=False`` or ``views=0`` was passed."""

    remedy = "leave out cache= and views="
    reported = False

    def __str__(self) -> str:
        return "features are turned off by cache=False or views=0"


class NoFrozenPart(Reason):
    """Something in the first layers trains, or little of a forward runs before the first layer that trains."""

    remedy = "train later layers only, such as Partial or LoRA in the last blocks"
    reported = False

    def __str__(self) -> str:
        return "the model trains from its first layers on"


# The images of a step may differ from those of the first epoch


class Mixes(Reason):
    """``mixup`` or ``cutmix`` is set."""

    remedy = "mixup=0, cutmix=0"

    def __str__(self) -> str:
        return "mixup and cutmix mix the images themselves"


@dataclass(frozen=True)
class NeedsImages(Reason):
    """The loss is of more than the main output of the part that trains: auxiliary outputs, or the batch itself."""

    option: str
    remedy = "aux='first', or a loss of outputs and targets alone"

    def __str__(self) -> str:
        return f"{self.option} needs the whole model"


class OwnLoader(Reason):
    """The training data is a DataLoader or another iterable of batches, whose order and batches are its own."""

    remedy = "pass the loader's dataset, and batch_size= and workers= to fit"

    def __str__(self) -> str:
        return "a DataLoader is taken as it is; pass its dataset"


class SeveralProcesses(Reason):
    """Several processes train (``accelerate launch`` on several GPUs), and more than the classifier trains."""

    remedy = "train in one process"

    def __str__(self) -> str:
        return "features are kept by one process only, and several train"


class AugmentedAtRandom(Reason):
    """The training images come from a folder or `petl.data.dataset` with random crops and flips."""

    remedy = "make the dataset with training=False: training images are then cropped as at evaluation"

    def __str__(self) -> str:
        return "the training images are augmented at random"


@dataclass(frozen=True)
class UnknownDataset(Reason):
    """The dataset is of a class of the user's own, whose code petl can't judge."""

    dataset: str
    remedy = "cache=True, if the images are the same in every epoch; petl still makes sure of it on some of them"

    def __str__(self) -> str:
        return f"petl can't see whether {self.dataset} changes its images at random; cache=True says that they stay the same"


@dataclass(frozen=True)
class UnknownTransform(Reason):
    """The training images have a ``transform`` of the user's own, whose code petl can't judge."""

    transform: str
    remedy = "cache=True, if it makes the same of an image in every epoch; petl still makes sure of it on some of them"

    def __str__(self) -> str:
        return f"petl can't see whether transform {self.transform} is random; cache=True says that it isn't"


@dataclass(frozen=True)
class DiffersWhenReread(Reason):
    """With ``cache=True``, some images of an unknown dataset were read twice with other random numbers, and weren't the same."""

    dataset: str
    remedy = "turn off the dataset's augmentation, or leave out cache="

    def __str__(self) -> str:
        return f"{self.dataset} gives other images when it is read again"


# The frozen part can't be skipped


@dataclass(frozen=True)
class Stochastic(Reason):
    """Modules of the frozen part drop values or update statistics in training mode."""

    modules: tuple[str, ...]
    remedy = "set the dropout rates of the backbone to 0; petl.wrap holds batch norms in evaluation mode"

    def __str__(self) -> str:
        return f"{' and '.join(self.modules)} in the frozen part gives other values in training"


@dataclass(frozen=True)
class Hooked(Reason):
    """Modules of the frozen part have forward hooks, which would see nothing."""

    modules: tuple[str, ...]
    remedy = "remove the hooks, or put them on modules of the trained part"

    def __str__(self) -> str:
        return f"{' and '.join(self.modules)} in the frozen part has a hook"


class SeveralTensors(Reason):
    """At no point before the first trained layer does all that later layers need go through one tensor."""

    remedy = "train other layers; the outermost blocks of a model usually do"

    def __str__(self) -> str:
        return "what trains takes more than one tensor from the frozen part"


@dataclass(frozen=True)
class TooLittle(Reason):
    """A point was found, but too small a share of a forward's multiplications lies below it."""

    share: float
    cut: str
    remedy = "cache=True uses features all the same"

    def __str__(self) -> str:
        return f"only {self.share:.0%} of a forward lies below {self.cut}, where what trains can be cut off"


# The features can't be kept


@dataclass(frozen=True)
class NoRoom(Reason):
    """The features are larger than ``cache_limit`` or the disk, or the folder can't be written to."""

    detail: str
    remedy = "a larger cache_limit=, or cache= a folder on a disk with more room"

    def __str__(self) -> str:
        return self.detail


REASONS: tuple[type[Reason], ...] = (
    *(TurnedOff, NoFrozenPart),
    *(Mixes, NeedsImages, OwnLoader, SeveralProcesses, AugmentedAtRandom, UnknownDataset, UnknownTransform),
    DiffersWhenReread,
    *(Stochastic, Hooked, SeveralTensors, TooLittle),
    NoRoom,
)
