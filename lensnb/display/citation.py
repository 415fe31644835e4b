"""What to write in a paper: a methods paragraph and BibTeX of what a run really used.

All of it is made from plain values: the recipe, run.json and the rows of table.json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lensnb.display.style import name
from lensnb.evaluation.measures import label
from lensnb.kinds import KINDS, trained_for

Tree = Mapping[str, Any]
# The measures whose numbers the paragraph tells.
TOLD = ("frechet_lensnet", "told_apart", "spectrum")

# BibTeX key -> authors, title, year, arXiv number.
PAPERS = {
    "ho2020ddpm": (
        "Ho, Jonathan and Jain, Ajay and Abbeel, Pieter",
        "Denoising Diffusion Probabilistic Models",
        2020,
        "2006.11239",
    ),
    "nichol2021improved": (
        "Nichol, Alex and Dhariwal, Prafulla",
        "Improved Denoising Diffusion Probabilistic Models",
        2021,
        "2102.09672",
    ),
    "song2020ddim": (
        "Song, Jiaming and Meng, Chenlin and Ermon, Stefano",
        "Denoising Diffusion Implicit Models",
        2020,
        "2010.02502",
    ),
    "song2020score": (
        "Song, Yang and Sohl-Dickstein, Jascha and Kingma, Diederik P. and Kumar, Abhishek "
        "and Ermon, Stefano and Poole, Ben",
        "Score-Based Generative Modeling through Stochastic Differential Equations",
        2020,
        "2011.13456",
    ),
    "jabri2022sigmoid": (
        "Jabri, Allan and Fleet, David and Chen, Ting",
        "Scalable Adaptive Computation for Iterative Generation",
        2022,
        "2212.11972",
    ),
    "lu2022dpmsolver": (
        "Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun",
        "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
        2022,
        "2211.01095",
    ),
    "zhao2023unipc": (
        "Zhao, Wenliang and Bai, Lujia and Rao, Yongming and Zhou, Jie and Lu, Jiwen",
        "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models",
        2023,
        "2302.04867",
    ),
    "karras2022edm": (
        "Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli",
        "Elucidating the Design Space of Diffusion-Based Generative Models",
        2022,
        "2206.00364",
    ),
    "salimans2022progressive": (
        "Salimans, Tim and Ho, Jonathan",
        "Progressive Distillation for Fast Sampling of Diffusion Models",
        2022,
        "2202.00512",
    ),
    "lipman2022flow": (
        "Lipman, Yaron and Chen, Ricky T. Q. and Ben-Hamu, Heli and Nickel, Maximilian "
        "and Le, Matt",
        "Flow Matching for Generative Modeling",
        2022,
        "2210.02747",
    ),
    "ho2022guidance": (
        "Ho, Jonathan and Salimans, Tim",
        "Classifier-Free Diffusion Guidance",
        2022,
        "2207.12598",
    ),
    "karras2024autoguidance": (
        'Karras, Tero and Aittala, Miika and Kynk{\\"a}{\\"a}nniemi, Tuomas and Lehtinen, Jaakko '
        "and Aila, Timo and Laine, Samuli",
        "Guiding a Diffusion Model with a Bad Version of Itself",
        2024,
        "2406.02507",
    ),
    "peebles2022dit": (
        "Peebles, William and Xie, Saining",
        "Scalable Diffusion Models with Transformers",
        2022,
        "2212.09748",
    ),
    "huang2025r3gan": (
        "Huang, Yiwen and Gokaslan, Aaron and Kuleshov, Volodymyr and Tompkin, James",
        "The GAN is dead; long live the GAN! A Modern GAN Baseline",
        2025,
        "2501.05441",
    ),
    "geng2024ect": (
        "Geng, Zhengyang and Pokle, Ashwini and Luo, William and Lin, Justin and Kolter, J. Zico",
        "Consistency Models Made Easy",
        2024,
        "2406.14548",
    ),
    "song2023consistency": (
        "Song, Yang and Dhariwal, Prafulla and Chen, Mark and Sutskever, Ilya",
        "Consistency Models",
        2023,
        "2303.01469",
    ),
    "zhang2018sagan": (
        "Zhang, Han and Goodfellow, Ian and Metaxas, Dimitris and Odena, Augustus",
        "Self-Attention Generative Adversarial Networks",
        2018,
        "1805.08318",
    ),
}
# A name in a recipe -> the papers behind it. A test holds these to the registries.
SAMPLERS = {
    "ddpm": ("ho2020ddpm",),
    "ddim": ("song2020ddim",),
    "euler_ancestral": ("song2020score",),
    "dpmpp_2m": ("lu2022dpmsolver",),
    "dpmpp_3m": ("lu2022dpmsolver",),
    "dpmpp_2m_sde": ("lu2022dpmsolver",),
    "heun": ("karras2022edm",),
    "heun_flow": ("lipman2022flow",),
    "unipc": ("zhao2023unipc",),
}
PREDICTIONS = {
    "noise": ("ho2020ddpm",),
    "v": ("salimans2022progressive",),
    "edm": ("karras2022edm",),
    "velocity": ("lipman2022flow",),
}
SCHEDULES = {
    "linear": ("ho2020ddpm",),
    "cosine": ("nichol2021improved",),
    "sigmoid": ("jabri2022sigmoid",),
    "edm": ("karras2022edm",),
    "flow": ("lipman2022flow",),
}
NETWORKS = {"dit": ("peebles2022dit",)}
TUNINGS = {"consistency": ("geng2024ect", "song2023consistency")}  # by kind of generator
GANS = {"modern": ("huang2025r3gan",), "published": ("zhang2018sagan",)}


@dataclass(frozen=True, repr=False)
class Citation:
    """How to cite a result: `methods`, a paragraph, and `bibtex`; a notebook shows both.

    params : the recipe as plain values; told : run.json; source : what the images are
    rows : of table.json, empty before the comparison
    """

    params: Tree
    told: Tree
    source: str
    rows: Sequence[Tree] = field(default=())

    @property
    def methods(self) -> str:
        """A paragraph for a paper, made from the recipe and the numbers."""
        return " ".join([self._origin(), *self._trainings(), self._drawing(), *self._numbers()])

    @property
    def bibtex(self) -> str:
        """Entries of lensnb and of the papers behind the methods that the run used."""
        version = self.told.get("lensnb")
        own = (
            f"@software{{lensnb,\n  author = {{{{The lensnb authors}}}},\n"
            "  title = {lensnb: a notebook laboratory for generators of gravitational-lens "
            f"images}},\n  version = {{{version}}},\n  note = {{{self._commit()}}}\n}}"
        )
        return "\n\n".join([own, *map(_entry, papers(self.params))])

    def _repr_markdown_(self) -> str:
        return f"{self.methods}\n\n```bibtex\n{self.bibtex}\n```\n"

    def __repr__(self) -> str:
        return f"Citation of the run {self.params['run']}"

    def _commit(self) -> str:
        commit = str(self.told.get("commit") or "unknown")[:12]
        return f"commit {commit}" + (", modified" if self.told.get("modified") else "")

    def _origin(self) -> str:
        return (
            f"We used lensnb {self.told.get('lensnb')} ({self._commit()}) with seed "
            f"{self.params['seed']}. The images: {self.source.rstrip('.')}; "
            f"a share of {self.params['data']['holdout']:g} was held out."
        )

    def _trainings(self) -> list[str]:
        used = trained_for(method["model"] for method in self._methods().values())
        return [self._training(model) for model in used]

    def _training(self, model: str) -> str:
        kind = KINDS[model]
        section = self.params[kind.section]
        length = f"{section['epochs']} epochs" if section["epochs"] else f"{section['steps']} steps"
        noise = self.params["diffusion"]
        what = f"a {kind.label} ({section.get('kind', f'started from {kind.starts_from}')})"
        if kind.sampled:
            what = (
                f"a {kind.label} model ({self.params['model']['network']}, {noise['schedule']} "
                f"schedule, {noise['prediction']} prediction)"
            )
        return f"We trained {what} for {length} with batches of {section['batch']}."

    def _drawing(self) -> str:
        shown = [
            f"{name(key)} ({method['steps']} steps)" if method["steps"] else name(key)
            for key, method in self._methods().items()
        ]
        return f"We drew images by {_listed(shown)}."

    def _numbers(self) -> list[str]:
        """The measures of TOLD, each with its errors, its floor and the number of images."""
        told = [text for metric in TOLD if (text := self._number(metric))]
        return [*told, "Each ± is one standard error."] if told else []

    def _number(self, metric: str) -> str:
        rows = [row for row in self.rows if row["metric"] == metric]
        if not rows:
            return ""
        values = [f"{name(row['method'])} {_measured(row, 'value', 'error')}" for row in rows]
        return (
            f"{_capital(label(metric))}, with n = {rows[0]['n']} images on each side: "
            f"{', '.join(values)}; the same between two sets of real images (the real-vs-real "
            f"floor) {_measured(rows[0], 'floor', 'floor_error')}."
        )

    def _methods(self) -> Tree:
        methods: Tree = self.params["sample"]["methods"]
        return methods


def _capital(text: str) -> str:
    """A text with a capital first letter; the others stay."""
    return text[:1].upper() + text[1:]


def _measured(row: Tree, value: str, error: str) -> str:
    return f"{row[value]:.3g} ± {row[error]:.2g}"


def papers(params: Tree) -> list[str]:
    """The keys of PAPERS behind what a recipe uses, in order."""
    found: dict[str, None] = {}
    for method in params["sample"]["methods"].values():
        found |= dict.fromkeys(_of_method(method, params))
    return list(found)


def _of_method(method: Tree, params: Tree) -> tuple[str, ...]:
    kind = KINDS[method["model"]]
    if not kind.sampled and not kind.starts_from:
        return GANS.get(params[kind.section].get("kind"), ())
    noise = params["diffusion"]
    found = TUNINGS.get(method["model"], ()) + SAMPLERS.get(method["sampler"], ())
    found += PREDICTIONS.get(noise["prediction"], ())
    found += SCHEDULES.get(noise["schedule"], ())
    found += NETWORKS.get(params["model"]["network"], ())
    if method["spacing"] != "schedule":
        found += ("karras2022edm",)
    if method["guidance"] != 1:
        found += ("karras2024autoguidance",) if method.get("guide") else ("ho2022guidance",)
    return found


def _entry(key: str) -> str:
    """One paper as BibTeX."""
    authors, title, year, number = PAPERS[key]
    return (
        f"@misc{{{key},\n  author = {{{authors}}},\n  title = {{{{{title}}}}},\n"
        f"  year = {{{year}}},\n  eprint = {{{number}}},\n  archivePrefix = {{arXiv}}\n}}"
    )


def _listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
