"""What the licences of pretrained weights allow, as far as their names say."""

from __future__ import annotations

from collections.abc import Sequence

from petl.errors import PetlError, listing, near

OPEN = ("apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "bsd")
NON_COMMERCIAL = ("-nc", "noncommercial", "non-commercial", "amlr")  # amlr: Apple's, for research alone
ATTRIBUTION = ("cc-by-4.0",)
LicenceLimit = str | Sequence[str] | None


def known_licence(text: object) -> str | None:
    """Returns a licence's name; None for what says nothing.

    >>> known_licence("MIT"), known_licence("unknown"), known_licence(None)
    ('mit', None, None)
    """
    name = str(text or "").strip().lower()
    return name if name not in ("", "unknown", "none", "other") else None


def allowed_licences(limit: LicenceLimit, known: Sequence[str]) -> tuple[str, ...] | None:
    """Returns the licences that ``licence=`` allows; None for all. "open" means Apache, MIT and BSD.

    Raises:
        PetlError: there is no such licence among timm's weights.
    """
    if limit is None:
        return None
    words = [limit] if isinstance(limit, str) else list(limit)
    allowed: list[str] = []
    for word in words:
        name = known_licence(word)
        if name != "open" and (name is None or name not in (*known, *OPEN)):
            raise PetlError(
                f"licence={word!r}{near(str(word), ('open', *known))}; expected 'open' (Apache, MIT or BSD), or names of "
                f"licences, such as {listing(known)}"
            )
        allowed += OPEN if name == "open" else (name,)
    return tuple(allowed)


def licence_warning(licence: str | None) -> str:
    """Returns what has to be said of weights under this licence, or "".

    >>> licence_warning("cc-by-nc-4.0")
    'must not be used commercially (cc-by-nc-4.0)'
    """
    if licence is None:
        return "have no known licence: ask where they come from"
    if any(mark in licence for mark in NON_COMMERCIAL):
        return f"must not be used commercially ({licence})"
    return "" if licence in (*OPEN, *ATTRIBUTION) else f"come with terms of their own ({licence}): read them before use"
