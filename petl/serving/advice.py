"""Says what errors advise in terms of what the person at the server can do: there are no arguments of `petl.load` there."""

from __future__ import annotations

import re

# what the errors of loading advise, from the last half of a sentence on
_OTHER_BASE = re.compile(
    r"(; build it as it was (?P<how>\(.*?\)) and pass it|\. (Load the weights that it was made on|"
    r"Load onto the model as it was built|Before petl\.load, call model\.to\(\S+\)))?,? or pass check_base=False$"
)
_OWN_SERVER = (
    "serve it from a folder of its own, on the backbone that it was made on: petl serve FOLDER --model NAME:FILE"
)
_IN_PYTHON = re.compile(r"petl\.load\(path, (model[\w.]*)\)")


def in_terms_of_the_server(reason: str) -> str:
    """Returns why a delta was refused, with advice that a server can be given.

    >>> said = in_terms_of_the_server("other weights. Load the weights that it was made on, or pass check_base=False")
    >>> said.partition("; ")[2]
    'serve it from a folder of its own, on the backbone that it was made on: petl serve FOLDER --model NAME:FILE'
    """
    found = _OTHER_BASE.search(reason)
    if found:
        how = f" {found['how']}" if found["how"] else ""
        return f"{reason[: found.start()]}; {_OWN_SERVER}{how}"
    return _IN_PYTHON.sub(r"petl.serve(folder, \1)", reason)
