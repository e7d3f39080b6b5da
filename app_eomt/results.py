"""What the page shows of a checkpoint's segments, as HTML."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from html import escape

from PIL import Image

from .segmenter import Drawing


def format_results(results: Sequence[str]) -> str:
    """Puts the results of several checkpoints side by side."""
    return f'<div class="eomt-results">{"".join(results)}</div>'


def format_result(name: str, photograph: str, seconds: float, drawing: Drawing) -> str:
    """
    Formats a drawing with its legend.

    Args:
        name: the checkpoint's.
        photograph: the name of its file.
        seconds: that the model took.
        drawing: the segments.
    """
    counts = Counter(segment["label"] for segment in drawing.segments)
    listed = ", ".join(f"{count} {label}" if count > 1 else label for label, count in counts.items())
    alternative = f"{photograph} with its segments drawn over it: {listed or 'none'}"
    num_segments = f"{len(drawing.segments)} segment{'' if len(drawing.segments) == 1 else 's'}"
    return f"""
<section class="eomt-result" aria-label="{escape(name)}">
  <figure>
    <img src="{_as_address(drawing.image)}" alt="{escape(alternative)}">
    <figcaption><strong>{escape(name)}</strong><span>{num_segments} · model {seconds:.2f} s</span></figcaption>
  </figure>
  {_format_legend(name, drawing)}
</section>"""


def format_picture(picture: Image.Image, photograph: str) -> str:
    """Formats the photograph itself, small."""
    small = picture.copy()
    small.thumbnail((480, 480))
    return f"""
<figure class="eomt-photograph">
  <img src="{_as_address(small)}" alt="The photograph {escape(photograph)}">
  <figcaption>{escape(photograph)}</figcaption>
</figure>"""


def format_error(error: Exception) -> str:
    """Formats an error for the person who uploaded the photograph."""
    return f'<p class="eomt-error" role="alert">{escape(str(error))}</p>'


def _format_legend(name: str, drawing: Drawing) -> str:
    if not drawing.segments:
        return "<p>No segment passes the thresholds. Lower the first one to see more.</p>"
    has_scores = any(segment["score"] is not None for segment in drawing.segments)
    rows = "".join(
        f"""<tr><th scope="row"><span class="eomt-color" style="background: rgb{segment["color"]}"></span>
{escape(segment["label"])}</th>{f"<td>{segment['score']:.2f}</td>" if has_scores else ""}
<td>{_format_share(segment["share"])}</td></tr>"""
        for segment in drawing.segments
    )
    return f"""
<div class="eomt-legend" role="region" aria-label="Legend of {escape(name)}" tabindex="0">
  <table>
    <thead><tr><th scope="col">Class</th>{'<th scope="col">Score</th>' if has_scores else ""}
    <th scope="col">Area</th></tr></thead>
    <tbody>{rows}</tbody>
  </table>
</div>"""


def _format_share(share: float) -> str:
    return "&lt; 1 %" if share < 0.01 else f"{100 * share:.0f} %"


def _as_address(image: Image.Image) -> str:
    """Returns an image as an address that holds it: nothing of it is written to the disk."""
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=92, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
