"""All widgets on one page: `from lensnb.display import widgets`.

`scrub`, `journey` and `gallery` show stored pictures and work without a kernel. `live` and `lens`
compute, so they need a running kernel. Where no widget can run, each shows a still picture.
"""

from lensnb.display.widgets_journey import journey
from lensnb.display.widgets_live import lens, live
from lensnb.display.widgets_stored import gallery, scrub

__all__ = ["gallery", "journey", "lens", "live", "scrub"]
