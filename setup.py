"""Builds the compiled kernels of `certify/native`, which are optional: without a compiler the package works in torch.

Everything else about the package is in pyproject.toml.
"""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("certify/native")

spec = spec_from_file_location("library", NATIVE / "library.py")  # the package itself needs torch
library = module_from_spec(spec)
spec.loader.exec_module(library)

setup(
    ext_modules=[
        Extension(
            "certify.native._kernels",
            ["certify/native/kernels.cpp"],
            depends=[*map(str, library.sources(NATIVE)), "certify/native/library.py"],
            define_macros=[("CERTIFY_SOURCES", f'"{library.fingerprint(NATIVE)}"')],
            language="c++",
            extra_compile_args=[
                "-O3",
                "-std=c++17",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-fvisibility=hidden",
                "-Wno-psabi",
                "-pthread",
            ],
            extra_link_args=["-pthread"],
            optional=True,
        )
    ]
)
