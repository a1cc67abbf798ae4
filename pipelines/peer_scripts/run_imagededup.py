"""imagededup's perceptual hash; option `max_bits` (Hamming distance up to which pictures count as duplicates)."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(options_file: str, result_file: str) -> None:
    from imagededup.methods import PHash  # type: ignore[import-not-found]

    options = json.loads(Path(options_file).read_text())
    started = time.perf_counter()
    found = PHash(verbose=False).find_duplicates(
        image_dir=options["images"],
        max_distance_threshold=options.get("max_bits", 10),  # its own default
    )
    seconds = time.perf_counter() - started
    pairs = [(name, other) for name, others in found.items() for other in others]
    Path(result_file).write_text(json.dumps({"seconds": seconds, "read": len(found), "pairs": pairs}))


if __name__ == "__main__":
    main(*sys.argv[1:])
