"""Runs each configuration of config/recipes with the real software behind it, in its default settings, over real TLS.

usage: recipes.py [--direct] [NAME]...
  NAME      run only these recipes
  --direct  connect to the services without Tollgate
"""

import sys

import harness
import recipes_browser
import recipes_edge
import recipes_messaging
import recipes_python
import recipes_web
from recipes_setting import suite

RECIPES = {
    **recipes_web.RECIPES,
    **recipes_browser.RECIPES,
    **recipes_python.RECIPES,
    **recipes_messaging.RECIPES,
    **recipes_edge.RECIPES,
}


def main(names):
    unknown = set(names) - set(RECIPES)
    if unknown:
        sys.exit(f"no such recipe: {', '.join(sorted(unknown))}")
    # All services start first, so that the checks that wait for a heartbeat of a service run beside the others.
    started = []
    for name in names or RECIPES:
        try:
            started.append((name, RECIPES[name]()))
        except harness.Skip as why:
            suite.skip(name, why)
        except Exception as error:  # noqa: BLE001: the other recipes still run
            suite.fail(f"{name} starts", f"{type(error).__name__}: {error}")
    for name, checks in started:
        checks()
    suite.finish()


main([argument for argument in sys.argv[1:] if not argument.startswith("--")])
