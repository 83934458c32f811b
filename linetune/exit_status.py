"""The usual exit status after Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities.exceptions import SIGTERMException


@contextmanager
def usual_status() -> Iterator[None]:
    """Turn what Lightning ends with after Ctrl-C and SIGTERM into the usual status, 130 and 143.

    Lightning (2.6.6) ends with 1 and 0. A fit with :class:`~callbacks.SaveOnInterrupt` ends rightly by itself.
    """
    try:
        yield
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise SystemExit(128 + signal.SIGINT) from None
        raise
