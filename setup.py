"""Where the packages are: the device's part and the reference network lie beside ``cdm_export``, and are parts of it.

As ``cdm_export.runtimes`` and ``cdm_export.reference_model`` they cannot collide with a folder of the user's that is
called ``runtimes``. The links inside ``cdm_export`` are for tools that read the source tree; installing does not need
them, so that a checkout without links (Windows) can be installed too.
"""

from setuptools import find_packages, setup

BESIDE = ("runtimes", "reference_model")
packages = set(find_packages(include=["cdm_export", "cdm_export.*"]))
packages |= {f"cdm_export.{name}" for name in find_packages(include=[*BESIDE, *(f"{name}.*" for name in BESIDE)])}

setup(packages=sorted(packages), package_dir={f"cdm_export.{name}": name for name in BESIDE})
