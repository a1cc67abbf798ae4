"""fastdup; options: `cc_threshold`, the similarity from which it joins pictures; `extract_only`, describe only."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from pathlib import Path

os.environ["SENTRY_OPT_OUT"] = "1"  # it reports home otherwise


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def main(options_file: str, result_file: str) -> None:
    import fastdup  # type: ignore[import-not-found]

    options = json.loads(Path(options_file).read_text())
    work = Path(options["work"])
    least = options.get("cc_threshold", 0.96)  # its own default
    session = fastdup.create(work_dir=str(work), input_dir=options["images"])
    started = time.perf_counter()
    if options.get("extract_only"):
        session.run(overwrite=True, run_mode=1)
    else:
        session.run(overwrite=True, threshold=min(0.9, least), cc_threshold=least)
    seconds = time.perf_counter() - started
    names = {row["index"]: Path(row["filename"]).name for row in _rows(work / "atrain_features.dat.csv")}
    pairs = []
    if not options.get("extract_only"):
        for row in _rows(work / "similarity.csv"):
            if float(row["distance"]) >= least:  # a similarity, in spite of its name
                pairs.append((names[row["from"]], names[row["to"]]))
    Path(result_file).write_text(json.dumps({"seconds": seconds, "read": len(names), "pairs": pairs}))


if __name__ == "__main__":
    main(*sys.argv[1:])
