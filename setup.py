"""Packs notebooks, recipes, profiles and workflow into the wheel, for `lensnb init`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PARTS = ("notebooks", "params", "profiles", "docs", "Snakefile")


class Build(build_py):
    """The package, and the parts of a project in lensnb/project."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for part in PARTS:
            target = Path(self.build_lib) / "lensnb" / "project" / part
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            if Path(part).is_dir():
                hidden = shutil.ignore_patterns(".*")
                shutil.copytree(part, target, ignore=hidden, dirs_exist_ok=True)
            else:
                shutil.copyfile(part, target)


setup(cmdclass={"build_py": Build})
