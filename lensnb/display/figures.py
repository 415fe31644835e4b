"""Every figure: one style, one colour for each method everywhere, labelled axes with units.

Functions take arrays or what the run's files hold, and return a matplotlib Figure.
"""

import matplotlib.pyplot as plt
import numpy as np
import seaborn
from matplotlib.cm import ScalarMappable
from matplotlib.colors import FuncNorm
from matplotlib.ticker import LogLocator, NullFormatter

from lensnb.evaluation import compare

REAL = "#222222"
METRICS = {
    "frechet_lensnet": "Frechet distance (LensNet)",
    "frechet_lensnet_by_class": "the same, by class",
    "kid": "kernel distance",
    "told_apart": "told from real (AUC)",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "lenses_found": "found to be lenses",
    "usefulness": "usefulness in training",
    "readings": "lens parameters, as read",
    "intensity": "pixel intensities",
    "spectrum": "power spectrum",
    "profile": "radial profile",
    "noise_level": "noise level",
    "total_flux": "total flux",
    "ring_radius": "ring radius",
    "peak_counts": "peak counts",
    "ellipticity": "ellipticity",
    "multipoles": "multipoles",
    "minkowski": "Minkowski functionals",
    "scattering": "wavelet scattering",
    "lens_fit": "lens-model fit",
}
METHODS = {"ddpm": 0, "ddim": 1, "gan": 2, "dpm": 3}  # places in seaborn's colour-blind palette
STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 300,
    "savefig.bbox": "tight",
    "font.size": 9,
    "axes.titlesize": 9,
    "image.cmap": "inferno",
    "axes.prop_cycle": plt.cycler(color=seaborn.color_palette("colorblind")),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def colour(method):
    """The colour of a method: the same in every figure; REAL for real images."""
    palette = seaborn.color_palette("colorblind")
    if method == "real":
        return REAL
    known = METHODS.get(method)
    return palette[known if known is not None else 4 + sum(map(ord, method)) % (len(palette) - 4)]


def name(method):
    """A method's name as it is written in figures and tables."""
    return method.upper() if method in METHODS else method


def styled(draw):
    """Decorator: draw in lensnb's style, and close the figure so that a notebook shows it once."""

    def drawn(*args, **kwargs):
        with plt.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            plt.close(figure)
        return figure

    drawn.__doc__ = draw.__doc__
    drawn.__name__ = draw.__name__
    return drawn


def save(figure, folder, stem):
    """Save a figure as <stem>.pdf (vector) and <stem>.png (300 dpi) in `folder`."""
    with plt.rc_context(STYLE):
        figure.savefig(
            folder / f"{stem}.pdf", metadata={"CreationDate": None}
        )  # the same bits each time
        figure.savefig(folder / f"{stem}.png")


def stretch(images, low, high, softening=0.1):
    """asinh stretch of [low, high] to [0, 1]; `softening` is the share of the range that stays linear."""
    scaled = (np.asarray(images, float) - low) / (high - low)
    return (np.arcsinh(scaled / softening) / np.arcsinh(1 / softening)).clip(0, 1)


def limits(images):
    """(low, high) that a stretch of these images shows: the sky's median and the brightest 0.1 % of pixels, or a bit above where all are one."""
    low = float(np.median(images))
    high = float(np.quantile(images, 0.999))
    return low, high if high > low else low + 1e-3 * (abs(low) or 1.0)


