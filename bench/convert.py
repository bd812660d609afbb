"""A peer's converter in a process of its own: what it leaks, breaks or prints stays there.

    python -m bench.convert MODULE MODEL SIZES OUTPUT

SIZES is JSON, MODULE one of bench/baselines. Its exit code tells a converter's refusal from what
went wrong around it.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

from bench.baselines.peer import REFUSED, Refuses
from bench.models import read_models
from pocketformer.compiler.errors import PocketformerError


def main() -> None:
    module, model, sizes, output = sys.argv[1:]
    try:
        import_module(module).convert(read_models()[model], json.loads(sizes), Path(output))
    except Refuses as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)
    except PocketformerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
