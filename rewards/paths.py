"""Texts of a recipe that name places of this machine. A shell leaves a `~` that stands inside of YAML as it is."""

import os
from typing import Annotated

from pydantic import AfterValidator

Place = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path, or an id on the Hub; a `~` that it begins with is written out."""