def _show(axis, image, span, pixel_scale=None):
    picture = stretch(np.moveaxis(image, 0, -1), *span)  # (H, W, C)
    axis.imshow(picture.squeeze(), origin="lower", vmin=0, vmax=1, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    if pixel_scale:
        size = image.shape[-1]
        axis.plot(
            [0.06 * size, 0.06 * size + 1 / pixel_scale], [0.07 * size] * 2, color="white", lw=1.5
        )
        axis.text(
            0.06 * size + 0.5 / pixel_scale,
            0.1 * size,
            '1"',
            color="white",
            ha="center",
            va="bottom",
            fontsize=7,
        )


def _bar(figure, axes, span, softening=0.1):
    """The colour bar of `stretch`, for images in one colour."""
    low, high = span
    top = np.arcsinh(1 / softening)
    norm = FuncNorm(
        (
            lambda v: np.arcsinh((v - low) / (high - low) / softening) / top,
            lambda y: low + (high - low) * softening * np.sinh(y * top),
        ),
        low,
        high,
    )
    ticks = norm.inverse(np.linspace(0, 1, 5))
    bar = figure.colorbar(
        ScalarMappable(norm, "inferno"),
        ax=axes,
        fraction=0.02,
        pad=0.01,
        aspect=12 * len(axes),
        ticks=ticks,
        extend="both",
    )
    bar.ax.set_yticklabels([f"{tick:.3g}" for tick in ticks], fontsize=7)
    bar.set_label(
        "pixel value [units of the images]" if len(axes) > 2 else "pixel value", fontsize=7
    )
    bar.outline.set_visible(False)


@styled
def gallery(rows, columns=8, pixel_scale=None, span=None):
    """Rows of images under one asinh stretch: `rows` maps a label to images (N, C, H, W); a scale bar where the scale is known."""
    span = span or limits(next(iter(rows.values())))
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(1.0 * columns + 0.5, 1.02 * len(rows)),
        squeeze=False,
        gridspec_kw={"wspace": 0.03, "hspace": 0.03},
    )
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        for i, axis in enumerate(line):
            if i < len(images):
                _show(axis, images[i], span, pixel_scale if i == 0 else None)
            else:
                axis.axis("off")
        line[0].set_ylabel(
            label, color=colour(label.lower()) if label.lower() in ("real", *METHODS) else "black"
        )
    if all(images.shape[1] == 1 for images in rows.values()):
        _bar(figure, axes, span)
    return figure


@styled
def history(tables):
    """Training losses and learning rate against images seen; `tables` maps a generator to the columns of its history.csv."""
    figure, axes = plt.subplots(
        1, len(tables), figsize=(4.2 * len(tables), 2.6), squeeze=False, layout="constrained"
    )
    for axis, (generator, table) in zip(axes[0], tables.items(), strict=True):
        for key in (k for k in table if k not in ("step", "images", "rate", "skipped")):
            axis.plot(table["images"], table[key], label=key)
        if "rate" in table:
            right = axis.twinx()
            right.plot(table["images"], table["rate"], color="0.6", ls=":", label="rate")
            right.set(ylabel="learning rate (dotted)", ylim=(0, None))
            right.spines["right"].set_visible(True)
        axis.set(
            xlabel="training images seen",
            ylabel="loss, accuracy" if "accuracy" in table else "loss",
            title=generator,
        )
        axis.legend()
    axes[0][0].set_yscale("log")
    return figure


