"""Knobs that ask for a picture. While one is drawn, of all later requests only the last waits."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import numpy as np

from lensnb.display import html, stills
from lensnb.errors import InputError

PATIENCE = 0.2  # seconds after which a drawing is announced; below, it would only flicker
# Knobs and picture stand side by side where there is room, and below each other where there is not.
WRAPPED = {"flex_flow": "row wrap", "align_items": "flex-start"}


@dataclass
class Drawn:
    """A picture that answers some knobs.

    tiles : (rows, columns, H, W) in [0, 1]; text : a line about it
    curves : drawn over the first tile, each ((K, 2) in its pixels, colour, name).
    """

    tiles: np.ndarray
    text: str
    curves: Sequence[tuple[np.ndarray, str, str]] = ()

    def html(self, zoom: int) -> str:
        """The picture with its line, for an HTML widget."""
        shown = html.picture(self.tiles, self.text, zoom)
        if self.curves:
            shown = html.overlaid(shown, self.curves, self.tiles.shape[-1])
        return html.captioned(shown, self.text)

    def still(self) -> bytes:
        """The picture as a PNG with its line."""
        bare = [(points, colour) for points, colour, _ in self.curves]
        alone = self.tiles.shape[:2] == (1, 1)
        return stills.sheet(
            list(self.tiles), foot=self.text, curves=bare, size=2.4 if alone else 1.2
        )


class Answering(stills.StillBox):
    """Knobs beside the picture that `draw(**values)` makes of them.

    The first picture is drawn at once, later ones in a thread, so that knobs stay quick. Requests
    that come while a picture is drawn replace each other: the last one wins. An InputError of
    `draw` is shown in place of the picture.
    """

    def __init__(
        self, knobs: Mapping[str, widgets.Widget], draw: Callable[..., Drawn], zoom: int
    ) -> None:
        self.knobs = dict(knobs)
        self.shown = widgets.HTML(layout={"max_width": "100%"})
        self.status = widgets.HTML(layout={"height": "1.6em"})
        self.beside = widgets.VBox([self.shown, self.status], layout={"max_width": "100%"})
        column = widgets.VBox(list(self.knobs.values()), layout={"max_width": "100%"})
        box = widgets.Box([column, self.beside], layout=WRAPPED)
        super().__init__([box], still=self._still, alt="")
        self._draw = draw
        self._zoom = zoom
        self._lock = threading.Lock()
        self._wanted: dict[str, Any] | None = None
        self._thread: threading.Thread | None = None
        self._answer(self._values())
        # As wide as the picture at least; a long line below it is broken.
        wide = zoom * math.prod(self._last.tiles.shape[1::2]) if self._last else 300
        self.beside.layout.flex = f"1 1 {wide}px"
        for knob in self.knobs.values():
            knob.observe(self._ask, "value")

    def settle(self) -> None:
        """Wait until all requests are answered."""
        while (thread := self._thread) is not None:
            thread.join()

    def _still(self) -> bytes | None:
        return self._last.still() if self._last else None

    def _values(self) -> dict[str, Any]:
        return {key: knob.value for key, knob in self.knobs.items()}

    def _ask(self, _: Any) -> None:
        """Note what the knobs ask for now, and see that somebody draws it."""
        with self._lock:
            self._wanted = self._values()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()

    def _work(self) -> None:
        """Answer the last request until there is none."""
        while True:
            with self._lock:
                values, self._wanted = self._wanted, None
                if values is None:
                    self._thread = None
                    return
            self._answer(values)

    def _answer(self, values: Mapping[str, Any]) -> None:
        """Draw and show; any error is shown too, for nobody else would tell of it in a thread."""
        late = threading.Timer(PATIENCE, self._announce)
        late.start()
        self._last: Drawn | None = None
        try:
            self._last = self._draw(**values)
            text = self._last.html(self._zoom)
        except InputError as error:
            text = html.captioned("", str(error))
        except Exception as error:
            text = html.captioned("", f"{type(error).__name__}: {error}")
        late.cancel()
        late.join()
        self.alt = self._last.text if self._last else ""
        self.status.value = ""
        self.shown.value = text

    def _announce(self) -> None:
        self.status.value = "drawing ..."
