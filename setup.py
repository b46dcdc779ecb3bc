"""Builds the compiled kernels of `certify/native`, which are optional: without a compiler the package works in torch.

Everything else about the package is in pyproject.toml.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "certify.native._kernels",
            ["certify/native/kernels.cpp"],
            depends=["certify/native/kernels.h", "certify/native/kernels.inl"],
            language="c++",
            extra_compile_args=[
                "-O3",
                "-std=c++17",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-fvisibility=hidden",
                "-Wno-psabi",
            ],
            optional=True,
        )
    ]
)
