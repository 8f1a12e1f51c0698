"""Entry point of the packaging; everything is stated in pyproject.toml."""

from setuptools import setup

setup()
