"""A calibration as one document of plain JSON values, as a page, and as Markdown.

The document is `calibration.json`; page and Markdown show what it holds, by the templates beside this module.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from dedup.calibrate import Found, recall_by_transform
from dedup.operating_curve import Projection, operating_point, projected
from dedup.verification_model import OPERATING_POINTS

SHARES = (0.001, 0.01, 0.1, 0.3)  # of copies, to which the precision is projected beside the run's own
TIMES = (1, 10, 100)  # the size of a run to come, in sizes of this one


def measured(
    found: Found, verdict: pd.Series, threshold: float, projection: Projection, points: pd.DataFrame, *, verified: bool
) -> dict[str, Any]:
    """The part of the document that follows from what was found: `recall` by transform, `pairs` of different pictures,
    `projections` to shares and sizes, `operating_points`, and the `curve`."""
    here = operating_point(found, verdict, threshold)
    own = {"name": "this run", **here, **projected(here, projection)}
    named = [
        {"name": name, **point, **projected(point, projection)}
        for name, entry in (OPERATING_POINTS.items() if verified else ())
        for point in [operating_point(found, verdict, entry.min_probability)]
    ]
    shares = sorted({*SHARES, projection.share})
    document = {
        "recall": recall_by_transform(found, threshold).to_dict("records"),
        "pairs": {
            "sample": found.sample, "images": found.images, "possible": found.pairs,
            **{name: here[name] for name in ("same", "false", "open", "rate", "rate_high")},
            "by_copy": int((found.joined["by_copy"] & (found.joined["strength"] >= threshold)).sum()),
        },
        "share": {"value": projection.share, "removed": found.removed},
        "projections": [
            {"images": times * projection.images, "share": share,
             **projected(here, Projection(times * projection.images, share))}
            for times in TIMES for share in shares
        ],
        "operating_points": [own, *named],
        "curve": points.to_dict("records"),
    }  # fmt: skip
    return dict(json.loads(json.dumps(_plain(document), allow_nan=False)))


def _plain(value: Any) -> Any:
    """Numbers that JSON has no word for become null."""
    if isinstance(value, dict):
        return {key: _plain(content) for key, content in value.items()}
    if isinstance(value, list):
        return [_plain(content) for content in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value


def plot(points: Sequence[Mapping[str, Any]], threshold: float, picked: float | None) -> bytes:
    """The precision-recall curve as PNG: projected precision and its conservative bound over recall."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, because only this command needs them
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    recall = [point["recall"] for point in points]
    for name, label, style in (
        ("precision", "open pairs set aside", "-"),
        ("precision_low", "conservative bound (95 %), open pairs false", "--"),
    ):
        axes.plot(recall, [math.nan if p[name] is None else p[name] for p in points], style, marker=".", label=label)
    for value, label, mark in ((threshold, "this run", "o"), (picked, "picked", "*")):
        near = [point for point in points if value is not None and abs(point["threshold"] - value) < 1e-9]
        for point in near:
            if point["precision_low"] is not None:
                axes.plot(point["recall"], point["precision_low"], mark, ms=11, mfc="none", label=f"{label}: {value:g}")
    axes.set_ylim(top=1.01)
    axes.set_xlabel("recall: planted copies with an accepted pair to their original")
    axes.set_ylabel("projected precision of removals")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def page(document: Mapping[str, Any], curve: bytes, sheets: Mapping[str, Sequence[Image.Image]]) -> str:
    """The document as one HTML file, pictures included: the curve (PNG) and the contact sheets by section."""
    pictures = {name: [_jpeg(sheet) for sheet in of_section] for name, of_section in sheets.items()}
    return _render("calibration.html.j2", document, plot=_data_url("png", curve), sheets=pictures)


def markdown(document: Mapping[str, Any]) -> str:
    """The document's tables, without pictures."""
    return _render("calibration.md.j2", document)


def _render(template: str, document: Mapping[str, Any], **more: Any) -> str:
    environment = Environment(
        loader=PackageLoader("dedup"), autoescape=template.endswith(".html.j2"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters.update(percent=_percent, rate=_rate, threshold=_threshold, format_int="{:,}".format)
    return environment.get_template(template).render(**document, **more)


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def _threshold(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if value <= 1 else "identical files only"


def _rate(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}"


def _jpeg(sheet: Image.Image) -> str:
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=82)
    return _data_url("jpeg", buffer.getvalue())


def _data_url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