@styled
def watched(tables):
    """Kernel distance to real images and diversity along the training; `tables` maps a generator to the columns of its watch.csv."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained")
    for generator, table in tables.items():
        shade = colour("gan" if generator == "gan" else "ddpm")
        left.plot(
            table["images"], table["kid"], color=shade, marker="o", ms=3, lw=1, label=generator
        )
        right.plot(
            table["images"],
            table["diversity"],
            color=shade,
            marker="o",
            ms=3,
            lw=1,
            label=generator,
        )
    chance = max(max(table["kid_error"]) for table in tables.values())
    left.set_yscale("symlog", linthresh=chance)
    left.axhline(0, color=REAL, lw=0.8, ls="--")
    left.axhspan(
        -chance,
        chance,
        color=REAL,
        alpha=0.15,
        lw=0,
        label="real against real, one standard deviation",
    )
    left.legend()
    right.axhline(1, color=REAL, lw=0.8, ls="--", label="real")
    left.set(xlabel="training images seen", ylabel="kernel distance (KID) to real images")
    right.set(
        xlabel="training images seen", ylabel="diversity / that of real images", ylim=(0, None)
    )
    right.legend()
    return figure


@styled
def progress(steps, frames, rows=4, columns=8):
    """What was drawn along a training from the same latents: frames (F, N, C, H, W), one row a step, at most `rows` of them."""
    span = limits(frames[-1])
    shown = np.linspace(0, len(frames) - 1, min(rows, len(frames))).round().astype(int)
    figure, axes = plt.subplots(
        len(shown),
        columns,
        figsize=(columns, 1.02 * len(shown)),
        squeeze=False,
        gridspec_kw={"wspace": 0.03, "hspace": 0.03},
    )
    for line, f in zip(axes, shown, strict=True):
        for axis, image in zip(line, frames[f], strict=False):
            _show(axis, image, span)
        line[0].set_ylabel(f"{int(steps[f])} steps", fontsize=7)
    return figure


def animation(frames, path, columns=8, zoom=2, seconds=0.4):
    """Save frames (F, N, C, H, W) as a GIF, `columns` images in a row, the last frame shown longest."""
    from PIL import Image

    span = limits(frames[-1])
    rows = frames.shape[1] // columns
    grey = stretch(frames[:, : rows * columns].mean(axis=2), *span)[
        :, :, ::-1
    ]  # (F, N, H, W), origin below
    f, _, h, w = grey.shape
    sheets = grey.reshape(f, rows, columns, h, w).swapaxes(2, 3).reshape(f, rows * h, columns * w)
    colours = (plt.get_cmap("inferno")(np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)
    pages = [
        Image.fromarray((sheet * 255).round().astype(np.uint8), mode="P").resize(
            (zoom * columns * w, zoom * rows * h)
        )
        for sheet in sheets
    ]
    for page in pages:
        page.putpalette(colours.tobytes())
    pages[0].save(
        path,
        "GIF",
        save_all=True,
        append_images=pages[1:],
        loop=0,
        duration=[1000 * seconds] * (f - 1) + [3000],
    )


@styled
def siblings(names, images, pixel_scale=None):
    """Images (N, 1, H, W) under one stretch, and what sets each apart from the first, in shares of its brightest pixel."""
    figure, axes = plt.subplots(
        1, 2 * len(images) - 1, figsize=(2.1 * len(images), 1.5), layout="constrained"
    )
    span = (0, float(images[0].max()))
    peak = float(images[0].max())
    for axis, label, image in zip(axes, names, images, strict=False):
        _show(axis, image, span, pixel_scale)
        axis.set_title(label, fontsize=8)
    for axis, label, image in zip(axes[len(images) :], names[1:], images[1:], strict=True):
        shown = axis.imshow(
            (image - images[0])[0] / peak, origin="lower", cmap="RdBu_r", vmin=-0.5, vmax=0.5
        )
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{label} - {names[0]}", fontsize=8)
    figure.colorbar(shown, ax=axes[-1], label="share of the peak")
    return figure


@styled
def noise_levels(sigmas, x, span=(-1, 1)):
    """The forward process: images x (F, C, H, W) at the noise levels `sigmas`, at unit variance."""
    figure, axes = plt.subplots(
        1, len(x), figsize=(1.1 * len(x), 1.35), gridspec_kw={"wspace": 0.04}
    )
    for axis, sigma, image in zip(axes, sigmas, x, strict=True):
        axis.imshow(np.moveaxis(image, 0, -1).squeeze(), origin="lower", vmin=span[0], vmax=span[1])
        axis.set(xticks=[], yticks=[])
        axis.set_title(rf"$\sigma$ = {sigma:.2g}", fontsize=7)
    return figure


@styled
def filmstrip(table, x, x0, image=0, frames=8, span=None):
    """How one image comes about: a few of its frames; above x (model units), below the predicted x0 (user's units)."""
    shown = np.linspace(0, len(x) - 1, min(frames, len(x))).round().astype(int)
    figure, axes = plt.subplots(
        2,
        len(shown),
        figsize=(1.1 * len(shown), 2.45),
        gridspec_kw={"wspace": 0.04, "hspace": 0.04},
    )
    span = span or limits(x0[-1])
    key = next(k for k in table if k != "step")
    for column, f in zip(axes.T, shown, strict=True):
        column[0].imshow(
            np.moveaxis(x[f, image], 0, -1).squeeze(), origin="lower", vmin=-1.5, vmax=1.5
        )
        column[0].set(xticks=[], yticks=[])
        column[0].set_title(
            rf"$\sigma$ = {table[key][f]:.2g}" if key == "sigma" else f"{table[key][f]:.0f}°",
            fontsize=7,
        )
        _show(column[1], x0[f, image], span)
    axes[0][0].set_ylabel("x")
    axes[1][0].set_ylabel("predicted $x_0$")
    return figure


@styled
def walk(table, frames, images=3, columns=9, span=None):
    """Interpolation strip: a few images (rows) of frames (F, N, C, H, W) along a walk through the latent space."""
    shown = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
    rows = min(images, frames.shape[1])
    figure, axes = plt.subplots(
        rows,
        len(shown),
        figsize=(len(shown), 1.05 * rows),
        squeeze=False,
        gridspec_kw={"wspace": 0.03, "hspace": 0.03},
    )
    span = span or limits(frames)
    for column, f in zip(axes.T, shown, strict=True):
        for axis, image in zip(column, frames[f], strict=False):
            _show(axis, image, span)
        column[0].set_title(f"{table['angle_deg'][f]:.0f}°", fontsize=7)
    return figure


def _plain_ticks(axis):
    """1, 2, 5, 10 on a logarithmic axis, as they are."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _band(axis, x, mean, error, method, **style):
    mean = np.asarray(mean)
    error = np.asarray(error)
    axis.plot(x, mean, color=colour(method), label=name(method), lw=1.3, **style)
    axis.fill_between(x, mean - 2 * error, mean + 2 * error, color=colour(method), alpha=0.25, lw=0)


@styled
def spectra(curves):
    """Power spectrum and radial profile of each method and of real images, bands of two standard errors.

    `curves` maps a method to the tree of its curves.json.
    """
    scale = next(iter(curves.values()))["pixel_scale"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    sets = {"real": next(iter(curves.values()))["real"]} | {
        m: c["generated"] for m, c in curves.items()
    }
    for method, c in sets.items():
        _band(left, c["frequency"], c["log_power"], c["log_power_error"], method)
        _band(right, c["radius"], c["profile"], c["profile_error"], method)
    left.set_xscale("log")
    _plain_ticks(left.xaxis)
    left.set(
        xlabel=f"spatial frequency [cycles/{'arcsec' if scale else 'pixel'}]",
        ylabel=r"mean $\log_{10}$ power",
    )
    right.set(
        xlabel=f"radius [{'arcsec' if scale else 'pixel'}]",
        ylabel="mean brightness [units of the images]",
    )
    left.legend()
    return figure


@styled
def intensities(sets, bins=80):
    """Distribution of pixel values; `sets` maps a method (or "real") to images (N, C, H, W).

    Bins reach from the darkest to the brightest real pixel; the outermost also hold what lies beyond, so that no pixel is left out.
    """
    figure, axis = plt.subplots(figsize=(4.5, 3), layout="constrained")
    edges = np.linspace(sets["real"].min(), max(sets["real"].max(), limits(sets["real"])[1]), bins)
    for method, images in sets.items():
        share = (
            np.histogram(np.clip(images, edges[0], edges[-1]), edges)[0]
            / images.size
            / np.diff(edges)
        )
        axis.stairs(
            share,
            edges,
            color=colour(method),
            label=name(method),
            lw=1.6 if method == "real" else 1.1,
        )
    axis.set(
        xlabel="pixel value [units of the images], beyond in the outermost bins",
        ylabel="share of pixels per unit",
        yscale="log",
    )
    axis.legend()
    return figure


@styled
def ratios(rows):
    """Each distance over its real-vs-real floor, with error bars; 1 is as good as real. `rows` are those of table.json."""
    rows = [row for row in rows if row["ratio"] is not None]
    metrics, methods = (list(dict.fromkeys(row[k] for row in rows)) for k in ("metric", "method"))
    figure, axis = plt.subplots(figsize=(6, 0.8 + 0.32 * len(metrics)), layout="constrained")
    for i, row in enumerate(r for m in methods for r in rows if r["method"] == m):
        place = (
            metrics.index(row["metric"])
            + (methods.index(row["method"]) - (len(methods) - 1) / 2) * 0.18
        )
        axis.errorbar(
            row["ratio"],
            place,
            xerr=row["error"] / row["floor"],
            fmt="o",
            ms=3,
            color=colour(row["method"]),
            label=name(row["method"]) if i % len(metrics) == 0 else None,
        )
    axis.axvline(1, color=REAL, lw=0.8, ls="--")
    axis.set(
        xscale="log",
        xlabel="distance to the held-out images / real-vs-real floor",
        yticks=range(len(metrics)),
        yticklabels=[METRICS.get(m, m) for m in metrics],
    )
    axis.invert_yaxis()
    axis.legend()
    return figure


@styled
def over_seeds(rows):
    """Each distance over its real-vs-real floor, a dot a training seed, and their mean with the spread; `rows` as of compare.over_seeds."""
    rows = [row for row in rows if row["is_distance"]]
    metrics, methods = (list(dict.fromkeys(row[k] for row in rows)) for k in ("metric", "method"))
    figure, axis = plt.subplots(figsize=(6, 0.8 + 0.32 * len(metrics)), layout="constrained")
    for i, row in enumerate(r for m in methods for r in rows if r["method"] == m):
        place = (
            metrics.index(row["metric"])
            + (methods.index(row["method"]) - (len(methods) - 1) / 2) * 0.18
        )
        shade = colour(row["method"])
        spread = (row["spread"] or 0) / row["floor"]
        axis.plot(
            np.array(row["values"]) / row["floor"],
            [place] * row["seeds"],
            "o",
            ms=2.5,
            color=shade,
            alpha=0.6,
            lw=0,
        )
        axis.errorbar(
            row["mean"] / row["floor"],
            place,
            xerr=spread,
            fmt="|",
            ms=7,
            lw=1,
            color=shade,
            label=name(row["method"]) if i % len(metrics) == 0 else None,
        )
    axis.axvline(1, color=REAL, lw=0.8, ls="--")
    axis.set(
        xscale="log",
        xlabel="distance to the held-out images / real-vs-real floor",
        yticks=range(len(metrics)),
        yticklabels=[METRICS.get(m, m) for m in metrics],
    )
    axis.invert_yaxis()
    axis.legend()
    return figure


@styled
def z_values(rows, most=20):
    """Heat map of every metric of every method, in standard errors on the wrong side of the floor; below 3 is as good as real."""
    metrics, methods = (list(dict.fromkeys(row[k] for row in rows)) for k in ("metric", "method"))
    worse = {(row["metric"], row["method"]): compare.badness(row) for row in rows}
    grid = np.array([[worse[m, method] for method in methods] for m in metrics])
    figure, axis = plt.subplots(
        figsize=(2.6 + 0.75 * len(methods), 0.8 + 0.24 * len(metrics)), layout="constrained"
    )
    seaborn.heatmap(
        grid.clip(0, most),
        ax=axis,
        cmap="rocket_r",
        vmin=0,
        vmax=most,
        annot=grid.round() + 0.0,
        fmt=".0f",
        annot_kws={"size": 7},
        xticklabels=[name(m) for m in methods],
        yticklabels=[METRICS.get(m, m) for m in metrics],
        cbar_kws={"label": "z, deviations from the real-vs-real floor"},
    )
    axis.tick_params(length=0)
    return figure


@styled
def quality_against_time(rows, costs, metric="frechet_lensnet"):
    """Distance to the held-out images against seconds an image, both logarithmic, with the floor."""
    figure, axis = plt.subplots(figsize=(4.5, 3), layout="constrained")
    for row in (r for r in rows if r["metric"] == metric):
        axis.errorbar(
            costs[row["method"]]["seconds_per_image"],
            row["value"],
            yerr=row["error"],
            fmt="o",
            color=colour(row["method"]),
            label=name(row["method"]),
        )
        floor = row["floor"]
        scatter = row["floor_error"]
    axis.axhspan(
        max(floor - scatter, 0.5 * floor),
        floor + scatter,
        color=REAL,
        alpha=0.15,
        lw=0,
        label="real vs real",
    )
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="sampling time [s/image]",
        ylabel=f"{METRICS.get(metric, metric)} to held-out images",
    )
    _plain_ticks(axis.yaxis)
    axis.legend()
    return figure


@styled
def quality_against_evaluations(rows, metrics=("frechet_lensnet", "spectrum"), most=50):
    """Distance to the held-out images against network evaluations, one line a sampler, one panel a metric.

    `rows` are dicts as of benchmarks/samplers.py; what lies above `most` times the real-vs-real floor leaves the frame.
    """
    figure, axes = plt.subplots(
        1, len(metrics), figsize=(4 * len(metrics) + 1.6, 3.2), layout="constrained"
    )
    names = list(dict.fromkeys(row["sampler"] for row in rows))
    known = {
        "ddpm": "ddpm",
        "ddim": "ddim",
        "dpmpp_2m karras": "dpm",
    }  # those that the recipes draw by have their colour here, too
    others = iter(seaborn.color_palette("colorblind")[len(METHODS) :])
    shades = {label: colour(known[label]) if label in known else next(others) for label in names}
    for axis, metric in zip(axes, metrics, strict=True):
        for label, shade in shades.items():
            own = sorted(
                (row for row in rows if row["sampler"] == label), key=lambda row: row["nfe"]
            )
            nfe, value, error = (
                [row[key] for row in own] for key in ("nfe", metric, f"{metric}_error")
            )
            axis.errorbar(
                nfe,
                value,
                yerr=error,
                marker="o",
                ms=3,
                lw=1,
                color=shade,
                ls="--" if "karras" in label else "-",
                label=label,
            )
        floor = rows[0][f"{metric}_floor"]
        axis.axhline(floor, color=REAL, lw=0.8, ls=":", label="real vs real")
        axis.set(
            xscale="log",
            yscale="log",
            ylim=(0.7 * floor, most * floor),
            xlabel="network evaluations (NFE)",
            ylabel=METRICS.get(metric, metric),
        )
    figure.suptitle("distance to the held-out images", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    return figure


@styled
def growth(panels):
    """Time above, memory and disk below, against what grows, all logarithmic; `panels` is as of benchmarks/growth.py."""
    kinds = list(next(iter(panels.values())))
    figure, axes = plt.subplots(
        len(kinds),
        len(panels),
        figsize=(2.9 * len(panels), 6),
        sharex="col",
        squeeze=False,
        layout="constrained",
    )
    for column, (xlabel, panel) in zip(axes.T, panels.items(), strict=True):

        def whose(label):
            return label.partition(":")[0].removesuffix(", on disk")

        names = list(dict.fromkeys(whose(label) for kind in kinds for label in panel[kind]))
        shades = dict(zip(names, seaborn.color_palette("colorblind", len(names)), strict=True))
        for axis, kind in zip(column, kinds, strict=True):
            for label, (x, y) in panel[kind].items():
                axis.plot(
                    x,
                    y,
                    "o:" if "on disk" in label else "o-",
                    ms=3,
                    lw=1,
                    color=shades[whose(label)],
                    label=label,
                )
            axis.set(xscale="log", yscale="log", ylabel=kind if axis in axes[:, 0] else None)
            for scale, (low, high) in (
                (axis.xaxis, axis.get_xlim()),
                (axis.yaxis, axis.get_ylim()),
            ):
                if high < 50 * low:
                    _plain_ticks(scale)
            axis.legend(
                fontsize=6,
                loc="lower center",
                bbox_to_anchor=(0.5, 1),
                title="exponent",
                title_fontsize=6,
            )
        column[-1].set_xlabel(xlabel)
    return figure
