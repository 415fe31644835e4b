"""The comparison: one table of all methods of a run. It reads files and knows no method by name."""

from lensnb import store

COLUMNS = ("method", "metric", "value", "error", "floor", "floor_error", "ratio", "n", "unit")


def table(run):
    """One row a method and metric, as a list of dicts with the keys COLUMNS."""
    rows = []
    for name in run.params.sample.methods:
        found = store.read_json(run.need(f"evaluation/{name}") / "metrics.json")["metrics"]
        rows += [{"method": name, "metric": key, **{c: value[c] for c in COLUMNS[2:]}} for key, value in found.items()]
    return rows


def costs(run):
    """What each method took: method -> NFE, parameters, seconds an image, training minutes, training images seen."""
    found = {}
    for name, method in run.params.sample.methods.items():
        samples, model = run.need(f"samples/{name}"), run.need(f"models/{method.model}")
        sample, history = store.read_json(samples / "sample.json"), store.read_table(model / "history.csv")
        found[name] = {"nfe": sample["nfe"], "parameters": sample["parameters"], "images": sample["n"],
                       "seconds_per_image": store.read_json(samples / "timing.json")["seconds_per_image"],
                       "training_minutes": store.read_json(model / "timing.json")["seconds"] / 60,
                       "training_images_seen": int(history["images"][-1])}
    return found


def verdict(rows):
    """One sentence a metric, made from its numbers: who comes closest, whether that is shown, how far from the floor.

    Errors are taken as independent; methods share one reference, so that real gaps are a little clearer.
    """
    sentences = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        best, *rest = sorted((row for row in rows if row["metric"] == metric), key=lambda row: row["value"])
        sigmas = (best["value"] - best["floor"]) / (best["error"] ** 2 + best["floor_error"] ** 2) ** 0.5
        gaps = {other["method"]: (other["value"] - best["value"]) / (best["error"] ** 2 + other["error"] ** 2) ** 0.5 for other in rest}
        level = [best["method"], *(method for method, gap in gaps.items() if gap < 2)]
        text = f"{metric}: {' and '.join(level)} " + ("comes closest" if len(level) == 1 else "come closest and cannot be told apart")
        text += f" (n = {best['n']}); " + (f"{sigmas:.1f} sigma above the real-vs-real floor" if sigmas > 2 else
                                         f"{best['method']} is not distinguishable from real images by this measure")
        text += "".join(f"; {method} is {gap:.1f} sigma behind" for method, gap in gaps.items() if gap >= 2)
        sentences.append(text + ".")
    return sentences


def compare(run, folder):
    """Write table.csv, table.json (with costs and verdict) to `folder`; returns the rows."""
    rows = table(run)
    store.write_table(folder / "table.csv", {c: [row[c] for row in rows] for c in COLUMNS})
    store.write_json(folder / "table.json", {"rows": rows, "verdict": verdict(rows)})
    store.write_json(folder / "timing.json", costs(run))
    return rows
