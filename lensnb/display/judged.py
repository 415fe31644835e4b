"""Images of any generator, judged: one object with the verdict, the table, figures and one page."""

import base64
import html
import io as streams
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from lensnb import io
from lensnb.display import comparison, curves, images, tables
from lensnb.display.style import save
from lensnb.evaluation.closer import Closer
from lensnb.evaluation.compare import COLUMNS

MEASURE = re.compile(r"(?<=\()(\w+)(?=, z = )")  # the key of a measure, in the verdict
ASSETS = Path(__file__).parents[1] / "apps" / "assets"


class Judged:
    """Generated images against real ones; a notebook shows it as its sentences and its table.

    names : of the sets; n : images on each side
    rows : one a set and measure, as in the table.json of a run
    metrics : name -> what the metrics.json of a run holds
    verdict, footing, limits : sentences: what was found, on what it rests, what it cannot say
    closer : for two sets or more, each pair, see `evaluation.closer`
    """

    def __init__(self, found: Mapping[str, Any], gallery: Mapping[str, np.ndarray]) -> None:
        self.metrics: dict[str, Any] = dict(found["metrics"])
        self.names = list(self.metrics)
        self.n: int = next(iter(self.metrics.values()))["n"]
        self.rows: list[dict[str, Any]] = list(found["rows"])
        self.verdict: list[str] = list(found["verdict"])
        self.footing: list[str] = list(found["footing"])
        self.limits: list[str] = list(found["limits"])
        self.closer: list[Closer] = list(found["closer"])
        self._curves = found["curves"]
        self._gallery = gallery

    @property
    def table(self) -> Styler:
        """One row a measure, one column a set: value ± error (ratio to the floor)."""
        return tables.comparison(self.rows)

    def figures(self) -> dict[str, Figure]:
        """The figures: name -> figure."""
        return {
            "gallery": images.gallery(self._gallery),
            "z_values": comparison.z_values(self.rows),
            "ratios": comparison.ratios(self.rows),
            "spectra": curves.spectra(self._curves),
        }

    def sentences(self) -> list[str]:
        """The verdict, who is closer, and what is repeated."""
        found = [*self.verdict, *(pair.sentence for pair in self.closer)]
        for name, tree in self.metrics.items():
            if copies := tree.get("memorisation"):
                found.append(
                    f"Of {name}, {copies['share']:.3f} ± {copies['error']:.3f} lie as near to a "
                    f"training image as a copy does (of fresh images, {copies['floor']:.3f} do)."
                )
        return found

    def told(self) -> str:
        """All of it as text, for a terminal."""
        heads = ("", "What it rests on:", "What these numbers cannot say:")
        parts = zip(heads, (self.sentences(), self.footing, self.limits), strict=True)
        text = ["\n".join([head, *lines]).strip() for head, lines in parts if lines]
        return "\n\n".join([*text, tables.plain(self.rows)])

    def __str__(self) -> str:
        return self.told()

    def _repr_html_(self) -> str:
        return _listed(self.sentences()) + self.table.to_html() + _listed(self.limits)

    def save(self, folder: str | Path) -> list[str]:
        """Write index.html, table.csv, metrics.json and the figures; returns the files' names."""
        folder = Path(folder)
        io.make_folder(folder)
        figures = self.figures()
        for stem, figure in figures.items():
            save(figure, folder, stem)
        io.write_rows(
            folder / "table.csv", [{key: row[key] for key in COLUMNS} for row in self.rows]
        )
        pairs = [pair._asdict() for pair in self.closer]
        told = {"verdict": self.verdict, "footing": self.footing, "limits": self.limits}
        io.write_json(
            folder / "metrics.json", told | {"closer": _finite(pairs), "sets": self.metrics}
        )
        with io.atomic(folder / "index.html", encoding="utf-8") as file:
            file.write(self._page(figures))
        return sorted(path.name for path in folder.iterdir())

    def _page(self, figures: Mapping[str, Figure]) -> str:
        """One page with everything in it: no other file, no network."""
        import jinja2

        made = jinja2.Environment(autoescape=True)
        body = made.from_string((ASSETS / "judged.html").read_text(encoding="utf-8")).render(
            judged=self,
            sentences=[linked(sentence) for sentence in self.sentences()],
            table=self.table.to_html(),
            figures={stem: _inline(figure) for stem, figure in figures.items()},
        )
        page = jinja2.Template((ASSETS / "page.html").read_text(encoding="utf-8"))
        css = (ASSETS / "report.css").read_text(encoding="utf-8")
        return page.render(title="Judged by lensnb", pages=[], body=body, css=css, js="")


def _inline(figure: Figure) -> str:
    """A figure as the address of an image in a page."""
    file = streams.BytesIO()
    figure.savefig(file, format="png", dpi=140, bbox_inches="tight")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def linked(sentence: str) -> str:
    """A sentence of the verdict as HTML; the key of a measure leads to the figure that shows it."""
    return MEASURE.sub(r'<a href="#z_values">\1</a>', html.escape(sentence))


def _listed(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in sentences) + "</ul>"


def _finite(tree: Any) -> Any:
    """The tree with text in place of infinite numbers, which JSON does not know."""
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_finite(value) for value in tree]
    return str(tree) if isinstance(tree, float) and not np.isfinite(tree) else tree
