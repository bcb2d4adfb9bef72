"""The history of a training as a pandas DataFrame."""

from __future__ import annotations

from typing import Any

from petl.errors import PetlError


def history_frame(history: Any) -> Any:
    """Returns the rows as a DataFrame, indexed by epoch; its column ``best`` marks the best one."""
    try:
        import pandas as pd
    except ImportError as error:
        raise PetlError('History.to_frame needs pandas; pip install "petl-vision[tables]"') from error
    if not history.rows:
        return pd.DataFrame(index=pd.Index([], name="epoch", dtype="int64"))
    frame = pd.DataFrame(history.rows).set_index("epoch")
    return frame.assign(best=[row["epoch"] == history.best.get("epoch") for row in history.rows])
