"""The trackers of accelerate that ``log=`` names: known, and installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from petl.errors import PetlError, listing, near

PACKAGES = {"comet_ml": "comet-ml"}  # where a tracker's name isn't that of its package


def as_trackers(given: Any) -> list[Any]:
    """Returns trackers as a list of names and of accelerate's tracker objects.

    Raises:
        PetlError: a name that accelerate doesn't know, one whose package is missing, or no tracker.
    """
    if given is None or given == []:
        return []
    from accelerate.tracking import GeneralTracker, get_available_trackers

    trackers = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    for tracker in trackers:
        if isinstance(tracker, type):
            raise PetlError(f"log={tracker.__name__}; expected a tracker object, not its class")
        if _is_name(tracker):
            _refuse_name(str(getattr(tracker, "value", tracker)))
        elif not isinstance(tracker, GeneralTracker):
            raise PetlError(
                f"log={tracker!r}; expected a name such as 'tensorboard', a tracker object of accelerate's, or a list of these"
            )
    names = [str(getattr(one, "value", one)) if _is_name(one) else one for one in trackers]
    if "all" in names and not get_available_trackers():
        raise PetlError('log="all": no tracker is installed; pip install tensorboard')
    return names


def _is_name(tracker: Any) -> bool:
    """Returns whether it is a name, as a text or as accelerate's LoggerType."""
    from accelerate.utils import LoggerType

    return isinstance(tracker, (str, LoggerType))


def _refuse_name(name: str) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    built_in = [str(one.value) for one in LoggerType]
    if name not in built_in and name not in LOGGER_TYPE_TO_CLASS:
        raise PetlError(f"log={name!r}; expected one of {listing(built_in, len(built_in))}{near(name, built_in)}")
    if name in built_in and name != "all" and name not in map(str, get_available_trackers()):
        package = PACKAGES.get(name, name)
        raise PetlError(f"log={name!r} needs the package {package}; pip install {package}")
