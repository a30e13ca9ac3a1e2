"""The pages say what the program has."""

import re

import pytest
import yaml

import runs

DOCS = runs.CONFIGS.parent / "docs"


def leaves(tree, path=""):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path


@pytest.mark.parametrize("objective", sorted(runs.OBJECTIVES))
def test_every_key_of_a_resolved_recipe_is_in_the_page_of_recipes(train, drift, objective):
    run = train("run", runs.OBJECTIVES[objective], {"data": str(drift / "train.kix"), "steps": 1})
    page = (DOCS / "recipes.md").read_text()
    named = set(re.findall(r"`([a-z0-9_.\[\]]+)`", page))
    keys = [key for key in leaves(yaml.safe_load((run / "recipe.yaml").read_text())) if not key.startswith(("data", "eval.data"))]
    assert len(keys) > 60
    # These groups have a table each, which names keys without the group.
    tables = re.compile(r"^(clip|augment|objective|optimizer)\.")
    missing = [key for key in keys if key not in named and not (
        tables.match(key) and {tables.sub("", key), key.split(".")[-1]} & named)]
    assert not missing, f"docs/recipes.md does not name {missing}"
