"""Service images for machines that reach package registries but no image registry.

One folder per image: ``recipe.json`` says what it is built from and which contract of which official
image it keeps. ``ensure()`` builds what the engine does not hold yet. docs/airgap-images.md has the rest.
"""

from airgap.images.build import BuildError, BuiltImage, Progress, ensure, prune
from airgap.images.engine import EngineError
from airgap.images.recipe import (
    Contract,
    Recipe,
    RecipeError,
    Source,
    by_pin,
    content_hash,
    recipes,
    reference,
)

__all__ = [
    "BuildError",
    "BuiltImage",
    "Contract",
    "EngineError",
    "Progress",
    "Recipe",
    "RecipeError",
    "Source",
    "by_pin",
    "content_hash",
    "ensure",
    "prune",
    "recipes",
    "reference",
]
