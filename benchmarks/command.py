"""What the benchmarks that are run as modules do the same way."""

from __future__ import annotations

import sys
from collections.abc import Callable

from certify.errors import CertifyError


def entry(main: Callable[[], None]) -> None:
    """Call `main`; what the user can mend becomes a message and exit status 2, an interrupt 130."""
    try:
        main()
    except CertifyError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on if it keeps what is done in a folder", file=sys.stderr)
        sys.exit(130)
